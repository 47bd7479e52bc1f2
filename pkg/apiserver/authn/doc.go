// Package authn finds out who makes a request.
//
// An [Authenticator] looks for a client certificate ([Certificates]), then for a
// bearer token ([Tokens], [BootstrapTokens], [OIDC]); the first that is there decides. A request with neither is
// system:anonymous; a request with bad credentials is refused, not made anonymous.
//
// Tokens are the bound service account tokens of Kubernetes: signed JWTs that name a
// service account and usually a pod, and that hold only as long as those exist. An
// [Issuer] signs them for TokenRequest; the same keys are published for others to
// verify with ([Discovery]). What was verified once is remembered, so that a request
// costs a hash and two look-ups in memory.
//
// A machine that joins has a bootstrap token: the secret of kube-system that holds it is
// looked up at each request, so that a token ends when its secret does.
//
// Tokens of another issuer are recognized by [OIDC], which fetches the issuer's keys and reads the user out of claims.
//
// [Impersonate] turns a user into another, where the first has the right to.
//
// Not here: token webhooks, more than one other issuer (--authentication-config), claims that another
// server has (_claim_names), static token files, front proxies'
// request headers, constrained impersonation (KEP-5284), and the tokens without an end
// that secrets of type service-account-token hold.
//
// Source: https://kubernetes.io/docs/reference/access-authn-authz/authentication/.
package authn

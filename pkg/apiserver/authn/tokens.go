package authn

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4/jwt"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff/pkg/api"
	"skiff/pkg/apiserver/lookup"
	"skiff/pkg/apiserver/request"
)

// TokensConfig says which service account tokens are good.
type TokensConfig struct {
	// Issuers whose tokens are accepted; the first signs new ones.
	Issuers []string
	// Keys verify; private ones among them do too.
	Keys []*Key
	// Audiences of this server: a token must be for one of them. Empty means the
	// first issuer.
	Audiences []string
	Objects   lookup.Reader
}

// Tokens recognizes users by bound service account tokens.
type Tokens struct {
	config  TokensConfig
	objects lookup.Reader

	mu       sync.Mutex
	verified map[[sha256.Size]byte]*claims
}

// claims are a token's content, whose signature and issuer were verified.
type claims struct {
	jwt.Claims
	bound boundTo
}

// NewTokens returns a Tokens.
func NewTokens(config TokensConfig) (*Tokens, error) {
	if len(config.Issuers) == 0 || len(config.Keys) == 0 {
		return nil, errors.New("service account tokens: an issuer and a key are needed")
	}
	if len(config.Audiences) == 0 {
		config.Audiences = config.Issuers[:1]
	}
	return &Tokens{config: config, objects: config.Objects, verified: map[[sha256.Size]byte]*claims{}}, nil
}

// Authenticate returns the user that a token stands for and those of the wanted
// audiences (nil: the server's own) that it is for.
func (t *Tokens) Authenticate(ctx context.Context, token string, audiences []string) (*request.User, []string, error) {
	c, err := t.verify(token)
	if err != nil {
		return nil, nil, err
	}
	if len(audiences) == 0 {
		audiences = t.config.Audiences
	}
	matching := slices.DeleteFunc(slices.Clone([]string(c.Audience)), func(a string) bool { return !slices.Contains(audiences, a) })
	if len(matching) == 0 {
		return nil, nil, fmt.Errorf("token audiences %q is invalid for the target audiences %q", c.Audience, audiences)
	}
	now := time.Now()
	if err := c.valid(now); err != nil {
		return nil, nil, err
	}
	user, err := t.bound(ctx, c, now)
	return user, matching, err
}

// ownAudiences are those of the wanted ones that are this server's; all when none is wanted.
func (t *Tokens) ownAudiences(wanted []string) []string {
	if len(wanted) == 0 {
		return t.config.Audiences
	}
	return slices.DeleteFunc(slices.Clone(wanted), func(a string) bool { return !slices.Contains(t.config.Audiences, a) })
}

// verify checks signature and issuer, or remembers that it did.
func (t *Tokens) verify(token string) (*claims, error) {
	hash := sha256.Sum256([]byte(token))
	t.mu.Lock()
	c := t.verified[hash]
	t.mu.Unlock()
	if c != nil {
		return c, nil
	}
	if !slices.Contains(t.config.Issuers, unverifiedIssuer(token)) {
		return nil, errInvalidToken
	}
	parsed, err := jwt.ParseSigned(token, algorithms)
	if err != nil {
		return nil, errInvalidToken
	}
	c = &claims{}
	var private kubernetesClaims
	if err := t.checkSignature(parsed, &c.Claims, &private); err != nil {
		return nil, err
	}
	if !slices.Contains(t.config.Issuers, c.Issuer) {
		return nil, fmt.Errorf("token issuer %q is invalid", c.Issuer)
	}
	c.bound = private.Kubernetes
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.verified) >= verifiedLimit {
		clear(t.verified)
	}
	t.verified[hash] = c
	return c, nil
}

// checkSignature tries the keys that may have signed: the one named, or else all.
func (t *Tokens) checkSignature(token *jwt.JSONWebToken, into ...any) error {
	id := ""
	for _, header := range token.Headers {
		if header.KeyID != "" {
			id = header.KeyID
			break
		}
	}
	candidates := slices.DeleteFunc(slices.Clone(t.config.Keys), func(k *Key) bool { return k.ID != id })
	if len(candidates) == 0 {
		candidates = t.config.Keys
	}
	var failed []error
	for _, key := range candidates {
		err := token.Claims(key.Public, into...)
		if err == nil {
			return nil
		}
		failed = append(failed, err)
	}
	return fmt.Errorf("invalid signature: %w", errors.Join(failed...))
}

// unverifiedIssuer reads who says they issued a token, before anything is known of it.
func unverifiedIssuer(token string) string {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return ""
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return ""
	}
	var claims struct {
		Issuer string `json:"iss"`
	}
	if json.Unmarshal(payload, &claims) != nil {
		return ""
	}
	return claims.Issuer
}

func (c *claims) valid(now time.Time) error {
	switch err := c.ValidateWithLeeway(jwt.Expected{Time: now}, leeway); {
	case err == nil:
		return nil
	case errors.Is(err, jwt.ErrExpired):
		return errors.New("service account token has expired")
	case errors.Is(err, jwt.ErrNotValidYet):
		return errors.New("service account token is not valid yet")
	case errors.Is(err, jwt.ErrIssuedInTheFuture):
		return errors.New("service account token is issued in the future")
	default:
		return fmt.Errorf("service account token claims could not be validated: %w", err)
	}
}

var (
	pods            = schema.GroupResource{Resource: "pods"}
	nodes           = schema.GroupResource{Resource: "nodes"}
	secrets         = schema.GroupResource{Resource: "secrets"}
	serviceAccounts = schema.GroupResource{Resource: "serviceaccounts"}
)

var errInvalidated = errors.New("service account token has been invalidated")

// bound checks that all the token is bound to still exists, and names the user.
func (t *Tokens) bound(ctx context.Context, c *claims, now time.Time) (*request.User, error) {
	b := &c.bound
	gone := now.Add(-leeway)
	account, err := lookup.Get[*corev1.ServiceAccount](ctx, t.objects, serviceAccounts, b.Namespace, b.ServiceAccount.Name)
	switch {
	case err != nil:
		return nil, err
	case string(account.UID) != b.ServiceAccount.UID:
		return nil, fmt.Errorf("service account UID (%s) does not match claim (%s)", account.UID, b.ServiceAccount.UID)
	case deleted(account, gone):
		return nil, fmt.Errorf("service account %s/%s has been deleted", b.Namespace, b.ServiceAccount.Name)
	}
	user := &request.User{
		Name:   serviceAccountUser(b.Namespace, b.ServiceAccount.Name),
		UID:    b.ServiceAccount.UID,
		Groups: serviceAccountGroups(b.Namespace),
		Extra:  map[string][]string{},
	}
	if c.ID != "" {
		user.Extra[credentialID] = []string{"JTI=" + c.ID}
	}
	if b.Secret != nil {
		if err := t.alive(ctx, secrets, b.Namespace, b.Secret, "secret UID (%s) does not match service account secret ref claim (%s)", gone); err != nil {
			return nil, err
		}
	}
	if b.Pod != nil {
		if err := t.alive(ctx, pods, b.Namespace, b.Pod, "pod UID (%s) does not match service account pod ref claim (%s)", gone); err != nil {
			return nil, err
		}
		user.Extra["authentication.kubernetes.io/pod-name"] = []string{b.Pod.Name}
		user.Extra["authentication.kubernetes.io/pod-uid"] = []string{b.Pod.UID}
	}
	if b.Node != nil {
		// For a pod's token the node is information only: the pod dies with it.
		if b.Pod == nil {
			if err := t.alive(ctx, nodes, "", b.Node, "node UID (%s) does not match service account node ref claim (%s)", gone); err != nil {
				return nil, err
			}
		}
		user.Extra["authentication.kubernetes.io/node-name"] = []string{b.Node.Name}
		if b.Node.UID != "" {
			user.Extra["authentication.kubernetes.io/node-uid"] = []string{b.Node.UID}
		}
	}
	return user, nil
}

// alive checks that an object exists with the UID it had when the token was signed.
func (t *Tokens) alive(ctx context.Context, resource schema.GroupResource, namespace string, ref *objectRef, mismatch string, gone time.Time) error {
	obj, err := t.objects.Get(ctx, resource, namespace, ref.Name)
	switch {
	case err != nil:
		return errInvalidated
	case string(obj.GetUID()) != ref.UID:
		return fmt.Errorf(mismatch, obj.GetUID(), ref.UID)
	case deleted(obj, gone):
		return errInvalidated
	}
	return nil
}

func deleted(obj api.Object, before time.Time) bool {
	deletion := obj.GetDeletionTimestamp()
	return deletion != nil && deletion.Time.Before(before)
}

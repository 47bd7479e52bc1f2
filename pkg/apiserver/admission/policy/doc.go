// Package policy evaluates ValidatingAdmissionPolicies and MutatingAdmissionPolicies: rules about writes that are
// objects of the cluster, written in CEL.
//
// [Policies] takes part in admission (it is an admission.Dynamic). A write is answered in three steps:
//
//   - source.go keeps a snapshot of the policies that are bound, compiled once per generation (compile.go, read.go)
//     and ordered by name. A cluster without policies costs a write one look at it.
//   - policies.go finds the calls that a write leads to: policy × binding × parameter (params.go). Which writes a
//     policy or a binding is about is package match's business.
//   - decide.go evaluates a validating policy for one call, which is a pure function, and validate.go makes an answer of
//     all outcomes; mutate.go runs patches, one after the other, each on what the last one left.
//
// The language, and what a patch expression means, are Kubernetes' own packages (apiserver/pkg/admission/plugin/cel and
// .../policy/mutating/patch); everything around is here.
//
// [KeepStatus] checks the types of validating policies and writes their status, which in Kubernetes is a controller of
// the controller manager. It is here because the server has compiler and schemas at hand.
//
// Not here: the metrics of single policies, and policies from files.
//
// Source: https://kubernetes.io/docs/reference/access-authn-authz/validating-admission-policy/ and
// https://kubernetes.io/docs/reference/access-authn-authz/mutating-admission-policy/.
package policy

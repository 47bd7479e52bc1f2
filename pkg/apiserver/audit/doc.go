// Package audit writes down who asked for what and what came of it: Kubernetes' audit log.
//
// A [Policy] decides by the first of its rules that matches how much is said of a request. A [Record] is a request's event
// while it is made: those who handle the request add what they know, and each stage that the policy doesn't omit is one
// line of JSON in the [Log].
//
// The policy's language is Kubernetes' own package (k8s.io/apiserver/pkg/audit/policy), so that no rule means something else
// here; but a file with fields that nobody knows is refused, where Kubernetes warns.
//
// Limits: no webhook, and events are written before the answer is (Kubernetes' mode "blocking").
//
// Source: https://kubernetes.io/docs/tasks/debug/debug-cluster/audit/.
package audit

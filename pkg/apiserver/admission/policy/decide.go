package policy

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/google/cel-go/common/types"
	v1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission/plugin/cel"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	apiservercel "k8s.io/apiserver/pkg/cel"

	"skiff/pkg/apiserver/admission/match"
)

// subject is what expressions see of a request.
type subject struct {
	request    *match.Request
	target     *match.Target // as which the policy knows it
	params     runtime.Object
	namespace  *corev1.Namespace // nil for a cluster-scoped object
	authorizer authorizer.Authorizer
}

func (s *subject) bound() cel.OptionalVariableBindings {
	return cel.OptionalVariableBindings{VersionedParams: s.params, Authorizer: s.authorizer}
}

// outcome is what a validating policy has to say.
type outcome struct {
	failures []failure
	audit    []note
	broken   []string // audit annotations that can't be made, which refuses the request
}

// failure is a rule that isn't fulfilled, or can't be evaluated.
type failure struct {
	rule    int
	message string
	reason  metav1.StatusReason // may be empty
}

// note is an audit annotation.
type note struct{ key, value string }

// validate decides about a request. What can't be evaluated is a failure, unless the policy ignores those.
func (c *compiled) validate(ctx context.Context, s *subject) outcome {
	if ok, err := c.conditions.Match(ctx, s.request, s.target, s.params, s.authorizer); !ok {
		return c.failed(err)
	}
	attributes, err := s.request.Versioned(s.target)
	if err != nil {
		return c.failed(err)
	}
	v := c.validation
	namespace := cel.CreateNamespaceObject(s.namespace)
	review := cel.CreateAdmissionRequest(attributes.Attributes, metav1.GroupVersionResource(s.target.Resource), metav1.GroupVersionKind(s.target.Kind))
	verdicts, budget, err := v.verdicts.ForInput(ctx, attributes, review, s.bound(), namespace, celconfig.RuntimeCELCostBudget)
	if err != nil {
		return c.failed(err)
	}
	messages, _, messagesErr := v.messages.ForInput(ctx, attributes, review, cel.OptionalVariableBindings{VersionedParams: s.params}, namespace, budget)
	var out outcome
	for i, verdict := range verdicts {
		switch {
		case verdict.Error != nil:
			out.add(c.failed(verdict.Error), i)
		case errors.Is(messagesErr, apiservercel.ErrInternal) || errors.Is(messagesErr, apiservercel.ErrOutOfBudget):
			out.add(c.failed(fmt.Errorf("failed messageExpression: %s", messagesErr)), i)
		case verdict.EvalResult != types.True:
			f := failure{rule: i, message: v.message(i, messages), reason: metav1.StatusReasonInvalid}
			if reason := v.rules[i].Reason; reason != nil {
				f.reason = *reason
			}
			out.failures = append(out.failures, f)
		}
	}
	values, _, err := v.values.ForInput(ctx, attributes, review, s.bound(), namespace, celconfig.RuntimeCELCostBudget)
	if err != nil {
		return c.failed(err)
	}
	for i, value := range values {
		c.annotate(&out, v.annotations[i], value)
	}
	return out
}

func (c *compiled) failed(err error) outcome {
	if err == nil || c.ignoresFailures {
		return outcome{}
	}
	return outcome{failures: []failure{{message: err.Error()}}}
}

func (o *outcome) add(more outcome, rule int) {
	for _, f := range more.failures {
		f.rule = rule
		o.failures = append(o.failures, f)
	}
}

// message is what a rule that isn't fulfilled says: what its message expression makes, if that is one line of
// tolerable length, its message, or the rule itself.
func (v *validation) message(rule int, results []cel.EvaluationResult) string {
	if rule < len(results) && results[rule].Error == nil && results[rule].EvalResult != nil {
		if text, ok := results[rule].EvalResult.Value().(string); ok {
			text = strings.TrimSpace(text)
			if text != "" && len(text) <= celconfig.MaxEvaluatedMessageExpressionSizeBytes && !strings.Contains(text, "\n") {
				return text
			}
		}
	}
	if text := strings.TrimSpace(v.rules[rule].Message); text != "" {
		return text
	}
	return "failed expression: " + strings.TrimSpace(v.rules[rule].Expression)
}

// longestNote is what an audit annotation is cut to.
const longestNote = 10 << 10

func (c *compiled) annotate(out *outcome, a v1.AuditAnnotation, value cel.EvaluationResult) {
	if value.Error != nil {
		if !c.ignoresFailures {
			out.broken = append(out.broken, value.Error.Error())
		}
		return
	}
	switch text := value.EvalResult.Value().(type) {
	case string:
		if text = strings.TrimSpace(text); text != "" {
			out.audit = append(out.audit, note{a.Key, text[:min(len(text), longestNote)]})
		}
	default:
		if value.EvalResult.Type() != types.NullType {
			out.broken = append(out.broken, fmt.Sprintf("valueExpression '%v' resulted in unsupported return type: %v. Return type must be either string or null.",
				a.ValueExpression, value.EvalResult.Type()))
		}
	}
}

package policy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	v1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/admission"

	"skiff/pkg/apiserver/admission/match"
)

// Validate asks the validating policies about a request.
func (p *Policies) Validate(ctx context.Context, r *match.Request) error {
	if exempt(r) {
		return nil
	}
	hooks, err := p.validating.hooks(ctx)
	if err != nil {
		return refuse(r, err)
	}
	calls := p.calls(ctx, r, hooks)
	if len(calls) == 0 {
		return nil
	}
	namespace, err := r.NamespaceObject(ctx)
	if err != nil {
		return err
	}
	var v verdict
	for _, c := range calls {
		if c.err != nil {
			v.misconfigured(c)
			continue
		}
		v.judge(c, c.validate(ctx, &subject{request: r, target: c.target, params: c.params, namespace: namespace, authorizer: p.rights}))
	}
	v.annotate(r)
	for _, text := range v.warnings {
		r.Warn(text)
	}
	if len(v.denials) == 0 {
		return nil
	}
	return v.denials[0].status(r)
}

// verdict is what all policies together say.
type verdict struct {
	denials  []denial
	warnings []string
	failures []auditedFailure
	keys     []string            // of notes, in their order
	notes    map[string][]string // by key; a policy has as many values as its bindings and their parameters make
}

// denial refuses a request.
type denial struct {
	message string
	reason  metav1.StatusReason
}

// auditedFailure is how the audit log has a failure of a binding with the action Audit.
type auditedFailure struct {
	Message           string                `json:"message"`
	Policy            string                `json:"policy"`
	Binding           string                `json:"binding"`
	ExpressionIndex   int                   `json:"expressionIndex"`
	ValidationActions []v1.ValidationAction `json:"validationActions"`
}

func (v *verdict) misconfigured(c call) {
	if c.ignoresFailures {
		return
	}
	of := "policy"
	if c.binding != nil {
		of = "binding"
	}
	v.deny(c, fmt.Sprintf("failed to configure %s: %v", of, c.err), "")
}

func (v *verdict) deny(c call, message string, reason metav1.StatusReason) {
	who := fmt.Sprintf("ValidatingAdmissionPolicy '%s'", c.name)
	if c.binding != nil {
		who += fmt.Sprintf(" with binding '%s'", c.binding.name)
	}
	v.denials = append(v.denials, denial{who + " denied request: " + message, reason})
}

// judge does with an outcome what the binding asks for.
func (v *verdict) judge(c call, o outcome) {
	for _, f := range o.failures {
		for _, action := range c.binding.actions {
			switch action {
			case v1.Deny:
				v.deny(c, f.message, f.reason)
			case v1.Warn:
				v.warnings = append(v.warnings, fmt.Sprintf("Validation failed for ValidatingAdmissionPolicy '%s' with binding '%s': %s", c.name, c.binding.name, f.message))
			case v1.Audit:
				v.failures = append(v.failures, auditedFailure{f.message, c.name, c.binding.name, f.rule, c.binding.actions})
			}
		}
	}
	for _, message := range o.broken {
		v.deny(c, message, "")
	}
	for _, n := range o.audit {
		key := c.name + "/" + n.key
		if v.notes == nil {
			v.notes = map[string][]string{}
		}
		if v.notes[key] == nil {
			v.keys = append(v.keys, key)
		}
		if !slices.Contains(v.notes[key], n.value) {
			v.notes[key] = append(v.notes[key], n.value)
		}
	}
}

// annotate writes into the request's audit event.
func (v *verdict) annotate(r *match.Request) {
	for _, key := range v.keys {
		r.Annotate(key, strings.Join(v.notes[key], ", "))
	}
	if len(v.failures) > 0 {
		text, err := json.Marshal(v.failures)
		if err != nil {
			text = []byte(err.Error()) // strings and numbers can be marshalled
		}
		r.Annotate("validation.policy.admission.k8s.io/validation_failure", string(text))
	}
}

// codes are those of the reasons that a validation may give.
var codes = map[metav1.StatusReason]int32{
	metav1.StatusReasonForbidden:             http.StatusForbidden,
	metav1.StatusReasonUnauthorized:          http.StatusUnauthorized,
	metav1.StatusReasonRequestEntityTooLarge: http.StatusRequestEntityTooLarge,
	metav1.StatusReasonInvalid:               http.StatusUnprocessableEntity,
}

func (d denial) status(r *match.Request) error {
	err := refuse(r, errors.New(d.message))
	status := &apierrors.StatusError{}
	if !errors.As(err, &status) {
		return err
	}
	status.ErrStatus.Reason = metav1.StatusReasonInvalid
	if d.reason != "" {
		status.ErrStatus.Reason = d.reason
	}
	status.ErrStatus.Code = http.StatusUnprocessableEntity
	if code, ok := codes[d.reason]; ok {
		status.ErrStatus.Code = code
	}
	status.ErrStatus.Details.Causes = append(status.ErrStatus.Details.Causes, metav1.StatusCause{Message: d.message})
	return status
}

// refuse forbids a request as Kubernetes' admission does.
func refuse(r *match.Request, why error) error {
	attributes, err := r.Versioned(r.Own())
	if err != nil {
		return err
	}
	return admission.NewForbidden(attributes.Attributes, why)
}

package webhook

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"sync"
	"time"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	admissionv1 "k8s.io/api/admission/v1"
	v1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/rest"

	"skiff/pkg/api"
	"skiff/pkg/api/admissionregistration"
	"skiff/pkg/apiserver/admission/match"
	"skiff/pkg/apiserver/hookclient"
)

// hook is one webhook, compiled. It is immutable.
type hook struct {
	v1.MutatingWebhook
	configuration string
	key           string // tells it from all others
	criteria      *match.Criteria
	broken        error // its selectors can't be compiled; validation keeps such ones out
	conditions    func() *match.Conditions
	client        func() (*rest.RESTClient, error)
	version       string // of the reviews that it is sent; empty: it knows none of ours
}

// newHook compiles a webhook. Of those that its configuration had before it takes over the connections.
func newHook(configuration string, index int, h v1.MutatingWebhook, services hookclient.Resolver, before []*hook) *hook {
	compiled := &hook{MutatingWebhook: h, configuration: configuration, key: fmt.Sprintf("%s/%s/%d", configuration, h.Name, index)}
	resources := &v1.MatchResources{MatchPolicy: h.MatchPolicy, NamespaceSelector: h.NamespaceSelector, ObjectSelector: h.ObjectSelector}
	for _, rule := range h.Rules {
		resources.ResourceRules = append(resources.ResourceRules, v1.NamedRuleWithOperations{RuleWithOperations: rule})
	}
	if compiled.criteria, compiled.broken = match.Compile(resources); compiled.broken != nil {
		compiled.criteria, _ = match.Compile(&v1.MatchResources{MatchPolicy: h.MatchPolicy, ResourceRules: resources.ResourceRules})
	}
	compiled.conditions = sync.OnceValue(func() *match.Conditions { return match.CompileConditions(h.MatchConditions, h.FailurePolicy, false) })
	compiled.client = sync.OnceValues(func() (*rest.RESTClient, error) {
		return hookclient.New(&h.ClientConfig, services, reviews)
	})
	for _, b := range before {
		if equality.Semantic.DeepEqual(b.ClientConfig, h.ClientConfig) {
			compiled.client = b.client
		}
	}
	for _, version := range h.AdmissionReviewVersions {
		if slices.Contains(admissionregistration.ReviewVersions, version) {
			compiled.version = version
			break
		}
	}
	return compiled
}

// concerns says as what the webhook is asked about a request; nil if it isn't.
func (h *hook) concerns(ctx context.Context, r *match.Request, rights authorizer.Authorizer) (*match.Target, error) {
	target, err := h.criteria.Match(ctx, r)
	if err != nil || target == nil {
		return nil, err
	}
	if h.broken != nil {
		return nil, apierrors.NewInternalError(h.broken)
	}
	holds, err := h.conditions().Match(ctx, r, target, nil, rights)
	if err != nil {
		return nil, apierrors.NewForbidden(r.Own().Resource.GroupResource(), r.Name, err)
	}
	if !holds {
		return nil, nil
	}
	return target, nil
}

// callError says that no answer could be had from a webhook, so that its failure policy decides.
type callError struct {
	name   string
	reason error
}

func (e *callError) Error() string {
	return fmt.Sprintf("failed calling webhook %q: %v", e.name, e.reason)
}

func (e *callError) Unwrap() error { return e.reason }

// verdict applies the failure policy to what a call came to: open says that a failure is passed over.
func (h *hook) verdict(err error) (open bool, refusal error) {
	call, ok := errors.AsType[*callError](err)
	if !ok {
		return false, err
	}
	if h.FailurePolicy != nil && *h.FailurePolicy == v1.Ignore {
		slog.Warn("a webhook failed, which its failure policy ignores", "configuration", h.configuration, "webhook", h.Name, "error", call.reason)
		return true, nil
	}
	return false, apierrors.NewInternalError(call)
}

// ask sends a view of a request to the webhook.
func (h *hook) ask(ctx context.Context, r *match.Request, seen *view, mutating bool) (*answer, error) {
	fail := func(format string, args ...any) (*answer, error) {
		return nil, &callError{name: h.Name, reason: fmt.Errorf(format, args...)}
	}
	if r.DryRun {
		switch {
		case h.SideEffects == nil:
			return fail("Webhook SideEffects is nil")
		case *h.SideEffects != v1.SideEffectClassNone && *h.SideEffects != v1.SideEffectClassNoneOnDryRun:
			return nil, apierrors.NewBadRequest(fmt.Sprintf("admission webhook %q does not support dry run", h.Name))
		}
	}
	if h.version == "" {
		return fail("could not create admission objects: webhook does not accept known AdmissionReview versions (v1, v1beta1)")
	}
	client, err := h.client()
	if err != nil {
		return fail("could not get REST client: %w", err)
	}
	id, body, err := seen.review(h.version)
	if err != nil {
		return fail("could not create admission objects: %w", err)
	}
	if h.TimeoutSeconds != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(*h.TimeoutSeconds)*time.Second)
		defer cancel()
	}
	request := client.Post().SetHeader("Content-Type", runtime.ContentTypeJSON).Body(body)
	if deadline, ok := ctx.Deadline(); ok {
		// The webhook is told in whole seconds, rounded up.
		if left := (time.Until(deadline) + time.Second - 1).Truncate(time.Second); left > 0 {
			request.Timeout(left)
		}
	}
	review := newReview(h.version)
	if err := request.Do(ctx).Into(review); err != nil {
		return fail("failed to call webhook: %w", err)
	}
	a, err := read(review, id, mutating)
	if err != nil {
		return fail("received invalid webhook response: %w", err)
	}
	return a, nil
}

// mutate asks the webhook, and does to the object what it answers.
func (h *hook) mutate(ctx context.Context, r *match.Request, target *match.Target) (changed bool, err error) {
	seen, err := newView(r, target)
	if err != nil {
		return false, err
	}
	a, err := h.ask(ctx, r, seen, true)
	if err != nil {
		return false, err
	}
	a.tell(r, h)
	if !a.allowed {
		return false, refused(h.Name, a.result)
	}
	if len(a.patch) == 0 {
		return false, nil
	}
	patch, err := jsonpatch.DecodePatch(a.patch)
	switch {
	case err != nil:
		return false, &callError{h.Name, fmt.Errorf("received undecodable patch in webhook response: %w", err)}
	case len(patch) == 0:
		return false, nil
	case seen.object == nil:
		return false, apierrors.NewInternalError(fmt.Errorf("admission webhook %q attempted to modify the object, which is not supported for this operation", h.Name))
	case a.patchType != admissionv1.PatchTypeJSONPatch:
		return false, &callError{h.Name, fmt.Errorf("unsupported patch type %q", a.patchType)}
	}
	next, err := patched(seen, patch)
	if err == nil {
		changed, err = r.Replace(target, next)
	}
	if err != nil {
		return false, apierrors.NewInternalError(err)
	}
	return changed, nil
}

// patched is what a patch makes of an object.
func patched(seen *view, patch jsonpatch.Patch) (runtime.Object, error) {
	document, err := patch.Apply(seen.rawObject.Raw)
	if err != nil {
		return nil, err
	}
	if _, ok := seen.object.(*unstructured.Unstructured); ok {
		next := &unstructured.Unstructured{}
		return next, next.UnmarshalJSON(document)
	}
	into := reflect.New(reflect.TypeOf(seen.object).Elem()).Interface().(runtime.Object)
	next, _, err := api.JSON.Decode(document, nil, into)
	if err == nil && next.GetObjectKind().GroupVersionKind().Kind == "" { // which the patch took away
		next.GetObjectKind().SetGroupVersionKind(seen.object.GetObjectKind().GroupVersionKind())
	}
	return next, err
}

// tell passes on what the webhook has to say beside its answer.
func (a *answer) tell(r *match.Request, h *hook) {
	if a == nil {
		return
	}
	for key, value := range a.annotations {
		r.Annotate(h.Name+"/"+key, value)
	}
	for _, text := range a.warnings {
		r.Warn(text)
	}
}

// annotateMutation notes for the audit log that a webhook was asked, and whether it changed the object.
func annotateMutation(r *match.Request, position string, h *hook, mutated bool) {
	text, err := json.Marshal(struct {
		Configuration string `json:"configuration"`
		Webhook       string `json:"webhook"`
		Mutated       bool   `json:"mutated"`
	}{h.configuration, h.Name, mutated})
	if err == nil {
		r.Annotate("mutation.webhook.admission.k8s.io/"+position, string(text))
	}
}

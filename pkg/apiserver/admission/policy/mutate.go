package policy

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/plugin/policy/mutating/patch"
	celconfig "k8s.io/apiserver/pkg/apis/cel"

	"skiff/pkg/api"
	"skiff/pkg/apiserver/admission/match"
	"skiff/pkg/apiserver/request"
)

// Mutate lets the mutating policies change the object of a request, one after the other.
func (p *Policies) Mutate(ctx context.Context, r *match.Request) error {
	if r.Operation == request.Delete || exempt(r) {
		return nil
	}
	hooks, err := p.mutating.hooks(ctx)
	if err != nil {
		return refuse(r, err)
	}
	turn := r.Begin("MutatingAdmissionPolicy")
	defer turn.End()
	calls := p.calls(ctx, r, hooks) // all are chosen by the object as it came
	if len(calls) == 0 {
		return nil
	}
	namespace, err := r.NamespaceObject(ctx)
	if err != nil {
		return err
	}
	var misconfigured, problems []problem
	for _, c := range calls {
		if c.err != nil {
			if !c.ignoresFailures {
				misconfigured = append(misconfigured, c.misconfigured())
			}
			continue
		}
		errs, err := p.run(ctx, r, turn, c, namespace)
		if err != nil {
			return err
		}
		if !c.ignoresFailures {
			problems = append(problems, errs...)
		}
	}
	problems = append(misconfigured, problems...)
	if len(problems) == 0 {
		return nil
	}
	return refuseFor(r, problems)
}

// problem is why a policy refuses a request.
type problem struct {
	message string
	reason  metav1.StatusReason
}

// run runs the mutations of a policy. One that fails keeps the others from nothing, but what the server
// itself got wrong, or an object that nobody could store, ends it all.
func (p *Policies) run(ctx context.Context, r *match.Request, turn *match.Turn, c call, namespace *corev1.Namespace) ([]problem, error) {
	ok, err := c.conditions.Match(ctx, r, c.target, c.params, p.rights)
	if err != nil {
		return []problem{c.problem(err)}, nil
	}
	if !ok || !turn.Runs(c.key()) || r.Object == nil {
		return nil, nil
	}
	var problems []problem
	changed := false
	for _, patcher := range c.mutation.patchers {
		one, err := p.patch(ctx, r, c, patcher, namespace)
		if status := apierrors.APIStatus(nil); errors.As(err, &status) {
			return nil, err
		}
		if err != nil {
			problems = append(problems, c.problem(err))
		}
		changed = changed || one
	}
	turn.Ran(c.key(), changed, c.mutation.reinvocable)
	return problems, nil
}

// key tells calls of one request apart.
func (c call) key() string {
	key := c.name + "\n" + c.binding.name
	if o, ok := c.params.(api.Object); ok {
		key += "\n" + o.GetNamespace() + "/" + o.GetName()
	}
	return key
}

func (p *Policies) patch(ctx context.Context, r *match.Request, c call, patcher patch.Patcher, namespace *corev1.Namespace) (bool, error) {
	attributes, err := r.Versioned(c.target)
	if err != nil {
		return false, err
	}
	types, err := p.types(c.target.Kind)
	if err != nil {
		return false, apierrors.NewInternalError(err)
	}
	s := subject{params: c.params, authorizer: p.rights}
	patched, err := patcher.Patch(c.mutation.compiler.CreateContext(ctx), patch.Request{
		MatchedResource: c.target.Resource, VersionedAttributes: attributes, ObjectInterfaces: scheme,
		OptionalVariables: s.bound(), Namespace: namespace, TypeConverter: types,
	}, celconfig.RuntimeCELCostBudget)
	if err != nil {
		return false, err
	}
	if patched, err = typed(patched, attributes.VersionedObject); err != nil {
		return false, err
	}
	return r.Replace(c.target, patched)
}

// types are the typed values of a kind.
func (p *Policies) types(kind schema.GroupVersionKind) (managedfields.TypeConverter, error) {
	if row := p.config.Catalogue.View().ByKind(kind); row != nil && row.Types != nil {
		return row.Types()
	}
	return p.config.Types(), nil
}

var scheme = admission.NewObjectInterfacesFromScheme(api.Scheme)

// typed is what a patch has made, as the Go type that like is.
func typed(patched, like runtime.Object) (runtime.Object, error) {
	loose, ok := patched.(runtime.Unstructured)
	if _, custom := like.(runtime.Unstructured); !ok || custom {
		return patched, nil
	}
	out, err := api.Scheme.New(like.GetObjectKind().GroupVersionKind())
	if err != nil {
		return nil, err
	}
	return out, runtime.DefaultUnstructuredConverter.FromUnstructured(loose.UnstructuredContent(), out)
}

func (c call) problem(err error) problem {
	return problem{fmt.Sprintf("policy '%s' with binding '%s' denied request: %v", c.name, c.binding.name, err), metav1.StatusReasonInvalid}
}

func (c call) misconfigured() problem {
	if c.binding == nil {
		return problem{fmt.Sprintf("policy %q denied request: failed to configure policy: %v", c.name, c.err), metav1.StatusReasonForbidden}
	}
	return problem{fmt.Sprintf("policy '%s' with binding '%s' denied request: failed to configure binding: %v", c.name, c.binding.name, c.err), metav1.StatusReasonForbidden}
}

// refuseFor refuses in the words of the first problem. As in Kubernetes the code is that of a request that
// is forbidden, whatever the reason.
func refuseFor(r *match.Request, problems []problem) error {
	err := refuse(r, errors.New("admission request denied by policy"))
	status := &apierrors.StatusError{}
	if !errors.As(err, &status) {
		return err
	}
	status.ErrStatus.Message, status.ErrStatus.Reason = problems[0].message, problems[0].reason
	for _, one := range problems {
		status.ErrStatus.Details.Causes = append(status.ErrStatus.Details.Causes, metav1.StatusCause{Message: one.message})
	}
	return status
}

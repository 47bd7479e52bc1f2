package policy

import (
	"context"
	"errors"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"skiff/pkg/api"
	"skiff/pkg/apiserver/admission/match"
	"skiff/pkg/apiserver/lookup"
)

// Config is what policies depend on.
type Config struct {
	Catalogue  *api.Catalogue
	Objects    lookup.Reader // parameters
	Feed       lookup.Feed   // policies and bindings
	Authorizer match.Judge   // whom expressions ask
	// Types converts objects of the kinds that are Go types to typed values, for the merge of apply configurations.
	Types func() managedfields.TypeConverter
}

// Policies are the admission policies of a cluster. They may be used concurrently.
type Policies struct {
	config               Config
	rights               authorizer.Authorizer
	validating, mutating *source
}

// New returns policies that know nothing until [Policies.Run] feeds them.
func New(config Config) *Policies {
	return &Policies{
		config: config, rights: match.Rights(config.Authorizer),
		validating: newSource(readValidating, readValidatingBinding),
		mutating:   newSource(readMutating, readMutatingBinding),
	}
}

// Run follows the policies and their bindings until ctx ends.
func (p *Policies) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		return p.validating.follow(ctx, p.config.Feed, "validatingadmissionpolicies", "validatingadmissionpolicybindings")
	})
	group.Go(func() error {
		return p.mutating.follow(ctx, p.config.Feed, "mutatingadmissionpolicies", "mutatingadmissionpolicybindings")
	})
	return group.Wait()
}

// Ready fails until the policies that there were at the start are known.
func (p *Policies) Ready() error {
	if p.validating.isReady() && p.mutating.isReady() {
		return nil
	}
	return errors.New("admission policies are being read")
}

// Active says whether there is anything to be asked.
func (p *Policies) Active() bool {
	return !p.validating.idle() || !p.mutating.idle()
}

// exempt are questions about users and their rights, without whose answers nothing works.
func exempt(r *match.Request) bool {
	k := r.Attributes.Kind
	return k.Virtual && (k.Group == "authentication.k8s.io" || k.Group == "authorization.k8s.io")
}

// call is a policy that a request concerns: for one of its bindings, with one of the binding's parameters. If err
// is set that could not be found out.
type call struct {
	*hook
	binding *binding // nil if err is the policy's own
	target  *match.Target
	params  runtime.Object
	err     error
}

// calls are the policies that concern a request, in the order of their names.
func (p *Policies) calls(ctx context.Context, r *match.Request, hooks []*hook) []call {
	var calls []call
	for _, h := range hooks {
		target, err := h.criteria.Match(ctx, r)
		switch {
		case err == nil && target == nil:
			continue
		case err == nil:
			err = h.broken
		}
		if err == nil {
			_, err = p.paramRow(h.params)
		}
		if err != nil {
			calls = append(calls, call{hook: h, err: err})
			continue
		}
		for _, b := range h.bindings {
			calls = append(calls, p.bound(ctx, r, h, b, target)...)
		}
	}
	return calls
}

func (p *Policies) bound(ctx context.Context, r *match.Request, h *hook, b *binding, target *match.Target) []call {
	matched, err := b.criteria.Match(ctx, r)
	if err == nil && matched == nil {
		return nil
	}
	if err == nil {
		err = b.broken
	}
	var params []runtime.Object
	if err == nil {
		params, err = p.parameters(ctx, h.params, b.params, r.Attributes.Namespace)
	}
	if err != nil {
		return []call{{hook: h, binding: b, err: err}}
	}
	calls := make([]call, len(params))
	for i, one := range params {
		calls[i] = call{hook: h, binding: b, target: target, params: one}
	}
	return calls
}

// Package webhook asks admission webhooks: those of MutatingWebhookConfigurations one after the other, by the
// configurations' names and then in their order, those of ValidatingWebhookConfigurations all at once.
//
// [Webhooks] follows the configurations and keeps them compiled; a write loads one pointer to see whether there are any.
// Which writes a webhook is asked about is decided by package match. What it is sent and what it may answer is in
// review.go, what happens when it doesn't in hook.go.
//
// Not here: webhooks from files (an alpha of 1.36), clients that authenticate themselves to webhooks (Kubernetes' admission
// configuration file), and the audit annotation that holds a webhook's whole patch.
//
// Source: https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/.
package webhook

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"skiff/pkg/api/admissionregistration"
	"skiff/pkg/apiserver/admission/match"
	"skiff/pkg/apiserver/hookclient"
	"skiff/pkg/apiserver/lookup"
)

// Config is what Webhooks needs.
type Config struct {
	Feed       lookup.Feed
	Services   hookclient.Resolver
	Authorizer match.Judge // for match conditions
}

// Webhooks asks all webhooks that are configured. It may be used concurrently.
type Webhooks struct {
	cfg    Config
	rights authorizer.Authorizer

	current atomic.Pointer[snapshot] // nil until all configurations were read
	ready   chan struct{}            // closed then

	mu                   sync.Mutex // only for those who write
	mutating, validating configurations
}

// snapshot is all webhooks, in the order in which they are asked. It is immutable.
type snapshot struct{ mutating, validating []*hook }

// configurations are those of one kind, by name.
type configurations struct {
	synced bool
	hooks  map[string][]*hook
}

// New returns Webhooks that know nothing until [Webhooks.Run] feeds them.
func New(config Config) *Webhooks {
	return &Webhooks{
		cfg: config, rights: match.Rights(config.Authorizer), ready: make(chan struct{}),
		mutating: configurations{hooks: map[string][]*hook{}}, validating: configurations{hooks: map[string][]*hook{}},
	}
}

// Run follows the configurations until ctx ends.
func (w *Webhooks) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for resource, of := range map[string]*configurations{
		"mutatingwebhookconfigurations": &w.mutating, "validatingwebhookconfigurations": &w.validating,
	} {
		group.Go(func() error {
			return w.cfg.Feed.Follow(ctx, admissionregistrationv1.Resource(resource),
				func() { w.change(func() { of.synced = true }) },
				func(changes []lookup.Change) { w.change(func() { of.apply(changes, w.cfg.Services) }) })
		})
	}
	return group.Wait()
}

// change changes what is configured, and swaps in what follows from it.
func (w *Webhooks) change(do func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	do()
	if !w.mutating.synced || !w.validating.synced {
		return
	}
	first := w.current.Load() == nil
	w.current.Store(&snapshot{mutating: w.mutating.ordered(), validating: w.validating.ordered()})
	if first {
		close(w.ready)
	}
}

func (c *configurations) apply(changes []lookup.Change, services hookclient.Resolver) {
	for _, change := range changes {
		name := change.Object.GetName()
		if change.Deleted {
			delete(c.hooks, name)
			continue
		}
		before := c.hooks[name]
		var hooks []*hook
		for i, h := range admissionregistration.Webhooks(change.Object) {
			if len(h.Rules) > 0 { // else it is never asked
				hooks = append(hooks, newHook(name, i, h, services, before))
			}
		}
		c.hooks[name] = hooks
	}
}

func (c *configurations) ordered() []*hook {
	var all []*hook
	for _, name := range slices.Sorted(maps.Keys(c.hooks)) {
		all = append(all, c.hooks[name]...)
	}
	return all
}

// Active implements admission.Dynamic.
func (w *Webhooks) Active() bool {
	s := w.current.Load()
	return s == nil || len(s.mutating)+len(s.validating) > 0
}

// patience is how long a write waits for a server that has just started.
const patience = 10 * time.Second

// hooks waits for the configurations to be known: a write that they forbid must not slip through.
func (w *Webhooks) hooks(ctx context.Context, r *match.Request) (*snapshot, error) {
	if s := w.current.Load(); s != nil {
		return s, nil
	}
	select {
	case <-w.ready:
		return w.current.Load(), nil
	case <-ctx.Done():
	case <-time.After(patience):
	}
	return nil, apierrors.NewForbidden(r.Own().Resource.GroupResource(), cmp.Or(r.Name, "Unknown"), errors.New("not yet ready to handle request"))
}

// Mutate lets webhooks change the object of a write, one after the other.
func (w *Webhooks) Mutate(ctx context.Context, r *match.Request) error {
	s, err := w.hooks(ctx, r)
	if err != nil {
		return err
	}
	if len(s.mutating) == 0 {
		return nil
	}
	turn := r.Begin("MutatingAdmissionWebhook")
	defer turn.End()
	for i, h := range s.mutating {
		target, err := h.concerns(ctx, r, w.rights)
		if err != nil {
			return err
		}
		if target == nil || !turn.Runs(h.key) {
			continue
		}
		position := fmt.Sprintf("round_%d_index_%d", r.Round(), i)
		changed, err := h.mutate(ctx, r, target)
		annotateMutation(r, position, h, changed)
		turn.Ran(h.key, changed, h.ReinvocationPolicy != nil && *h.ReinvocationPolicy == admissionregistrationv1.IfNeededReinvocationPolicy)
		open, err := h.verdict(err)
		if err != nil {
			return err
		}
		if open {
			r.Annotate("failed-open.mutation.webhook.admission.k8s.io/"+position, h.Name)
			if ctx.Err() != nil {
				return tooLate()
			}
		}
	}
	return nil
}

func tooLate() error {
	return apierrors.NewTimeoutError("request did not complete within requested timeout", 0)
}

// Validate asks webhooks about a write, all at the same time. What the first of them refuses is the answer.
func (w *Webhooks) Validate(ctx context.Context, r *match.Request) error {
	s, err := w.hooks(ctx, r)
	if err != nil {
		return err
	}
	var calls []*validation
	views := map[*match.Target]*view{}
	for _, h := range s.validating {
		target, err := h.concerns(ctx, r, w.rights)
		if err != nil {
			return err
		}
		if target == nil {
			continue
		}
		if views[target] == nil {
			if views[target], err = newView(r, target); err != nil {
				return err
			}
		}
		calls = append(calls, &validation{hook: h, view: views[target]})
	}
	if len(calls) == 0 {
		return nil
	}
	if ctx.Err() != nil {
		return tooLate()
	}
	var group sync.WaitGroup
	for _, c := range calls {
		group.Go(func() { c.run(ctx, r) })
	}
	group.Wait()
	var refusal error
	for i, c := range calls {
		c.answer.tell(r, c.hook)
		open, err := c.hook.verdict(c.err)
		if open {
			r.Annotate(fmt.Sprintf("failed-open.validating.webhook.admission.k8s.io/round_0_index_%d", i), c.hook.Name)
		}
		if refusal == nil {
			refusal = err
		}
	}
	return refusal
}

// validation is one question of many.
type validation struct {
	hook   *hook
	view   *view
	answer *answer
	err    error
}

func (v *validation) run(ctx context.Context, r *match.Request) {
	defer func() {
		if reason := recover(); reason != nil { // a panic here would take the server along
			v.err = &callError{name: v.hook.Name, reason: fmt.Errorf("panicked: %v", reason)}
		}
	}()
	if v.answer, v.err = v.hook.ask(ctx, r, v.view, false); v.err == nil && !v.answer.allowed {
		v.err = refused(v.hook.Name, v.answer.result)
	}
}

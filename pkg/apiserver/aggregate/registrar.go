package aggregate

import (
	"context"
	"fmt"
	"time"

	crdv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/kube-aggregator/pkg/apis/apiregistration/v1/helper"

	"skiff/pkg/api"
	"skiff/pkg/apiserver/crd"
	"skiff/pkg/apiserver/lookup"
	"skiff/pkg/component"
	"skiff/pkg/store"
)

// registrar makes the APIServices of what is served here.
type registrar struct {
	*Aggregator
	atStart map[string]bool // those that there were at first; nil: nobody has looked yet
	done    map[string]bool // those that were cared for
}

// register keeps the APIServices of what is served here until ctx ends.
func (a *Aggregator) register(ctx context.Context) error {
	var group component.Group
	group.Add("follow definitions", func(ctx context.Context) error {
		return a.cfg.Objects.Follow(ctx, crd.Resource, nil, func([]lookup.Change) { poke(a.look) })
	})
	group.Add("make APIServices", func(ctx context.Context) error {
		r := &registrar{Aggregator: a, done: map[string]bool{}}
		again := time.NewTimer(0)
		defer again.Stop()
		for {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-a.look:
			case <-again.C:
			}
			if err := r.pass(ctx); err != nil && ctx.Err() == nil {
				a.cfg.Logger.Warn("registering APIServices; trying again", "error", err)
				again.Reset(time.Second)
			}
		}
	})
	return group.Run(ctx)
}

// pass brings all APIServices to what they should be. Definitions are read after the APIServices: one that is made
// for a definition while this looks isn't taken for the remainder of another.
func (r *registrar) pass(ctx context.Context) error {
	have, err := all[*v1.APIService](ctx, r.Aggregator, apiServices.WithVersion("v1"))
	if err != nil {
		return err
	}
	definitions, err := all[*crdv1.CustomResourceDefinition](ctx, r.Aggregator, crd.Resource.WithVersion("v1"))
	if err != nil {
		return err
	}
	want := Wanted(r.cfg.Catalogue.View(), definitions)
	names := map[string]*v1.APIService{}
	for _, s := range have {
		names[s.Name] = s
	}
	if r.atStart == nil {
		r.atStart = map[string]bool{}
		for name := range names {
			r.atStart[name] = true
		}
	}
	for name := range want {
		if _, ok := names[name]; !ok {
			names[name] = nil
		}
	}
	for name, s := range names {
		if err := r.do(ctx, decide(s, want[name], !r.done[name], r.atStart[name]), s, want[name]); err != nil {
			return fmt.Errorf("APIService %s: %w", name, err)
		}
		r.done[name] = true
	}
	return nil
}

// do does one step, and says of an APIService of this server's own that it is available.
func (r *registrar) do(ctx context.Context, what step, have, want *v1.APIService) error {
	switch what {
	case create:
		next := want.DeepCopy()
		helper.SetAPIServiceCondition(next, helper.NewLocalAvailableAPIServiceCondition())
		return r.cfg.Objects.Update(ctx, apiServices, "", want.Name, func(current api.Object) (api.Object, error) {
			if current != nil {
				return nil, nil
			}
			return next, nil
		})
	case update:
		return r.cfg.Objects.Update(ctx, apiServices, "", want.Name, func(current api.Object) (api.Object, error) {
			now, _ := current.(*v1.APIService)
			if now == nil || now.ResourceVersion != have.ResourceVersion {
				return nil, nil // its change is heard of
			}
			next := now.DeepCopy()
			next.Spec = *want.Spec.DeepCopy()
			return next, nil
		})
	case remove:
		err := r.cfg.Delete(ctx, have)
		if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
			return nil
		}
		return err
	}
	if have != nil && have.Spec.Service == nil && !helper.IsAPIServiceConditionTrue(have, v1.Available) {
		condition := helper.NewLocalAvailableAPIServiceCondition()
		return r.record(ctx, have, &condition)
	}
	return nil
}

// all is a consistent list.
func all[T api.Object](ctx context.Context, a *Aggregator, gvr schema.GroupVersionResource) ([]T, error) {
	kind := a.cfg.Catalogue.View().ByResource(gvr)
	if kind == nil {
		return nil, nil
	}
	page, err := a.cfg.Store.List(ctx, kind, store.Query{})
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", gvr.GroupResource(), err)
	}
	out := make([]T, len(page.Entries))
	for i, entry := range page.Entries {
		obj, err := entry.Shared()
		if err != nil {
			return nil, err
		}
		out[i] = obj.(T)
	}
	return out, nil
}

package policy

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	v1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/types"

	"skiff/pkg/api"
	"skiff/pkg/apiserver/admission/match"
	"skiff/pkg/apiserver/lookup"
)

// hook is a policy that is bound, ready to be evaluated. It is immutable.
type hook struct {
	name     string
	criteria *match.Criteria
	params   *v1.ParamKind
	*compiled
	broken   error // why nothing of it can be evaluated
	bindings []*binding
}

// binding is what binds a policy.
type binding struct {
	name     string
	policy   string
	criteria *match.Criteria
	params   *v1.ParamRef
	actions  []v1.ValidationAction
	broken   error
}

// source keeps the hooks of one kind of policies up to date. Requests read a snapshot, by the policies' names.
type source struct {
	read        func(api.Object) *hook // compiles
	readBinding func(api.Object) *binding

	mu       sync.Mutex
	policies map[string]*known
	bindings map[string]*binding
	synced   int
	ready    chan struct{} // closed when all that there was at the beginning is known
	snapshot atomic.Pointer[[]*hook]
}

// known is a policy as it was read; it is compiled when it is bound.
type known struct {
	uid        types.UID
	generation int64
	hook       func() *hook
}

func newSource(read func(api.Object) *hook, readBinding func(api.Object) *binding) *source {
	return &source{
		read: read, readBinding: readBinding,
		policies: map[string]*known{}, bindings: map[string]*binding{}, ready: make(chan struct{}),
	}
}

// follow keeps the source up to date until ctx ends.
func (s *source) follow(ctx context.Context, feed lookup.Feed, policies, bindings string) error {
	var group sync.WaitGroup
	synced := func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.synced++; s.synced == 2 {
			s.publish()
			close(s.ready)
		}
	}
	group.Go(func() { _ = feed.Follow(ctx, v1.Resource(policies), synced, s.changePolicies) })
	group.Go(func() { _ = feed.Follow(ctx, v1.Resource(bindings), synced, s.changeBindings) })
	group.Wait()
	return ctx.Err()
}

func (s *source) changePolicies(changes []lookup.Change) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, change := range changes {
		obj := change.Object
		if change.Deleted {
			delete(s.policies, obj.GetName())
			continue
		}
		if old := s.policies[obj.GetName()]; old != nil && old.uid == obj.GetUID() && old.generation == obj.GetGeneration() {
			continue // only its status or its metadata
		}
		s.policies[obj.GetName()] = &known{obj.GetUID(), obj.GetGeneration(), sync.OnceValue(func() *hook { return s.read(obj) })}
	}
	s.publish()
}

func (s *source) changeBindings(changes []lookup.Change) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, change := range changes {
		if change.Deleted {
			delete(s.bindings, change.Object.GetName())
			continue
		}
		s.bindings[change.Object.GetName()] = s.readBinding(change.Object)
	}
	s.publish()
}

// publish makes a snapshot for requests, if all is known.
func (s *source) publish() {
	if s.synced < 2 {
		return
	}
	bound := map[string][]*binding{}
	for _, b := range s.bindings {
		bound[b.policy] = append(bound[b.policy], b)
	}
	hooks := []*hook{}
	for name, bindings := range bound {
		policy := s.policies[name]
		if policy == nil {
			continue
		}
		h := *policy.hook()
		slices.SortFunc(bindings, func(a, b *binding) int { return cmp.Compare(a.name, b.name) })
		h.bindings = bindings
		hooks = append(hooks, &h)
	}
	slices.SortFunc(hooks, func(a, b *hook) int { return cmp.Compare(a.name, b.name) })
	s.snapshot.Store(&hooks)
}

func (s *source) isReady() bool {
	select {
	case <-s.ready:
		return true
	default:
		return false
	}
}

// patience is how long a request waits for a server that has just started to know the policies.
const patience = 10 * time.Second

// hooks are the policies as they are.
func (s *source) hooks(ctx context.Context) ([]*hook, error) {
	if s.isReady() {
		return *s.snapshot.Load(), nil
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-s.ready:
		return *s.snapshot.Load(), nil
	case <-ctx.Done():
	case <-timer.C:
	}
	return nil, errors.New("not yet ready to handle request")
}

// idle says that there is nothing to be asked.
func (s *source) idle() bool { return s.isReady() && len(*s.snapshot.Load()) == 0 }

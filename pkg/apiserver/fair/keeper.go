package fair

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"

	"skiff/pkg/api"
	"skiff/pkg/apiserver/lookup"
	"skiff/pkg/apiserver/request"
)

// Objects are where the configuration is stored: a [lookup.Store].
type Objects interface {
	lookup.Feed
	lookup.Writer
}

// Apply makes status an owner's in a copy of live, as server-side apply does.
type Apply func(live api.Object, status any, owner string) (api.Object, error)

var (
	schemas = flowcontrolv1.SchemeGroupVersion.WithResource("flowschemas").GroupResource()
	levels  = flowcontrolv1.SchemeGroupVersion.WithResource("prioritylevelconfigurations").GroupResource()
)

// Keeper is the scheduler with the configuration that the store has. It may be used concurrently, and works with Kubernetes' own
// configuration until [Keeper.Run] has read the store's.
type Keeper struct {
	*Scheduler
	seats   int
	objects Objects
	applied Apply
	current atomic.Pointer[Configuration]
	metrics metrics

	changed chan struct{} // holds one when there is something new
	mu      sync.Mutex
	schemas map[string]*flowcontrolv1.FlowSchema
	levels  map[string]*flowcontrolv1.PriorityLevelConfiguration
	synced  int // how many of the two were read
}

// NewKeeper returns a Keeper of a server with so many seats.
func NewKeeper(seats int, objects Objects, apply Apply) *Keeper {
	k := &Keeper{
		seats: seats, objects: objects, applied: apply, metrics: newMetrics(), changed: make(chan struct{}, 1),
		schemas: map[string]*flowcontrolv1.FlowSchema{}, levels: map[string]*flowcontrolv1.PriorityLevelConfiguration{},
	}
	initial := compile(seats, suggestedSchemas, bootstrap.SuggestedPriorityLevelConfigurations)
	k.current.Store(initial)
	k.Scheduler = NewScheduler(seats, initial.Levels)
	return k
}

// Classify finds out which flow a request is of.
func (k *Keeper) Classify(user *request.User, info *request.Info) Match {
	return k.current.Load().Classify(user, info)
}

// Run follows and keeps the objects until ctx ends.
func (k *Keeper) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return follow(ctx, k, schemas, k.schemas) })
	group.Go(func() error { return follow(ctx, k, levels, k.levels) })
	group.Go(func() error { return k.apply(ctx) })
	group.Go(func() error { return k.keep(ctx) })
	return group.Wait()
}

func follow[T api.Object](ctx context.Context, k *Keeper, resource schema.GroupResource, into map[string]T) error {
	synced := func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.synced++
		k.wake()
	}
	return k.objects.Follow(ctx, resource, synced, func(changes []lookup.Change) {
		k.mu.Lock()
		defer k.mu.Unlock()
		for _, c := range changes {
			if c.Deleted {
				delete(into, c.Object.GetName())
			} else if obj, ok := c.Object.(T); ok {
				into[c.Object.GetName()] = obj
			}
		}
		k.wake()
	})
}

func (k *Keeper) wake() {
	select {
	case k.changed <- struct{}{}:
	default:
	}
}

// apply takes over what has changed.
func (k *Keeper) apply(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-k.changed:
		}
		var allSchemas []*flowcontrolv1.FlowSchema
		var allLevels []*flowcontrolv1.PriorityLevelConfiguration
		exists := map[string]bool{}
		k.mu.Lock()
		ready := k.synced == 2
		for _, s := range k.schemas {
			allSchemas = append(allSchemas, s)
		}
		for _, l := range k.levels {
			allLevels = append(allLevels, l)
			exists[l.Name] = true
		}
		k.mu.Unlock()
		if !ready {
			continue
		}
		c := compile(k.seats, allSchemas, allLevels)
		k.Configure(k.seats, c.Levels) // first: then every level that a request is classified for is there
		k.current.Store(c)
		for _, s := range allSchemas {
			err := k.condition(ctx, s, exists[s.Spec.PriorityLevelConfiguration.Name])
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err != nil {
				slog.Warn("writing the status of a flow schema, to be tried again", "name", s.Name, "error", err)
				time.AfterFunc(time.Second, k.wake)
			}
		}
	}
}

// condition writes down whether a schema dangles.
func (k *Keeper) condition(ctx context.Context, s *flowcontrolv1.FlowSchema, exists bool) error {
	if dangling(s, exists, metav1.Time{}) == nil {
		return nil
	}
	return k.objects.Update(ctx, schemas, "", s.Name, func(current api.Object) (api.Object, error) {
		now, ok := current.(*flowcontrolv1.FlowSchema)
		if !ok || now.Spec.PriorityLevelConfiguration != s.Spec.PriorityLevelConfiguration {
			return nil, nil // gone, or another: there will be news of that
		}
		c := dangling(now, exists, metav1.NewTime(time.Now().Truncate(time.Second)))
		if c == nil {
			return nil, nil
		}
		return k.applied(now, &flowcontrolv1.FlowSchemaStatus{Conditions: []flowcontrolv1.FlowSchemaCondition{*c}}, conditionOwner)
	})
}

// conditionOwner is what this part of an apiserver calls itself in Kubernetes.
const conditionOwner = "api-priority-and-fairness-config-consumer-v1"

// keepEvery is how often the objects that must exist are looked after, as in Kubernetes.
const keepEvery = time.Minute

// keep makes sure that the mandatory and the suggested objects exist, and are as Kubernetes has them unless somebody
// decided otherwise. (Annotations say so; see AutoUpdateAnnotationKey.)
func (k *Keeper) keep(ctx context.Context) error {
	for {
		err := lookup.Retry(ctx, "keeping flow schemas and priority levels", k.ensure)
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(keepEvery):
		}
	}
}

func (k *Keeper) ensure(ctx context.Context) error {
	for _, want := range slices.Concat(bootstrap.MandatoryPriorityLevelConfigurations, bootstrap.SuggestedPriorityLevelConfigurations) {
		err := k.ensureOne(ctx, levels, want, slices.Contains(bootstrap.MandatoryPriorityLevelConfigurations, want), func(current api.Object) bool {
			l, spec := current.(*flowcontrolv1.PriorityLevelConfiguration), want.Spec.DeepCopy()
			if want.Name == flowcontrolv1.PriorityLevelConfigurationNameExempt && l.Spec.Exempt != nil {
				spec.Exempt = l.Spec.Exempt // which is an administrator's to choose
			}
			changed := !equality.Semantic.DeepEqual(l.Spec, *spec)
			l.Spec = *spec
			return changed
		})
		if err != nil {
			return err
		}
	}
	for _, want := range slices.Concat(bootstrap.MandatoryFlowSchemas, suggestedSchemas) {
		err := k.ensureOne(ctx, schemas, want, slices.Contains(bootstrap.MandatoryFlowSchemas, want), func(current api.Object) bool {
			s := current.(*flowcontrolv1.FlowSchema)
			changed := !equality.Semantic.DeepEqual(s.Spec, want.Spec)
			s.Spec = *want.Spec.DeepCopy()
			return changed
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// ensureOne creates an object, or gives it the wanted spec where nobody took it over. The objects of all apiservers of a cluster
// are the same, so it doesn't matter which of them writes.
func (k *Keeper) ensureOne(ctx context.Context, resource schema.GroupResource, want api.Object, mandatory bool, replace func(current api.Object) (changed bool)) error {
	err := k.objects.Update(ctx, resource, "", want.GetName(), func(current api.Object) (api.Object, error) {
		if current == nil {
			made := want.DeepCopyObject().(api.Object)
			made.SetGeneration(1)
			return made, nil
		}
		note := current.GetAnnotations()[flowcontrolv1.AutoUpdateAnnotationKey]
		auto, err := strconv.ParseBool(note)
		if mandatory {
			auto = true
		} else if err != nil {
			auto = current.GetGeneration() == 1
		}
		if auto && replace(current) {
			current.SetGeneration(current.GetGeneration() + 1)
		}
		if was, err := strconv.ParseBool(note); err != nil || was != auto {
			annotations := current.GetAnnotations()
			if annotations == nil {
				annotations = map[string]string{}
			}
			annotations[flowcontrolv1.AutoUpdateAnnotationKey] = strconv.FormatBool(auto)
			current.SetAnnotations(annotations)
		}
		return current, nil
	})
	if err != nil {
		return fmt.Errorf("%s %s: %w", resource, want.GetName(), err)
	}
	return nil
}

var suggestedSchemas = append(slices.Clip(bootstrap.SuggestedFlowSchemas), leaderEndpoints)

// leaderEndpoints is the one schema beyond Kubernetes': half of the lock of Skiff's elections is an Endpoints object. It is not
// annotated as Kubernetes', which would remove it as one of an older version.
var leaderEndpoints = &flowcontrolv1.FlowSchema{
	ObjectMeta: metav1.ObjectMeta{Name: "skiff-leader-election", Annotations: map[string]string{flowcontrolv1.AutoUpdateAnnotationKey: "false"}},
	Spec: flowcontrolv1.FlowSchemaSpec{
		PriorityLevelConfiguration: flowcontrolv1.PriorityLevelConfigurationReference{Name: "leader-election"},
		MatchingPrecedence:         110,
		DistinguisherMethod:        &flowcontrolv1.FlowDistinguisherMethod{Type: flowcontrolv1.FlowDistinguisherMethodByUserType},
		Rules: []flowcontrolv1.PolicyRulesWithSubjects{{
			Subjects: []flowcontrolv1.Subject{
				{Kind: flowcontrolv1.SubjectKindUser, User: &flowcontrolv1.UserSubject{Name: "system:kube-controller-manager"}},
				{Kind: flowcontrolv1.SubjectKindUser, User: &flowcontrolv1.UserSubject{Name: "system:kube-scheduler"}},
			},
			ResourceRules: []flowcontrolv1.ResourcePolicyRule{{
				Verbs: []string{"get", "create", "update"}, APIGroups: []string{""}, Resources: []string{"endpoints"}, Namespaces: []string{metav1.NamespaceSystem},
			}},
		}},
	},
}

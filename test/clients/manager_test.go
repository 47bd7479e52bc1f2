package clients

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	clientscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	controller "sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

// Garden is the kind of an operator: as many config maps as its size.
type Garden struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	Spec              GardenSpec   `json:"spec,omitempty"`
	Status            GardenStatus `json:"status,omitempty"`
}

type GardenSpec struct {
	Size int    `json:"size,omitempty"`
	Note string `json:"note,omitempty"`
}

type GardenStatus struct {
	Copies int `json:"copies,omitempty"`
}

type GardenList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Garden `json:"items"`
}

func (g *Garden) DeepCopyObject() runtime.Object {
	c := *g
	c.ObjectMeta = *g.ObjectMeta.DeepCopy()
	return &c
}

func (l *GardenList) DeepCopyObject() runtime.Object {
	c := *l
	c.Items = nil
	for i := range l.Items {
		c.Items = append(c.Items, *l.Items[i].DeepCopyObject().(*Garden))
	}
	return &c
}

func gardenScheme(group string) *runtime.Scheme {
	s := runtime.NewScheme()
	gv := schema.GroupVersion{Group: group, Version: "v1"}
	s.AddKnownTypes(gv, &Garden{}, &GardenList{})
	metav1.AddToGroupVersion(s, gv)
	if err := clientscheme.AddToScheme(s); err != nil {
		panic(err)
	}
	return s
}

const cleanup = "clients.test/cleanup"

// gardener reconciles gardens, and counts how often.
type gardener struct {
	controller.Client
	mu     sync.Mutex
	counts map[string]int
}

func (g *gardener) count(name string) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.counts[name]
}

func (g *gardener) Reconcile(ctx context.Context, request reconcile.Request) (reconcile.Result, error) {
	var garden Garden
	if err := g.Get(ctx, request.NamespacedName, &garden); err != nil {
		return reconcile.Result{}, controller.IgnoreNotFound(err)
	}
	g.mu.Lock()
	g.counts[garden.Name]++
	g.mu.Unlock()
	if garden.DeletionTimestamp != nil {
		return reconcile.Result{}, g.clear(ctx, &garden)
	}
	if controllerutil.AddFinalizer(&garden, cleanup) {
		if err := g.Update(ctx, &garden); err != nil {
			return reconcile.Result{}, err
		}
	}
	for i := range garden.Spec.Size {
		bed := &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: garden.Namespace, Name: fmt.Sprintf("%s-%d", garden.Name, i)}}
		if _, err := controllerutil.CreateOrUpdate(ctx, g, bed, func() error {
			bed.Labels, bed.Data = map[string]string{"garden": garden.Name}, map[string]string{"note": garden.Spec.Note}
			return controllerutil.SetControllerReference(&garden, bed, g.Scheme())
		}); err != nil {
			return reconcile.Result{}, err
		}
	}
	var beds v1.ConfigMapList
	if err := g.List(ctx, &beds, controller.InNamespace(garden.Namespace), controller.MatchingFields{"owner": garden.Name}); err != nil {
		return reconcile.Result{}, err
	}
	if garden.Status.Copies == len(beds.Items) {
		return reconcile.Result{}, nil
	}
	garden.Status.Copies = len(beds.Items)
	return reconcile.Result{}, g.Status().Update(ctx, &garden)
}

// clear leaves a mark before the garden may go.
func (g *gardener) clear(ctx context.Context, garden *Garden) error {
	mark := &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: garden.Namespace, Name: garden.Name + "-is-gone"}}
	if err := g.Create(ctx, mark); err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	controllerutil.RemoveFinalizer(garden, cleanup)
	return g.Update(ctx, garden)
}

// run starts a manager with a gardener, as a candidate of an election.
func (g *gardener) run(t *testing.T, config *rest.Config, ns, group string) (manager ctrl.Manager, stop func()) {
	t.Helper()
	planted, err := labels.Parse("garden")
	if err != nil {
		t.Fatal(err)
	}
	manager, err = ctrl.NewManager(config, ctrl.Options{
		Scheme: gardenScheme(group), Metrics: server.Options{BindAddress: "0"}, Controller: skipNames,
		LeaderElection: true, LeaderElectionID: "gardeners", LeaderElectionNamespace: ns, LeaderElectionReleaseOnCancel: true,
		LeaseDuration: new(time.Minute), RenewDeadline: new(40 * time.Second), RetryPeriod: new(200 * time.Millisecond),
		Cache: cache.Options{DefaultNamespaces: map[string]cache.Config{ns: {}},
			ByObject: map[controller.Object]cache.ByObject{&v1.ConfigMap{}: {Label: planted}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	g.Client, g.counts = manager.GetClient(), map[string]int{}
	if err := manager.GetFieldIndexer().IndexField(t.Context(), &v1.ConfigMap{}, "owner", func(o controller.Object) []string {
		if owner := metav1.GetControllerOf(o); owner != nil && owner.Kind == "Garden" {
			return []string{owner.Name}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	named := func(_ context.Context, o controller.Object) []reconcile.Request {
		name := o.GetAnnotations()["garden"]
		if _, partial := o.(*metav1.PartialObjectMetadata); !partial || name == "" {
			return nil
		}
		return []reconcile.Request{{NamespacedName: types.NamespacedName{Namespace: o.GetNamespace(), Name: name}}}
	}
	if err := ctrl.NewControllerManagedBy(manager).
		For(&Garden{}, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Owns(&v1.ConfigMap{}).
		WatchesMetadata(&v1.Secret{}, handler.EnqueueRequestsFromMapFunc(named)).
		Complete(g); err != nil {
		t.Fatal(err)
	}
	return manager, start(t, manager)
}

// skipNames: several managers in one process have controllers of one name.
var skipNames = config.Controller{SkipNameValidation: new(true)}

// start runs a manager until stop is called, or the test ends.
func start(t *testing.T, manager ctrl.Manager) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- manager.Start(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("a manager ended: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// TestManager runs an operator twice, as a service account with a role: one of
// them leads, the other takes over.
func TestManager(t *testing.T) {
	ns := newNamespace(t)
	const group = "manager.clients.test"
	newCRD(t, group, "gardens", "Garden")
	verbs := []string{"get", "list", "watch", "create", "update", "patch", "delete"}
	config := serviceAccount(t, ns, "gardener",
		rbacv1.PolicyRule{APIGroups: []string{group}, Resources: []string{"gardens", "gardens/status"}, Verbs: verbs},
		rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: verbs},
		rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"secrets"}, Verbs: []string{"list", "watch"}},
		rbacv1.PolicyRule{APIGroups: []string{"coordination.k8s.io"}, Resources: []string{"leases"}, Verbs: verbs},
		rbacv1.PolicyRule{APIGroups: []string{"", "events.k8s.io"}, Resources: []string{"events"}, Verbs: []string{"create", "patch"}})
	first, second := &gardener{}, &gardener{}
	manager, stop := first.run(t, config, ns, group)
	eventually(t, time.Minute, "the first manager leads", func() error {
		select {
		case <-manager.Elected():
			return nil
		default:
			return errors.New("not elected")
		}
	})
	second.run(t, config, ns, group)

	admin, err := controller.New(restConfig, controller.Options{Scheme: gardenScheme(group)})
	if err != nil {
		t.Fatal(err)
	}
	plant := func(name string, size int) *Garden {
		t.Helper()
		g := &Garden{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}, Spec: GardenSpec{Size: size, Note: "green"}}
		if err := admin.Create(t.Context(), g); err != nil {
			t.Fatal(err)
		}
		return g
	}
	has := func(g *Garden, copies int) {
		t.Helper()
		eventually(t, 30*time.Second, fmt.Sprintf("%s has %d copies", g.Name, copies), func() error {
			if err := admin.Get(t.Context(), controller.ObjectKeyFromObject(g), g); err != nil {
				return err
			}
			if g.Status.Copies != copies || len(g.Finalizers) != 1 {
				return fmt.Errorf("%+v, finalizers %v", g.Status, g.Finalizers)
			}
			return nil
		})
	}
	if err := admin.Create(t.Context(), &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "stranger"}}); err != nil {
		t.Fatal(err)
	}
	a := plant("a", 3)
	has(a, 3)
	// What it owns comes back.
	if err := admin.Delete(t.Context(), &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "a-1"}}); err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, "a-1 is back", func() error {
		return admin.Get(t.Context(), types.NamespacedName{Namespace: ns, Name: "a-1"}, &v1.ConfigMap{})
	})
	// The cache sees what is labelled, and nothing else: a stranger is older than what came back just now.
	var seen v1.ConfigMapList
	if err := manager.GetCache().List(t.Context(), &seen); err != nil || len(seen.Items) == 0 {
		t.Fatalf("the cache holds %d config maps: %v", len(seen.Items), err)
	}
	for _, c := range seen.Items {
		if c.Labels["garden"] == "" {
			t.Errorf("the cache holds %s, which has no label", c.Name)
		}
	}
	// A secret's metadata are enough to be called.
	before := first.count("a")
	if err := admin.Create(t.Context(), &v1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "s", Annotations: map[string]string{"garden": "a"}}}); err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, "the secret calls the reconciler", func() error {
		if n := first.count("a"); n == before {
			return fmt.Errorf("still %d calls", n)
		}
		return nil
	})
	// A change that isn't of the spec calls nobody: b's creation comes after it in the same stream.
	has(a, 3)
	before = first.count("a")
	a.Annotations = map[string]string{"looked": "at"}
	if err := admin.Update(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	b := plant("b", 1)
	has(b, 1)
	if n := first.count("a"); n != before {
		t.Errorf("an annotation called the reconciler %d times", n-before)
	}

	killApiserver(t)
	if err := admin.Patch(t.Context(), b, controller.RawPatch(types.MergePatchType, []byte(`{"spec":{"size":2}}`))); err != nil {
		t.Fatal(err)
	}
	has(b, 2)
	if n := second.count("a") + second.count("b"); n != 0 {
		t.Errorf("the second manager reconciled %d times while the first led", n)
	}
	stop()
	c := plant("c", 2)
	has(c, 2)
	if n := second.count("c"); n == 0 {
		t.Error("the second manager didn't reconcile")
	}

	// The finalizer holds a garden until its mark is there; its beds are collected.
	if err := admin.DeleteAllOf(t.Context(), &Garden{}, controller.InNamespace(ns)); err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, "the gardens and their beds are gone", func() error {
		var gardens GardenList
		if err := admin.List(t.Context(), &gardens, controller.InNamespace(ns)); err != nil || len(gardens.Items) > 0 {
			return fmt.Errorf("%d gardens: %v", len(gardens.Items), err)
		}
		var beds v1.ConfigMapList
		if err := admin.List(t.Context(), &beds, controller.InNamespace(ns), controller.HasLabels{"garden"}); err != nil || len(beds.Items) > 0 {
			return fmt.Errorf("%d beds: %v", len(beds.Items), err)
		}
		return nil
	})
	for _, g := range []*Garden{a, b, c} {
		if err := admin.Get(t.Context(), types.NamespacedName{Namespace: ns, Name: g.Name + "-is-gone"}, &v1.ConfigMap{}); err != nil {
			t.Errorf("%s left no mark: %v", g.Name, err)
		}
	}
	events, err := client.CoreV1().Events(ns).List(t.Context(), metav1.ListOptions{FieldSelector: "reason=LeaderElection"})
	if err != nil || len(events.Items) < 2 || !strings.Contains(events.Items[0].Message, "became leader") {
		t.Errorf("the elections' events are %v: %v", events.Items, err)
	}
}

// Package controllertest is for tests of reconcilers: a fake API that behaves like
// a server where reconcilers depend on it, which client-go's plain fake doesn't.
package controllertest

import (
	"context"
	"fmt"
	"log/slog"
	"reflect"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/record"

	"skiff/pkg/controller/reconciler"
)

// NewClient returns a fake client that gives out names, UIDs, resource versions
// and generations, refuses stale updates and wrong preconditions, keeps spec and status
// apart, and honours finalizers. A pod with a node is deleted gracefully: it stays,
// terminating, until it is deleted with a grace period of 0.
func NewClient(objects ...runtime.Object) *fake.Clientset {
	s := &server{}
	// Above what the tracker counts for its lists, so that versions only grow.
	s.revision.Store(1_000_000)
	for _, object := range objects {
		if accessor, err := meta.Accessor(object); err == nil {
			s.admit(accessor)
		}
	}
	client := fake.NewClientset(objects...)
	s.tracker = client.Tracker()
	client.PrependReactor("create", "*", s.create)
	client.PrependReactor("update", "*", s.update)
	client.PrependReactor("patch", "*", s.patch)
	client.PrependReactor("delete", "*", s.delete)
	return client
}

type server struct {
	tracker  clienttesting.ObjectTracker
	revision atomic.Int64
	names    atomic.Int64
}

func (s *server) next() string { return strconv.FormatInt(s.revision.Add(1), 10) }

func (s *server) admit(object metav1.Object) {
	if object.GetName() == "" && object.GetGenerateName() != "" {
		object.SetName(fmt.Sprintf("%s%05d", object.GetGenerateName(), s.names.Add(1)))
	}
	if object.GetUID() == "" {
		object.SetUID(types.UID(fmt.Sprintf("uid-%d", s.names.Add(1))))
	}
	if created := object.GetCreationTimestamp(); created.IsZero() {
		object.SetCreationTimestamp(metav1.NewTime(time.Now()))
	}
	if object.GetGeneration() == 0 {
		object.SetGeneration(1)
	}
	object.SetResourceVersion(s.next())
}

func (s *server) create(action clienttesting.Action) (bool, runtime.Object, error) {
	create := action.(clienttesting.CreateActionImpl)
	if create.GetSubresource() != "" || create.GetResource().Resource == "events" {
		return false, nil, nil
	}
	object := create.GetObject().DeepCopyObject()
	accessor, err := meta.Accessor(object)
	if err != nil {
		return true, nil, err
	}
	s.admit(accessor)
	if create.GetNamespace() != "" {
		accessor.SetNamespace(create.GetNamespace())
	}
	if err := s.tracker.Create(create.GetResource(), object, create.GetNamespace()); err != nil {
		return true, nil, err
	}
	return true, object, nil
}

func (s *server) update(action clienttesting.Action) (bool, runtime.Object, error) {
	update := action.(clienttesting.UpdateActionImpl)
	object := update.GetObject().DeepCopyObject()
	accessor, err := meta.Accessor(object)
	if err != nil {
		return true, nil, err
	}
	current, err := s.tracker.Get(update.GetResource(), update.GetNamespace(), accessor.GetName())
	if err != nil {
		return true, nil, err
	}
	old, err := meta.Accessor(current)
	if err != nil {
		return true, nil, err
	}
	if accessor.GetResourceVersion() != "" && accessor.GetResourceVersion() != old.GetResourceVersion() {
		return true, nil, conflict(update.GetResource(), accessor.GetName(), "the object has been modified")
	}
	accessor.SetUID(old.GetUID())
	accessor.SetCreationTimestamp(old.GetCreationTimestamp())
	accessor.SetDeletionTimestamp(old.GetDeletionTimestamp())
	accessor.SetGeneration(old.GetGeneration())
	if update.GetSubresource() == "status" {
		copyField(object, current, "Spec")
	} else {
		copyField(object, current, "Status")
		if changed(object, current) {
			accessor.SetGeneration(old.GetGeneration() + 1)
		}
	}
	return true, object, s.store(update.GetResource(), object, accessor, current)
}

// store writes an object, or removes it when its last finalizer has gone; one that is as it was stays.
func (s *server) store(resource schema.GroupVersionResource, object runtime.Object, accessor metav1.Object, current runtime.Object) error {
	if accessor.GetDeletionTimestamp() != nil && len(accessor.GetFinalizers()) == 0 && resource.Resource != "pods" && resource.Resource != "namespaces" {
		return s.remove(resource, object, accessor)
	}
	if apiequality.Semantic.DeepEqual(object, current) {
		return nil
	}
	accessor.SetResourceVersion(s.next())
	return s.tracker.Update(resource, object, accessor.GetNamespace())
}

func (s *server) patch(action clienttesting.Action) (bool, runtime.Object, error) {
	patch := action.(clienttesting.PatchActionImpl)
	current, err := s.tracker.Get(patch.GetResource(), patch.GetNamespace(), patch.GetName())
	if err != nil {
		return true, nil, err
	}
	old, err := meta.Accessor(current)
	if err != nil {
		return true, nil, err
	}
	_, object, err := clienttesting.ObjectReaction(silent{s.tracker})(patch)
	if err != nil {
		return true, nil, err
	}
	accessor, err := meta.Accessor(object)
	if err != nil {
		return true, nil, err
	}
	if accessor.GetUID() != old.GetUID() || accessor.GetResourceVersion() != old.GetResourceVersion() {
		return true, nil, conflict(patch.GetResource(), patch.GetName(), "the object has been modified")
	}
	if changed(object, current) {
		accessor.SetGeneration(old.GetGeneration() + 1)
	}
	return true, object, s.store(patch.GetResource(), object, accessor, current)
}

// silent computes patches without storing them.
type silent struct{ clienttesting.ObjectTracker }

func (silent) Patch(schema.GroupVersionResource, runtime.Object, string, ...metav1.PatchOptions) error {
	return nil
}

func (s *server) delete(action clienttesting.Action) (bool, runtime.Object, error) {
	deletion := action.(clienttesting.DeleteActionImpl)
	options := deletion.DeleteOptions
	current, err := s.tracker.Get(deletion.GetResource(), deletion.GetNamespace(), deletion.GetName())
	if err != nil {
		return true, nil, err
	}
	accessor, err := meta.Accessor(current)
	if err != nil {
		return true, nil, err
	}
	if p := options.Preconditions; p != nil {
		if (p.UID != nil && *p.UID != accessor.GetUID()) || (p.ResourceVersion != nil && *p.ResourceVersion != accessor.GetResourceVersion()) {
			return true, nil, conflict(deletion.GetResource(), deletion.GetName(), "the precondition failed")
		}
	}
	if policy := options.PropagationPolicy; policy != nil && accessor.GetDeletionTimestamp() == nil {
		switch *policy {
		case metav1.DeletePropagationForeground:
			accessor.SetFinalizers(append(accessor.GetFinalizers(), metav1.FinalizerDeleteDependents))
		case metav1.DeletePropagationOrphan:
			accessor.SetFinalizers(append(accessor.GetFinalizers(), metav1.FinalizerOrphanDependents))
		}
	}
	pod, isPod := current.(*v1.Pod)
	graceful := isPod && pod.Spec.NodeName != "" && (options.GracePeriodSeconds == nil || *options.GracePeriodSeconds > 0)
	if !graceful && len(accessor.GetFinalizers()) == 0 {
		return true, current, s.remove(deletion.GetResource(), current, accessor)
	}
	if accessor.GetDeletionTimestamp() != nil {
		return true, current, nil
	}
	now := metav1.Now()
	accessor.SetDeletionTimestamp(&now)
	accessor.SetResourceVersion(s.next())
	return true, current, s.tracker.Update(deletion.GetResource(), current, deletion.GetNamespace())
}

// remove takes an object out. A server's deletion has a revision of its own, which the tracker's
// event only carries if the object had it before.
func (s *server) remove(resource schema.GroupVersionResource, object runtime.Object, accessor metav1.Object) error {
	accessor.SetResourceVersion(s.next())
	if err := s.tracker.Update(resource, object, accessor.GetNamespace()); err != nil {
		return err
	}
	return s.tracker.Delete(resource, accessor.GetNamespace(), accessor.GetName())
}

func conflict(resource schema.GroupVersionResource, name, why string) error {
	return apierrors.NewConflict(resource.GroupResource(), name, fmt.Errorf("%s", why))
}

func field(object runtime.Object, name string) (reflect.Value, bool) {
	value := reflect.ValueOf(object).Elem()
	if value.Kind() != reflect.Struct {
		return reflect.Value{}, false
	}
	f := value.FieldByName(name)
	return f, f.IsValid()
}

func copyField(to, from runtime.Object, name string) {
	target, ok := field(to, name)
	source, okFrom := field(from, name)
	if ok && okFrom {
		target.Set(source)
	}
}

func changed(a, b runtime.Object) bool {
	specA, okA := field(a, "Spec")
	specB, okB := field(b, "Spec")
	return okA && okB && !apiequality.Semantic.DeepEqual(specA.Interface(), specB.Interface())
}

// Config gives a reconciler a client, informers, a logger that writes to the test's log and a recorder
// that forgets.
func Config(t testing.TB, client *fake.Clientset) reconciler.Config {
	return reconciler.Config{
		Client:    client,
		Reader:    client,
		Informers: informers.NewSharedInformerFactory(client, 0),
		Events:    &record.FakeRecorder{},
		Logger:    slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
}

// Run runs reconcilers and their informers until the test ends.
func Run(t testing.TB, c reconciler.Config, runs ...func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	c.Informers.StartWithContext(ctx)
	done := make(chan struct{})
	for _, run := range runs {
		go func() {
			defer func() { done <- struct{}{} }()
			_ = run(ctx)
		}()
	}
	t.Cleanup(func() {
		cancel()
		for range runs {
			<-done
		}
		c.Informers.Shutdown()
	})
}

// Eventually looks until check finds nothing to complain about, or fails the test
// with the complaint.
func Eventually(t testing.TB, check func() error) {
	t.Helper()
	const limit = 20 * time.Second // far more than it takes; only a failing test waits that long
	deadline := time.Now().Add(limit)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after %v: %v", limit, err)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

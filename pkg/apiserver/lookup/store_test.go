package lookup_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff/pkg/api"
	"skiff/pkg/api/catalogue"
	"skiff/pkg/apiserver/authz"
	"skiff/pkg/apiserver/lookup"
	"skiff/pkg/apiserver/request"
	"skiff/pkg/etcd"
	"skiff/pkg/store"
)

var configMaps = schema.GroupResource{Resource: "configmaps"}

func config(name, value string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}, Data: map[string]string{"k": value}}
}

// newStore is a view of a store over an etcd of its own.
func newStore(t *testing.T) *lookup.Store {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	member, err := etcd.Start(ctx, etcd.Config{DataDir: t.TempDir(), NoSync: true, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	rows := catalogue.Default()
	s := store.New(store.Config{Client: member.Client(), Stored: func(k *api.Kind) *api.Kind { return rows.View().Stored(k) }, Log: slog.New(slog.DiscardHandler)})
	var group sync.WaitGroup
	group.Go(func() {
		if err := s.Run(ctx); err != nil {
			t.Errorf("store: %v", err)
		}
	})
	t.Cleanup(func() {
		cancel()
		group.Wait()
		member.Close()
	})
	kinds := map[schema.GroupResource]*api.Kind{}
	for _, kind := range rows.View().Kinds() {
		if kinds[kind.GroupResource()] == nil && !kind.Virtual {
			kinds[kind.GroupResource()] = kind
		}
	}
	return lookup.NewStore(s, func(resource schema.GroupResource) *api.Kind { return kinds[resource] })
}

func put(t *testing.T, s *lookup.Store, obj *corev1.ConfigMap) {
	t.Helper()
	err := s.Update(t.Context(), configMaps, obj.Namespace, obj.Name, func(current api.Object) (api.Object, error) {
		if current == nil {
			return obj, nil
		}
		current.(*corev1.ConfigMap).Data = obj.Data
		return current, nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestStore(t *testing.T) {
	s := newStore(t)
	put(t, s, config("b", "1"))
	put(t, s, config("a", "1"))
	got, err := lookup.Get[*corev1.ConfigMap](t.Context(), s, configMaps, "ns", "a")
	if err != nil || got.Data["k"] != "1" || got.UID == "" || got.CreationTimestamp.IsZero() || got.ResourceVersion == "" {
		t.Fatal(got, err)
	}
	put(t, s, config("a", "2"))
	if now, err := lookup.Live[*corev1.ConfigMap](t.Context(), s, configMaps, "ns", "a"); err != nil || now.Data["k"] != "2" || now.UID != got.UID {
		t.Error(now, err)
	}
	list, err := lookup.List[*corev1.ConfigMap](t.Context(), s, configMaps, "ns")
	if err != nil || len(list) != 2 || list[0].Name != "a" {
		t.Error(list, err)
	}
	for _, name := range []string{"gone", ""} {
		if _, err := s.Get(t.Context(), configMaps, "ns", name); !apierrors.IsNotFound(err) {
			t.Errorf("%q: %v", name, err)
		}
	}
	if _, err := lookup.Get[*corev1.Pod](t.Context(), s, configMaps, "ns", "a"); err == nil {
		t.Error("a config map passed for a pod")
	}
	nothing := func(api.Object) (api.Object, error) { return nil, nil }
	if err := s.Update(t.Context(), configMaps, "ns", "none", nothing); err != nil {
		t.Error(err)
	}
	unknown := schema.GroupResource{Resource: "unknowns"}
	if list, err := s.List(t.Context(), unknown, ""); len(list) > 0 || err != nil {
		t.Error(list, err)
	}
	if err := s.Update(t.Context(), unknown, "", "x", nothing); err == nil {
		t.Error("an unknown resource was written")
	}
}

func TestFollow(t *testing.T) {
	s := newStore(t)
	put(t, s, config("a", "1"))
	ctx, cancel := context.WithCancel(t.Context())
	seen, synced, done := make(chan string, 100), make(chan struct{}), make(chan error, 1)
	go func() {
		done <- s.Follow(ctx, configMaps, func() { close(synced) }, func(changes []lookup.Change) {
			for _, c := range changes {
				seen <- fmt.Sprintf("%s=%s %t", c.Object.GetName(), c.Object.(*corev1.ConfigMap).Data["k"], c.Deleted)
			}
		})
	}()
	<-synced
	put(t, s, config("b", "1"))
	put(t, s, config("a", "2"))
	var got []string
	for range 3 {
		got = append(got, <-seen)
	}
	if want := []string{"a=1 false", "b=1 false", "a=2 false"}; !slices.Equal(got, want) {
		t.Error(got)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// The authorizer on a real store: the default roles are stored, read back and decide.
func TestAuthorizerOnStore(t *testing.T) {
	s := newStore(t)
	authorizer, err := authz.New(s)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- authorizer.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}()
	scheduler := &request.User{Name: "system:kube-scheduler", Groups: []string{request.Authenticated}}
	bind := &request.Info{IsResourceRequest: true, Verb: "create", Namespace: "ns", Resource: "pods", Subresource: "binding", Name: "p"}
	began := time.Now()
	for !authorizer.Authorize(t.Context(), scheduler, bind).Allowed || authorizer.Ready() != nil || authorizer.BootstrapReady() != nil {
		if time.Since(began) > 30*time.Second {
			t.Fatal(authorizer.Ready(), authorizer.BootstrapReady())
		}
		time.Sleep(time.Millisecond)
	}
	t.Logf("ready after %s", time.Since(began))
	roles, err := s.List(t.Context(), rbacv1.Resource("clusterroles"), "")
	if err != nil || len(roles) != 69 {
		t.Errorf("%d cluster roles, %v", len(roles), err)
	}
}

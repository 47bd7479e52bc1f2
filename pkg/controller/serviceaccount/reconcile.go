// Package serviceaccount makes sure that each namespace has the service account
// "default", as which pods run that name no other.
package serviceaccount

import (
	"context"
	"fmt"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"skiff/pkg/controller/reconciler"
	"skiff/pkg/reconcile"
)

const defaultName = "default"

// Reconciler makes default service accounts. Its keys are namespaces.
type Reconciler struct {
	client     kubernetes.Interface
	namespaces corelisters.NamespaceLister
	accounts   corelisters.ServiceAccountLister
	synced     []cache.InformerSynced
	store      cache.Store
	loop       *reconcile.Loop[string]
}

// New makes the reconciler.
func New(c reconciler.Config) *Reconciler {
	namespaces, accounts := c.Informers.Core().V1().Namespaces(), c.Informers.Core().V1().ServiceAccounts()
	r := &Reconciler{
		client:     c.Client,
		namespaces: namespaces.Lister(),
		accounts:   accounts.Lister(),
		synced:     []cache.InformerSynced{namespaces.Informer().HasSynced, accounts.Informer().HasSynced},
		store:      accounts.Informer().GetStore(),
	}
	r.loop = reconciler.Loop(c, "serviceaccount", 1, reconcile.Config[string]{Reconcile: r.reconcile})
	reconciler.OnEach(namespaces.Informer(), func(n *v1.Namespace) { r.loop.Add(n.Name) })
	reconciler.OnChange(accounts.Informer(), func(old, current *v1.ServiceAccount) {
		if current == nil {
			r.loop.Add(old.Namespace)
		}
	})
	return r
}

// Run works until ctx ends.
func (r *Reconciler) Run(ctx context.Context) error { return reconciler.Run(ctx, r.synced, r.loop.Run) }

func (r *Reconciler) reconcile(ctx context.Context, name string) (time.Duration, error) {
	namespace, err := r.namespaces.Get(name)
	if err != nil || namespace.Status.Phase != v1.NamespaceActive {
		return 0, nil // gone, or going
	}
	if _, err := r.accounts.ServiceAccounts(name).Get(defaultName); err == nil {
		return 0, nil
	}
	account := &v1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: defaultName, Namespace: name}}
	created, err := r.client.CoreV1().ServiceAccounts(name).Create(ctx, account, metav1.CreateOptions{})
	switch {
	case apierrors.IsAlreadyExists(err), apierrors.HasStatusCause(err, v1.NamespaceTerminatingCause):
		return 0, nil
	case err != nil:
		return 0, fmt.Errorf("create service account %s/%s: %w", name, defaultName, err)
	}
	r.loop.Wrote(name, r.store, created.ResourceVersion)
	return 0, nil
}

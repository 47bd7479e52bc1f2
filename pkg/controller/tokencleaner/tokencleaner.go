// Package tokencleaner deletes the secrets of bootstrap tokens when their time is over.
package tokencleaner

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"skiff/pkg/controller/bootstrapsigner"
	"skiff/pkg/controller/reconciler"
	"skiff/pkg/pki/bootstrap"
	"skiff/pkg/reconcile"
)

// Reconciler deletes secrets. Its keys are their names.
type Reconciler struct {
	client  kubernetes.Interface
	secrets cache.SharedIndexInformer
	loop    *reconcile.Loop[string]
	log     *slog.Logger
}

// New makes the reconciler.
func New(c reconciler.Config) *Reconciler {
	r := &Reconciler{client: c.Client, secrets: bootstrapsigner.Secrets(c.Client), log: c.Logger}
	r.loop = reconciler.Loop(c, "token_cleaner", 1, reconcile.Config[string]{Reconcile: r.reconcile})
	reconciler.OnEach(r.secrets, func(s *v1.Secret) { r.loop.Add(s.Name) })
	return r
}

// Run works until ctx ends.
func (r *Reconciler) Run(ctx context.Context) error {
	return reconciler.RunWith(ctx, []cache.SharedIndexInformer{r.secrets}, nil, r.loop.Run)
}

func (r *Reconciler) reconcile(ctx context.Context, name string) (time.Duration, error) {
	object, exists, err := r.secrets.GetStore().GetByKey(metav1.NamespaceSystem + "/" + name)
	if err != nil || !exists {
		return 0, err
	}
	secret := object.(*v1.Secret)
	remaining, expired := left(secret, time.Now())
	if !expired {
		return remaining, nil
	}
	r.log.Info("deleting expired bootstrap token", "secret", name)
	// The version too: a token that is being prolonged isn't expired.
	err = r.client.CoreV1().Secrets(metav1.NamespaceSystem).Delete(ctx, name, metav1.DeleteOptions{
		Preconditions: &metav1.Preconditions{UID: &secret.UID, ResourceVersion: &secret.ResourceVersion}})
	if err != nil && !apierrors.IsNotFound(err) {
		return 0, fmt.Errorf("delete expired bootstrap token %s: %w", name, err)
	}
	return 0, nil
}

// left is how long a secret's token holds yet; 0 without an end.
func left(secret *v1.Secret, now time.Time) (remaining time.Duration, expired bool) {
	at, err := bootstrap.Expiry(secret)
	if err != nil {
		return 0, true // as Kubernetes: better none than one without an end
	}
	if at.IsZero() {
		return 0, false
	}
	return at.Sub(now), !now.Before(at)
}

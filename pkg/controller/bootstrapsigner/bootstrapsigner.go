// Package bootstrapsigner signs what a cluster publishes of itself in the config map
// kube-public/cluster-info with each bootstrap token that is for signing, so that a machine
// with such a token can tell the cluster from an impostor.
package bootstrapsigner

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"skiff/pkg/controller/reconciler"
	"skiff/pkg/pki/bootstrap"
	"skiff/pkg/reconcile"
)

// Secrets makes an informer of the secrets with bootstrap tokens. The client needs rights to
// kube-system only.
func Secrets(client kubernetes.Interface) cache.SharedIndexInformer {
	return coreinformers.NewFilteredSecretInformer(client, metav1.NamespaceSystem, 0, cache.Indexers{}, func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector("type", string(bootstrap.SecretType)).String()
	})
}

// Reconciler signs the config map. It has one key.
type Reconciler struct {
	client     kubernetes.Interface
	secrets    cache.SharedIndexInformer
	configMaps cache.SharedIndexInformer
	loop       *reconcile.Loop[string]
}

// New makes the reconciler.
func New(c reconciler.Config) *Reconciler {
	r := &Reconciler{
		client:  c.Client,
		secrets: Secrets(c.Client),
		configMaps: coreinformers.NewFilteredConfigMapInformer(c.Client, metav1.NamespacePublic, 0, cache.Indexers{}, func(o *metav1.ListOptions) {
			o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, bootstrap.ClusterInfo).String()
		}),
	}
	r.loop = reconciler.Loop(c, "bootstrap_signer_queue", 1, reconcile.Config[string]{Reconcile: r.reconcile})
	reconciler.OnEach(r.secrets, func(*v1.Secret) { r.loop.Add("") })
	reconciler.OnEach(r.configMaps, func(*v1.ConfigMap) { r.loop.Add("") })
	return r
}

// Run works until ctx ends.
func (r *Reconciler) Run(ctx context.Context) error {
	return reconciler.RunWith(ctx, []cache.SharedIndexInformer{r.secrets, r.configMaps}, nil, r.loop.Run)
}

func (r *Reconciler) reconcile(ctx context.Context, _ string) (time.Duration, error) {
	object, exists, err := r.configMaps.GetStore().GetByKey(metav1.NamespacePublic + "/" + bootstrap.ClusterInfo)
	if err != nil || !exists {
		return 0, err
	}
	var grants []bootstrap.Grant
	for _, object := range r.secrets.GetStore().List() {
		if grant, err := bootstrap.ReadSecret(object.(*v1.Secret)); err == nil {
			grants = append(grants, grant)
		}
	}
	current := object.(*v1.ConfigMap)
	data, next := plan(current.Data, grants, time.Now())
	if maps.Equal(data, current.Data) {
		return next, nil
	}
	wanted := current.DeepCopy()
	wanted.Data = data
	written, err := r.client.CoreV1().ConfigMaps(wanted.Namespace).Update(ctx, wanted, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("sign config map %s/%s: %w", wanted.Namespace, wanted.Name, err)
	}
	r.loop.Wrote("", r.configMaps.GetStore(), written.ResourceVersion)
	return next, nil
}

// plan is the config map's data with the signatures that it should have now, and how long
// they stay right; 0 without an end.
func plan(data map[string]string, grants []bootstrap.Grant, now time.Time) (map[string]string, time.Duration) {
	out := maps.Clone(data)
	maps.DeleteFunc(out, func(key, _ string) bool { return strings.HasPrefix(key, bootstrap.SignaturePrefix) })
	content, published := data[bootstrap.ClusterInfoKey]
	var next time.Duration
	for _, grant := range grants {
		if !published || grant.Usable(bootstrap.UsageSigning, now) != nil {
			continue
		}
		out[bootstrap.SignaturePrefix+grant.ID] = grant.Sign(content)
		if until := grant.Expires.Sub(now); !grant.Expires.IsZero() && (next == 0 || until < next) {
			next = until
		}
	}
	return out, next
}

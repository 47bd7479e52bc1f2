// Package rootca publishes the certificate authority of the API in each namespace,
// as the config map kube-root-ca.crt, which pods mount to trust the apiserver.
package rootca

import (
	"context"
	"fmt"
	"maps"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"skiff/pkg/controller/reconciler"
	"skiff/pkg/reconcile"
)

const (
	configMapName         = "kube-root-ca.crt"
	descriptionAnnotation = "kubernetes.io/description"
	description           = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. " +
		"No other usage is guaranteed across distributions of Kubernetes clusters."
)

// Reconciler publishes one CA bundle. Its keys are namespaces.
type Reconciler struct {
	client     kubernetes.Interface
	namespaces corelisters.NamespaceLister
	synced     cache.InformerSynced
	// configMaps has only those of the one name: the others may be large, and are nobody's business here.
	configMaps cache.SharedIndexInformer
	bundle     string
	loop       *reconcile.Loop[string]
}

// New makes the reconciler; bundle is PEM.
func New(c reconciler.Config, bundle []byte) *Reconciler {
	namespaces := c.Informers.Core().V1().Namespaces()
	r := &Reconciler{
		client:     c.Client,
		namespaces: namespaces.Lister(),
		synced:     namespaces.Informer().HasSynced,
		configMaps: coreinformers.NewFilteredConfigMapInformer(c.Reader, metav1.NamespaceAll, 0, cache.Indexers{}, func(o *metav1.ListOptions) {
			o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, configMapName).String()
		}),
		bundle: string(bundle),
	}
	r.loop = reconciler.Loop(c, "root_ca_cert_publisher", 1, reconcile.Config[string]{Reconcile: r.reconcile})
	reconciler.OnEach(namespaces.Informer(), func(n *v1.Namespace) { r.loop.Add(n.Name) })
	reconciler.OnEach(r.configMaps, func(m *v1.ConfigMap) { r.loop.Add(m.Namespace) })
	return r
}

// Run works until ctx ends.
func (r *Reconciler) Run(ctx context.Context) error {
	return reconciler.RunWith(ctx, []cache.SharedIndexInformer{r.configMaps}, []cache.InformerSynced{r.synced}, r.loop.Run)
}

func (r *Reconciler) reconcile(ctx context.Context, name string) (time.Duration, error) {
	namespace, err := r.namespaces.Get(name)
	if err != nil || namespace.Status.Phase != v1.NamespaceActive {
		return 0, nil // gone, or going
	}
	wanted := r.plan(name)
	if wanted == nil {
		return 0, nil
	}
	client := r.client.CoreV1().ConfigMaps(name)
	var written *v1.ConfigMap
	if wanted.ResourceVersion == "" && wanted.UID == "" {
		written, err = client.Create(ctx, wanted, metav1.CreateOptions{})
	} else {
		written, err = client.Update(ctx, wanted, metav1.UpdateOptions{})
	}
	if apierrors.IsNotFound(err) || apierrors.HasStatusCause(err, v1.NamespaceTerminatingCause) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("write config map %s/%s: %w", name, configMapName, err)
	}
	r.loop.Wrote(name, r.configMaps.GetStore(), written.ResourceVersion)
	return 0, nil
}

// plan is the config map to write, nil when it is right.
func (r *Reconciler) plan(namespace string) *v1.ConfigMap {
	data := map[string]string{"ca.crt": r.bundle}
	object, exists, err := r.configMaps.GetStore().GetByKey(namespace + "/" + configMapName)
	if err != nil || !exists {
		return &v1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: configMapName, Namespace: namespace, Annotations: map[string]string{descriptionAnnotation: description}},
			Data:       data,
		}
	}
	current := object.(*v1.ConfigMap)
	if maps.Equal(current.Data, data) && current.Annotations[descriptionAnnotation] != "" {
		return nil
	}
	wanted := current.DeepCopy()
	wanted.Data = data
	if wanted.Annotations == nil {
		wanted.Annotations = map[string]string{}
	}
	wanted.Annotations[descriptionAnnotation] = description
	return wanted
}

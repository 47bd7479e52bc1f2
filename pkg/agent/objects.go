package agent

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
)

// objects watches the ConfigMaps and Secrets that pods of this node name, one
// watch an object: a node may read no others. What a pod starts with is at hand
// as soon as the first answer is; what changes reaches the pods by itself.
type objects struct {
	client  kubernetes.Interface
	log     *slog.Logger
	changed func(pods []types.UID) // an object of these pods has changed

	mu      sync.Mutex
	ctx     context.Context
	watched map[objectKey]*watched
	wg      sync.WaitGroup
}

type objectKey struct {
	kind            string // "configmaps", "secrets"
	namespace, name string
}

// watched is one object; it exists as long as a pod holds it.
type watched struct {
	key    objectKey
	cancel context.CancelFunc
	pods   map[types.UID]bool

	first  chan struct{} // closed with the first answer
	object metav1.Object // nil: there is none
	err    error         // why there was no answer yet
}

func newObjects(client kubernetes.Interface, log *slog.Logger, changed func([]types.UID)) *objects {
	return &objects{client: client, log: log, changed: changed, watched: map[objectKey]*watched{}}
}

// run lends its context to all watches, and returns when they have ended.
func (o *objects) run(ctx context.Context) {
	o.mu.Lock()
	o.ctx = ctx
	o.mu.Unlock()
	<-ctx.Done()
	o.wg.Wait()
}

// hold makes the watches of a pod be those of exactly these objects.
func (o *objects) hold(uid types.UID, keys []objectKey) {
	want := map[objectKey]bool{}
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, key := range keys {
		want[key] = true
		w := o.watched[key]
		if w == nil {
			w = o.start(key)
		}
		w.pods[uid] = true
	}
	for key, w := range o.watched {
		if !want[key] && w.pods[uid] {
			delete(w.pods, uid)
			if len(w.pods) == 0 {
				w.cancel()
				delete(o.watched, key)
			}
		}
	}
}

func (o *objects) start(key objectKey) *watched {
	ctx, cancel := context.WithCancel(o.ctx)
	w := &watched{key: key, cancel: cancel, pods: map[types.UID]bool{}, first: make(chan struct{})}
	o.watched[key] = w
	o.wg.Go(func() { o.follow(ctx, w) })
	return w
}

// get returns an object that is held, waiting for the first answer.
func (o *objects) get(ctx context.Context, key objectKey) (metav1.Object, error) {
	o.mu.Lock()
	w := o.watched[key]
	o.mu.Unlock()
	if w == nil {
		return nil, fmt.Errorf("%s %s/%s: not held by any pod", key.kind, key.namespace, key.name)
	}
	select {
	case <-w.first:
	case <-ctx.Done():
		o.mu.Lock()
		defer o.mu.Unlock()
		if w.err != nil {
			return nil, w.err
		}
		return nil, fmt.Errorf("waiting for %s %s/%s: %w", key.kind, key.namespace, key.name, ctx.Err())
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if w.object == nil {
		// The kubelet's texts name the kind in the singular.
		return nil, apierrors.NewNotFound(schema.GroupResource{Resource: strings.TrimSuffix(key.kind, "s")}, key.name)
	}
	return w.object, nil
}

func (o *objects) configMap(ctx context.Context, namespace, name string) (*v1.ConfigMap, error) {
	object, err := o.get(ctx, objectKey{"configmaps", namespace, name})
	if err != nil {
		return nil, err
	}
	return object.(*v1.ConfigMap), nil
}

func (o *objects) secret(ctx context.Context, namespace, name string) (*v1.Secret, error) {
	object, err := o.get(ctx, objectKey{"secrets", namespace, name})
	if err != nil {
		return nil, err
	}
	return object.(*v1.Secret), nil
}

// firstDelay is short: the node authorizer may learn of a pod's references a
// moment later than this node learns of the pod.
const firstDelay, maxDelay = 5 * time.Millisecond, 20 * time.Second

// follow lists and watches one object until nobody holds it.
func (o *objects) follow(ctx context.Context, w *watched) {
	delay := firstDelay
	for ctx.Err() == nil {
		answered, err := o.listAndWatch(ctx, w)
		if answered {
			delay = firstDelay
		}
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			o.mu.Lock()
			w.err = err
			o.mu.Unlock()
			if delay > time.Second {
				o.log.Warn("watch", "kind", w.key.kind, "namespace", w.key.namespace, "name", w.key.name, "err", err)
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(delay + rand.N(delay)):
		}
		delay = min(delay*3, maxDelay)
	}
}

func (o *objects) listAndWatch(ctx context.Context, w *watched) (answered bool, err error) {
	options := metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", w.key.name).String()}
	var found metav1.Object
	var version string
	var watcher func(context.Context, metav1.ListOptions) (watch.Interface, error)
	switch w.key.kind {
	case "configmaps":
		client := o.client.CoreV1().ConfigMaps(w.key.namespace)
		list, err := client.List(ctx, options)
		if err != nil {
			return false, err
		}
		if version = list.ResourceVersion; len(list.Items) > 0 {
			found = &list.Items[0]
		}
		watcher = client.Watch
	default:
		client := o.client.CoreV1().Secrets(w.key.namespace)
		list, err := client.List(ctx, options)
		if err != nil {
			return false, err
		}
		if version = list.ResourceVersion; len(list.Items) > 0 {
			found = &list.Items[0]
		}
		watcher = client.Watch
	}
	o.set(w, found)
	options.ResourceVersion = version
	options.AllowWatchBookmarks = true
	stream, err := watcher(ctx, options)
	if err != nil {
		return true, err
	}
	defer stream.Stop()
	for {
		select {
		case <-ctx.Done():
			return true, nil
		case event, ok := <-stream.ResultChan():
			if !ok {
				return true, nil
			}
			switch event.Type {
			case watch.Added, watch.Modified:
				if object, ok := event.Object.(metav1.Object); ok {
					o.set(w, object)
				}
			case watch.Deleted:
				o.set(w, nil)
			case watch.Error:
				return true, apierrors.FromObject(event.Object)
			}
		}
	}
}

// set takes in an answer, and tells the pods if it is news.
func (o *objects) set(w *watched, object metav1.Object) {
	o.mu.Lock()
	news := true
	select {
	case <-w.first:
		old := w.object
		news = (old == nil) != (object == nil) || old != nil && old.GetResourceVersion() != object.GetResourceVersion()
	default:
		close(w.first)
		news = false // whoever waits, waits for this
	}
	w.object, w.err = object, nil
	var pods []types.UID
	for uid := range w.pods {
		pods = append(pods, uid)
	}
	o.mu.Unlock()
	if news {
		o.changed(pods)
	}
}

// references lists the objects that a pod names.
func references(pod *v1.Pod) []objectKey {
	var keys []objectKey
	add := func(kind, name string) {
		if name != "" {
			keys = append(keys, objectKey{kind, pod.Namespace, name})
		}
	}
	for _, s := range pod.Spec.ImagePullSecrets {
		add("secrets", s.Name)
	}
	visit := func(c *v1.Container) {
		for _, from := range c.EnvFrom {
			if from.ConfigMapRef != nil {
				add("configmaps", from.ConfigMapRef.Name)
			}
			if from.SecretRef != nil {
				add("secrets", from.SecretRef.Name)
			}
		}
		for _, env := range c.Env {
			if env.ValueFrom == nil {
				continue
			}
			if ref := env.ValueFrom.ConfigMapKeyRef; ref != nil {
				add("configmaps", ref.Name)
			}
			if ref := env.ValueFrom.SecretKeyRef; ref != nil {
				add("secrets", ref.Name)
			}
		}
	}
	for i := range pod.Spec.InitContainers {
		visit(&pod.Spec.InitContainers[i])
	}
	for i := range pod.Spec.Containers {
		visit(&pod.Spec.Containers[i])
	}
	for i := range pod.Spec.EphemeralContainers {
		c := v1.Container(pod.Spec.EphemeralContainers[i].EphemeralContainerCommon)
		visit(&c)
	}
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		switch {
		case v.ConfigMap != nil:
			add("configmaps", v.ConfigMap.Name)
		case v.Secret != nil:
			add("secrets", v.Secret.SecretName)
		case v.Projected != nil:
			for _, s := range v.Projected.Sources {
				if s.ConfigMap != nil {
					add("configmaps", s.ConfigMap.Name)
				}
				if s.Secret != nil {
					add("secrets", s.Secret.Name)
				}
			}
		}
	}
	return keys
}

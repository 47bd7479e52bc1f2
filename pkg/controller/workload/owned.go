package workload

import (
	"context"
	"fmt"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	utilrand "k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"skiff/pkg/controller/reconciler"
)

// The index of pods by what controls them.
const controllerIndex = "podController"

// IndexPods adds the index that [OwnedPods] needs.
func IndexPods(pods cache.SharedIndexInformer) {
	reconciler.Index(pods, controllerIndex, func(pod *v1.Pod) []string {
		return []string{controllerValue(pod.Namespace, metav1.GetControllerOfNoCopy(pod))}
	})
}

func controllerValue(namespace string, ref *metav1.OwnerReference) string {
	if ref == nil {
		return namespace
	}
	return namespace + "/" + ref.Kind + "/" + ref.Name + "/" + string(ref.UID)
}

// OwnedPods returns the pods that owner controls, and the orphans of its
// namespace if asked. The pods are the cache's own.
func OwnedPods(pods cache.Indexer, kind string, owner metav1.Object, orphans bool) []*v1.Pod {
	ref := metav1.OwnerReference{Kind: kind, Name: owner.GetName(), UID: owner.GetUID()}
	owned := reconciler.Indexed[*v1.Pod](pods, controllerIndex, controllerValue(owner.GetNamespace(), &ref))
	if orphans {
		owned = append(owned, reconciler.Indexed[*v1.Pod](pods, controllerIndex, owner.GetNamespace())...)
	}
	return owned
}

// Pods writes an owner's pods, with the events that Kubernetes records on the owner.
type Pods struct {
	Client kubernetes.Interface
	Events record.EventRecorder
}

// Create makes a pod. In a namespace that is being deleted nothing can be made,
// which is neither worth an event nor an error: it returns nil, nil.
func (p Pods) Create(ctx context.Context, owner runtime.Object, pod *v1.Pod) (*v1.Pod, error) {
	created, err := p.once(ctx, pod)
	switch {
	case apierrors.HasStatusCause(err, v1.NamespaceTerminatingCause):
		return nil, nil
	case err != nil:
		p.Events.Eventf(owner, v1.EventTypeWarning, "FailedCreate", "Error creating: %v", err)
		return nil, err
	}
	p.Events.Eventf(owner, v1.EventTypeNormal, "SuccessfulCreate", "Created pod: %v", created.Name)
	return created, nil
}

// once makes a pod exactly once. A request whose answer was lost may have been done, and a second pod in
// place of the first would be one too many: it is repeated under its name until there is an answer.
func (p Pods) once(ctx context.Context, pod *v1.Pod) (*v1.Pod, error) {
	const suffix, prefix, patience = 5, 58, 30 * time.Second // a name has 63 characters at most, as the apiserver generates it
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	client := p.Client.CoreV1().Pods(pod.Namespace)
	named := *pod
	if named.Name == "" {
		named.Name = named.GenerateName[:min(prefix, len(named.GenerateName))] + utilrand.String(suffix)
	}
	for lost := false; ; lost = true {
		made, err := client.Create(ctx, &named, metav1.CreateOptions{})
		if lost && apierrors.IsAlreadyExists(err) {
			made, err = client.Get(ctx, named.Name, metav1.GetOptions{})
			if err == nil && !sameController(made, &named) {
				return nil, apierrors.NewAlreadyExists(v1.Resource("pods"), named.Name)
			}
		}
		if err == nil || apierrors.ReasonForError(err) != metav1.StatusReasonUnknown && !apierrors.IsTimeout(err) {
			return made, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func sameController(a, b metav1.Object) bool {
	x, y := metav1.GetControllerOfNoCopy(a), metav1.GetControllerOfNoCopy(b)
	return x != nil && y != nil && x.UID == y.UID
}

// Delete deletes a pod, that one and no later one of its name. A pod that is gone is no error.
func (p Pods) Delete(ctx context.Context, owner runtime.Object, pod *v1.Pod) error {
	err := p.Client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(pod.UID))})
	switch {
	case apierrors.IsNotFound(err) || apierrors.IsConflict(err):
		return nil
	case err != nil:
		p.Events.Eventf(owner, v1.EventTypeWarning, "FailedDelete", "Error deleting: %v", err)
		return fmt.Errorf("unable to delete pods: %w", err)
	}
	p.Events.Eventf(owner, v1.EventTypeNormal, "SuccessfulDelete", "Deleted pod: %v", pod.Name)
	return nil
}

// Patch sends a strategic merge patch and returns the pod's new resource version.
func (p Pods) Patch(ctx context.Context, pod *v1.Pod, patch []byte) (string, error) {
	patched, err := p.Client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
	if err != nil {
		return "", err
	}
	return patched.ResourceVersion, nil
}

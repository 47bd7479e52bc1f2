package disruption

import (
	"context"
	"fmt"
	"slices"
	"strings"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	appslisters "k8s.io/client-go/listers/apps/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
)

// scales finds how many pods the controllers of pods want.
type scales struct {
	client       kubernetes.Interface
	controllers  corelisters.ReplicationControllerLister
	sets         appslisters.ReplicaSetLister
	deployments  appslisters.DeploymentLister
	statefulSets appslisters.StatefulSetLister
	// get reads the scale subresource of one object.
	get func(ctx context.Context, resource schema.GroupVersionResource, namespace, name string) (*autoscalingv1.Scale, error)
}

// scale is what one controller wants.
type scale struct {
	uid      types.UID
	replicas int32
}

// sum adds up what the controllers of pods want, each counted once, and names the pods that have none.
func (s *scales) sum(ctx context.Context, pods []*v1.Pod) (total int32, unmanaged []string, err error) {
	known := map[types.UID]int32{}
	asked := map[types.UID]bool{} // several replica sets may stand for one deployment
	for _, pod := range pods {
		ref := metav1.GetControllerOfNoCopy(pod)
		if ref == nil {
			unmanaged = append(unmanaged, pod.Name)
			continue
		}
		if asked[ref.UID] {
			continue
		}
		asked[ref.UID] = true
		found, err := s.of(ctx, ref, pod.Namespace)
		if err != nil {
			return 0, nil, err
		}
		if found == nil {
			return 0, nil, fmt.Errorf("found no controllers for pod %q", pod.Name)
		}
		known[found.uid] = found.replicas
	}
	for _, replicas := range known {
		total += replicas
	}
	return total, unmanaged, nil
}

// of is the scale of one controller, nil if there is no such object. Whatever isn't known here is asked for its scale subresource.
func (s *scales) of(ctx context.Context, ref *metav1.OwnerReference, namespace string) (*scale, error) {
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil {
		return nil, err
	}
	switch (schema.GroupKind{Group: gv.Group, Kind: ref.Kind}) {
	case schema.GroupKind{Kind: "ReplicationController"}:
		if rc, err := s.controllers.ReplicationControllers(namespace).Get(ref.Name); err == nil && rc.UID == ref.UID {
			return wants(rc, rc.Spec.Replicas), nil
		}
	case schema.GroupKind{Group: "apps", Kind: "ReplicaSet"}:
		if found := s.ofReplicaSet(ref, namespace); found != nil {
			return found, nil
		}
	case schema.GroupKind{Group: "apps", Kind: "StatefulSet"}:
		if set, err := s.statefulSets.StatefulSets(namespace).Get(ref.Name); err == nil && set.UID == ref.UID {
			return wants(set, set.Spec.Replicas), nil
		}
	}
	return s.ofAny(ctx, gv.WithKind(ref.Kind), ref, namespace)
}

func wants(owner metav1.Object, replicas *int32) *scale {
	n := int32(1)
	if replicas != nil {
		n = *replicas
	}
	return &scale{owner.GetUID(), n}
}

// ofReplicaSet is the scale of the set's deployment, if it has one.
func (s *scales) ofReplicaSet(ref *metav1.OwnerReference, namespace string) *scale {
	set, err := s.sets.ReplicaSets(namespace).Get(ref.Name)
	if err != nil || set.UID != ref.UID {
		return nil
	}
	owner := metav1.GetControllerOfNoCopy(set)
	if owner == nil || owner.Kind != "Deployment" {
		return wants(set, set.Spec.Replicas)
	}
	deployment, err := s.deployments.Deployments(namespace).Get(owner.Name)
	if err != nil || deployment.UID != owner.UID {
		return nil
	}
	return wants(deployment, deployment.Spec.Replicas)
}

// ofAny asks for the scale subresource.
func (s *scales) ofAny(ctx context.Context, gvk schema.GroupVersionKind, ref *metav1.OwnerReference, namespace string) (*scale, error) {
	list, err := s.client.Discovery().ServerResourcesForGroupVersion(gvk.GroupVersion().String())
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(list.APIResources, func(r metav1.APIResource) bool {
		return r.Kind == gvk.Kind && r.Namespaced && !strings.Contains(r.Name, "/")
	})
	if i < 0 {
		return nil, &meta.NoKindMatchError{GroupKind: gvk.GroupKind(), SearchedVersions: []string{gvk.Version}}
	}
	resource := gvk.GroupVersion().WithResource(list.APIResources[i].Name)
	if !slices.ContainsFunc(list.APIResources, func(r metav1.APIResource) bool { return r.Name == resource.Resource+"/scale" && r.Kind == "Scale" }) {
		return nil, fmt.Errorf("%s does not implement the scale subresource", resource.GroupResource())
	}
	got, err := s.get(ctx, resource, namespace, ref.Name)
	if apierrors.IsNotFound(err) || err == nil && got.UID != ref.UID {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &scale{got.UID, got.Spec.Replicas}, nil
}

// getScale reads a scale over the wire.
func getScale(client kubernetes.Interface) func(context.Context, schema.GroupVersionResource, string, string) (*autoscalingv1.Scale, error) {
	return func(ctx context.Context, resource schema.GroupVersionResource, namespace, name string) (*autoscalingv1.Scale, error) {
		root := []string{"apis", resource.Group}
		if resource.Group == "" {
			root = []string{"api"}
		}
		scale := &autoscalingv1.Scale{}
		err := client.AutoscalingV1().RESTClient().Get().AbsPath(append(root, resource.Version, "namespaces", namespace, resource.Resource, name, "scale")...).Do(ctx).Into(scale)
		return scale, err
	}
}

package apps

import (
	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/pkg/api"
)

var deploymentScale = api.Scale{
	Get: func(obj api.Object) (int32, int32, string) {
		d := obj.(*appsv1.Deployment)
		return replicas(d.Spec.Replicas), d.Status.Replicas, selector(d.Spec.Selector)
	},
	Set: func(obj api.Object, n int32) { obj.(*appsv1.Deployment).Spec.Replicas = &n },
}

var replicaSetScale = api.Scale{
	Get: func(obj api.Object) (int32, int32, string) {
		rs := obj.(*appsv1.ReplicaSet)
		return replicas(rs.Spec.Replicas), rs.Status.Replicas, selector(rs.Spec.Selector)
	},
	Set: func(obj api.Object, n int32) { obj.(*appsv1.ReplicaSet).Spec.Replicas = &n },
}

var statefulSetScale = api.Scale{
	Get: func(obj api.Object) (int32, int32, string) {
		s := obj.(*appsv1.StatefulSet)
		return replicas(s.Spec.Replicas), s.Status.Replicas, selector(s.Spec.Selector)
	},
	Set: func(obj api.Object, n int32) { obj.(*appsv1.StatefulSet).Spec.Replicas = &n },
}

func replicas(n *int32) int32 {
	if n == nil {
		return 1
	}
	return *n
}

// selector is the text form of a selector that validation has accepted.
func selector(s *metav1.LabelSelector) string {
	parsed, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return ""
	}
	return parsed.String()
}

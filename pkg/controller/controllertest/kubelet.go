package controllertest

import (
	"context"
	"testing"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"skiff/pkg/controller/reconciler"
)

// Kubelet plays scheduler and kubelet: pods get node and address and become ready,
// and deleted ones go, at once. Pods that hold says yes to are left as they are.
func Kubelet(t testing.TB, c reconciler.Config, node string, hold func(*v1.Pod) bool) {
	reconciler.OnChange(c.Informers.Core().V1().Pods().Informer(), func(_, pod *v1.Pod) {
		if pod == nil || (hold != nil && hold(pod)) {
			return
		}
		if err := live(c.Client, pod.DeepCopy(), node); err != nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
			t.Errorf("kubelet: pod %s: %v", pod.Name, err)
		}
	})
}

func live(client kubernetes.Interface, pod *v1.Pod, node string) error {
	ctx := context.Background()
	pods := client.CoreV1().Pods(pod.Namespace)
	switch {
	case pod.DeletionTimestamp != nil:
		return pods.Delete(ctx, pod.Name, metav1.DeleteOptions{GracePeriodSeconds: new(int64)})
	case pod.Spec.NodeName == "":
		pod.Spec.NodeName = node
		_, err := pods.Update(ctx, pod, metav1.UpdateOptions{})
		return err
	case pod.Status.Phase == "":
		pod.Status = v1.PodStatus{
			Phase: v1.PodRunning, PodIP: "10.1.0.1", PodIPs: []v1.PodIP{{IP: "10.1.0.1"}},
			Conditions: []v1.PodCondition{{Type: v1.PodReady, Status: v1.ConditionTrue, LastTransitionTime: metav1.Now()}},
		}
		_, err := pods.UpdateStatus(ctx, pod, metav1.UpdateOptions{})
		return err
	}
	return nil
}

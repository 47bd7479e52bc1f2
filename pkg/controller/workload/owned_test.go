package workload

import (
	"errors"
	"testing"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/record"
)

// However often the answer is lost, before the pod is made or after, one is made.
func TestLostAnswersMakeOnePod(t *testing.T) {
	owner := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "owner", Namespace: "n", UID: "u"}}
	template := &v1.Pod{ObjectMeta: metav1.ObjectMeta{GenerateName: "p-", Namespace: "n",
		OwnerReferences: []metav1.OwnerReference{{UID: "u", Controller: new(true)}}}}
	for what, made := range map[string][]bool{"before": {false}, "after": {true}, "twice": {false, true}} {
		client := fake.NewClientset()
		client.PrependReactor("create", "pods", func(action clienttesting.Action) (bool, runtime.Object, error) {
			if len(made) == 0 {
				return false, nil, nil
			}
			if made[0] {
				if err := client.Tracker().Create(action.GetResource(), action.(clienttesting.CreateAction).GetObject(), "n"); err != nil {
					t.Error(err)
				}
			}
			made = made[1:]
			return true, nil, errors.New("unexpected EOF")
		})
		pods := Pods{Client: client, Events: record.NewFakeRecorder(10)}
		pod, err := pods.Create(t.Context(), owner, template)
		list, listErr := client.CoreV1().Pods("n").List(t.Context(), metav1.ListOptions{})
		if err != nil || listErr != nil || len(list.Items) != 1 || pod.Name != list.Items[0].Name {
			t.Errorf("%s: %v, %v, %v: %d pods", what, pod, err, listErr, len(list.Items))
		}
	}
	if template.Name != "" {
		t.Error("the template has got a name")
	}
}

// A pod of that name that is somebody else's is not ours, answer or not.
func TestLostAnswerAndAnothersPod(t *testing.T) {
	client := fake.NewClientset(&v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "n"}})
	lost := false
	client.PrependReactor("create", "pods", func(clienttesting.Action) (bool, runtime.Object, error) {
		if lost {
			return false, nil, nil
		}
		lost = true
		return true, nil, errors.New("unexpected EOF")
	})
	owner := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "owner", Namespace: "n", UID: "u"}}
	pods := Pods{Client: client, Events: record.NewFakeRecorder(10)}
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "n", OwnerReferences: []metav1.OwnerReference{{UID: "u", Controller: new(true)}}}}
	if _, err := pods.Create(t.Context(), owner, pod); !apierrors.IsAlreadyExists(err) {
		t.Errorf("got %v", err)
	}
}

package workload

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// TestHash pins the format: another value would have every deployment of a cluster
// that is handed over make a new replica set's name.
func TestHash(t *testing.T) {
	template := &v1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web"}},
		Spec:       v1.PodSpec{Containers: []v1.Container{{Name: "c", Image: "i"}}},
	}
	plain := Hash(template, nil)
	if got := Hash(template.DeepCopy(), nil); got != plain {
		t.Errorf("copies differ: %s and %s", got, plain)
	}
	zero, one := Hash(template, new(int32)), Hash(template, new(int32(1)))
	if plain == zero || zero == one {
		t.Errorf("the collision count doesn't count: %s, %s, %s", plain, zero, one)
	}
	for _, hash := range []string{plain, zero, one} {
		if strings.Trim(hash, "bcdfghjklmnpqrstvwxz2456789") != "" {
			t.Errorf("%s has characters outside of the alphabet", hash)
		}
	}
	template.Spec.Containers[0].Image = "j"
	if Hash(template, nil) == plain {
		t.Error("another image has the same hash")
	}
}

func pod(name string, change func(*v1.Pod)) *v1.Pod {
	p := &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name), CreationTimestamp: metav1.NewTime(now.Add(-time.Hour))},
		Spec:       v1.PodSpec{NodeName: "n-" + name},
		Status: v1.PodStatus{Phase: v1.PodRunning, Conditions: []v1.PodCondition{
			{Type: v1.PodReady, Status: v1.ConditionTrue, LastTransitionTime: metav1.NewTime(now.Add(-time.Hour))},
		}},
	}
	if change != nil {
		change(p)
	}
	return p
}

func TestRankForDeletion(t *testing.T) {
	// Each pod is better to delete than the one after it, by one rule.
	order := []*v1.Pod{
		pod("unassigned", func(p *v1.Pod) { p.Spec.NodeName = "" }),
		pod("pending", func(p *v1.Pod) { p.Status.Phase = v1.PodPending }),
		pod("unknown", func(p *v1.Pod) { p.Status.Phase = v1.PodUnknown }),
		pod("unready", func(p *v1.Pod) { p.Status.Conditions = nil }),
		pod("cheap", func(p *v1.Pod) { p.Annotations = map[string]string{v1.PodDeletionCost: "-5"} }),
		pod("crowded", func(p *v1.Pod) { p.Spec.NodeName = "crowd" }),
		pod("fresh", func(p *v1.Pod) { p.Status.Conditions[0].LastTransitionTime = metav1.NewTime(now.Add(-time.Second)) }),
		pod("restarted", func(p *v1.Pod) { p.Status.ContainerStatuses = []v1.ContainerStatus{{RestartCount: 3}} }),
		pod("young", func(p *v1.Pod) { p.CreationTimestamp = metav1.NewTime(now.Add(-time.Minute)) }),
		pod("a-uid", nil),
		pod("dear", func(p *v1.Pod) { p.Annotations = map[string]string{v1.PodDeletionCost: "7"} }),
	}
	related := append(slices.Clone(order), pod("other", func(p *v1.Pod) { p.Spec.NodeName = "crowd" }))
	shuffled := slices.Clone(order)
	slices.Reverse(shuffled)
	var got, want []string
	for i, p := range RankForDeletion(shuffled, related, now) {
		got, want = append(got, p.Name), append(want, order[i].Name)
	}
	if !slices.Equal(got, want) {
		t.Errorf("order\n%v, want\n%v", got, want)
	}
	for cost, want := range map[string]int64{"": 0, "x": 0, "+1": 0, "01": 0, "0": 0, "12": 12, "-12": -12, "99999999999": 0} {
		p := pod("p", func(p *v1.Pod) { p.Annotations = map[string]string{v1.PodDeletionCost: cost} })
		if got := deletionCost(p); got != want {
			t.Errorf("cost %q is %d, want %d", cost, got, want)
		}
	}
}

func TestAvailability(t *testing.T) {
	ready := func(ago time.Duration) *v1.Pod {
		return pod("p", func(p *v1.Pod) { p.Status.Conditions[0].LastTransitionTime = metav1.NewTime(now.Add(-ago)) })
	}
	for _, c := range []struct {
		pod  *v1.Pod
		min  int32
		want bool
	}{
		{ready(0), 0, true},
		{ready(9 * time.Second), 10, false},
		{ready(10 * time.Second), 10, true},
		{pod("p", func(p *v1.Pod) { p.Status.Conditions = nil }), 0, false},
		{pod("p", func(p *v1.Pod) { p.Status.Conditions[0].LastTransitionTime = metav1.Time{} }), 1, false},
	} {
		if got := Available(c.pod, c.min, now); got != c.want {
			t.Errorf("%+v after %d s: %t", c.pod.Status.Conditions, c.min, got)
		}
	}
	pods := []*v1.Pod{ready(time.Minute), ready(3 * time.Second), ready(7 * time.Second)}
	if got := NextAvailable(pods, 10, now); got != 3*time.Second {
		t.Errorf("next in %v, want 3s", got)
	}
	if got := NextAvailable(pods[:1], 10, now); got != 0 {
		t.Errorf("next in %v although all are available", got)
	}
}

func TestPodFromTemplate(t *testing.T) {
	template := &v1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Name: "ignored", Labels: map[string]string{"a": "b"}, Annotations: map[string]string{"c": "d"}, Finalizers: []string{"f"}},
		Spec:       v1.PodSpec{Containers: []v1.Container{{Name: "c"}}},
	}
	owner := &metav1.ObjectMeta{Name: "web", Namespace: "shop"}
	p := PodFromTemplate(template, owner, metav1.OwnerReference{UID: "u"})
	if p.Name != "" || p.GenerateName != "web-" || p.Namespace != "shop" || p.Labels["a"] != "b" || p.Annotations["c"] != "d" || p.Finalizers[0] != "f" || p.OwnerReferences[0].UID != "u" {
		t.Errorf("%+v", p.ObjectMeta)
	}
	p.Labels["a"], p.Spec.Containers[0].Name = "x", "x"
	if template.Labels["a"] != "b" || template.Spec.Containers[0].Name != "c" {
		t.Error("the pod shares memory with its template")
	}
	long := strings.Repeat("x", 254)
	if got := NamePrefix(long); got != long {
		t.Errorf("prefix of a long name has a dash")
	}
}

func TestClassify(t *testing.T) {
	yes, other := metav1.OwnerReference{UID: "me", Controller: new(true)}, metav1.OwnerReference{UID: "you", Controller: new(true)}
	make := func(name, app string, refs ...metav1.OwnerReference) *v1.Pod {
		return &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": app}, OwnerReferences: refs}}
	}
	dying := make("dying-orphan", "web")
	dying.DeletionTimestamp = &metav1.Time{Time: now}
	pods := []*v1.Pod{make("mine", "web", yes), make("strayed", "db", yes), make("orphan", "web"), make("theirs", "web", other), make("stranger", "db"), dying}
	show := func(c Claims[*v1.Pod]) string {
		names := func(pods []*v1.Pod) (all []string) {
			for _, p := range pods {
				all = append(all, p.Name)
			}
			return all
		}
		return fmt.Sprint(names(c.Owned), names(c.Adopt), names(c.Release))
	}
	owner := &metav1.ObjectMeta{UID: "me"}
	selector := labels.SelectorFromSet(labels.Set{"app": "web"})
	if got, want := show(Classify(owner, selector, pods)), "[mine] [orphan] [strayed]"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	owner.DeletionTimestamp = &metav1.Time{Time: now}
	if got, want := show(Classify(owner, selector, pods)), "[mine] [] []"; got != want {
		t.Errorf("a dying owner: %s, want %s", got, want)
	}
}

func TestSlowStart(t *testing.T) {
	for _, c := range []struct{ count, failFrom, wantCalls, wantDone int }{
		{0, 99, 0, 0},
		{1, 99, 1, 1},
		{10, 99, 10, 10},
		{10, 0, 1, 0}, // the first fails: no second batch
		{10, 4, 7, 4}, // the third batch (3..6) fails in part
	} {
		calls := make(chan int, c.count+1)
		done, err := SlowStart(c.count, func(i int) error {
			calls <- i
			if i >= c.failFrom {
				return errors.New("refused")
			}
			return nil
		})
		if done != c.wantDone || len(calls) != c.wantCalls || (err != nil) != (c.failFrom < c.count) {
			t.Errorf("%+v: %d done in %d calls, %v", c, done, len(calls), err)
		}
	}
}

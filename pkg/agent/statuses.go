package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/client-go/kubernetes"
)

// statuses sends the statuses of pods to the apiserver: always the latest of a
// pod, one request a pod at a time, and as a patch of what has changed.
type statuses struct {
	client kubernetes.Interface
	log    *slog.Logger

	mu    sync.Mutex
	pods  map[types.UID]*reporting
	slots chan struct{}
	ctx   context.Context
	wg    sync.WaitGroup
}

// reporting is what is known of one pod's status.
type reporting struct {
	pod  *v1.Pod       // the object as last seen
	want *v1.PodStatus // nil: nothing to report
	busy bool
	idle chan struct{} // closed when busy ends
	// What the apiserver has, as far as we know, and since which revision. Both belong to whoever is busy.
	sent     *v1.PodStatus
	revision int64
}

// writers bounds how many statuses are sent at once.
const writers = 16

func newStatuses(client kubernetes.Interface, log *slog.Logger) *statuses {
	return &statuses{client: client, log: log, pods: map[types.UID]*reporting{}, slots: make(chan struct{}, writers), ctx: context.Background()}
}

func (s *statuses) run(ctx context.Context) error {
	s.mu.Lock()
	s.ctx = ctx
	s.mu.Unlock()
	<-ctx.Done()
	s.wg.Wait()
	return nil
}

// set makes status the one to report. It returns at once.
func (s *statuses) set(pod *v1.Pod, status *v1.PodStatus) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.pods[pod.UID]
	if r == nil {
		r = &reporting{sent: pod.Status.DeepCopy()}
		s.pods[pod.UID] = r
	}
	r.pod, r.want = pod, status
	s.begin(r)
}

// begin sends what is wanted, unless that is going on. It is called with the lock held.
func (s *statuses) begin(r *reporting) {
	if r.busy || s.ctx.Err() != nil {
		return
	}
	r.busy, r.idle = true, make(chan struct{})
	s.wg.Go(func() { s.send(r) })
}

// seen tells what an apiserver says of a pod, and what it was told last. While a node isn't heard of,
// its lifecycle controller calls the pods not ready; when it is heard of again, nobody but the
// node says that they are.
func (s *statuses) seen(pod *v1.Pod, told v1.PodStatus) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.pods[pod.UID]
	if calledReady(&pod.Status) == calledReady(&told) || r != nil && (r.busy || revision(pod) <= r.revision) {
		return
	}
	if r == nil { // an earlier agent has told it
		r = &reporting{}
		s.pods[pod.UID] = r
	}
	r.pod, r.sent, r.revision, r.want = pod, pod.Status.DeepCopy(), revision(pod), &told
	s.begin(r)
}

// revision is that of an object's last write, 0 if it names none.
func revision(o metav1.Object) int64 {
	n, _ := strconv.ParseInt(o.GetResourceVersion(), 10, 64)
	return n
}

func calledReady(s *v1.PodStatus) v1.ConditionStatus {
	for _, c := range s.Conditions {
		if c.Type == v1.PodReady {
			return c.Status
		}
	}
	return v1.ConditionUnknown
}

// send reports until there is nothing newer.
func (s *statuses) send(r *reporting) {
	delay := 100 * time.Millisecond
	for {
		s.mu.Lock()
		ctx, pod, want := s.ctx, r.pod, r.want
		if want == nil || ctx.Err() != nil {
			r.busy = false
			close(r.idle)
			s.mu.Unlock()
			return
		}
		r.want = nil
		s.mu.Unlock()
		s.slots <- struct{}{}
		err := s.patch(ctx, r, pod, want)
		<-s.slots
		if err == nil {
			delay = 100 * time.Millisecond
			continue
		}
		s.log.Warn("report status", "pod", pod.Namespace+"/"+pod.Name, "err", err)
		s.mu.Lock()
		if r.want == nil {
			r.want = want
		}
		s.mu.Unlock()
		select {
		case <-time.After(delay):
			delay = min(2*delay, 10*time.Second)
		case <-ctx.Done():
		}
	}
}

// patch sends the difference to what the apiserver has. A pod that is gone, or
// another of the same name, is no error: there is nobody to tell any more.
func (s *statuses) patch(ctx context.Context, r *reporting, pod *v1.Pod, want *v1.PodStatus) error {
	patch, err := statusPatch(pod.UID, r.sent, want)
	if err != nil || patch == nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	answer, err := s.client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	if err != nil {
		return err
	}
	r.sent, r.revision = &answer.Status, revision(answer)
	if calledReady(r.sent) == calledReady(want) {
		return nil
	}
	// Somebody else changed it before: the difference to what we knew didn't contain that.
	s.mu.Lock()
	if r.want == nil {
		r.want = want
	}
	s.mu.Unlock()
	return nil
}

// statusPatch is the strategic merge patch from one status to another; nil if
// they are the same. It names the uid, so that it can't hit a successor.
func statusPatch(uid types.UID, from, to *v1.PodStatus) ([]byte, error) {
	before, err := json.Marshal(&v1.Pod{Status: *from})
	if err != nil {
		return nil, err
	}
	after, err := json.Marshal(&v1.Pod{Status: *to})
	if err != nil {
		return nil, err
	}
	difference, err := strategicpatch.CreateTwoWayMergePatch(before, after, v1.Pod{})
	if err != nil {
		return nil, fmt.Errorf("status patch: %w", err)
	}
	if string(difference) == "{}" {
		return nil, nil
	}
	var patch map[string]any
	if err := json.Unmarshal(difference, &patch); err != nil {
		return nil, err
	}
	patch["metadata"] = map[string]any{"uid": uid}
	return json.Marshal(patch)
}

// delete waits until the last status of a pod has been reported, and takes the
// object out of the apiserver.
func (s *statuses) delete(ctx context.Context, pod *v1.Pod) error {
	s.mu.Lock()
	r := s.pods[pod.UID]
	for r != nil && r.busy {
		idle := r.idle
		s.mu.Unlock()
		select {
		case <-idle:
		case <-ctx.Done():
			return ctx.Err()
		}
		s.mu.Lock()
	}
	s.mu.Unlock()
	grace := int64(0)
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	err := s.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{
		GracePeriodSeconds: &grace, Preconditions: &metav1.Preconditions{UID: &pod.UID}})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("delete pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	s.forget(pod.UID)
	return nil
}

func (s *statuses) forget(uid types.UID) {
	s.mu.Lock()
	delete(s.pods, uid)
	s.mu.Unlock()
}

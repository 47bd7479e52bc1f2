package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"skiff/pkg/agent/runtime"
	"skiff/pkg/agent/volume"
)

// worker owns one pod. All of its state belongs to the goroutine of run; what
// takes long is done beside it, and comes back through the mailbox.
type worker struct {
	agent   *Agent
	uid     types.UID
	log     *slog.Logger
	mail    chan func()
	gone    chan struct{} // closed when run has returned
	known   atomic.Pointer[podFacts]
	seen    atomic.Pointer[view]
	volumes *volume.Volumes
	tokens  *tokens

	// Of the worker's goroutine:
	pod      *v1.Pod
	state    State
	reported v1.PodStatus
	settled  bool            // the status is final: an earlier agent has reported the end
	early    map[string]bool // exits of containers that aren't known yet
	refresh  time.Time       // when volumes are to be brought up to date
	probes   map[string]context.CancelFunc
	opCtx    context.Context // of the pod's operations
	opCancel context.CancelFunc
	setup    context.Context // of what a pod that is to go need not wait for
	setupEnd context.CancelFunc
}

func newWorker(a *Agent, pod *v1.Pod) *worker {
	w := &worker{
		agent: a, uid: pod.UID, pod: pod,
		log:    a.log.With("pod", pod.Namespace+"/"+pod.Name),
		mail:   make(chan func(), 16),
		gone:   make(chan struct{}),
		tokens: &tokens{client: a.cfg.Client},
		early:  map[string]bool{},
		probes: map[string]context.CancelFunc{},
	}
	w.volumes = volume.New(a.cfg.RootDir, podSource{w})
	w.reported = *pod.Status.DeepCopy()
	return w
}

// post has f run by the worker. It doesn't wait for it.
func (w *worker) post(f func()) {
	select {
	case w.mail <- f:
	case <-w.gone:
	}
}

// update is news of the pod's object.
func (w *worker) update(pod *v1.Pod) {
	w.post(func() { w.setPod(pod) })
}

func (w *worker) setPod(pod *v1.Pod) {
	old := w.pod
	w.pod = pod
	if !w.settled {
		w.agent.statuses.seen(pod, w.reported)
	}
	w.state.adopt(pod)
	if !w.ending() {
		w.agent.objects.hold(pod.UID, references(pod))
	}
	if pod.DeletionTimestamp != nil {
		w.setupEnd()
		grace := podGrace(pod)
		if by := time.Now().Add(grace); w.state.EndBy.IsZero() || by.Before(w.state.EndBy) {
			w.state.EndBy = by
		}
	}
	if labelsChanged(old, pod) {
		w.anew()
	}
}

// labelsChanged: what the downward API shows in volumes may have changed.
func labelsChanged(old, now *v1.Pod) bool {
	return formatMap(old.Labels) != formatMap(now.Labels) || formatMap(old.Annotations) != formatMap(now.Annotations)
}

// removed says that the object is gone, however that came.
func (w *worker) removed() {
	w.post(func() {
		w.state.Removed = true
		w.setupEnd()
		if by := time.Now().Add(podGrace(w.pod)); w.state.EndBy.IsZero() || by.Before(w.state.EndBy) {
			w.state.EndBy = by
		}
	})
}

// run is the worker's life: step by step until there is nothing to do, then
// wait for news or for the time to come.
func (w *worker) run(ctx context.Context, found []runtime.Container) {
	defer close(w.gone)
	w.opCtx, w.opCancel = context.WithCancel(ctx)
	defer w.opCancel()
	w.setup, w.setupEnd = context.WithCancel(w.opCtx)
	defer w.setupEnd()
	w.begin(found)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		action := Step(w.pod, &w.state, time.Now())
		if action.Do != Wait {
			w.log.Debug("step", "do", action.Do, "container", action.Container, "reason", action.Reason)
			w.act(action)
			continue
		}
		if w.state.Report.Phase == Gone {
			return
		}
		w.publish()
		until := earlier(action.Until, w.nextRefresh())
		timer.Stop()
		if !until.IsZero() {
			timer.Reset(max(time.Until(until), 0))
		}
		select {
		case <-ctx.Done():
			return
		case f := <-w.mail:
			f()
			w.drain()
		case <-timer.C:
			w.refreshVolumes()
		}
	}
}

// drain takes what else has come in, so that one step sees all of it.
func (w *worker) drain() {
	for {
		select {
		case f := <-w.mail:
			f()
		default:
			return
		}
	}
}

// begin finds out what of the pod is there already.
func (w *worker) begin(found []runtime.Container) {
	s := &w.state
	s.adopt(w.pod)
	s.StartTime = time.Now()
	if w.pod.Status.StartTime != nil {
		s.StartTime = w.pod.Status.StartTime.Time
	}
	w.agent.objects.hold(w.uid, references(w.pod))
	if terminal(w.pod.Status.Phase) {
		// It has ended before; only its deletion is left to be seen to.
		w.settled = true
		s.Outcome = &Outcome{w.pod.Status.Reason, w.pod.Status.Message}
		w.finishedBefore(found)
		return
	}
	if w.pod.DeletionTimestamp != nil {
		w.setPod(w.pod)
	}
	w.adopt(found)
	known := len(found) > 0 || w.pod.DeletionTimestamp != nil
	if rejection := w.agent.admit(w.opCtx, w.pod, known); rejection != nil {
		w.agent.events.Event(w.pod, v1.EventTypeWarning, rejection.Reason, rejection.Message)
		s.Outcome = rejection
	}
}

// publish hands the status on, if it tells something new.
func (w *worker) publish() {
	if w.settled {
		w.look(w.reported)
		return
	}
	status := Status(w.pod, &w.state, &w.reported, w.agent.hostIPs(), time.Now())
	w.look(status)
	if sameStatus(&status, &w.reported) {
		return
	}
	w.reported = status
	if w.state.Removed {
		return
	}
	w.agent.statuses.set(w.pod, &status)
}

// act does what Step has decided. Whatever blocks is done in the background.
func (w *worker) act(action Action) {
	s := &w.state
	now := time.Now()
	c := s.container(action.Container)
	switch action.Do {
	case MakeSandbox:
		w.makeSandbox()
	case Mount:
		w.mount()
	case Pull:
		w.pull(c)
	case PullBackoff:
		w.pullBackoff(c)
	case Start:
		w.start(c)
	case Stop:
		c.Current.Stop = &Stopping{Since: now, Grace: action.Grace}
		w.stopProbes(c.Current.ID, false)
		w.event(c, v1.EventTypeNormal, "Killing", action.Message)
	case PreStop:
		w.preStop(c, action.Grace)
	case Terminate:
		c.Current.Stop.TermAt = now
		w.signal(c, runtime.StopSignal(stopSignal(c)), false)
	case KillHard:
		c.Current.Stop.Killed = true
		w.signal(c, runtime.StopSignal("SIGKILL"), true)
	case Release:
		w.release()
	case Fail:
		s.Outcome = &Outcome{action.Reason, action.Message}
		w.setupEnd()
		w.agent.events.Event(w.pod, v1.EventTypeNormal, action.Reason, action.Message)
	case StartOver:
		w.startOver()
	case TearDown:
		w.tearDown()
	case Unmount:
		w.unmount()
	case Report:
		w.report()
	}
}

// do runs an operation in the background and takes its result in afterwards.
func (w *worker) do(ctx context.Context, operation func(context.Context) error, then func(error)) {
	facts := w.facts()
	w.known.Store(&facts)
	w.agent.operations.Add(1)
	go func() {
		defer w.agent.operations.Done()
		err := operation(ctx)
		w.post(func() { then(err) })
	}()
}

func stopSignal(c *Container) string {
	if c.Spec.Lifecycle != nil && c.Spec.Lifecycle.StopSignal != nil {
		return string(*c.Spec.Lifecycle.StopSignal)
	}
	return c.Image.Config.StopSignal
}

func (w *worker) makeSandbox() {
	s := &w.state
	s.Sandbox.Phase = Busy
	pod := w.pod
	var ips []netip.Addr
	w.do(w.setup, func(ctx context.Context) (err error) {
		ips, err = w.agent.makeSandbox(ctx, pod)
		return err
	}, func(err error) {
		if err != nil {
			w.failed(&s.Sandbox, err)
			if w.setup.Err() != nil {
				return
			}
			w.agent.events.Eventf(w.pod, v1.EventTypeWarning, "FailedCreatePodSandBox", "Failed to create pod sandbox: %v", err)
			return
		}
		s.Sandbox, s.IPs = Part{Phase: Ready}, ips
	})
}

// failed puts a part off: half a second at first, up to two minutes.
func (w *worker) failed(p *Part, err error) {
	w.log.Warn("pod", "err", err)
	p.Phase, p.Err = Absent, err.Error()
	p.RetryAt = time.Now().Add(min(500*time.Millisecond<<min(p.Failures, 8), 122*time.Second))
	p.Failures++
}

func (w *worker) mount() {
	s := &w.state
	s.Volumes.Phase = Busy
	pod := w.pod
	var paths map[string]string
	w.do(w.setup, func(ctx context.Context) (err error) {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
		defer cancel()
		paths, err = w.volumes.Mount(ctx, pod)
		return err
	}, func(err error) {
		if err != nil {
			w.failed(&s.Volumes, err)
			if w.setup.Err() != nil {
				return
			}
			for _, message := range strings.Split(err.Error(), "\n") {
				w.agent.events.Event(w.pod, v1.EventTypeWarning, "FailedMount", message)
			}
			return
		}
		s.Volumes, s.Paths = Part{Phase: Ready}, paths
	})
}

func (w *worker) start(c *Container) {
	s := &w.state
	c.Next = Starting
	attempt := w.agent.attemptFromLogs(w.pod, c.Name)
	if c.Current != nil {
		attempt = c.Current.Number + 1
		c.nextBackoff(time.Now())
	}
	l := launch{
		pod: w.pod, container: c.Spec, role: c.Role, attempt: attempt, image: c.Image, paths: s.Paths,
		facts: w.facts(), sandbox: w.agent.runtime.Sandbox(sandboxConfig(w.pod, w.agent)),
		labels: map[string]string{runtime.LabelBackoff: c.Backoff.String()},
	}
	pid, err := w.pidNamespace(c)
	if err != nil {
		w.startFailed(c, "CreateContainerConfigError", err)
		return
	}
	l.pid = pid
	var created *runtime.NewContainer
	reason := ""
	ref := containerReference(w.pod, c)
	w.do(w.opCtx, func(ctx context.Context) error {
		config, err := w.agent.config(ctx, l, w.volumes, podSource{w})
		if err != nil {
			reason = "CreateContainerConfigError"
			return err
		}
		if created, err = w.agent.runtime.Create(ctx, config); err != nil {
			reason = "CreateContainerError"
			return err
		}
		w.agent.own(created.ID, w)
		w.agent.events.Event(ref, v1.EventTypeNormal, "Created", "Container created")
		if err := w.agent.runtime.Start(ctx, created); err != nil {
			reason = "RunContainerError"
			return err
		}
		w.agent.events.Event(ref, v1.EventTypeNormal, "Started", "Container started")
		return nil
	}, func(err error) { w.started(c, l, created, reason, err) })
}

// started takes in a container that runs, or has failed to.
func (w *worker) started(c *Container, l launch, created *runtime.NewContainer, reason string, err error) {
	if created == nil {
		w.startFailed(c, reason, err)
		return
	}
	if old := c.Current; old != nil {
		w.forget(c)
		c.Previous = old.Ended
	}
	attempt := &Attempt{
		ID: created.ID, Number: l.attempt, Hash: created.Hash, ImageName: l.image.Name, ImageID: l.image.ID,
		User: created.User, LogPath: created.LogPath, Cgroup: created.Cgroup, StartedAt: created.Exit.StartedAt, Done: make(chan struct{}),
	}
	c.Current, c.Restarts, c.Next, c.Waiting, c.StartFailures, c.Again = attempt, l.attempt, Idle, nil, 0, false
	if c.Role == MainRole {
		w.state.Initialized = true
	}
	if err != nil { // the container is there, but its process could not be started
		attempt.Reaped = true
		attempt.Ended = &Ended{Exit: created.Exit, ID: created.ID}
		w.event(c, v1.EventTypeWarning, "Failed", "Error: "+err.Error())
		w.log.Warn("start", "container", c.Name, "err", err)
		w.ended(c)
		if c.Waiting == nil || c.Waiting.Reason != "CrashLoopBackOff" {
			c.Waiting = &Waiting{reason, created.Exit.Message}
		}
		return
	}
	w.runs(c, false)
	if w.early[attempt.ID] {
		delete(w.early, attempt.ID)
		w.exited(attempt.ID)
	}
}

// startFailed: there is no container, and another try is made soon.
func (w *worker) startFailed(c *Container, reason string, err error) {
	if errors.Is(err, context.Canceled) {
		c.Next = Idle
		return
	}
	w.log.Warn("start", "container", c.Name, "err", err)
	c.Next = Failed
	c.Waiting = &Waiting{reason, err.Error()}
	c.RetryAt = time.Now().Add(min(time.Second<<min(c.StartFailures, 4), 10*time.Second))
	c.StartFailures++
	w.event(c, v1.EventTypeWarning, "Failed", "Error: "+err.Error())
}

// runs sets a running container's hook and probes going.
func (w *worker) runs(c *Container, adopted bool) {
	a := c.Current
	a.Started, a.Ready = c.Spec.StartupProbe == nil, c.Spec.ReadinessProbe == nil
	if !adopted && hasPostStart(c.Spec) {
		w.postStart(c) // the probes wait until it has ended
		return
	}
	a.Hook.Phase = Ready
	w.startProbes(c, adopted)
}

// exited is told by containerd's events.
func (w *worker) exited(id string) {
	c := w.state.byID(id)
	if c == nil {
		w.early[id] = true
		return
	}
	a := c.Current
	if a.Reaped {
		return
	}
	a.Reaped = true
	w.stopProbes(id, true)
	container := runtime.Container{ID: a.ID, Cgroup: a.Cgroup, Exit: runtime.Exit{StartedAt: a.StartedAt}}
	var exit runtime.Exit
	pod, spec := w.pod, c.Spec
	w.do(w.opCtx, func(ctx context.Context) (err error) {
		exit, err = w.agent.runtime.Reap(ctx, container)
		if exit.Message == "" {
			exit.Message = w.agent.terminationMessage(pod, w.volumes, spec, a, exit.Code)
		}
		return err
	}, func(err error) {
		if err != nil {
			w.log.Warn("reap", "container", c.Name, "err", err)
			if errors.Is(err, runtime.ErrNotFound) {
				exit = lost(a)
			} else if w.opCtx.Err() != nil {
				return
			}
		}
		a.Ended = &Ended{Exit: exit, ID: a.ID}
		w.ended(c)
	})
}

// lost is the end of a container that nobody saw.
func lost(a *Attempt) runtime.Exit {
	return runtime.Exit{Code: 137, Reason: "ContainerStatusUnknown", StartedAt: a.StartedAt,
		Message: "The container could not be located when the pod was terminated"}
}

// ended decides when the container may run again.
func (w *worker) ended(c *Container) {
	end := c.Current.Ended
	close(c.Current.Done)
	c.Next, c.Waiting = Idle, nil
	if restartsAll(c.Spec, end.Code) && !w.ending() {
		w.state.Restarting = true
		return
	}
	finished := end.FinishedAt
	if finished.IsZero() {
		finished = time.Now()
	}
	c.RetryAt = c.restartAt(finished)
	restart := shouldRestart(w.pod, c.Spec, end.Code) && !(c.Role == InitRole && end.Code == 0) && c.Role != EphemeralRole
	if restart && !w.ending() && c.RetryAt.After(time.Now()) {
		c.Waiting = &Waiting{"CrashLoopBackOff", fmt.Sprintf("back-off %s restarting failed container=%s pod=%s", c.Backoff, c.Name, podKey(w.pod))}
		w.event(c, v1.EventTypeWarning, "BackOff", fmt.Sprintf("Back-off restarting failed container %s in pod %s", c.Name, podKey(w.pod)))
	}
}

func (w *worker) ending() bool {
	return w.pod.DeletionTimestamp != nil || w.state.Removed || w.state.Outcome != nil
}

// forget removes the attempt before the current one, of which only the log and
// the end are still told.
func (w *worker) forget(c *Container) {
	previous := c.Previous
	if previous == nil || previous.ID == "" {
		return
	}
	number := c.Current.Number - 1
	dir := w.agent.logDir(w.pod)
	w.do(w.opCtx, func(ctx context.Context) error {
		_ = os.Remove(fmt.Sprintf("%s/%s/%d.log", dir, c.Name, number))
		return w.agent.runtime.Remove(ctx, previous.ID)
	}, func(err error) {
		if err != nil {
			w.log.Warn("remove old container", "container", c.Name, "err", err)
		}
	})
}

// signal keeps trying: a container that doesn't get its signal would never end.
func (w *worker) signal(c *Container, signal syscall.Signal, all bool) {
	id := c.Current.ID
	w.do(w.opCtx, func(ctx context.Context) error {
		for {
			err := w.agent.runtime.Signal(ctx, id, signal, all)
			if err == nil || ctx.Err() != nil {
				return nil
			}
			w.log.Warn("signal", "container", c.Name, "err", err)
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
	}, func(error) {})
}

// release gives the local proxy the time to take the pod out of its services.
func (w *worker) release() {
	s := &w.state
	s.Release.Phase = Busy
	pod, removed := w.pod, s.Removed
	w.do(w.opCtx, func(ctx context.Context) error {
		if w.agent.cfg.Release != nil && !removed {
			ctx, cancel := context.WithTimeout(ctx, releaseWait)
			defer cancel()
			w.agent.cfg.Release(ctx, pod)
		}
		return nil
	}, func(error) { s.Release.Phase = Ready })
}

// releaseWait bounds what a proxy that doesn't answer can cost.
const releaseWait = 2 * time.Second

// startOver forgets all containers, which have ended, and begins with the first.
func (w *worker) startOver() {
	s := &w.state
	s.Restarting, s.Initialized = false, false
	for _, c := range s.Containers {
		if c.Role == EphemeralRole || c.Current == nil {
			continue
		}
		if !restartsAll(c.Spec, c.Current.Ended.Code) {
			c.Current.Ended.Code, c.Current.Ended.Reason = 137, "RestartingAllContainers"
			c.Current.Ended.Message = "The container is removed because RestartAllContainers in place"
		}
		c.Again = true
		c.Next, c.Waiting, c.RetryAt = Idle, nil, time.Now()
	}
}

func (w *worker) tearDown() {
	s := &w.state
	s.Sandbox.Phase = Busy
	pod := w.pod
	w.do(w.opCtx, func(ctx context.Context) error { return w.agent.tearDown(ctx, pod) }, func(err error) {
		if err != nil && w.opCtx.Err() == nil {
			w.failed(&s.Sandbox, err)
			s.Sandbox.Phase = Ready
			w.agent.events.Eventf(w.pod, v1.EventTypeWarning, "FailedKillPod", "error killing pod: %v", err)
			return
		}
		s.Sandbox = Part{Phase: Gone}
		w.agent.uncount(w.pod)
	})
}

func (w *worker) unmount() {
	s := &w.state
	s.Volumes.Phase = Busy
	w.do(w.opCtx, func(context.Context) error { return w.volumes.Unmount(string(w.uid)) }, func(err error) {
		if err != nil {
			w.failed(&s.Volumes, err)
			s.Volumes.Phase = Ready
			return
		}
		s.Volumes = Part{Phase: Gone}
		w.agent.objects.hold(w.uid, nil)
	})
}

// report is the end: the last status, the containers' records, the object.
func (w *worker) report() {
	s := &w.state
	s.Report.Phase = Busy
	w.publish()
	pod := w.pod
	removed := s.Removed
	var ids []string
	for _, c := range s.Containers {
		if c.Current != nil {
			ids = append(ids, c.Current.ID)
		}
		if c.Previous != nil && c.Previous.ID != "" {
			ids = append(ids, c.Previous.ID)
		}
	}
	w.do(w.opCtx, func(ctx context.Context) error {
		var errs []error
		for _, id := range ids {
			errs = append(errs, w.agent.runtime.Remove(ctx, id))
		}
		errs = append(errs, os.RemoveAll(w.agent.logDir(pod)))
		if !removed {
			errs = append(errs, w.agent.statuses.delete(ctx, pod))
		}
		return errors.Join(errs...)
	}, func(err error) {
		if err != nil {
			w.failed(&s.Report, err)
			return
		}
		s.Report.Phase = Gone
	})
}

// event tells of a container.
func (w *worker) event(c *Container, kind, reason, message string) {
	w.agent.events.Event(containerReference(w.pod, c), kind, reason, message)
}

func (w *worker) facts() podFacts {
	hostIPs := w.agent.hostIPs()
	return podFacts{hostIPs: hostIPs, podIPs: podIPs(w.pod, &w.state, hostIPs), allocatable: w.agent.allocatable()}
}

// nextRefresh is when volumes are to be written anew.
func (w *worker) nextRefresh() time.Time {
	if w.state.Volumes.Phase != Ready || w.ending() {
		return time.Time{}
	}
	return earlier(w.refresh, w.tokens.refreshAt())
}

// objectsChanged: something that the pod's volumes or variables come from.
func (w *worker) objectsChanged() {
	w.post(w.anew)
}

// anew brings volumes up to date, and tries again what may have failed for
// want of what is there now.
func (w *worker) anew() {
	now := time.Now()
	w.refresh = now
	if w.state.Volumes.Phase == Absent {
		w.state.Volumes.RetryAt = now
	}
	for _, c := range w.state.Containers {
		if c.Next == Failed && c.Waiting != nil && c.Waiting.Reason == "CreateContainerConfigError" {
			c.RetryAt = now
		}
	}
}

func (w *worker) refreshVolumes() {
	if at := w.nextRefresh(); at.IsZero() || time.Now().Before(at) {
		return
	}
	w.refresh = time.Time{}
	pod := w.pod
	w.state.Volumes.Phase = Busy // one writer at a time
	w.do(w.opCtx, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		return w.volumes.Refresh(ctx, pod)
	}, func(err error) {
		w.state.Volumes.Phase = Ready
		if err != nil {
			w.log.Warn("refresh volumes", "err", err)
			w.agent.events.Event(w.pod, v1.EventTypeWarning, "FailedMount", err.Error())
			w.refresh = time.Now().Add(10 * time.Second)
		}
	})
}

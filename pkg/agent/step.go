package agent

import (
	"fmt"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
)

// Verb is what a worker does next.
type Verb string

// The verbs. All but Wait change the State, so that the next Step is another one.
const (
	Wait        Verb = "Wait"        // nothing to do before Until (or ever, if zero)
	MakeSandbox Verb = "MakeSandbox" // namespaces, cgroup, network
	Mount       Verb = "Mount"       // volumes
	Pull        Verb = "Pull"        // the image of Container, if it has to be
	PullBackoff Verb = "PullBackoff" // say that the pull is put off
	Start       Verb = "Start"       // Container
	Stop        Verb = "Stop"        // begin to stop Container
	PreStop     Verb = "PreStop"     // run its hook
	Terminate   Verb = "Terminate"   // send its stop signal
	KillHard    Verb = "KillHard"    // send SIGKILL
	Release     Verb = "Release"     // let the local proxy take the pod out first
	Fail        Verb = "Fail"        // end the pod with Reason and Message
	StartOver   Verb = "StartOver"   // forget all containers, after a rule said so
	TearDown    Verb = "TearDown"    // network, namespaces, cgroup
	Unmount     Verb = "Unmount"     // volumes and the pod's directory
	Report      Verb = "Delete"      // the last status, then the object itself
)

// Action is one step of a pod, with its reason.
type Action struct {
	Do        Verb
	Container string
	Reason    string
	Message   string
	Grace     time.Duration
	Until     time.Time
}

const (
	// minimumGrace is what every container gets between its stop signal and SIGKILL.
	minimumGrace = 2 * time.Second
	// backoff between restarts: doubled from first to max, forgotten after a run of twice max.
	firstBackoff = 10 * time.Second
	maxBackoff   = 300 * time.Second
)

// Step decides the one thing to do next for a pod, or until when to wait. It is
// pure: the same pod, state and time give the same action. A pod never goes
// back: once it is ending nothing is started, and what is Gone stays so.
func Step(pod *v1.Pod, s *State, now time.Time) Action {
	if a, ending := end(pod, s, now); ending {
		return a
	}
	if deadline := activeDeadline(pod, s); !deadline.IsZero() && !now.Before(deadline) {
		return Action{Do: Fail, Reason: "DeadlineExceeded", Message: "Pod was active on the node longer than the specified deadline"}
	}
	if s.Restarting {
		return startOver(pod, s, now)
	}
	if s.Sandbox.due(now) {
		return Action{Do: MakeSandbox}
	}
	if s.Volumes.due(now) {
		return Action{Do: Mount}
	}
	for _, c := range s.Containers {
		if a, ok := keep(pod, s, c, now); ok {
			return a
		}
	}
	ready := s.Sandbox.Phase == Ready && s.Volumes.Phase == Ready
	for _, c := range turn(pod, s) {
		switch {
		case c.Next == Idle && !now.Before(c.RetryAt):
			return Action{Do: Pull, Container: c.Name}
		case c.Next == Failed && !now.Before(c.RetryAt):
			return Action{Do: Pull, Container: c.Name}
		case c.Next == Failed && !c.PullBackoffAt.IsZero() && !now.Before(c.PullBackoffAt):
			return Action{Do: PullBackoff, Container: c.Name}
		case c.Next == Pulled && ready:
			return Action{Do: Start, Container: c.Name}
		}
	}
	return Action{Do: Wait, Until: wake(pod, s, now)}
}

// keep looks after one running container: is it on its way out, or does it have to go?
func keep(pod *v1.Pod, s *State, c *Container, now time.Time) (Action, bool) {
	a := c.Current
	if !a.Running() {
		return Action{}, false
	}
	if a.Stop != nil {
		action := stopping(pod, s, c, true, now)
		return action, action.Do != Wait
	}
	if a.Unhealthy != nil {
		grace := podGrace(pod)
		if a.Unhealthy.Grace != nil {
			grace = time.Duration(*a.Unhealthy.Grace) * time.Second
		}
		return Action{Do: Stop, Container: c.Name, Message: a.Unhealthy.Message, Grace: grace}, true
	}
	if c.Role != EphemeralRole && c.Role != InitRole && a.Hash != containerHash(c.Spec) {
		kind := "Container"
		if c.Role == SidecarRole {
			kind = "Init container"
		}
		return Action{Do: Stop, Container: c.Name, Grace: podGrace(pod),
			Message: fmt.Sprintf("%s %s definition changed, will be restarted", kind, c.Name)}, true
	}
	return Action{}, false
}

// turn lists the containers that should have a next attempt now.
func turn(pod *v1.Pod, s *State) []*Container {
	var due []*Container
	for _, c := range s.role(EphemeralRole) {
		if c.Current == nil { // they are never restarted
			due = append(due, c)
		}
	}
	for _, c := range s.Containers {
		switch c.Role {
		case InitRole:
			if s.Initialized || succeeded(c) {
				continue
			}
			if !c.Current.Running() {
				due = append(due, c)
			}
			return due
		case SidecarRole:
			if !c.Current.Running() {
				due = append(due, c)
			}
			// The next one waits until this one has started, the first time round.
			if !s.Initialized && (!c.Current.Running() || !c.Current.Started || c.Current.Hook.Phase != Ready) {
				return due
			}
		case MainRole:
			if !c.Current.Running() && restartable(pod, c) {
				due = append(due, c)
			}
			// A postStart hook holds up the containers that follow.
			if hasPostStart(c.Spec) && (c.Current == nil && c.Next != Failed || c.Current.Running() && c.Current.Hook.Phase == Busy) {
				return due
			}
		}
	}
	return due
}

func hasPostStart(c *v1.Container) bool { return c.Lifecycle != nil && c.Lifecycle.PostStart != nil }

func succeeded(c *Container) bool {
	return !c.Again && c.Current != nil && c.Current.Ended != nil && c.Current.Ended.Code == 0
}

// restartable says whether a container that isn't running should get an attempt.
func restartable(pod *v1.Pod, c *Container) bool {
	if c.Current == nil || c.Again {
		return true
	}
	return c.Current.Ended != nil && shouldRestart(pod, c.Spec, c.Current.Ended.Code)
}

// finished says whether the pod has run to its end: some init container has
// failed for good, or no main container runs or will run again.
func finished(pod *v1.Pod, s *State) bool {
	for _, c := range s.role(InitRole) {
		if s.Initialized {
			break
		}
		if c.Current != nil && c.Current.Ended != nil && c.Current.Ended.Code != 0 && !c.Again && !shouldRestart(pod, c.Spec, c.Current.Ended.Code) {
			return true
		}
	}
	mains := s.role(MainRole)
	for _, c := range mains {
		if c.Current == nil || c.Current.Running() || restartable(pod, c) {
			return false
		}
	}
	return len(mains) > 0
}

// end decides for a pod that is to go, and says whether it is one.
func end(pod *v1.Pod, s *State, now time.Time) (Action, bool) {
	deleted := pod.DeletionTimestamp != nil || s.Removed
	done := finished(pod, s)
	if !deleted && s.Outcome == nil && !done {
		return Action{}, false
	}
	if deleted && s.Release.due(now) && anyRunning(s) {
		return Action{Do: Release}, true
	}
	// A container's hook runs while the proxy is being waited for; its signal waits.
	if a, more := endContainers(pod, s, done && !deleted && s.Outcome == nil, now); more {
		return a, true
	}
	switch {
	case s.Sandbox.Phase == Busy || s.Volumes.Phase == Busy:
		return Action{Do: Wait}, true
	case s.Sandbox.Phase == Ready || s.Sandbox.Phase == Absent && s.Sandbox.Failures > 0:
		if now.Before(s.Sandbox.RetryAt) && s.Sandbox.Phase == Ready {
			return Action{Do: Wait, Until: s.Sandbox.RetryAt}, true
		}
		return Action{Do: TearDown}, true
	case s.Volumes.Phase == Ready || s.Volumes.Phase == Absent && s.Volumes.Failures > 0:
		if now.Before(s.Volumes.RetryAt) && s.Volumes.Phase == Ready {
			return Action{Do: Wait, Until: s.Volumes.RetryAt}, true
		}
		return Action{Do: Unmount}, true
	case deleted && s.Report.due(now):
		return Action{Do: Report}, true
	case deleted && s.Report.Phase == Absent:
		return Action{Do: Wait, Until: s.Report.RetryAt}, true
	}
	return Action{Do: Wait}, true
}

func anyRunning(s *State) bool {
	return slices.ContainsFunc(s.Containers, func(c *Container) bool { return c.Current.Running() })
}

// endContainers brings every container to its end: main ones first, then
// sidecars in reverse order, all within the grace period (KEP-753). It says
// whether there is still something to do or wait for.
func endContainers(pod *v1.Pod, s *State, natural bool, now time.Time) (Action, bool) {
	wait := Action{Do: Wait}
	pending := false
	for _, c := range s.Containers {
		if c.Next == Starting {
			pending = true // it will be seen when it runs
		}
		a := c.Current
		if !a.Running() {
			if a != nil && !a.Reaped {
				pending = true
			}
			continue
		}
		pending = true
		if a.Stop == nil {
			return Action{Do: Stop, Container: c.Name, Grace: podGrace(pod), Message: "Stopping container " + c.Name}, true
		}
		action := stopping(pod, s, c, mayTerminate(s, c), now)
		if action.Do != Wait {
			return action, true
		}
		wait.Until = earlier(wait.Until, action.Until)
	}
	return wait, pending
}

// mayTerminate says whether it is a container's turn to get its stop signal.
func mayTerminate(s *State, c *Container) bool {
	if s.Release.Phase == Busy {
		return false
	}
	if c.Role != SidecarRole {
		return true
	}
	after := false
	for _, other := range s.Containers {
		if other == c {
			after = true
			continue
		}
		if after && other.Role != EphemeralRole && other.Role != InitRole && (other.Current.Running() || other.Next == Starting) {
			return false
		}
	}
	return true
}

// stopping is one container's way from Stop to SIGKILL.
func stopping(pod *v1.Pod, s *State, c *Container, turn bool, now time.Time) Action {
	stop := c.Current.Stop
	limit := stop.Since.Add(stop.Grace)
	if !s.EndBy.IsZero() && s.EndBy.Before(limit) {
		limit = s.EndBy
	}
	hasHook := c.Spec.Lifecycle != nil && c.Spec.Lifecycle.PreStop != nil && stop.Grace > 0
	if hasHook && stop.Hook.Phase == Absent {
		return Action{Do: PreStop, Container: c.Name, Grace: limit.Sub(now)}
	}
	if stop.TermAt.IsZero() {
		if now.Before(limit) && (stop.Hook.Phase == Busy || !turn) {
			return Action{Do: Wait, Until: limit}
		}
		return Action{Do: Terminate, Container: c.Name}
	}
	kill := limit
	if least := stop.TermAt.Add(minimumGrace); kill.Before(least) {
		kill = least
	}
	if stop.Killed {
		return Action{Do: Wait}
	}
	if !now.Before(kill) {
		return Action{Do: KillHard, Container: c.Name}
	}
	return Action{Do: Wait, Until: kill}
}

// startOver stops everything, then forgets it (KEP-5532).
func startOver(pod *v1.Pod, s *State, now time.Time) Action {
	if a, more := endContainers(pod, s, false, now); more {
		return a
	}
	return Action{Do: StartOver}
}

// podGrace is how long a container may take to stop.
func podGrace(pod *v1.Pod) time.Duration {
	switch {
	case pod.DeletionGracePeriodSeconds != nil:
		return time.Duration(*pod.DeletionGracePeriodSeconds) * time.Second
	case pod.Spec.TerminationGracePeriodSeconds != nil:
		return time.Duration(*pod.Spec.TerminationGracePeriodSeconds) * time.Second
	}
	return minimumGrace
}

func activeDeadline(pod *v1.Pod, s *State) time.Time {
	if pod.Spec.ActiveDeadlineSeconds == nil || s.StartTime.IsZero() {
		return time.Time{}
	}
	return s.StartTime.Add(time.Duration(*pod.Spec.ActiveDeadlineSeconds) * time.Second)
}

// wake is the next moment at which Step may answer something else by itself;
// what is past has been considered already.
func wake(pod *v1.Pod, s *State, now time.Time) time.Time {
	var at time.Time
	consider := func(t time.Time) {
		if t.After(now) {
			at = earlier(at, t)
		}
	}
	consider(activeDeadline(pod, s))
	for _, p := range []Part{s.Sandbox, s.Volumes} {
		if p.Phase == Absent {
			consider(p.RetryAt)
		}
	}
	for _, c := range s.Containers {
		if c.Next == Idle || c.Next == Failed {
			consider(c.RetryAt)
			consider(c.PullBackoffAt)
		}
		if c.Current.Running() && c.Current.Stop != nil {
			consider(stopping(pod, s, c, true, now).Until)
		}
	}
	return at
}

// earlier is the earlier of two times, where zero is never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

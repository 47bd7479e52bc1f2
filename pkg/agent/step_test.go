package agent

import (
	"fmt"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"skiff/pkg/agent/runtime"
)

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func at(seconds float64) time.Time { return epoch.Add(time.Duration(seconds * float64(time.Second))) }

// parse makes a pod and its state of words: "name:state" per container, where
// "i-" and "s-" begin the names of init containers and sidecars. States: "none",
// "pulling", "pulled", "failed@T", "starting", "run", "unstarted", "hook",
// "exit=CODE", "exit=CODE@T" (may run again at T), "stop", "term@T", "killed".
func parse(words string) (*v1.Pod, *State) {
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", UID: "u"}, Spec: v1.PodSpec{
		RestartPolicy: v1.RestartPolicyAlways, TerminationGracePeriodSeconds: ptr(int64(30))}}
	s := &State{Sandbox: Part{Phase: Ready}, Volumes: Part{Phase: Ready}, Release: Part{Phase: Ready}, StartTime: epoch}
	for _, word := range strings.Fields(words) {
		name, state, _ := strings.Cut(word, ":")
		c := &Container{Name: name, Role: MainRole, Spec: &v1.Container{Name: name}}
		switch {
		case strings.HasPrefix(name, "i-"):
			c.Role = InitRole
		case strings.HasPrefix(name, "s-"):
			c.Role = SidecarRole
			c.Spec.RestartPolicy = ptr(v1.ContainerRestartPolicyAlways)
		}
		apply(c, state)
		if c.Role == MainRole {
			pod.Spec.Containers = append(pod.Spec.Containers, *c.Spec)
			s.Initialized = s.Initialized || c.Current != nil
		} else {
			pod.Spec.InitContainers = append(pod.Spec.InitContainers, *c.Spec)
		}
		s.Containers = append(s.Containers, c)
	}
	return pod, s
}

func apply(c *Container, state string) {
	state, when, _ := strings.Cut(state, "@")
	var t float64
	fmt.Sscan(when, &t)
	running := func() {
		c.Current = &Attempt{ID: c.Name + "0", Hash: containerHash(c.Spec), Started: true, Ready: true, Hook: Part{Phase: Ready}, StartedAt: epoch, Done: make(chan struct{})}
	}
	switch kind, code, _ := strings.Cut(state, "="); kind {
	case "none":
	case "pulling":
		c.Next = Pulling
	case "pulled":
		c.Next = Pulled
	case "failed":
		c.Next, c.RetryAt = Failed, at(t)
	case "starting":
		c.Next = Starting
	case "run":
		running()
	case "unstarted":
		running()
		c.Current.Started = false
	case "hook":
		running()
		c.Current.Hook.Phase = Busy
		c.Spec.Lifecycle = &v1.Lifecycle{PostStart: &v1.LifecycleHandler{Sleep: &v1.SleepAction{}}}
	case "unhealthy":
		running()
		c.Current.Unhealthy = &Kill{Message: "sick"}
	case "exit":
		running()
		e := runtime.Exit{FinishedAt: epoch, StartedAt: epoch}
		fmt.Sscan(code, &e.Code)
		c.Current.Ended, c.Current.Reaped = &Ended{Exit: e, ID: c.Current.ID}, true
		c.RetryAt = at(t)
	case "stop":
		running()
		c.Current.Stop = &Stopping{Since: epoch, Grace: 30 * time.Second}
	case "hooked":
		running()
		c.Spec.Lifecycle = &v1.Lifecycle{PreStop: &v1.LifecycleHandler{Sleep: &v1.SleepAction{}}}
		c.Current.Stop = &Stopping{Since: epoch, Grace: 30 * time.Second, Hook: Part{Phase: Busy}}
	case "term":
		running()
		c.Current.Stop = &Stopping{Since: epoch, Grace: 30 * time.Second, TermAt: at(t)}
	case "killed":
		running()
		c.Current.Stop = &Stopping{Since: epoch, TermAt: epoch, Killed: true}
	default:
		panic(state)
	}
}

func TestStep(t *testing.T) {
	deleted := func(p *v1.Pod, s *State) {
		p.DeletionTimestamp = &metav1.Time{Time: epoch}
		p.DeletionGracePeriodSeconds = ptr(int64(30))
	}
	never := func(p *v1.Pod, s *State) { p.Spec.RestartPolicy = v1.RestartPolicyNever }
	onFailure := func(p *v1.Pod, s *State) { p.Spec.RestartPolicy = v1.RestartPolicyOnFailure }
	both := func(fs ...func(*v1.Pod, *State)) func(*v1.Pod, *State) {
		return func(p *v1.Pod, s *State) {
			for _, f := range fs {
				f(p, s)
			}
		}
	}
	sandbox := func(phase Phase) func(*v1.Pod, *State) {
		return func(_ *v1.Pod, s *State) { s.Sandbox.Phase = phase }
	}
	volumes := func(phase Phase) func(*v1.Pod, *State) {
		return func(_ *v1.Pod, s *State) { s.Volumes.Phase = phase }
	}
	for _, c := range []struct {
		name  string
		words string
		with  func(*v1.Pod, *State)
		now   float64
		want  string
	}{
		{"everything begins at once: the sandbox", "a:none", both(sandbox(Absent), volumes(Absent)), 0, "MakeSandbox"},
		{"the volumes meanwhile", "a:none", both(sandbox(Busy), volumes(Absent)), 0, "Mount"},
		{"the image meanwhile", "a:none", both(sandbox(Busy), volumes(Busy)), 0, "Pull a"},
		{"an image is no use without a sandbox", "a:pulled", sandbox(Busy), 0, "Wait"},
		{"nor without volumes", "a:pulled", volumes(Busy), 0, "Wait"},
		{"all there", "a:pulled", nil, 0, "Start a"},
		{"main containers go side by side", "a:starting b:none", nil, 0, "Pull b"},
		{"a failed part waits for its time", "a:pulling", func(_ *v1.Pod, s *State) { s.Sandbox = Part{RetryAt: at(5), Failures: 1} }, 0, "Wait 5"},
		{"and is then tried again", "a:pulling", func(_ *v1.Pod, s *State) { s.Sandbox = Part{RetryAt: at(5), Failures: 1} }, 5, "MakeSandbox"},
		{"a failed pull waits", "a:failed@10", nil, 0, "Wait 10"},
		{"and is then tried again", "a:failed@10", nil, 10, "Pull a"},
		{"the back-off is told", "a:failed@10", func(_ *v1.Pod, s *State) { s.Containers[0].PullBackoffAt = at(1) }, 1, "PullBackoff a"},
		{"a running pod rests", "a:run b:run", nil, 0, "Wait"},

		{"init containers first", "i-1:none i-2:none a:none", nil, 0, "Pull i-1"},
		{"one by one", "i-1:run i-2:none a:none", nil, 0, "Wait"},
		{"the next", "i-1:exit=0 i-2:none a:none", nil, 0, "Pull i-2"},
		{"then the main ones", "i-1:exit=0 i-2:exit=0 a:none", nil, 0, "Pull a"},
		{"a failed one again", "i-1:exit=1 a:none", nil, 0, "Pull i-1"},
		{"after its back-off", "i-1:exit=1@10 a:none", nil, 0, "Wait 10"},
		{"or never: the pod is over", "i-1:exit=1 a:none", never, 0, "TearDown"},
		{"init containers of a pod that has run don't run again", "i-1:exit=1 a:run", nil, 0, "Wait"},
		{"a sidecar holds up what follows until it has started", "s-1:unstarted a:none", nil, 0, "Wait"},
		{"and then no more", "s-1:run a:none", nil, 0, "Pull a"},
		{"a sidecar is kept alive beside init containers", "s-1:exit=0 i-2:none a:none", nil, 0, "Pull s-1"},
		{"and beside main ones, which don't wait for it again", "s-1:exit=0 a:exit=1", nil, 0, "Pull s-1"},
		{"whatever the pod's policy", "s-1:exit=0 a:run", never, 0, "Pull s-1"},
		{"a postStart hook holds up what follows", "a:hook b:none", nil, 0, "Wait"},

		{"restarted", "a:exit=0", nil, 0, "Pull a"},
		{"after its back-off", "a:exit=0@20", nil, 1, "Wait 20"},
		{"not on success", "a:exit=0 b:run", onFailure, 0, "Wait"},
		{"on failure", "a:exit=2 b:run", onFailure, 0, "Pull a"},
		{"never", "a:exit=2 b:run", never, 0, "Wait"},
		{"all over: take down", "a:exit=0 b:exit=1", never, 0, "TearDown"},
		{"sidecars go with the main ones", "s-1:run a:exit=0", never, 0, "Stop s-1"},
		{"over, taken down", "a:exit=0", both(never, sandbox(Gone)), 0, "Unmount"},
		{"over, unmounted: kept until it is deleted", "a:exit=0", both(never, sandbox(Gone), volumes(Gone)), 0, "Wait"},

		{"an unhealthy container is stopped", "a:unhealthy", nil, 0, "Stop a"},
		{"one whose image has changed, too", "a:run", func(_ *v1.Pod, s *State) { s.Containers[0].Spec.Image = "new" }, 0, "Stop a"},
		{"its signal", "a:stop b:run", nil, 0, "Terminate a"},
		{"its time", "a:term@0 b:run", nil, 1, "Wait 30"},
		{"its end", "a:term@0 b:run", nil, 30, "KillHard a"},
		{"a hook first", "a:stop", func(_ *v1.Pod, s *State) {
			s.Containers[0].Spec.Lifecycle = &v1.Lifecycle{PreStop: &v1.LifecycleHandler{}}
		}, 0, "PreStop a"},
		{"a hook takes its time", "a:hooked", nil, 5, "Wait 30"},
		{"but not longer than the grace period", "a:hooked", nil, 30, "Terminate a"},
		{"with a minimum after the signal", "a:term@29.5", nil, 30, "Wait 31.5"},
		{"killed, and waited for", "a:killed", nil, 100, "Wait"},

		{"deleted: the proxy first", "a:run", both(deleted, func(_ *v1.Pod, s *State) { s.Release.Phase = Absent }), 0, "Release"},
		{"hooks don't wait for it, signals do", "a:stop", both(deleted, func(_ *v1.Pod, s *State) { s.Release.Phase = Busy }), 0, "Wait 30"},
		{"deleted: stop", "a:run b:run", deleted, 0, "Stop a"},
		{"all at once", "a:term@0 b:run", deleted, 0, "Stop b"},
		{"sidecars are told, but wait for their turn", "s-1:stop a:term@0", deleted, 0, "Wait 30"},
		{"which comes", "s-1:stop a:exit=0", deleted, 0, "Terminate s-1"},
		{"in reverse order", "s-1:stop s-2:stop a:exit=0", deleted, 0, "Terminate s-2"},
		{"at the latest with the grace period", "s-1:stop a:killed", deleted, 30, "Terminate s-1"},
		{"deleted: nothing new is started", "a:pulled", deleted, 0, "TearDown"},
		{"a start that is under way is waited for", "a:starting", deleted, 0, "Wait"},
		{"deleted, down", "a:exit=0", both(deleted, sandbox(Gone)), 0, "Unmount"},
		{"deleted, unmounted", "a:exit=0", both(deleted, sandbox(Gone), volumes(Gone)), 0, "Delete"},
		{"deleted before anything was made", "a:none", both(deleted, sandbox(Absent), volumes(Absent)), 0, "Delete"},
		{"a shorter grace period counts", "a:term@0", both(deleted, func(_ *v1.Pod, s *State) { s.EndBy = at(3) }), 3, "KillHard a"},
		{"removed is deleted", "a:run", func(_ *v1.Pod, s *State) { s.Removed = true }, 0, "Stop a"},

		{"the deadline", "a:run", func(p *v1.Pod, _ *State) { p.Spec.ActiveDeadlineSeconds = ptr(int64(7)) }, 6, "Wait 7"},
		{"has passed", "a:run", func(p *v1.Pod, _ *State) { p.Spec.ActiveDeadlineSeconds = ptr(int64(7)) }, 7, "Fail"},
		{"failed: stop", "a:run", func(_ *v1.Pod, s *State) { s.Outcome = &Outcome{} }, 0, "Stop a"},
		{"starting over: stop first", "a:exit=3 b:run", func(_ *v1.Pod, s *State) { s.Restarting = true }, 0, "Stop b"},
		{"then forget", "a:exit=3 b:exit=137", func(_ *v1.Pod, s *State) { s.Restarting = true }, 0, "StartOver"},
	} {
		pod, s := parse(c.words)
		if c.with != nil {
			c.with(pod, s)
		}
		if got := show(Step(pod, s, at(c.now))); got != c.want {
			t.Errorf("%s: %s at %v: %s, want %s", c.name, c.words, c.now, got, c.want)
		}
	}
}

func show(a Action) string {
	text := string(a.Do)
	if a.Container != "" {
		text += " " + a.Container
	}
	if !a.Until.IsZero() {
		text += fmt.Sprintf(" %v", a.Until.Sub(epoch).Seconds())
	}
	return text
}

// Whatever happens to a pod that is being deleted: nothing is started any more,
// and when every container has ended in the end the object is removed.
func TestStepOfADeletedPodNeverGoesBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		states := []string{"none", "pulling", "pulled", "failed@10", "run", "unstarted", "exit=0", "exit=1@10", "stop", "term@0", "killed", "hooked"}
		var words []string
		for _, name := range []string{"i-1", "s-2", "a", "b"} {
			words = append(words, name+":"+rapid.SampledFrom(states).Draw(t, name))
		}
		pod, s := parse(strings.Join(words, " "))
		pod.DeletionTimestamp, pod.DeletionGracePeriodSeconds = &metav1.Time{Time: epoch}, ptr(int64(30))
		s.Release.Phase = Absent
		now := epoch
		for range 100 {
			a := Step(pod, s, now)
			c := s.container(a.Container)
			switch a.Do {
			case Pull, Start, MakeSandbox, Mount, PullBackoff, StartOver, Fail:
				t.Fatalf("%s of a deleted pod", a.Do)
			case Stop:
				c.Current.Stop = &Stopping{Since: now, Grace: a.Grace}
			case PreStop:
				c.Current.Stop.Hook.Phase = Busy
			case Terminate:
				c.Current.Stop.TermAt = now
			case KillHard:
				c.Current.Stop.Killed = true
			case Release:
				s.Release.Phase = Ready
			case TearDown:
				if anyRunning(s) {
					t.Fatal("the sandbox is taken from under running containers")
				}
				s.Sandbox.Phase = Gone
			case Unmount:
				s.Volumes.Phase = Gone
			case Report:
				return
			case Wait:
				if a.Until.IsZero() {
					for _, c := range s.Containers { // a killed container ends by itself
						if c.Current.Running() && c.Current.Stop != nil && c.Current.Stop.Killed {
							c.Current.Ended, c.Current.Reaped = &Ended{}, true
						}
					}
				} else if !a.Until.After(now) {
					t.Fatalf("waits for what is past: %v at %v", a.Until, now)
				} else {
					now = a.Until
				}
			}
		}
		t.Fatalf("%v never ends", words)
	})
}

func TestRestartRules(t *testing.T) {
	rule := func(action v1.ContainerRestartRuleAction, op v1.ContainerRestartRuleOnExitCodesOperator, codes ...int32) v1.ContainerRestartRule {
		return v1.ContainerRestartRule{Action: action, ExitCodes: &v1.ContainerRestartRuleOnExitCodes{Operator: op, Values: codes}}
	}
	never := ptr(v1.ContainerRestartPolicyNever)
	for _, c := range []struct {
		pod        v1.RestartPolicy
		container  *v1.ContainerRestartPolicy
		rules      []v1.ContainerRestartRule
		code       int
		again, all bool
	}{
		{v1.RestartPolicyAlways, nil, nil, 0, true, false},
		{v1.RestartPolicyOnFailure, nil, nil, 0, false, false},
		{v1.RestartPolicyOnFailure, nil, nil, 1, true, false},
		{v1.RestartPolicyNever, nil, nil, 1, false, false},
		{v1.RestartPolicyAlways, never, nil, 1, false, false},
		{v1.RestartPolicyNever, never, []v1.ContainerRestartRule{rule("Restart", "In", 42)}, 42, true, false},
		{v1.RestartPolicyNever, never, []v1.ContainerRestartRule{rule("Restart", "In", 42)}, 1, false, false},
		{v1.RestartPolicyNever, never, []v1.ContainerRestartRule{rule("Restart", "NotIn", 42)}, 1, true, false},
		{v1.RestartPolicyNever, never, []v1.ContainerRestartRule{rule("RestartAllContainers", "In", 3)}, 3, true, true},
	} {
		pod := &v1.Pod{Spec: v1.PodSpec{RestartPolicy: c.pod}}
		spec := &v1.Container{RestartPolicy: c.container, RestartPolicyRules: c.rules}
		if again, all := shouldRestart(pod, spec, c.code), restartsAll(spec, c.code); again != c.again || all != c.all {
			t.Errorf("%+v: %v, %v", c, again, all)
		}
	}
}

func TestRestartBackoff(t *testing.T) {
	c := &Container{}
	now := epoch
	for _, want := range []int{0, 10, 20, 40, 80, 160, 300, 300} {
		if got := c.restartAt(now).Sub(now); got != time.Duration(want)*time.Second {
			t.Fatalf("back-off %v, want %d s", got, want)
		}
		now = c.restartAt(now)
		c.nextBackoff(now)
	}
	// After a long enough run it begins anew.
	now = now.Add(11 * time.Minute)
	if got := c.restartAt(now); got != now {
		t.Errorf("still put off until %v", got)
	}
	if c.nextBackoff(now); c.Backoff != firstBackoff {
		t.Errorf("back-off %v", c.Backoff)
	}
}

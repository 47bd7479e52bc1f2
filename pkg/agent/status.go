package agent

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ownConditions are the pod conditions that the agent owns; others are kept as
// they are.
var ownConditions = []v1.PodConditionType{
	v1.PodScheduled, v1.PodReady, v1.PodInitialized, v1.ContainersReady, v1.PodReadyToStartContainers, v1.AllContainersRestarting,
}

// Status derives a pod's status from what has been observed. It is pure; old is
// the status reported before, from which times of transitions and the ends of
// containers that are long forgotten are kept.
func Status(pod *v1.Pod, s *State, old *v1.PodStatus, hostIPs []string, now time.Time) v1.PodStatus {
	status := v1.PodStatus{
		ObservedGeneration: pod.Generation,
		QOSClass:           qosClass(pod),
		NominatedNodeName:  pod.Status.NominatedNodeName,
		Resize:             old.Resize,
	}
	if !s.StartTime.IsZero() {
		t := metav1.NewTime(s.StartTime)
		status.StartTime = &t
	}
	ending := pod.DeletionTimestamp != nil || s.Removed || s.Outcome != nil
	for _, c := range s.Containers {
		cs := containerStatus(pod, s, c, ending)
		switch c.Role {
		case InitRole, SidecarRole:
			status.InitContainerStatuses = append(status.InitContainerStatuses, cs)
		case MainRole:
			status.ContainerStatuses = append(status.ContainerStatuses, cs)
		default:
			status.EphemeralContainerStatuses = append(status.EphemeralContainerStatuses, cs)
		}
	}
	byName := func(a, b v1.ContainerStatus) int { return strings.Compare(a.Name, b.Name) }
	slices.SortFunc(status.ContainerStatuses, byName)
	slices.SortFunc(status.EphemeralContainerStatuses, byName)
	carry(old.InitContainerStatuses, status.InitContainerStatuses)
	carry(old.ContainerStatuses, status.ContainerStatuses)

	status.Phase = phase(pod, s, ending && !anyRunning(s))
	if terminal(old.Phase) {
		status.Phase = old.Phase // a pod never leaves a terminal phase
	}
	switch {
	case s.Outcome != nil:
		status.Phase, status.Reason, status.Message = v1.PodFailed, s.Outcome.Reason, s.Outcome.Message
	case status.Phase == old.Phase:
		status.Reason, status.Message = old.Reason, old.Message
	}
	addresses(pod, s, &status, hostIPs)
	status.Conditions = conditions(pod, s, &status, old, now)
	return status
}

// carry keeps from the old status what an agent that was restarted can't know:
// last terminations, and when a container that still runs was started.
func carry(old, now []v1.ContainerStatus) {
	for i := range now {
		j := slices.IndexFunc(old, func(o v1.ContainerStatus) bool { return o.Name == now[i].Name })
		if j < 0 {
			continue
		}
		o := &old[j]
		if o.ContainerID == now[i].ContainerID && o.State.Running != nil && now[i].State.Running != nil {
			now[i].State.Running.StartedAt = o.State.Running.StartedAt
		}
		if now[i].LastTerminationState.Terminated == nil && o.LastTerminationState.Terminated != nil {
			now[i].LastTerminationState = o.LastTerminationState
		}
	}
}

func terminal(phase v1.PodPhase) bool { return phase == v1.PodSucceeded || phase == v1.PodFailed }

func addresses(pod *v1.Pod, s *State, status *v1.PodStatus, hostIPs []string) {
	for _, ip := range hostIPs {
		status.HostIPs = append(status.HostIPs, v1.HostIP{IP: ip})
	}
	if len(hostIPs) > 0 {
		status.HostIP = hostIPs[0]
	}
	for _, ip := range podIPs(pod, s, hostIPs) {
		status.PodIPs = append(status.PodIPs, v1.PodIP{IP: ip})
	}
	if len(status.PodIPs) > 0 {
		status.PodIP = status.PodIPs[0].IP
	}
}

// podIPs are the addresses of the pod: its own, or the node's.
func podIPs(pod *v1.Pod, s *State, hostIPs []string) []string {
	if pod.Spec.HostNetwork {
		return hostIPs
	}
	var out []string
	for _, ip := range s.IPs {
		out = append(out, ip.String())
	}
	return out
}

func containerStatus(pod *v1.Pod, s *State, c *Container, ending bool) v1.ContainerStatus {
	no := false
	cs := v1.ContainerStatus{Name: c.Name, Image: c.Spec.Image, RestartCount: int32(c.Restarts), Started: &no}
	for _, m := range c.Spec.VolumeMounts {
		ms := v1.VolumeMountStatus{Name: m.Name, MountPath: m.MountPath, ReadOnly: m.ReadOnly}
		if m.ReadOnly {
			mode := v1.RecursiveReadOnlyDisabled
			if recursively(m) {
				mode = v1.RecursiveReadOnlyEnabled
			}
			ms.RecursiveReadOnly = &mode
		}
		cs.VolumeMounts = append(cs.VolumeMounts, ms)
	}
	if c.Previous != nil {
		cs.LastTerminationState.Terminated = terminated(c.Previous)
	}
	a := c.Current
	if a == nil {
		cs.State.Waiting = waiting(s, c)
		return cs
	}
	cs.Image, cs.ImageID, cs.ContainerID = a.ImageName, a.ImageID, "containerd://"+a.ID
	// No Resources and AllocatedResources: by these the API knows nodes that can resize running containers.
	groups := make([]int64, 0, len(a.User.Groups))
	for _, g := range a.User.Groups {
		groups = append(groups, int64(g))
	}
	cs.User = &v1.ContainerUser{Linux: &v1.LinuxContainerUser{UID: int64(a.User.UID), GID: int64(a.User.GID), SupplementalGroups: groups}}
	// Until its postStart hook has ended, a container isn't said to run.
	if a.Running() && a.Hook.Phase == Busy {
		cs.State.Waiting = waiting(s, c)
		return cs
	}
	if a.Running() {
		started := a.Started
		cs.Started = &started
		cs.Ready = started && a.Ready && c.Role != InitRole && c.Role != EphemeralRole
		cs.State.Running = &v1.ContainerStateRunning{StartedAt: metav1.NewTime(a.StartedAt.Truncate(time.Second))}
		return cs
	}
	cs.Ready = c.Role == InitRole && a.Ended.Code == 0
	cs.State.Terminated = terminated(a.Ended)
	// A container that is about to run again is waiting, once there is a reason to tell.
	if c.Waiting != nil && !ending && shouldRestart(pod, c.Spec, a.Ended.Code) && !(c.Role == InitRole && a.Ended.Code == 0) {
		cs.LastTerminationState = cs.State
		cs.State = v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: c.Waiting.Reason, Message: c.Waiting.Message}}
	}
	return cs
}

func waiting(s *State, c *Container) *v1.ContainerStateWaiting {
	if c.Waiting != nil {
		return &v1.ContainerStateWaiting{Reason: c.Waiting.Reason, Message: c.Waiting.Message}
	}
	reason := "ContainerCreating"
	if slices.ContainsFunc(s.Containers, func(c *Container) bool { return c.Role == InitRole || c.Role == SidecarRole }) {
		reason = "PodInitializing"
	}
	return &v1.ContainerStateWaiting{Reason: reason}
}

func terminated(e *Ended) *v1.ContainerStateTerminated {
	reason := e.Reason
	if reason == "" {
		reason = "Completed"
		if e.Code != 0 {
			reason = "Error"
		}
	}
	t := &v1.ContainerStateTerminated{ExitCode: int32(e.Code), Reason: reason, Message: e.Message}
	if e.ID != "" {
		t.ContainerID = "containerd://" + e.ID
	}
	if !e.StartedAt.IsZero() {
		t.StartedAt = metav1.NewTime(e.StartedAt.Truncate(time.Second))
	}
	if !e.FinishedAt.IsZero() {
		t.FinishedAt = metav1.NewTime(e.FinishedAt.Truncate(time.Second))
	}
	return t
}

// phase follows the kubelet's rules; over says that nothing runs, nor will.
func phase(pod *v1.Pod, s *State, over bool) v1.PodPhase {
	pendingInit, pendingSidecars := 0, 0
	running, waiting, stopped, stoppedForGood, succeeded := 0, 0, 0, 0, 0
	for _, c := range s.Containers {
		a := c.Current
		isWaiting := a == nil
		switch c.Role {
		case InitRole:
			switch {
			case s.Initialized:
			case a == nil && c.Previous == nil, a.Running():
				pendingInit++
			case a != nil && a.Ended.Code != 0:
				if !c.Again && !shouldRestart(pod, c.Spec, a.Ended.Code) {
					return v1.PodFailed
				}
				pendingInit++
			}
		case SidecarRole:
			switch {
			case a.Running():
				if !a.Started {
					pendingSidecars++
				}
				running++
			case isWaiting:
				pendingSidecars++
				if c.Previous == nil {
					waiting++
				}
			}
		case MainRole:
			switch {
			case a.Running() && a.Hook.Phase == Busy && c.Previous == nil:
				waiting++
			case a.Running():
				running++
			case isWaiting && c.Previous == nil:
				waiting++
			default:
				stopped++
				code := 0
				if a != nil {
					code = a.Ended.Code
				} else {
					code = c.Previous.Code
				}
				if !c.Again && !shouldRestart(pod, c.Spec, code) {
					stoppedForGood++
				}
				if code == 0 {
					succeeded++
				}
			}
		}
	}
	switch {
	case pendingInit > 0, pendingSidecars > 0 && !s.Initialized, waiting > 0:
		return v1.PodPending
	case running > 0:
		return v1.PodRunning
	case stopped > 0:
		switch {
		case !over && stopped != stoppedForGood:
			return v1.PodRunning
		case stopped == succeeded:
			return v1.PodSucceeded
		}
		return v1.PodFailed
	}
	return v1.PodPending
}

func conditions(pod *v1.Pod, s *State, status, old *v1.PodStatus, now time.Time) []v1.PodCondition {
	var out []v1.PodCondition
	for _, c := range pod.Status.Conditions {
		if !slices.Contains(ownConditions, c.Type) {
			out = append(out, c)
		}
	}
	add := func(c v1.PodCondition) {
		c.ObservedGeneration = pod.Generation
		c.LastTransitionTime = metav1.NewTime(now.Truncate(time.Second))
		for _, o := range old.Conditions {
			if o.Type == c.Type && o.Status == c.Status {
				c.LastTransitionTime = o.LastTransitionTime
				c.LastProbeTime = o.LastProbeTime
			}
		}
		out = append(out, c)
	}
	add(boolean(v1.PodReadyToStartContainers, s.Sandbox.Phase == Ready, "", ""))
	add(initialized(pod, s, status, old))
	containers := containersReady(pod, status)
	add(podReady(pod, containers))
	add(containers)
	add(v1.PodCondition{Type: v1.PodScheduled, Status: v1.ConditionTrue})
	if couldStartOver(pod) {
		c := boolean(v1.AllContainersRestarting, s.Restarting, "", "")
		if s.Restarting {
			c.Reason, c.Message = "RestartAllContainersStarted", "container exited with restart policy rule"
		}
		add(c)
	}
	return out
}

func couldStartOver(pod *v1.Pod) bool {
	for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			for _, rule := range list[i].RestartPolicyRules {
				if rule.Action == v1.ContainerRestartRuleActionRestartAllContainers {
					return true
				}
			}
		}
	}
	return false
}

func boolean(kind v1.PodConditionType, is bool, reason, message string) v1.PodCondition {
	c := v1.PodCondition{Type: kind, Status: v1.ConditionFalse, Reason: reason, Message: message}
	if is {
		c = v1.PodCondition{Type: kind, Status: v1.ConditionTrue}
	}
	return c
}

func initialized(pod *v1.Pod, s *State, status, old *v1.PodStatus) v1.PodCondition {
	if status.Phase == v1.PodSucceeded {
		return v1.PodCondition{Type: v1.PodInitialized, Status: v1.ConditionTrue, Reason: "PodCompleted"}
	}
	var incomplete []string
	for i := range pod.Spec.InitContainers {
		spec := &pod.Spec.InitContainers[i]
		cs := statusOf(status.InitContainerStatuses, spec.Name)
		sidecar := spec.RestartPolicy != nil && *spec.RestartPolicy == v1.ContainerRestartPolicyAlways
		if cs == nil || sidecar && !*cs.Started || !sidecar && !cs.Ready {
			incomplete = append(incomplete, spec.Name)
		}
	}
	once := slices.ContainsFunc(old.Conditions, func(c v1.PodCondition) bool {
		return c.Type == v1.PodInitialized && c.Status == v1.ConditionTrue
	})
	if len(incomplete) == 0 || s.Initialized || once {
		return v1.PodCondition{Type: v1.PodInitialized, Status: v1.ConditionTrue}
	}
	return boolean(v1.PodInitialized, false, "ContainersNotInitialized", fmt.Sprintf("containers with incomplete status: %s", incomplete))
}

func containersReady(pod *v1.Pod, status *v1.PodStatus) v1.PodCondition {
	kind := v1.ContainersReady
	switch status.Phase {
	case v1.PodSucceeded:
		return boolean(kind, false, "PodCompleted", "")
	case v1.PodFailed:
		return boolean(kind, false, "PodFailed", "")
	}
	var unready []string
	check := func(name string, list []v1.ContainerStatus) {
		if cs := statusOf(list, name); cs == nil || !cs.Ready {
			unready = append(unready, name)
		}
	}
	for i := range pod.Spec.InitContainers {
		if p := pod.Spec.InitContainers[i].RestartPolicy; p != nil && *p == v1.ContainerRestartPolicyAlways {
			check(pod.Spec.InitContainers[i].Name, status.InitContainerStatuses)
		}
	}
	for i := range pod.Spec.Containers {
		check(pod.Spec.Containers[i].Name, status.ContainerStatuses)
	}
	return boolean(kind, len(unready) == 0, "ContainersNotReady", fmt.Sprintf("containers with unready status: %s", unready))
}

func podReady(pod *v1.Pod, containers v1.PodCondition) v1.PodCondition {
	if containers.Status != v1.ConditionTrue {
		return boolean(v1.PodReady, false, containers.Reason, containers.Message)
	}
	var problems []string
	for _, gate := range pod.Spec.ReadinessGates {
		i := slices.IndexFunc(pod.Status.Conditions, func(c v1.PodCondition) bool { return c.Type == gate.ConditionType })
		switch {
		case i < 0:
			problems = append(problems, fmt.Sprintf("corresponding condition of pod readiness gate %q does not exist.", gate.ConditionType))
		case pod.Status.Conditions[i].Status != v1.ConditionTrue:
			problems = append(problems, fmt.Sprintf("the status of pod readiness gate %q is not \"True\", but %v", gate.ConditionType, pod.Status.Conditions[i].Status))
		}
	}
	return boolean(v1.PodReady, len(problems) == 0, "ReadinessGatesNotReady", strings.Join(problems, ", "))
}

func statusOf(list []v1.ContainerStatus, name string) *v1.ContainerStatus {
	i := slices.IndexFunc(list, func(cs v1.ContainerStatus) bool { return cs.Name == name })
	if i < 0 {
		return nil
	}
	return &list[i]
}

// sameStatus says whether two statuses tell the same.
func sameStatus(a, b *v1.PodStatus) bool { return equality.Semantic.DeepEqual(a, b) }

// qosClass is the class the apiserver has set, else computed as Kubernetes does.
func qosClass(pod *v1.Pod) v1.PodQOSClass {
	if pod.Status.QOSClass != "" {
		return pod.Status.QOSClass
	}
	if pod.Spec.Resources != nil {
		return classOf([]v1.ResourceRequirements{*pod.Spec.Resources})
	}
	var all []v1.ResourceRequirements
	for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			all = append(all, list[i].Resources)
		}
	}
	return classOf(all)
}

func classOf(all []v1.ResourceRequirements) v1.PodQOSClass {
	any, guaranteed := false, true
	for _, r := range all {
		for _, name := range []v1.ResourceName{v1.ResourceCPU, v1.ResourceMemory} {
			request, limit := r.Requests[name], r.Limits[name]
			any = any || !request.IsZero() || !limit.IsZero()
			if limit.IsZero() || !request.IsZero() && request.Cmp(limit) != 0 {
				guaranteed = false
			}
		}
	}
	switch {
	case !any:
		return v1.PodQOSBestEffort
	case guaranteed:
		return v1.PodQOSGuaranteed
	}
	return v1.PodQOSBurstable
}

// podKey names a pod in messages the way the kubelet does.
func podKey(pod *v1.Pod) string {
	return fmt.Sprintf("%s_%s(%s)", pod.Name, pod.Namespace, cmp.Or(string(pod.UID), "?"))
}

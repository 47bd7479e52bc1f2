package agent

import (
	"net/netip"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"

	"skiff/pkg/agent/image"
	"skiff/pkg/agent/runtime"
)

// State is all that a worker has observed of its pod. Only the worker's own
// goroutine touches it; Step and Status only read it.
type State struct {
	Sandbox Part // namespaces, network, cgroup
	IPs     []netip.Addr
	Volumes Part
	Paths   map[string]string // of mounted volumes, by name

	Containers []*Container // init containers, then main, then ephemeral ones

	StartTime time.Time
	// Outcome, once set, ends the pod although nobody has deleted it.
	Outcome *Outcome
	// Removed says that the object is gone from the apiserver.
	Removed bool
	// EndBy bounds the termination; it only ever moves earlier.
	EndBy time.Time
	// Release is the wait for the local proxy before the first signal.
	Release Part
	// Report is the removal of the object, the last step of all.
	Report Part
	// Restarting: a rule has asked for all containers to start over.
	Restarting bool
	// Initialized: a main container has been started in this sandbox.
	Initialized bool
}

// Outcome is why a pod fails as a whole.
type Outcome struct {
	Reason, Message string
}

// Phase is how far a part of a pod is.
type Phase int

// The phases of a part. Gone is final.
const (
	Absent Phase = iota
	Busy
	Ready
	Gone
)

// Part is something that is set up once and taken down once.
type Part struct {
	Phase    Phase
	Err      string
	Failures int
	RetryAt  time.Time
}

// due says that the part's next operation may begin.
func (p Part) due(now time.Time) bool { return p.Phase == Absent && !now.Before(p.RetryAt) }

// Role is what kind of container it is.
type Role int

// The roles.
const (
	InitRole Role = iota
	SidecarRole
	MainRole
	EphemeralRole
)

// Next is how far the next attempt to run a container is.
type Next int

// An attempt goes from Idle through Pulling and Pulled to Starting, and is then
// the current one. Failed waits for RetryAt and is then Idle again.
const (
	Idle Next = iota
	Pulling
	Pulled
	Starting
	Failed
)

// Waiting is why a container isn't running, as it stands in its status.
type Waiting struct {
	Reason, Message string
}

// Container is one container of the pod: its current attempt, and the next.
type Container struct {
	Name string
	Role Role
	Spec *v1.Container

	Next    Next
	Image   image.Image
	Waiting *Waiting
	RetryAt time.Time
	// PullFailures counts failures in a row; PullBackoffAt is when the status is
	// to say that the next try is being put off.
	PullFailures  int
	PullBackoffAt time.Time
	StartFailures int

	Current  *Attempt
	Previous *Ended
	Restarts int
	// Again: it has to run once more, whatever its policy says.
	Again bool

	// Backoff is what the next restart will have to wait for; BackoffAt is when it
	// was last raised.
	Backoff   time.Duration
	BackoffAt time.Time
}

// Attempt is one run of a container.
type Attempt struct {
	ID        string
	Number    int
	Hash      string
	ImageName string
	ImageID   string
	User      runtime.User
	LogPath   string
	Cgroup    string
	StartedAt time.Time

	Hook    Part // the postStart hook; Ready without one
	Started bool // the startup probe has succeeded, or there is none
	Ready   bool // the readiness probe's verdict
	// Unhealthy, once set, is why the container has to be stopped.
	Unhealthy *Kill

	Stop   *Stopping
	Reaped bool
	Ended  *Ended
	Done   chan struct{} // closed when it has ended
}

// Running says that the attempt's process is there, as far as is known.
func (a *Attempt) Running() bool { return a != nil && a.Ended == nil }

// Kill is a reason to stop a single container.
type Kill struct {
	Message string
	Grace   *int64 // seconds, from the probe
}

// Stopping is a container's way to its end.
type Stopping struct {
	Since  time.Time
	Grace  time.Duration
	Hook   Part // preStop; Ready or Gone when it is over
	HookAt time.Time
	TermAt time.Time // when the stop signal was sent
	Killed bool
}

// Ended is how an attempt ended.
type Ended struct {
	runtime.Exit
	ID string
}

// container finds one by name.
func (s *State) container(name string) *Container {
	for _, c := range s.Containers {
		if c.Name == name {
			return c
		}
	}
	return nil
}

// byID finds the container whose current attempt has this id.
func (s *State) byID(id string) *Container {
	for _, c := range s.Containers {
		if c.Current != nil && c.Current.ID == id {
			return c
		}
	}
	return nil
}

// adopt makes the list of containers follow the pod's spec: ephemeral ones may
// come, and images may change.
func (s *State) adopt(pod *v1.Pod) {
	add := func(spec *v1.Container, role Role) {
		if c := s.container(spec.Name); c != nil {
			c.Spec = spec
			return
		}
		s.Containers = append(s.Containers, &Container{Name: spec.Name, Role: role, Spec: spec})
	}
	for i := range pod.Spec.InitContainers {
		spec := &pod.Spec.InitContainers[i]
		role := InitRole
		if spec.RestartPolicy != nil && *spec.RestartPolicy == v1.ContainerRestartPolicyAlways {
			role = SidecarRole
		}
		add(spec, role)
	}
	for i := range pod.Spec.Containers {
		add(&pod.Spec.Containers[i], MainRole)
	}
	for i := range pod.Spec.EphemeralContainers {
		spec := v1.Container(pod.Spec.EphemeralContainers[i].EphemeralContainerCommon)
		add(&spec, EphemeralRole)
	}
}

func (s *State) role(role Role) []*Container {
	return slices.DeleteFunc(slices.Clone(s.Containers), func(c *Container) bool { return c.Role != role })
}

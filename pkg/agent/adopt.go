package agent

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"

	"skiff/pkg/agent/runtime"
)

// find lists the containers that an earlier agent has left, by pod.
func (a *Agent) find(ctx context.Context) error {
	containers, err := a.runtime.List(ctx)
	if err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, c := range containers {
		if c.Name != "" {
			a.found[c.PodUID] = append(a.found[c.PodUID], c)
		}
	}
	return nil
}

// adopt takes in a pod's containers as they were found, and its namespaces and
// volumes if they are still there.
func (w *worker) adopt(found []runtime.Container) {
	s := &w.state
	slices.SortFunc(found, func(a, b runtime.Container) int { return a.Attempt - b.Attempt })
	for _, f := range found {
		c := s.container(f.Name)
		if c == nil {
			continue
		}
		w.adoptContainer(c, f)
	}
	if ips, ok := w.agent.readIPs(string(w.uid)); ok {
		s.Sandbox.Phase, s.IPs = Ready, ips
	}
	if len(found) == 0 {
		return
	}
	for _, c := range s.role(MainRole) {
		if c.Current != nil && s.Sandbox.Phase == Ready {
			s.Initialized = true
		}
	}
	if s.Sandbox.Phase != Ready { // a reboot: the pod begins with its first container again
		for _, c := range s.role(InitRole) {
			c.Again = c.Current != nil && c.Current.Ended != nil
		}
	}
	if s.Sandbox.Phase != Ready && anyRunning(s) {
		// Containers without namespaces of the pod: half a reboot. They have to go.
		for _, c := range s.Containers {
			if c.Current.Running() {
				c.Current.Unhealthy = &Kill{Message: "Pod sandbox changed, it will be killed and re-created."}
			}
		}
	}
}

func (w *worker) adoptContainer(c *Container, f runtime.Container) {
	if c.Current != nil {
		c.Previous = c.Current.Ended
	}
	a := &Attempt{
		ID: f.ID, Number: f.Attempt, Hash: f.Hash, ImageName: f.Image, ImageID: f.ImageID, User: f.User,
		LogPath: f.LogPath, Cgroup: f.Cgroup, StartedAt: f.CreatedAt, Done: make(chan struct{}),
	}
	c.Current, c.Restarts = a, f.Attempt
	if d, err := time.ParseDuration(f.Labels[runtime.LabelBackoff]); err == nil {
		c.Backoff, c.BackoffAt = d, f.CreatedAt
	}
	known := w.reportedContainer(c)
	if known != nil && known.ContainerID == "containerd://"+f.ID && known.State.Running != nil {
		a.StartedAt = known.State.Running.StartedAt.Time
	}
	switch f.State {
	case runtime.Running:
		w.runs(c, true)
		if known != nil && known.ContainerID == "containerd://"+f.ID {
			// It goes on being what it was until a probe says otherwise.
			if known.Started != nil && *known.Started && !a.Started {
				a.Started = true
				w.stopProbes(a.ID, true)
				w.startProbes(c, true)
			}
			a.Ready = known.Ready || a.Ready
		}
	case runtime.Exited:
		if f.Exit.FinishedAt.IsZero() || f.Labels["skiff.exit"] == "" {
			id := f.ID
			go w.post(func() { w.exited(id) })
			return
		}
		a.Reaped = true
		exit := f.Exit
		if exit.StartedAt.IsZero() {
			exit.StartedAt = a.StartedAt
		}
		if exit.Message == "" {
			exit.Message = w.agent.terminationMessage(w.pod, w.volumes, c.Spec, a, exit.Code)
		}
		a.Ended = &Ended{Exit: exit, ID: f.ID}
		w.ended(c)
	case runtime.Created:
		// An agent died between making and starting it: it never ran.
		c.Current, c.Restarts = nil, 0
		if c.Previous != nil {
			c.Restarts = f.Attempt - 1
		}
		id := f.ID
		w.do(w.opCtx, func(ctx context.Context) error { return w.agent.runtime.Remove(ctx, id) }, func(error) {})
	default:
		a.Reaped = true
		exit := lost(a)
		exit.FinishedAt = time.Now()
		a.Ended = &Ended{Exit: exit, ID: f.ID}
		w.ended(c)
	}
}

// reportedContainer is what was last reported of a container.
func (w *worker) reportedContainer(c *Container) *v1.ContainerStatus {
	for _, list := range [][]v1.ContainerStatus{w.reported.ContainerStatuses, w.reported.InitContainerStatuses, w.reported.EphemeralContainerStatuses} {
		if cs := statusOf(list, c.Name); cs != nil {
			return cs
		}
	}
	return nil
}

// finishedBefore takes in a pod that had reached its end already: its status
// stays as it is, and only its deletion is waited for.
func (w *worker) finishedBefore(found []runtime.Container) {
	s := &w.state
	for _, f := range found {
		if f.State == runtime.Running || f.State == runtime.Created {
			if c := s.container(f.Name); c != nil {
				w.adoptContainer(c, f)
			}
		}
	}
	if _, ok := w.agent.readIPs(string(w.uid)); ok || w.agent.runtime.SandboxExists(string(w.uid)) {
		s.Sandbox.Phase = Ready
	} else {
		s.Sandbox.Phase = Gone
	}
	s.Volumes.Phase = Gone
	if _, err := os.Stat(w.volumes.PodDir(string(w.uid))); err == nil {
		s.Volumes.Phase = Ready
	}
	if w.pod.DeletionTimestamp != nil {
		w.setPod(w.pod)
	}
}

// resync looks at what has become of containers while events may have been
// missed: those that no longer run have exited.
func (a *Agent) resync(ctx context.Context) {
	containers, err := a.runtime.List(ctx)
	if err != nil {
		a.log.Warn("resync", "err", err)
		return
	}
	running := map[string]bool{}
	for _, c := range containers {
		running[c.ID] = c.State == runtime.Running
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for id, w := range a.owners {
		if alive, listed := running[id]; listed && !alive || !listed {
			go w.post(func() {
				if c := w.state.byID(id); c != nil && c.Current.Running() {
					w.exited(id)
				}
			})
		}
	}
}

// clean takes away what pods have left that are no longer known to the
// apiserver. It runs once, when all pods of this node have been heard of.
func (a *Agent) clean(ctx context.Context) {
	a.mu.Lock()
	orphans := a.found
	a.found = map[string][]runtime.Container{}
	known := map[string]bool{}
	var live []string
	for uid := range a.workers {
		known[string(uid)] = true
		live = append(live, string(uid))
	}
	a.mu.Unlock()
	uids := map[string]string{} // with their cgroup
	for uid, containers := range orphans {
		uids[uid] = ""
		for _, c := range containers {
			if err := a.runtime.Remove(ctx, c.ID); err != nil {
				a.log.Warn("remove container of a vanished pod", "err", err)
			}
			_ = os.RemoveAll(filepath.Dir(filepath.Dir(c.LogPath)))
		}
	}
	sandboxes, err := a.runtime.Sandboxes()
	if err != nil {
		a.log.Warn("list namespaces", "err", err)
	}
	for _, uid := range sandboxes {
		uids[uid] = ""
	}
	for uid, cgroup := range a.runtime.PodCgroups() {
		uids[uid] = cgroup
	}
	dirs, _ := os.ReadDir(filepath.Join(a.cfg.RootDir, "pods"))
	for _, d := range dirs {
		if _, ok := uids[d.Name()]; !ok {
			uids[d.Name()] = ""
		}
	}
	for uid, cgroup := range uids {
		if !known[uid] && uid != "" && !strings.HasPrefix(uid, ".") {
			a.cleanPod(ctx, uid, cgroup)
		}
	}
	if a.cfg.Network != nil {
		if err := a.cfg.Network.Reclaim(ctx, live); err != nil && ctx.Err() == nil {
			a.log.Warn("reclaim network", "err", err)
		}
	}
}

func (a *Agent) cleanPod(ctx context.Context, uid, cgroup string) {
	a.log.Info("cleaning up after a vanished pod", "uid", uid)
	if err := a.runtime.RemovePause(ctx, uid); err != nil {
		a.log.Warn("remove pause", "err", err)
	}
	if err := a.runtime.RemoveSandbox(uid); err != nil {
		a.log.Warn("remove namespaces", "err", err)
	}
	if cgroup != "" {
		if err := a.runtime.RemoveCgroup(cgroup); err != nil {
			a.log.Warn("remove cgroup", "err", err)
		}
	}
	if err := newVolumes(a).Unmount(uid); err != nil {
		a.log.Warn("unmount", "err", err)
	}
}

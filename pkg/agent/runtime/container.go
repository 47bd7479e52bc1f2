package runtime

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	tasks "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/typeurl/v2"
	"golang.org/x/sys/unix"
)

const runcRuntime = "io.containerd.runc.v2"

// Labels of a container in containerd. The first four are the kubelet's, known to other tools.
const (
	LabelPodUID       = "io.kubernetes.pod.uid"
	LabelPodName      = "io.kubernetes.pod.name"
	LabelPodNamespace = "io.kubernetes.pod.namespace"
	LabelName         = "io.kubernetes.container.name"

	labelAttempt = "skiff.attempt"
	labelHash    = "skiff.hash"
	labelImageID = "skiff.image-id"
	labelLog     = "skiff.log"
	labelCgroup  = "skiff.cgroup"
	labelExit    = "skiff.exit" // JSON of Exit
	labelUser    = "skiff.user" // JSON of User
	// LabelBackoff carries the restart back-off over an agent's restart.
	LabelBackoff = "skiff.backoff"
)

// State is what a container's process does.
type State string

// The states of a container.
const (
	Created State = "Created" // its process has never been started
	Running State = "Running"
	Exited  State = "Exited"
	Unknown State = "Unknown" // it ran, and nobody knows how it ended (a reboot)
)

// Exit is how a container ended.
type Exit struct {
	Code       int       `json:"code"`
	Signal     int       `json:"signal,omitempty"`
	StartedAt  time.Time `json:"startedAt,omitzero"`
	FinishedAt time.Time `json:"finishedAt"`
	Reason     string    `json:"reason,omitempty"` // "OOMKilled", "StartError"; else by code
	Message    string    `json:"message,omitempty"`
}

// Container is what containerd and its labels know.
type Container struct {
	ID           string
	PodUID       string
	PodName      string
	PodNamespace string
	Name         string
	Attempt      int
	Hash         string
	Image        string
	ImageID      string
	LogPath      string
	Cgroup       string // of the container itself
	CreatedAt    time.Time
	User         User
	Labels       map[string]string

	State State
	Pid   int
	Exit  Exit // valid when Exited
}

// pending is what a created container needs to be started.
type pending struct {
	rootfs []mount.Mount
	io     stdio
}

// Created is a container that Start can start.
type NewContainer struct {
	Container
	pending pending
}

func newID() string {
	b := make([]byte, 32)
	_, _ = rand.Read(b)
	return hex.EncodeToString(b)
}

// Create makes a container: its snapshot, its spec, its record in containerd.
func (r *Runtime) Create(ctx context.Context, c ContainerConfig) (*NewContainer, error) {
	c.ID = newID()
	if err := os.MkdirAll(filepath.Dir(c.LogPath), 0o755); err != nil {
		return nil, fmt.Errorf("log directory: %w", err)
	}
	sn := r.client.SnapshotService(r.config.Snapshotter)
	// The label keeps containerd's garbage collector away until the record below refers to it.
	mounts, err := sn.Prepare(ctx, c.ID, c.Image.ChainID,
		snapshots.WithLabels(map[string]string{"containerd.io/gc.root": time.Now().UTC().Format(time.RFC3339)}))
	if err != nil {
		return nil, fmt.Errorf("prepare root file system of image %s: %w", c.Image.Name, err)
	}
	n, err := r.create(ctx, c, mounts)
	if err != nil {
		return nil, errors.Join(err, ignoreNotFound(sn.Remove(context.WithoutCancel(ctx), c.ID)))
	}
	return n, nil
}

func (r *Runtime) create(ctx context.Context, c ContainerConfig, mounts []mount.Mount) (*NewContainer, error) {
	accounts, err := r.accounts(ctx, c.Image.ChainID, mounts)
	if err != nil {
		return nil, err
	}
	user, err := ResolveUser(c.Pod, c.Container, c.Image.Config.User, accounts)
	if err != nil {
		return nil, err
	}
	spec, err := Spec(c, user, r.host)
	if err != nil {
		return nil, err
	}
	packed, err := typeurl.MarshalAny(spec)
	if err != nil {
		return nil, err
	}
	userJSON, _ := json.Marshal(user)
	labels := map[string]string{
		LabelPodUID: string(c.Pod.UID), LabelPodName: c.Pod.Name, LabelPodNamespace: c.Pod.Namespace, LabelName: c.Container.Name,
		labelAttempt: strconv.Itoa(c.Attempt), labelHash: c.Hash, labelImageID: c.Image.ID, labelLog: c.LogPath,
		labelCgroup: spec.Linux.CgroupsPath, labelUser: string(userJSON),
	}
	for k, v := range c.Labels {
		labels[k] = v
	}
	record, err := r.client.ContainerService().Create(ctx, containers.Container{
		ID: c.ID, Labels: labels, Image: c.Image.Name, Spec: packed,
		SnapshotKey: c.ID, Snapshotter: r.config.Snapshotter,
		Runtime: containers.RuntimeInfo{Name: runcRuntime},
	})
	if err != nil {
		return nil, fmt.Errorf("create container %s: %w", c.Container.Name, err)
	}
	io, err := r.makeIO(c)
	if err != nil {
		return nil, errors.Join(err, r.Remove(context.WithoutCancel(ctx), c.ID))
	}
	return &NewContainer{Container: fromRecord(record), pending: pending{rootfs: mounts, io: io}}, nil
}

// Start runs a created container's process. When it fails, the container has
// ended with reason StartError and code 128, as containerd's CRI plugin has it.
func (r *Runtime) Start(ctx context.Context, n *NewContainer) error {
	done, err := r.slot(ctx)
	started := time.Now()
	if err == nil {
		err = r.start(ctx, n)
		done()
	}
	if err == nil {
		n.State = Running
		n.Exit.StartedAt = started
		return nil
	}
	clean := context.WithoutCancel(ctx)
	_, _ = r.client.TaskService().Delete(clean, &tasks.DeleteTaskRequest{ContainerID: n.ID})
	n.State = Exited
	n.Exit = Exit{Code: 128, Reason: "StartError", Message: truncate(err.Error(), 2048), FinishedAt: time.Now()}
	return errors.Join(err, r.recordExit(clean, n.ID, n.Exit))
}

func (r *Runtime) start(ctx context.Context, n *NewContainer) error {
	request := &tasks.CreateTaskRequest{
		ContainerID: n.ID,
		Terminal:    n.pending.io.terminal,
		Stdin:       n.pending.io.stdin,
		Stdout:      n.pending.io.stdout,
		Stderr:      n.pending.io.stderr,
	}
	for _, m := range n.pending.rootfs {
		request.Rootfs = append(request.Rootfs, &types.Mount{Type: m.Type, Source: m.Source, Target: m.Target, Options: m.Options})
	}
	if n.pending.io.detached {
		if err := r.spawnLogger(n); err != nil {
			return err
		}
	}
	created, err := r.client.TaskService().Create(ctx, request)
	if err != nil {
		return fmt.Errorf("failed to create containerd task: %w", errgrpc.ToNative(err))
	}
	n.Pid = int(created.Pid)
	if _, err := r.client.TaskService().Start(ctx, &tasks.StartRequest{ContainerID: n.ID}); err != nil {
		return fmt.Errorf("failed to start containerd task %q: %w", n.ID, errgrpc.ToNative(err))
	}
	return nil
}

// Signal sends a signal to a container's first process, or to all.
func (r *Runtime) Signal(ctx context.Context, id string, signal syscall.Signal, all bool) error {
	_, err := r.client.TaskService().Kill(ctx, &tasks.KillRequest{ContainerID: id, Signal: uint32(signal), All: all})
	if err = errgrpc.ToNative(err); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("signal container %s: %w", id, err)
	}
	return nil
}

// Reap is called when a container's process has ended: it takes the process
// away (with its shim and logger, whose last output is then on disk) and keeps
// with the container how it ended.
func (r *Runtime) Reap(ctx context.Context, c Container) (Exit, error) {
	exit := c.Exit
	oom := r.oomKills(c.Cgroup) > 0
	done, err := r.slot(ctx)
	if err != nil {
		return exit, err
	}
	defer done()
	d, err := r.client.TaskService().Delete(ctx, &tasks.DeleteTaskRequest{ContainerID: c.ID})
	switch err = errgrpc.ToNative(err); {
	case err == nil:
		exit.Code = int(d.ExitStatus)
		if at := d.ExitedAt.AsTime(); at.Year() > 1 && at.Unix() > 0 {
			exit.FinishedAt = at
		}
	case errdefs.IsNotFound(err):
		if exit.FinishedAt.IsZero() { // nobody saw it end
			return exit, fmt.Errorf("reap container %s: %w", c.ID, ErrNotFound)
		}
	default:
		return exit, fmt.Errorf("reap container %s: %w", c.ID, err)
	}
	if exit.FinishedAt.IsZero() {
		exit.FinishedAt = time.Now()
	}
	if oom && exit.Code != 0 {
		exit.Reason = "OOMKilled"
	}
	_ = os.RemoveAll(r.containerIO(c.ID))
	return exit, r.recordExit(ctx, c.ID, exit)
}

func (r *Runtime) recordExit(ctx context.Context, id string, exit Exit) error {
	b, err := json.Marshal(exit)
	if err != nil {
		return err
	}
	return r.SetLabel(ctx, id, labelExit, string(b))
}

// SetLabel changes one label of a container.
func (r *Runtime) SetLabel(ctx context.Context, id, key, value string) error {
	_, err := r.client.ContainerService().Update(ctx, containers.Container{ID: id, Labels: map[string]string{key: value}}, "labels."+key)
	if err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("label container %s: %w", id, err)
	}
	return nil
}

// Remove takes a container away with all it holds; what still runs is killed.
func (r *Runtime) Remove(ctx context.Context, id string) error {
	remove := func() error {
		_, err := r.client.TaskService().Delete(ctx, &tasks.DeleteTaskRequest{ContainerID: id})
		return ignoreNotFound(errgrpc.ToNative(err))
	}
	if err := remove(); err != nil { // it runs
		if err := r.killAndWait(ctx, id); err != nil {
			return err
		}
		if err := remove(); err != nil {
			return fmt.Errorf("remove task %s: %w", id, err)
		}
	}
	_ = os.RemoveAll(r.containerIO(id))
	if err := r.client.ContainerService().Delete(ctx, id); ignoreNotFound(err) != nil {
		return fmt.Errorf("remove container %s: %w", id, err)
	}
	if err := r.client.SnapshotService(r.config.Snapshotter).Remove(ctx, id); ignoreNotFound(err) != nil {
		return fmt.Errorf("remove snapshot %s: %w", id, err)
	}
	return nil
}

func (r *Runtime) killAndWait(ctx context.Context, id string) error {
	if err := r.Signal(ctx, id, unix.SIGKILL, true); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	_, err := r.client.TaskService().Wait(ctx, &tasks.WaitRequest{ContainerID: id})
	if err = errgrpc.ToNative(err); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("wait for container %s: %w", id, err)
	}
	return nil
}

// List returns all containers of pods, with the state of their processes.
func (r *Runtime) List(ctx context.Context) ([]Container, error) {
	records, err := r.client.ContainerService().List(ctx, fmt.Sprintf("labels.%q", LabelPodUID))
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	running, err := r.client.TaskService().List(ctx, &tasks.ListTasksRequest{})
	if err != nil {
		return nil, fmt.Errorf("list tasks: %w", errgrpc.ToNative(err))
	}
	byID := map[string]*tasktypes.Process{}
	for _, t := range running.Tasks {
		byID[t.ID] = t
		if t.ContainerID != "" {
			byID[t.ContainerID] = t
		}
	}
	list := make([]Container, 0, len(records))
	for _, record := range records {
		list = append(list, withTask(fromRecord(record), byID[record.ID]))
	}
	return list, nil
}

func withTask(c Container, t *tasktypes.Process) Container {
	switch {
	case t == nil:
	case t.Status == tasktypes.Status_STOPPED:
		c.State = Exited
		c.Exit = Exit{Code: int(t.ExitStatus), FinishedAt: t.ExitedAt.AsTime()}
	case t.Status == tasktypes.Status_CREATED:
		c.State = Created
	case t.Status == tasktypes.Status_UNKNOWN:
		c.State = Unknown
	default:
		c.State, c.Pid = Running, int(t.Pid)
	}
	return c
}

// fromRecord reads the labels. Without a process, a container that has no exit
// written down is Unknown.
func fromRecord(record containers.Container) Container {
	c := Container{
		ID: record.ID, Image: record.Image, CreatedAt: record.CreatedAt, State: Unknown, Labels: record.Labels,
		PodUID: record.Labels[LabelPodUID], PodName: record.Labels[LabelPodName], PodNamespace: record.Labels[LabelPodNamespace],
		Name: record.Labels[LabelName], Hash: record.Labels[labelHash], ImageID: record.Labels[labelImageID],
		LogPath: record.Labels[labelLog], Cgroup: record.Labels[labelCgroup],
	}
	c.Attempt, _ = strconv.Atoi(record.Labels[labelAttempt])
	_ = json.Unmarshal([]byte(record.Labels[labelUser]), &c.User)
	if text := record.Labels[labelExit]; text != "" && json.Unmarshal([]byte(text), &c.Exit) == nil {
		c.State = Exited
	}
	return c
}

// Pid is the first process of a running container.
func (r *Runtime) Pid(ctx context.Context, id string) (int, error) {
	t, err := r.client.TaskService().Get(ctx, &tasks.GetRequest{ContainerID: id})
	if err != nil {
		return 0, fmt.Errorf("container %s: %w", id, errgrpc.ToNative(err))
	}
	return int(t.Process.Pid), nil
}

// stdio is where a task's streams lead.
type stdio struct {
	stdin, stdout, stderr string
	terminal              bool
	detached              bool // the logger is started by us, and reads the pipes
}

// containerIO is the directory of a container's pipes and socket: short, for a
// unix socket's path has room for 107 bytes.
func (r *Runtime) containerIO(id string) string {
	return filepath.Join(r.ioDir(), id[:min(len(id), 16)])
}

const (
	logMaxSize  = 10 << 20
	logMaxFiles = 5
)

// makeIO prepares the streams: output goes to a logger that the shim starts;
// only for stdin without a terminal, which the shim's binary:// driver doesn't
// know, everything is pipes and the logger is started by Start.
func (r *Runtime) makeIO(c ContainerConfig) (stdio, error) {
	dir := r.containerIO(c.ID)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return stdio{}, err
	}
	io := stdio{terminal: c.Container.TTY}
	uri := (&url.URL{Scheme: "binary", Path: r.config.InitPath, RawQuery: "logger=" + url.QueryEscape(loggerConfig(dir, c.LogPath))}).String()
	io.stdout = uri
	if !io.terminal {
		io.stderr = uri
	}
	if !c.Container.Stdin {
		return io, nil
	}
	io.stdin = filepath.Join(dir, "stdin")
	pipes := []string{io.stdin}
	if !io.terminal {
		io.detached = true
		io.stdout, io.stderr = filepath.Join(dir, "stdout"), filepath.Join(dir, "stderr")
		pipes = append(pipes, io.stdout, io.stderr)
	}
	for _, pipe := range pipes {
		if err := unix.Mkfifo(pipe, 0o600); err != nil {
			return io, fmt.Errorf("pipe %s: %w", pipe, err)
		}
	}
	return io, nil
}

// loggerConfig is the one argument of `init logger`; see cmd/init/logger.go.
func loggerConfig(dir, logPath string) string {
	return fmt.Sprintf("log=%s\nattach=%s\nmaxsize=%d\nmaxfiles=%d", logPath, filepath.Join(dir, "attach"), logMaxSize, logMaxFiles)
}

func truncate(s string, n int) string {
	if len(s) > n {
		return s[:n]
	}
	return s
}

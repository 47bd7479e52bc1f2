package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	tasks "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"
	v1 "k8s.io/api/core/v1"
)

// pauseID is the container that holds the process namespace of a pod. It has
// no LabelName, and so isn't one of the pod's containers.
func pauseID(uid string) string { return "pause-" + uid }

// CreatePause runs `init pause` as the first process of the pod's shared
// process namespace: it holds it open and reaps orphans. It is idempotent.
func (r *Runtime) CreatePause(ctx context.Context, pod *v1.Pod, sandbox Sandbox, cgroup string) error {
	id := pauseID(string(pod.UID))
	if pid, err := r.Pid(ctx, id); err == nil && pid > 0 {
		return nil
	}
	if err := r.Remove(ctx, id); err != nil {
		return err
	}
	// Its root is an empty directory with nothing but the program in it.
	root := filepath.Join(r.config.RunDir, "rootfs", "pause")
	for _, dir := range []string{"proc", "dev"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			return err
		}
	}
	if f, err := os.OpenFile(filepath.Join(root, "pause"), os.O_CREATE, 0o755); err != nil {
		return err
	} else if err := f.Close(); err != nil {
		return err
	}
	spec := &specs.Spec{
		Version: "1.0.2",
		Root:    &specs.Root{Path: root, Readonly: true},
		Process: &specs.Process{
			Args: []string{"/pause", "pause"}, Cwd: "/", Env: []string{"GOMAXPROCS=1"}, NoNewPrivileges: true,
			User: specs.User{UID: 65535, GID: 65535},
			// SIGKILL aside, it takes signals from containers of its pod only.
			Capabilities: &specs.LinuxCapabilities{},
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=64k"}},
			{Destination: "/pause", Type: "bind", Source: r.config.InitPath, Options: []string{"bind", "ro"}},
		},
		Linux: &specs.Linux{
			CgroupsPath: filepath.Join(cgroup, id),
			Namespaces:  []specs.LinuxNamespace{{Type: specs.MountNamespace}, {Type: specs.PIDNamespace}},
			Resources:   &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}},
			MaskedPaths: maskedPaths, ReadonlyPaths: readonlyPaths,
		},
		Annotations: map[string]string{"io.containerd.runc.v2.group": string(pod.UID)},
	}
	for kind, path := range map[specs.LinuxNamespaceType]string{
		specs.NetworkNamespace: sandbox.Net, specs.IPCNamespace: sandbox.IPC, specs.UTSNamespace: sandbox.UTS} {
		if path != "" {
			spec.Linux.Namespaces = append(spec.Linux.Namespaces, specs.LinuxNamespace{Type: kind, Path: path})
		}
	}
	packed, err := typeurl.MarshalAny(spec)
	if err != nil {
		return err
	}
	_, err = r.client.ContainerService().Create(ctx, containers.Container{
		ID: id, Spec: packed, Runtime: containers.RuntimeInfo{Name: runcRuntime},
		Labels: map[string]string{LabelPodUID: string(pod.UID), LabelPodName: pod.Name, LabelPodNamespace: pod.Namespace},
	})
	if err != nil {
		return fmt.Errorf("create pod init: %w", err)
	}
	_, err = r.client.TaskService().Create(ctx, &tasks.CreateTaskRequest{ContainerID: id})
	if err == nil {
		_, err = r.client.TaskService().Start(ctx, &tasks.StartRequest{ContainerID: id})
	}
	if err != nil {
		return errors.Join(fmt.Errorf("start pod init: %w", errgrpc.ToNative(err)), r.Remove(context.WithoutCancel(ctx), id))
	}
	return nil
}

// PausePID is the path of a pod's shared process namespace.
func (r *Runtime) PausePID(ctx context.Context, uid string) (string, error) {
	pid, err := r.Pid(ctx, pauseID(uid))
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("/proc/%d/ns/pid", pid), nil
}

// RemovePause ends a pod's shared process namespace, if it has one.
func (r *Runtime) RemovePause(ctx context.Context, uid string) error {
	_, err := r.client.ContainerService().Get(ctx, pauseID(uid))
	if errdefs.IsNotFound(err) {
		return nil
	}
	return r.Remove(ctx, pauseID(uid))
}

package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/pkg/agent/runtime"
	"skiff/pkg/network"
)

func sandboxConfig(pod *v1.Pod, a *Agent) runtime.SandboxConfig {
	host, _ := hostname(pod, a.cfg.NodeName, a.cfg.ClusterDomain)
	c := runtime.SandboxConfig{
		UID: string(pod.UID), Hostname: host, Sysctls: map[string]string{},
		HostNetwork: pod.Spec.HostNetwork, HostIPC: pod.Spec.HostIPC,
	}
	if sc := pod.Spec.SecurityContext; sc != nil {
		for _, s := range sc.Sysctls {
			c.Sysctls[s.Name] = s.Value
		}
	}
	return c
}

// makeSandbox makes what the pod's containers share, and returns its addresses.
// It is idempotent.
func (a *Agent) makeSandbox(ctx context.Context, pod *v1.Pod) ([]netip.Addr, error) {
	if err := a.checkRuntimeClass(ctx, pod); err != nil {
		return nil, err
	}
	cgroup := a.runtime.PodCgroup(string(pod.UID), qosClass(pod))
	if err := a.runtime.SetCgroup(cgroup, podLimits(pod, a.cfg.PodPidsLimit)); err != nil {
		return nil, err
	}
	sandbox, err := a.runtime.CreateSandbox(ctx, sandboxConfig(pod, a))
	if err != nil {
		return nil, err
	}
	var ips []netip.Addr
	if !pod.Spec.HostNetwork && a.cfg.Network != nil {
		if ips, err = a.cfg.Network.Attach(ctx, networkPod(pod, sandbox)); err != nil {
			return nil, fmt.Errorf("failed to setup network for sandbox: %w", err)
		}
	}
	if sharesProcesses(pod) {
		if err := a.runtime.CreatePause(ctx, pod, sandbox, cgroup); err != nil {
			return nil, err
		}
	}
	return ips, a.writeIPs(pod, ips)
}

// checkRuntimeClass: there is one runtime here, and its handler may be named.
func (a *Agent) checkRuntimeClass(ctx context.Context, pod *v1.Pod) error {
	name := pod.Spec.RuntimeClassName
	if name == nil || *name == "" {
		return nil
	}
	class, err := a.cfg.Client.NodeV1().RuntimeClasses().Get(ctx, *name, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("failed to look up runtime class %q: %w", *name, err)
	}
	if class.Handler != "runc" {
		return fmt.Errorf("failed to get sandbox runtime: no runtime for %q is configured", class.Handler)
	}
	return nil
}

func sharesProcesses(pod *v1.Pod) bool {
	return pod.Spec.ShareProcessNamespace != nil && *pod.Spec.ShareProcessNamespace && !pod.Spec.HostPID
}

func networkPod(pod *v1.Pod, sandbox runtime.Sandbox) network.Pod {
	p := network.Pod{ID: string(pod.UID), Namespace: pod.Namespace, Name: pod.Name, NetnsPath: sandbox.Net}
	for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			for _, port := range list[i].Ports {
				if port.HostPort == 0 {
					continue
				}
				hp := network.HostPort{Port: uint16(port.HostPort), PodPort: uint16(port.ContainerPort), Protocol: port.Protocol}
				if hp.Protocol == "" {
					hp.Protocol = v1.ProtocolTCP
				}
				if ip, err := netip.ParseAddr(port.HostIP); err == nil {
					hp.HostIP = ip
				}
				p.HostPorts = append(p.HostPorts, hp)
			}
		}
	}
	return p
}

// ipsFile keeps a pod's addresses, so that a restarted agent knows them without the network.
func (a *Agent) ipsFile(uid string) string {
	return filepath.Join(a.cfg.Runtime.RunDir, "ns", uid, "ips")
}

func (a *Agent) writeIPs(pod *v1.Pod, ips []netip.Addr) error {
	var b strings.Builder
	for _, ip := range ips {
		fmt.Fprintln(&b, ip)
	}
	return os.WriteFile(a.ipsFile(string(pod.UID)), []byte(b.String()), 0o600)
}

// readIPs says whether the pod's sandbox is complete, and its addresses.
func (a *Agent) readIPs(uid string) ([]netip.Addr, bool) {
	b, err := os.ReadFile(a.ipsFile(uid))
	if err != nil || !a.runtime.SandboxExists(uid) {
		return nil, false
	}
	var ips []netip.Addr
	for _, line := range strings.Fields(string(b)) {
		if ip, err := netip.ParseAddr(line); err == nil {
			ips = append(ips, ip)
		}
	}
	return ips, true
}

// tearDown takes away what the pod's containers shared. It is idempotent.
func (a *Agent) tearDown(ctx context.Context, pod *v1.Pod) error {
	return a.tearDownUID(ctx, string(pod.UID), pod.Spec.HostNetwork, a.runtime.PodCgroup(string(pod.UID), qosClass(pod)))
}

func (a *Agent) tearDownUID(ctx context.Context, uid string, hostNetwork bool, cgroup string) error {
	var errs []error
	errs = append(errs, a.runtime.RemovePause(ctx, uid))
	if !hostNetwork && a.cfg.Network != nil {
		errs = append(errs, a.cfg.Network.Detach(ctx, uid))
	}
	errs = append(errs, a.runtime.RemoveSandbox(uid), a.runtime.RemoveCgroup(cgroup))
	return errors.Join(errs...)
}

// pidNamespace is the process namespace a container joins: the pod's shared
// one, or for an ephemeral container its target's.
func (w *worker) pidNamespace(c *Container) (string, error) {
	if sharesProcesses(w.pod) {
		return w.agent.runtime.PausePID(w.opCtx, string(w.uid))
	}
	if c.Role != EphemeralRole {
		return "", nil
	}
	target := ""
	for _, e := range w.pod.Spec.EphemeralContainers {
		if e.Name == c.Name {
			target = e.TargetContainerName
		}
	}
	if target == "" {
		return "", nil
	}
	t := w.state.container(target)
	if t == nil || !t.Current.Running() {
		return "", fmt.Errorf("unable to find target container %v", target)
	}
	pid, err := w.agent.runtime.Pid(w.opCtx, t.Current.ID)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("/proc/%d/ns/pid", pid), nil
}

// containerReference names a container in events.
func containerReference(pod *v1.Pod, c *Container) *v1.ObjectReference {
	field := "spec.containers{%s}"
	switch c.Role {
	case InitRole, SidecarRole:
		field = "spec.initContainers{%s}"
	case EphemeralRole:
		field = "spec.ephemeralContainers{%s}"
	}
	return &v1.ObjectReference{
		Kind: "Pod", APIVersion: "v1", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID,
		ResourceVersion: pod.ResourceVersion, FieldPath: fmt.Sprintf(field, c.Name),
	}
}

package agent

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/pkg/agent/volume"
	"skiff/pkg/placement"
)

// admit says why this node can't run a pod; nil: it is one of the node's from
// now on. What is refused here fails for good, and whoever made it may make
// another. A pod that is known was admitted by an earlier agent.
func (a *Agent) admit(ctx context.Context, pod *v1.Pod, known bool) *Outcome {
	if known {
		a.mu.Lock()
		a.used[pod.UID] = pod
		a.mu.Unlock()
		return nil
	}
	if reason := unsupported(pod, a.runtime.Host().AppArmor); reason != nil {
		return reason
	}
	rejected := a.place(pod, a.node.seen())
	if rejected == nil {
		return nil
	}
	// The scheduler may have seen a change of the node before this agent did.
	node, err := a.cfg.Client.CoreV1().Nodes().Get(ctx, a.cfg.NodeName, metav1.GetOptions{})
	if err != nil {
		a.log.Warn("look at the node before a pod is rejected", "pod", pod.Namespace+"/"+pod.Name, "err", err)
		return rejected
	}
	return a.place(pod, node)
}

// place counts a pod in, or says why it doesn't fit.
func (a *Agent) place(pod *v1.Pod, node *v1.Node) *Outcome {
	a.mu.Lock()
	defer a.mu.Unlock()
	if node != nil {
		others := slices.Collect(maps.Values(a.used))
		for _, r := range placement.Check(pod, node, others, placement.Admission) {
			// An extended resource that the node doesn't list is counted elsewhere, for the cluster as a whole.
			if _, listed := node.Status.Allocatable[r.Resource]; listed || !extended(r.Resource) {
				return rejection(r)
			}
		}
	}
	a.used[pod.UID] = pod
	return nil
}

// rejection tells a failed predicate as the kubelet does.
func rejection(r placement.Reason) *Outcome {
	if r.Predicate == placement.Fit {
		name := cmp.Or(string(r.Resource), "pods")
		return &Outcome{"OutOf" + name, fmt.Sprintf("Pod was rejected: Node didn't have enough resource: %s, requested: %d, used: %d, capacity: %d",
			name, r.Requested, r.Used, r.Capacity)}
	}
	name := "NodeAffinity"
	switch r.Predicate {
	case placement.NodeName:
		name = "NodeName"
	case placement.HostPorts:
		name = "NodePorts"
	case placement.NoExecuteTaints:
		name = "TaintToleration"
	}
	return &Outcome{name, fmt.Sprintf("Pod was rejected: Predicate %s failed: %s", name, r.Message)}
}

// uncount takes a pod out of the sums once nothing of it runs any more.
func (a *Agent) uncount(pod *v1.Pod) {
	a.mu.Lock()
	delete(a.used, pod.UID)
	a.mu.Unlock()
}

// unsupported looks for what can't be honoured.
func unsupported(pod *v1.Pod, appArmor bool) *Outcome {
	refuse := func(reason, format string, args ...any) *Outcome {
		return &Outcome{Reason: reason, Message: "Pod was rejected: " + fmt.Sprintf(format, args...)}
	}
	if pod.Spec.OS != nil && pod.Spec.OS.Name != v1.Linux {
		return refuse("PodOSNotSupported", "pod's OS field doesn't match node's OS")
	}
	if pod.Spec.HostUsers != nil && !*pod.Spec.HostUsers {
		return refuse("UserNamespacesNotSupported", "user namespaces (hostUsers: false) are not supported by this node")
	}
	if len(pod.Spec.ResourceClaims) > 0 {
		return refuse("ResourceClaimsNotSupported", "dynamic resource allocation is not supported by this node")
	}
	if sc := pod.Spec.SecurityContext; sc != nil {
		for _, s := range sc.Sysctls {
			if message := sysctlProblem(pod, s.Name); message != "" {
				return refuse("SysctlForbidden", "%s", message)
			}
		}
	}
	for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			c := &list[i]
			if len(c.VolumeDevices) > 0 {
				return refuse("VolumeDevicesNotSupported", "block devices of container %s are not supported by this node", c.Name)
			}
		}
	}
	if !appArmor && wantsAppArmor(pod) {
		return refuse("AppArmor", "Cannot enforce AppArmor: AppArmor is not enabled on the host")
	}
	return nil
}

// extended says whether a resource has a domain that isn't Kubernetes'. There are no
// device plugins here: such a resource is a number that somebody wrote into the node's status.
func extended(name v1.ResourceName) bool {
	return strings.Contains(string(name), "/") && !strings.Contains(string(name), v1.ResourceDefaultNamespacePrefix)
}

func wantsAppArmor(pod *v1.Pod) bool {
	enforced := func(p *v1.AppArmorProfile) bool { return p != nil && p.Type == v1.AppArmorProfileTypeLocalhost }
	if pod.Spec.SecurityContext != nil && enforced(pod.Spec.SecurityContext.AppArmorProfile) {
		return true
	}
	for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			if sc := list[i].SecurityContext; sc != nil && enforced(sc.AppArmorProfile) {
				return true
			}
		}
	}
	return false
}

// safeSysctls are those that pods may set without the node's owner allowing it:
// they are namespaced, and isolated between pods.
var safeSysctls = map[string]bool{
	"kernel.shm_rmid_forced": true, "net.ipv4.ip_local_port_range": true, "net.ipv4.tcp_syncookies": true,
	"net.ipv4.ping_group_range": true, "net.ipv4.ip_unprivileged_port_start": true, "net.ipv4.ip_local_reserved_ports": true,
	"net.ipv4.tcp_keepalive_time": true, "net.ipv4.tcp_fin_timeout": true, "net.ipv4.tcp_keepalive_intvl": true,
	"net.ipv4.tcp_keepalive_probes": true, "net.ipv4.tcp_rmem": true, "net.ipv4.tcp_wmem": true,
}

func sysctlProblem(pod *v1.Pod, name string) string {
	plain := strings.ReplaceAll(name, "/", ".")
	ipc := strings.HasPrefix(plain, "kernel.shm") || strings.HasPrefix(plain, "kernel.msg") || strings.HasPrefix(plain, "fs.mqueue.")
	switch {
	case !safeSysctls[plain]:
		return fmt.Sprintf("forbidden sysctl: %q not allowlisted", name)
	case ipc && pod.Spec.HostIPC:
		return fmt.Sprintf("forbidden sysctl: %q not allowed with host ipc enabled", name)
	case strings.HasPrefix(plain, "net.") && pod.Spec.HostNetwork:
		return fmt.Sprintf("forbidden sysctl: %q not allowed with host net enabled", name)
	}
	return ""
}

// newVolumes serves what needs no source: cleaning up.
func newVolumes(a *Agent) *volume.Volumes { return volume.New(a.cfg.RootDir, nil) }

package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/resource"

	"skiff/pkg/agent/image"
	"skiff/pkg/agent/logs"
	"skiff/pkg/agent/runtime"
	"skiff/pkg/agent/volume"
)

// launch is what the start of one container needs; it is a snapshot, so that
// the start can run beside the worker.
type launch struct {
	pod       *v1.Pod
	container *v1.Container
	role      Role
	attempt   int
	image     image.Image
	paths     map[string]string
	facts     podFacts
	sandbox   runtime.Sandbox
	pid       string
	labels    map[string]string
}

// config resolves everything that the container's spec only names. Errors are
// of the container's configuration: status CreateContainerConfigError.
func (a *Agent) config(ctx context.Context, l launch, volumes *volume.Volumes, source volume.Source) (runtime.ContainerConfig, error) {
	pod, c := l.pod, l.container
	if err := runtime.VerifyNonRoot(pod, c, l.image.Config.User); err != nil {
		return runtime.ContainerConfig{}, err
	}
	env := environment{source: source, services: a.services(), status: l.facts}
	variables, values, err := env.variables(ctx, pod, c)
	if err != nil {
		return runtime.ContainerConfig{}, err
	}
	host, domain := hostname(pod, a.cfg.NodeName, a.cfg.ClusterDomain)
	mounts, err := a.mounts(l, volumes, values)
	if err != nil {
		return runtime.ContainerConfig{}, err
	}
	files, err := a.files(l, volumes, host, domain, mounts)
	if err != nil {
		return runtime.ContainerConfig{}, err
	}
	return runtime.ContainerConfig{
		Pod: pod, Container: c, Attempt: l.attempt, Hash: containerHash(c), Image: l.image,
		Command: expandAll(c.Command, values), Args: expandAll(c.Args, values), Env: variables,
		Mounts: append(mounts, files...), Hostname: host, Sandbox: l.sandbox, PIDPath: l.pid,
		Cgroup:      a.runtime.PodCgroup(string(pod.UID), qosClass(pod)),
		LogPath:     filepath.Join(a.logDir(pod), c.Name, strconv.Itoa(l.attempt)+".log"),
		Resources:   containerLimits(c),
		OOMScore:    oomScore(pod, c, l.role, a.memory),
		Labels:      l.labels,
		SeccompRoot: filepath.Join(a.cfg.RootDir, "seccomp"),
	}, nil
}

// logDir is where the logs of a pod are, as every log collector expects.
func (a *Agent) logDir(pod *v1.Pod) string {
	return filepath.Join(a.cfg.LogDir, pod.Namespace+"_"+pod.Name+"_"+string(pod.UID))
}

// mounts are the container's volume mounts.
func (a *Agent) mounts(l launch, volumes *volume.Volumes, values map[string]string) ([]runtime.Mount, error) {
	var out []runtime.Mount
	for i, m := range l.container.VolumeMounts {
		path, ok := l.paths[m.Name]
		if !ok {
			return nil, fmt.Errorf("cannot find volume %q to mount into container %q", m.Name, l.container.Name)
		}
		sub := m.SubPath
		if m.SubPathExpr != "" {
			var err error
			if sub, err = expandStrictly(m.SubPathExpr, values); err != nil {
				return nil, err
			}
		}
		if sub != "" {
			if filepath.IsAbs(sub) {
				return nil, fmt.Errorf("error SubPath `%s` must not be an absolute path", sub)
			}
			var err error
			if path, err = volumes.SubPath(string(l.pod.UID), m.Name, l.container.Name, i, path, sub); err != nil {
				return nil, err
			}
		}
		mount := runtime.Mount{Source: path, Destination: m.MountPath, ReadOnly: m.ReadOnly || readOnlyVolume(l.pod, m.Name), Recursively: recursively(m)}
		if m.MountPropagation != nil {
			mount.Propagation = *m.MountPropagation
		}
		out = append(out, mount)
	}
	if len(l.container.VolumeDevices) > 0 {
		return nil, errors.New("block devices (volumeDevices) are not supported by this node")
	}
	return out, nil
}

// recursively says whether a read-only mount is read-only all the way down.
func recursively(m v1.VolumeMount) bool {
	return m.ReadOnly && m.RecursiveReadOnly != nil && *m.RecursiveReadOnly != v1.RecursiveReadOnlyDisabled
}

// readOnlyVolume: what comes from the API can't be written to by containers.
func readOnlyVolume(pod *v1.Pod, name string) bool {
	for i := range pod.Spec.Volumes {
		if pod.Spec.Volumes[i].Name == name {
			return volume.FromAPI(&pod.Spec.Volumes[i])
		}
	}
	return false
}

// expandStrictly expands $(NAME), and fails for names without a value.
func expandStrictly(s string, values map[string]string) (string, error) {
	missing := ""
	out := expand(s, func(name string) (string, bool) {
		v, ok := values[name]
		if !ok {
			missing = name
		}
		return v, ok
	})
	if missing != "" {
		return "", fmt.Errorf("missing value for %q", missing)
	}
	return out, nil
}

const defaultTerminationPath = "/dev/termination-log"

// files writes and mounts what every container gets: /etc/hosts, /etc/hostname,
// /etc/resolv.conf and the file for its termination message.
func (a *Agent) files(l launch, volumes *volume.Volumes, host, domain string, have []runtime.Mount) ([]runtime.Mount, error) {
	dir := volumes.PodDir(string(l.pod.UID))
	taken := map[string]bool{}
	for _, m := range have {
		taken[filepath.Clean(m.Destination)] = true
	}
	var out []runtime.Mount
	add := func(name, destination string, content []byte, mode os.FileMode) error {
		if taken[destination] {
			return nil
		}
		path := filepath.Join(dir, name)
		out = append(out, runtime.Mount{Source: path, Destination: destination})
		return writeFile(path, content, mode)
	}
	var nodeHosts []byte
	if l.pod.Spec.HostNetwork {
		nodeHosts, _ = os.ReadFile(hostsFile)
	}
	if err := add("etc-hosts", hostsFile, hosts(l.pod, l.facts.podIPs, host, domain, nodeHosts), 0o644); err != nil {
		return nil, err
	}
	if err := add("hostname", "/etc/hostname", []byte(host+"\n"), 0o644); err != nil {
		return nil, err
	}
	node, err := os.ReadFile(a.cfg.ResolvConf)
	if err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	resolver, fallback := podResolver(l.pod, parseResolver(node), a.cfg.ClusterDNS, a.cfg.ClusterDomain)
	if fallback {
		a.events.Eventf(l.pod, v1.EventTypeWarning, "MissingClusterDNS",
			"pod: %q. kubelet does not have ClusterDNS IP configured and cannot create Pod using %q policy. Falling back to %q policy.", podKey(l.pod), v1.DNSClusterFirst, v1.DNSDefault)
	}
	if err := add("resolv.conf", resolvConf, []byte(resolver.String()), 0o644); err != nil {
		return nil, err
	}
	termination := l.container.TerminationMessagePath
	if termination == "" {
		termination = defaultTerminationPath
	}
	return out, add(terminationFile(l.container.Name, l.attempt), termination, nil, 0o666)
}

// terminationFile is where a container's termination message lies, below the pod's directory.
func terminationFile(container string, attempt int) string {
	return filepath.Join("containers", container, strconv.Itoa(attempt))
}

const (
	period    = 100_000 // µs, of the CFS quota
	minQuota  = 1_000
	minShares = 2
	maxShares = 262_144
)

// limitsOf turns requests and limits into those of a cgroup.
func limitsOf(requests, limits v1.ResourceList) runtime.Limits {
	out := runtime.Limits{CPUShares: minShares}
	cpu, ok := requests[v1.ResourceCPU]
	if !ok {
		cpu = limits[v1.ResourceCPU]
	}
	if milli := cpu.MilliValue(); milli > 0 {
		out.CPUShares = uint64(min(max(milli*1024/1000, minShares), maxShares))
	}
	if limit := limits.Cpu().MilliValue(); limit > 0 {
		out.CPUQuota, out.CPUPeriod = max(limit*period/1000, minQuota), period
	}
	out.Memory = limits.Memory().Value()
	return out
}

func containerLimits(c *v1.Container) runtime.Limits {
	return limitsOf(c.Resources.Requests, c.Resources.Limits)
}

// podLimits are those of the pod as a whole: the sums, if every container has a
// limit, or what the pod says itself.
func podLimits(pod *v1.Pod, pids int64) runtime.Limits {
	limits := resource.PodLimits(pod, resource.PodResourcesOptions{})
	out := limitsOf(resource.PodRequests(pod, resource.PodResourcesOptions{}), limits)
	out.Pids = pids
	bounded := func(name v1.ResourceName) bool {
		if pod.Spec.Resources != nil {
			if _, ok := pod.Spec.Resources.Limits[name]; ok {
				return true
			}
		}
		for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
			for i := range list {
				if quantity, ok := list[i].Resources.Limits[name]; !ok || quantity.IsZero() {
					return false
				}
			}
		}
		return true
	}
	if !bounded(v1.ResourceCPU) {
		out.CPUQuota, out.CPUPeriod = 0, 0
	}
	if !bounded(v1.ResourceMemory) {
		out.Memory = 0
	}
	return out
}

// oomScore is whom the kernel kills first when memory runs out: best-effort
// pods before burstable ones, and those by how little they asked for.
func oomScore(pod *v1.Pod, c *v1.Container, role Role, memory int64) int {
	const guaranteed, bestEffort = -997, 1000
	if pod.Spec.Priority != nil && *pod.Spec.Priority >= 2_000_000_000 {
		return guaranteed
	}
	switch qosClass(pod) {
	case v1.PodQOSGuaranteed:
		return guaranteed
	case v1.PodQOSBestEffort:
		return bestEffort
	}
	if memory <= 0 {
		return bestEffort - 1
	}
	score := bestEffort - int(bestEffort*c.Resources.Requests.Memory().Value()/memory)
	return min(max(score, bestEffort+guaranteed), bestEffort-1)
}

// terminationMessage is what a container has left behind to say, in its file
// or, if its policy says so and it failed, at the end of its log.
func (a *Agent) terminationMessage(pod *v1.Pod, volumes *volume.Volumes, c *v1.Container, attempt *Attempt, code int) string {
	const maxMessage, maxLog, maxLines = 4096, 2048, 80
	b, err := readAtMost(filepath.Join(volumes.PodDir(string(pod.UID)), terminationFile(c.Name, attempt.Number)), maxMessage)
	if err != nil && !os.IsNotExist(err) {
		return fmt.Sprintf("Error on reading termination log %s: %v", c.TerminationMessagePath, err)
	}
	if len(b) > 0 || code == 0 || c.TerminationMessagePolicy != v1.TerminationMessageFallbackToLogsOnError {
		return string(b)
	}
	text, err := logs.Tail(attempt.LogPath, maxLines, maxLog)
	if err != nil {
		return fmt.Sprintf("Error on reading termination message from logs: %v", err)
	}
	return text
}

func readAtMost(path string, n int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	buf := make([]byte, n)
	read, err := f.Read(buf)
	if read > 0 {
		err = nil
	}
	if err != nil && strings.Contains(err.Error(), "EOF") {
		err = nil
	}
	return buf[:read], err
}

// attemptFromLogs guesses the number of the next attempt of a container of
// which nothing else is known, so that no log is overwritten.
func (a *Agent) attemptFromLogs(pod *v1.Pod, container string) int {
	entries, _ := os.ReadDir(filepath.Join(a.logDir(pod), container))
	next := 0
	for _, e := range entries {
		name, _, _ := strings.Cut(e.Name(), ".log")
		if n, err := strconv.Atoi(name); err == nil {
			next = max(next, n+1)
		}
	}
	return next
}

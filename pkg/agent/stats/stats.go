// Package stats reads what pods use from their cgroups, in the shape of the
// kubelet's Summary API (the part that metrics servers read).
package stats

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"skiff/pkg/agent/runtime"
)

// The types have the fields of k8s.io/kubelet/pkg/apis/stats/v1alpha1 that are filled in here.
type (
	// Summary is a node and its pods.
	Summary struct {
		Node NodeStats  `json:"node"`
		Pods []PodStats `json:"pods"`
	}
	// NodeStats is a node's use.
	NodeStats struct {
		NodeName  string        `json:"nodeName"`
		StartTime time.Time     `json:"startTime"`
		CPU       *CPUStats     `json:"cpu,omitempty"`
		Memory    *MemoryStats  `json:"memory,omitempty"`
		Network   *NetworkStats `json:"network,omitempty"`
		Fs        *FsStats      `json:"fs,omitempty"`
	}
	// PodStats is a pod's use.
	PodStats struct {
		PodRef     PodReference     `json:"podRef"`
		StartTime  time.Time        `json:"startTime"`
		Containers []ContainerStats `json:"containers"`
		CPU        *CPUStats        `json:"cpu,omitempty"`
		Memory     *MemoryStats     `json:"memory,omitempty"`
		Network    *NetworkStats    `json:"network,omitempty"`
		Process    *ProcessStats    `json:"process_stats,omitempty"`
	}
	// PodReference names a pod.
	PodReference struct {
		Name      string `json:"name"`
		Namespace string `json:"namespace"`
		UID       string `json:"uid"`
	}
	// ContainerStats is a container's use.
	ContainerStats struct {
		Name      string       `json:"name"`
		StartTime time.Time    `json:"startTime"`
		CPU       *CPUStats    `json:"cpu,omitempty"`
		Memory    *MemoryStats `json:"memory,omitempty"`
	}
	// CPUStats counts nanoseconds.
	CPUStats struct {
		Time                 time.Time `json:"time"`
		UsageNanoCores       *uint64   `json:"usageNanoCores,omitempty"`
		UsageCoreNanoSeconds *uint64   `json:"usageCoreNanoSeconds,omitempty"`
	}
	// MemoryStats counts bytes.
	MemoryStats struct {
		Time            time.Time `json:"time"`
		AvailableBytes  *uint64   `json:"availableBytes,omitempty"`
		UsageBytes      *uint64   `json:"usageBytes,omitempty"`
		WorkingSetBytes *uint64   `json:"workingSetBytes,omitempty"`
		RSSBytes        *uint64   `json:"rssBytes,omitempty"`
	}
	// NetworkStats are of the default interface, and of all.
	NetworkStats struct {
		Time time.Time `json:"time"`
		InterfaceStats
		Interfaces []InterfaceStats `json:"interfaces,omitempty"`
	}
	// InterfaceStats counts bytes and errors.
	InterfaceStats struct {
		Name     string  `json:"name"`
		RxBytes  *uint64 `json:"rxBytes,omitempty"`
		RxErrors *uint64 `json:"rxErrors,omitempty"`
		TxBytes  *uint64 `json:"txBytes,omitempty"`
		TxErrors *uint64 `json:"txErrors,omitempty"`
	}
	// FsStats is a file system.
	FsStats struct {
		Time           time.Time `json:"time"`
		AvailableBytes *uint64   `json:"availableBytes,omitempty"`
		CapacityBytes  *uint64   `json:"capacityBytes,omitempty"`
		UsedBytes      *uint64   `json:"usedBytes,omitempty"`
		InodesFree     *uint64   `json:"inodesFree,omitempty"`
		Inodes         *uint64   `json:"inodes,omitempty"`
	}
	// ProcessStats counts processes.
	ProcessStats struct {
		ProcessCount *uint64 `json:"process_count,omitempty"`
	}
)

// Pod is a pod to read.
type Pod struct {
	Namespace, Name, UID string
	Cgroup               string
	Netns                string // path of its network namespace; empty: none of its own
	Started              time.Time
	Containers           []Container
}

// Container is a container to read.
type Container struct {
	Name, Cgroup string
	Started      time.Time
}

// Reader reads one node.
type Reader struct {
	V2      bool
	Node    string
	Root    string // a path on the file system of pods
	Parent  string // cgroup of the node
	Started time.Time
}

const root = "/sys/fs/cgroup"

// Summary reads all; brief leaves out network and disks.
func (r Reader) Summary(pods []Pod, brief bool) Summary {
	now := time.Now()
	s := Summary{Node: NodeStats{NodeName: r.Node, StartTime: r.Started, CPU: r.nodeCPU(now), Memory: r.nodeMemory(now)}, Pods: []PodStats{}}
	if !brief {
		s.Node.Fs = fileSystem(r.Root, now)
		if b, err := os.ReadFile("/proc/net/dev"); err == nil {
			s.Node.Network = interfaces(b, now)
		}
	}
	for _, p := range pods {
		ps := PodStats{PodRef: PodReference{p.Name, p.Namespace, p.UID}, StartTime: p.Started, CPU: r.cpu(p.Cgroup, now), Memory: r.memory(p.Cgroup, now), Containers: []ContainerStats{}}
		for _, c := range p.Containers {
			ps.Containers = append(ps.Containers, ContainerStats{Name: c.Name, StartTime: c.Started, CPU: r.cpu(c.Cgroup, now), Memory: r.memory(c.Cgroup, now)})
		}
		slices.SortFunc(ps.Containers, func(a, b ContainerStats) int { return strings.Compare(a.Name, b.Name) })
		if n, ok := number(r.file("pids", p.Cgroup, "pids.current", "pids.current")); ok {
			ps.Process = &ProcessStats{&n}
		}
		if !brief && p.Netns != "" {
			ps.Network = podNetwork(p.Netns, now)
		}
		s.Pods = append(s.Pods, ps)
	}
	slices.SortFunc(s.Pods, func(a, b PodStats) int {
		return strings.Compare(a.PodRef.Namespace+"/"+a.PodRef.Name, b.PodRef.Namespace+"/"+b.PodRef.Name)
	})
	return s
}

// file is where a value stands: by controller with version 1.
func (r Reader) file(controller, cgroup, v1, v2 string) string {
	if r.V2 {
		return filepath.Join(root, cgroup, v2)
	}
	return filepath.Join(root, controller, cgroup, v1)
}

func number(path string) (uint64, bool) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
	return n, err == nil
}

// field reads "key value" lines.
func field(path, key string) (uint64, bool) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, false
	}
	for _, line := range strings.Split(string(b), "\n") {
		if value, ok := strings.CutPrefix(line, key+" "); ok {
			n, err := strconv.ParseUint(strings.TrimSpace(value), 10, 64)
			return n, err == nil
		}
	}
	return 0, false
}

func (r Reader) cpu(cgroup string, now time.Time) *CPUStats {
	var usage uint64
	var ok bool
	if r.V2 {
		if usage, ok = field(filepath.Join(root, cgroup, "cpu.stat"), "usage_usec"); ok {
			usage *= 1000
		}
	} else {
		usage, ok = number(filepath.Join(root, "cpuacct", cgroup, "cpuacct.usage"))
	}
	if !ok {
		return nil
	}
	return &CPUStats{Time: now, UsageCoreNanoSeconds: &usage, UsageNanoCores: rate(cgroup, usage, now)}
}

// rates keeps the last reading of each counter, for usage per second.
var rates = struct {
	sync.Mutex
	last map[string]reading
}{last: map[string]reading{}}

type reading struct {
	usage uint64
	at    time.Time
	rate  *uint64
}

// rate is the use since the last reading that is long enough ago.
func rate(key string, usage uint64, now time.Time) *uint64 {
	rates.Lock()
	defer rates.Unlock()
	last, ok := rates.last[key]
	if ok && now.Sub(last.at) < time.Second {
		return last.rate
	}
	var per *uint64
	if ok && usage >= last.usage {
		n := uint64(float64(usage-last.usage) / now.Sub(last.at).Seconds())
		per = &n
	}
	if len(rates.last) > 4096 { // counters of pods long gone
		clear(rates.last)
	}
	rates.last[key] = reading{usage, now, per}
	return per
}

func (r Reader) memory(cgroup string, now time.Time) *MemoryStats {
	usage, ok := number(r.file("memory", cgroup, "memory.usage_in_bytes", "memory.current"))
	if !ok {
		return nil
	}
	stat := r.file("memory", cgroup, "memory.stat", "memory.stat")
	inactive, rssKey := "total_inactive_file", "total_rss"
	if r.V2 {
		inactive, rssKey = "inactive_file", "anon"
	}
	idle, _ := field(stat, inactive)
	working := usage - min(idle, usage)
	m := &MemoryStats{Time: now, UsageBytes: &usage, WorkingSetBytes: &working}
	if rss, ok := field(stat, rssKey); ok {
		m.RSSBytes = &rss
	}
	limit, ok := number(r.file("memory", cgroup, "memory.limit_in_bytes", "memory.max"))
	if ok && limit < 1<<60 {
		free := limit - min(working, limit)
		m.AvailableBytes = &free
	}
	return m
}

// nodeCPU adds up /proc/stat, in which the machine counts in ticks.
func (r Reader) nodeCPU(now time.Time) *CPUStats {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return nil
	}
	line, _, _ := strings.Cut(string(b), "\n")
	f := strings.Fields(line)
	var busy uint64
	for i, text := range f {
		if i == 0 || i == 4 || i == 5 || i > 8 { // the name, idle, iowait, guests
			continue
		}
		n, _ := strconv.ParseUint(text, 10, 64)
		busy += n
	}
	const tick = uint64(time.Second) / 100 // USER_HZ
	usage := busy * tick
	return &CPUStats{Time: now, UsageCoreNanoSeconds: &usage, UsageNanoCores: rate("/", usage, now)}
}

func (r Reader) nodeMemory(now time.Time) *MemoryStats {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return nil
	}
	values := map[string]uint64{}
	for _, line := range strings.Split(string(b), "\n") {
		if f := strings.Fields(line); len(f) > 1 {
			n, _ := strconv.ParseUint(f[1], 10, 64)
			values[strings.TrimSuffix(f[0], ":")] = n << 10
		}
	}
	available := values["MemAvailable"]
	usage, working := values["MemTotal"]-values["MemFree"], values["MemTotal"]-available
	rss := values["AnonPages"]
	return &MemoryStats{Time: now, AvailableBytes: &available, UsageBytes: &usage, WorkingSetBytes: &working, RSSBytes: &rss}
}

func fileSystem(path string, now time.Time) *FsStats {
	var fs unix.Statfs_t
	if unix.Statfs(path, &fs) != nil {
		return nil
	}
	size := uint64(fs.Bsize)
	available, capacity, used := fs.Bavail*size, fs.Blocks*size, (fs.Blocks-fs.Bfree)*size
	return &FsStats{Time: now, AvailableBytes: &available, CapacityBytes: &capacity, UsedBytes: &used, InodesFree: &fs.Ffree, Inodes: &fs.Files}
}

// podNetwork reads /proc/net/dev as a thread in the namespace sees it.
func podNetwork(netns string, now time.Time) *NetworkStats {
	var b []byte
	err := runtime.Within(netns, unix.CLONE_NEWNET, func() (err error) {
		b, err = os.ReadFile("/proc/thread-self/net/dev")
		return err
	})
	if err != nil {
		return nil
	}
	return interfaces(b, now)
}

// interfaces reads a /proc/net/dev (proc_pid_net(5)).
func interfaces(b []byte, now time.Time) *NetworkStats {
	s := &NetworkStats{Time: now}
	scanner := bufio.NewScanner(bytes.NewReader(b))
	for scanner.Scan() {
		name, rest, ok := strings.Cut(scanner.Text(), ":")
		f := strings.Fields(rest)
		if name = strings.TrimSpace(name); !ok || name == "lo" || len(f) < 11 {
			continue
		}
		at := func(i int) *uint64 { n, _ := strconv.ParseUint(f[i], 10, 64); return &n }
		i := InterfaceStats{Name: name, RxBytes: at(0), RxErrors: at(2), TxBytes: at(8), TxErrors: at(10)}
		if s.Name == "" || name == "eth0" {
			s.InterfaceStats = i
		}
		s.Interfaces = append(s.Interfaces, i)
	}
	return s
}

// WriteMetrics writes what /metrics/resource has, in the text format of Prometheus.
func WriteMetrics(w io.Writer, s Summary) error {
	out := bufio.NewWriter(w)
	header := func(name, kind, help string) {
		fmt.Fprintf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
	}
	line := func(name, labels string, value float64, at time.Time) {
		fmt.Fprintf(out, "%s%s %s %d\n", name, labels, strconv.FormatFloat(value, 'g', -1, 64), at.UnixMilli())
	}
	type sample struct {
		labels string
		cpu    *CPUStats
		memory *MemoryStats
	}
	groups := map[string][]sample{"node": {{"", s.Node.CPU, s.Node.Memory}}}
	for _, p := range s.Pods {
		pod := fmt.Sprintf(`namespace=%q,pod=%q`, p.PodRef.Namespace, p.PodRef.Name)
		groups["pod"] = append(groups["pod"], sample{"{" + pod + "}", p.CPU, p.Memory})
		for _, c := range p.Containers {
			groups["container"] = append(groups["container"], sample{fmt.Sprintf(`{container=%q,%s}`, c.Name, pod), c.CPU, c.Memory})
		}
	}
	for _, group := range []string{"container", "node", "pod"} {
		if len(groups[group]) == 0 {
			continue
		}
		name := group + "_cpu_usage_seconds_total"
		header(name, "counter", "[STABLE] Cumulative cpu time consumed by the "+group+" in core-seconds")
		for _, x := range groups[group] {
			if x.cpu != nil && x.cpu.UsageCoreNanoSeconds != nil {
				line(name, x.labels, float64(*x.cpu.UsageCoreNanoSeconds)/1e9, x.cpu.Time)
			}
		}
		name = group + "_memory_working_set_bytes"
		header(name, "gauge", "[STABLE] Current working set of the "+group+" in bytes")
		for _, x := range groups[group] {
			if x.memory != nil && x.memory.WorkingSetBytes != nil {
				line(name, x.labels, float64(*x.memory.WorkingSetBytes), x.memory.Time)
			}
		}
	}
	header("container_start_time_seconds", "gauge", "[STABLE] Start time of the container since unix epoch in seconds")
	for _, p := range s.Pods {
		for _, c := range p.Containers {
			fmt.Fprintf(out, "container_start_time_seconds{container=%q,namespace=%q,pod=%q} %.3f\n", c.Name, p.PodRef.Namespace, p.PodRef.Name, float64(c.StartTime.UnixMilli())/1000)
		}
	}
	header("resource_scrape_error", "gauge", "[STABLE] 1 if there was an error while getting container metrics, 0 otherwise")
	fmt.Fprintln(out, "resource_scrape_error 0")
	return out.Flush()
}

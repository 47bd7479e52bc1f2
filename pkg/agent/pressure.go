package agent

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/api/resource"
)

// signals are those of the kubelet that a node is judged by.
var signals = []string{"memory.available", "nodefs.available", "nodefs.inodesFree", "pid.available"}

// DefaultThresholds are the kubelet's, but for those of images' file system, which isn't looked at.
const DefaultThresholds = "memory.available<100Mi,nodefs.available<10%,nodefs.inodesFree<5%"

// A Threshold is what has to be left of something: an amount, or a share of all
// there is. Zero asks for nothing.
type Threshold struct {
	Amount int64
	Share  float64 // of 1
}

// Thresholds are a node's by signal. Where one is missed, the node says that it
// is under pressure, and is given no more pods.
type Thresholds map[string]Threshold

// ParseThresholds reads the kubelet's --eviction-hard: signals, each with the
// quantity or the percentage below which there is pressure. As there, 0% and
// 100% take a threshold away.
func ParseThresholds(text string) (Thresholds, error) {
	out := Thresholds{}
	for statement := range strings.SplitSeq(text, ",") {
		if statement == "" {
			continue
		}
		signal, value, _ := strings.Cut(statement, "<")
		if !slices.Contains(signals, signal) {
			return nil, fmt.Errorf("%q is not SIGNAL<VALUE with one of the signals %s", statement, strings.Join(signals, ", "))
		}
		if _, twice := out[signal]; twice {
			return nil, fmt.Errorf("%s is there twice", signal)
		}
		t, err := parseThreshold(value)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", statement, err)
		}
		out[signal] = t
	}
	return out, nil
}

func parseThreshold(text string) (Threshold, error) {
	if percent, ok := strings.CutSuffix(text, "%"); ok {
		share, err := strconv.ParseFloat(percent, 64)
		if err != nil || !(share >= 0 && share <= 100) {
			return Threshold{}, fmt.Errorf("%q is no percentage between 0%% and 100%%", text)
		}
		if share == 100 {
			share = 0
		}
		return Threshold{Share: share / 100}, nil
	}
	q, err := resource.ParseQuantity(text)
	if err != nil {
		return Threshold{}, err
	}
	if q.Sign() < 0 {
		return Threshold{}, fmt.Errorf("%s is negative", text)
	}
	return Threshold{Amount: q.Value()}, nil
}

// missed says whether less than the threshold is left of all. What could not be
// found out (nothing in all) is no pressure.
func (t Threshold) missed(left, all uint64) bool {
	return all > 0 && float64(left) < max(float64(t.Amount), t.Share*float64(all))
}

// pressures are what a node can be short of.
type pressures struct{ memory, disk, pids bool }

// pressure holds what is left on the machine against the thresholds; root lies
// on the file system of pods.
func (t Thresholds) pressure(root string) pressures {
	var p pressures
	info := meminfo()
	p.memory = t["memory.available"].missed(uint64(info["MemAvailable"]), uint64(info["MemTotal"]))
	var fs unix.Statfs_t
	if unix.Statfs(root, &fs) == nil {
		block := uint64(fs.Bsize)
		p.disk = t["nodefs.available"].missed(fs.Bavail*block, fs.Blocks*block) || t["nodefs.inodesFree"].missed(fs.Ffree, fs.Files)
	}
	left, all := processIDs()
	p.pids = t["pid.available"].missed(left, all)
	return p
}

// processIDs are those that are free, and all that there can be; nothing if the
// kernel doesn't say.
func processIDs() (left, all uint64) {
	load, _ := os.ReadFile("/proc/loadavg")
	fields := strings.Fields(string(load))
	if len(fields) < 4 {
		return 0, 0
	}
	_, total, _ := strings.Cut(fields[3], "/")
	running, err := strconv.ParseUint(total, 10, 64)
	all, _ = strconv.ParseUint(trimmed("/proc/sys/kernel/pid_max"), 10, 64)
	if err != nil {
		return 0, 0
	}
	return all - min(running, all), all
}

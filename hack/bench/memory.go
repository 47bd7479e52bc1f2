package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"skiff/pkg/cluster"
)

// memory is the proportional set size of a node's own processes, after they
// have been left alone for a while.
func memory() (string, error) {
	time.Sleep(10 * time.Second)
	s, err := cluster.Get(name)
	if err != nil {
		return "", err
	}
	node := s.Nodes[0].Name
	sizes := map[string]int{}
	total := 0
	for _, process := range []string{"init", "apiserver", "scheduler", "controller", "agent", "containerd"} {
		pid := cluster.ProcessPid(name, node, process)
		kib, err := proportional(pid)
		if err != nil {
			return "", fmt.Errorf("memory of %s: %w", process, err)
		}
		sizes[process] = kib
		total += kib
	}
	var names []string
	for process := range sizes {
		names = append(names, process)
	}
	slices.SortFunc(names, func(a, b string) int { return sizes[b] - sizes[a] })
	var out strings.Builder
	fmt.Fprintf(&out, "%-34s %5d MB               (goal 250 MB)\n", "idle memory, proportional set size", total/1024)
	for _, process := range names {
		fmt.Fprintf(&out, "  %-32s %5.1f MB\n", process, float64(sizes[process])/1024)
	}
	return out.String(), nil
}

func proportional(pid int) (kib int, err error) {
	data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "smaps_rollup"))
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(data) {
		if rest, ok := bytes.CutPrefix(line, []byte("Pss:")); ok {
			return strconv.Atoi(string(bytes.Fields(rest)[0]))
		}
	}
	return 0, fmt.Errorf("no Pss for process %d", pid)
}

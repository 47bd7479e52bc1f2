package cluster

import (
	"context"
	"fmt"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Status is what a cluster is doing.
type Status struct {
	Spec *Spec
	// API is why the API doesn't answer; empty when it does.
	API   string
	Nodes []NodeStatus
}

// NodeStatus is what a node is doing.
type NodeStatus struct {
	Node
	// Pid is that of the node's PID 1, 0 when it is stopped.
	Pid int
	// State is "Ready", "Stopped", or why it is neither.
	State string
	// Down are the node's processes that are not running at the moment.
	Down []string
}

// Healthy says that every node is Ready and every process runs.
func (s *Status) Healthy() bool {
	healthy := s.API == ""
	for _, n := range s.Nodes {
		healthy = healthy && n.State == "Ready" && len(n.Down) == 0
	}
	return healthy
}

// GetStatus looks at a cluster: at its processes, and at what its API says.
func GetStatus(ctx context.Context, name string) (*Status, error) {
	s, err := Get(name)
	if err != nil {
		return nil, err
	}
	l := newLayout(name)
	status := &Status{Spec: s}
	states := map[string]string{}
	if err := nodeStates(ctx, l, states); err != nil {
		status.API = err.Error()
	}
	for _, n := range s.Nodes {
		ns := NodeStatus{Node: n, Pid: runningInit(l, n.Name), State: states[n.Name]}
		switch {
		case ns.Pid == 0:
			ns.State = "Stopped"
		case status.API != "":
			ns.State = "Running"
		case ns.State == "":
			ns.State = "not registered"
		}
		if ns.Pid != 0 {
			for _, p := range nodeConfig(s, l, n).Processes {
				if readPid(l.nodeFile(n.Name, "pid", p.Name+".pid")) == 0 {
					ns.Down = append(ns.Down, p.Name)
				}
			}
		}
		status.Nodes = append(status.Nodes, ns)
	}
	return status, nil
}

func nodeStates(ctx context.Context, l layout, states map[string]string) error {
	api, err := connectAPI(l)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	nodes, err := api.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("the API does not answer: %s", strings.TrimSpace(err.Error()))
	}
	for i := range nodes.Items {
		state := "Ready"
		if why := notReady(&nodes.Items[i]); why != "" {
			state = "NotReady: " + why
		}
		states[nodes.Items[i].Name] = state
	}
	return nil
}

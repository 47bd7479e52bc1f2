package cluster

import (
	"strings"
	"testing"
)

func TestCauses(t *testing.T) {
	for _, c := range []struct {
		what   string
		change func(*Status)
		want   string
	}{
		{"healthy", func(*Status) {}, ""},
		{"a process is down", func(s *Status) { s.Nodes[0].Down = []string{"scheduler"} }, "on a-master-1 scheduler is not running"},
		{"a node is stopped", func(s *Status) { s.Nodes[3].Pid = 0 }, "node a-worker-1 is stopped"},
		{"one member of three is gone", func(s *Status) {
			s.Nodes[1].Down, s.Nodes[1].Member, s.Nodes[1].APIServer = []string{"etcd"}, "connection refused", "etcd failed"
		}, "on a-master-2 etcd is not running\netcd goes on without a-master-2 (a-master-2: connection refused)\nthe apiserver of a-master-2 is not ready: etcd failed"},
		{"two of three are gone", func(s *Status) {
			s.API = "the API does not answer at https://10.89.0.2:8443: EOF"
			for i := range 2 {
				s.Nodes[i].Pid, s.Nodes[i].Member = 0, "no route to host"
			}
		}, "node a-master-1 is stopped\nnode a-master-2 is stopped\n" +
			"etcd has lost its quorum: 1 of 3 members works (a-master-1: no route to host)\nthe API does not answer at https://10.89.0.2:8443: EOF"},
		{"nobody has the address", func(s *Status) { s.Holders = nil }, "no node has the virtual address 10.89.0.2"},
		{"two have the address", func(s *Status) { s.Holders = append(s.Holders, "a-master-2") },
			"the virtual address 10.89.0.2 is on a-master-1 and a-master-2 at the same time"},
		{"a node is cut off", func(s *Status) { s.Nodes[3].State = "NotReady: Kubelet stopped posting node status." },
			"node a-worker-1 is NotReady: Kubelet stopped posting node status."},
		{"a disk is full", func(s *Status) { s.Nodes[3].Pressures = []string{"DiskPressure"} },
			"node a-worker-1 takes no more pods: it reports DiskPressure"},
	} {
		spec, err := NewSpec(Options{Name: "a", Masters: 3, Workers: 1}, nil)
		if err != nil {
			t.Fatal(err)
		}
		s := &Status{Spec: spec, Holders: []string{"a-master-1"}}
		for _, n := range spec.Nodes {
			s.Nodes = append(s.Nodes, NodeStatus{Node: n, Pid: 17, State: "Ready"})
		}
		c.change(s)
		if got := strings.Join(s.Causes(), "\n"); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.what, got, c.want)
		}
	}
}

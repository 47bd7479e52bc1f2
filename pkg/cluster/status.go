package cluster

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"skiff/pkg/etcd"
)

// Status is what a cluster is doing.
type Status struct {
	Spec *Spec
	// API is why the API doesn't answer at the cluster's address; empty when it does.
	API   string
	Nodes []NodeStatus
	// Holders are the names of the nodes that have the virtual address; of one master: nil.
	Holders []string
	// Leaders are who leads, by lock ("kube-scheduler"), as far as the API tells.
	Leaders map[string]string
}

// NodeStatus is what a node is doing.
type NodeStatus struct {
	Node
	// Pid is that of the node's PID 1, 0 when it is stopped.
	Pid int
	// State is "Ready", "Stopped", or why it is neither.
	State string
	// Pressures are what the node says that it has too little of: "DiskPressure", ….
	Pressures []string
	// Down are the node's processes that are not running at the moment, a note behind the name of some.
	Down []string
	// APIServer and Member are why a master's own apiserver and etcd member don't work; empty when they do.
	APIServer, Member string
	// Sync is how long the disk of a master's etcd member has taken lately to sync its log; 0 when that isn't known.
	Sync time.Duration
}

// Causes names what is wrong, the root before what follows from it; none: the cluster is healthy.
func (s *Status) Causes() []string {
	var causes []string
	add := func(format string, args ...any) { causes = append(causes, fmt.Sprintf(format, args...)) }
	for _, n := range s.Nodes {
		if n.Pid == 0 {
			add("node %s is stopped", n.Name)
		} else if len(n.Down) > 0 {
			add("on %s %s not running", n.Name, isOrAre(n.Down))
		}
	}
	voters := s.Spec.voters()
	silent := s.where(func(n NodeStatus) bool { return n.Member != "" })
	if len(voters)-len(silent) < len(voters)/2+1 {
		add("etcd has lost its quorum: %d of %d members %s (%s)", len(voters)-len(silent), len(voters), verb(len(voters)-len(silent), "works", "work"), s.etcdReason(silent))
	} else if len(silent) > 0 {
		add("etcd goes on without %s (%s)", strings.Join(silent, ", "), s.etcdReason(silent))
	}
	for _, n := range s.Nodes {
		if n.Pid != 0 && n.APIServer != "" && !slices.Contains(n.Down, "apiserver") {
			add("the apiserver of %s is not ready: %s", n.Name, n.APIServer)
		}
	}
	for _, n := range s.Nodes {
		if n.Sync >= etcd.SlowSync {
			add("the disk of %s is slow: etcd waits %v for a sync of its log", n.Name, n.Sync.Round(time.Millisecond))
		}
	}
	switch {
	case !s.Spec.VIP.IsValid():
	case len(s.Holders) == 0:
		add("no node has the virtual address %s", s.Spec.VIP)
	case len(s.Holders) > 1:
		add("the virtual address %s is on %s at the same time", s.Spec.VIP, strings.Join(s.Holders, " and "))
	}
	if s.API != "" {
		add("%s", s.API)
	}
	for _, n := range s.Nodes {
		if n.Pid != 0 && s.API == "" && n.State != "Ready" {
			add("node %s is %s", n.Name, n.State)
		}
		if len(n.Pressures) > 0 {
			add("node %s takes no more pods: it reports %s", n.Name, strings.Join(n.Pressures, " and "))
		}
	}
	return causes
}

// Held is what a node has of what there is one of: the virtual address, leaderships.
func (s *Status) Held(node string) []string {
	var list []string
	if slices.Contains(s.Holders, node) {
		list = append(list, "vip")
	}
	for lock, holder := range s.Leaders {
		if host, _, _ := strings.Cut(holder, "_"); host == node {
			list = append(list, lock)
		}
	}
	slices.Sort(list)
	return list
}

func (s *Status) where(is func(NodeStatus) bool) []string {
	var names []string
	for _, n := range s.Nodes {
		if is(n) {
			names = append(names, n.Name)
		}
	}
	return names
}

// etcdReason is what the first of some members says.
func (s *Status) etcdReason(names []string) string {
	for _, n := range s.Nodes {
		if slices.Contains(names, n.Name) {
			return n.Name + ": " + n.Member
		}
	}
	return ""
}

func isOrAre(names []string) string {
	return strings.Join(names, ", ") + verb(len(names), " is", " are")
}

func verb(n int, one, many string) string {
	if n == 1 {
		return one
	}
	return many
}

// GetStatus looks at a cluster: at its processes, at each master's apiserver and etcd by themselves, and
// at what its API says.
func GetStatus(ctx context.Context, name string) (*Status, error) {
	s, err := Get(name)
	if err != nil {
		return nil, err
	}
	l := newLayout(name)
	config, err := adminConfig(l)
	if err != nil {
		return nil, err
	}
	status := &Status{Spec: s}
	for _, n := range s.Nodes {
		status.Nodes = append(status.Nodes, NodeStatus{Node: n, Pid: runningInit(l, n.Name)})
	}
	nodes := map[string]*corev1.Node{}
	var all sync.WaitGroup
	all.Go(func() {
		if err := status.askAPI(ctx, l, nodes); err != nil {
			status.API = err.Error()
		}
	})
	all.Go(func() { status.Holders = holders(s, status.Nodes) })
	for i := range status.Nodes {
		n := &status.Nodes[i]
		if n.Pid == 0 {
			continue
		}
		n.Down = down(s, l, n.Node)
		if n.Role == Master && n.Etcd != Outside {
			all.Go(func() { n.APIServer = askReady(ctx, config, n.Node) })
		}
	}
	all.Go(func() { status.askEtcd(ctx, l) })
	all.Wait()
	for i := range status.Nodes {
		n := &status.Nodes[i]
		n.State = stateOf(n, status.API, nodes[n.Name])
		n.Pressures = pressures(nodes[n.Name])
	}
	return status, nil
}

func stateOf(n *NodeStatus, api string, node *corev1.Node) string {
	switch {
	case n.Pid == 0:
		return "Stopped"
	case api != "":
		return "Running"
	case node == nil:
		return "not registered"
	}
	if why := notReady(node); why != "" {
		return "NotReady: " + why
	}
	return "Ready"
}

func pressures(node *corev1.Node) []string {
	if node == nil {
		return nil
	}
	var names []string
	for _, c := range node.Status.Conditions {
		if strings.HasSuffix(string(c.Type), "Pressure") && c.Status == corev1.ConditionTrue {
			names = append(names, string(c.Type))
		}
	}
	return names
}

func down(s *Spec, l layout, n Node) []string {
	var names []string
	for _, p := range nodeConfig(s, l, n).Processes {
		pid := readPid(l.nodeFile(n.Name, "pid", p.Name+".pid"))
		if pid == 0 {
			names = append(names, p.Name)
		} else if stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err == nil && frozen(string(stat)) {
			names = append(names, p.Name+" (stopped by a signal)")
		}
	}
	return names
}

// askAPI asks at the cluster's address, as its users do.
func (s *Status) askAPI(ctx context.Context, l layout, found map[string]*corev1.Node) error {
	api, err := connectAPI(l)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	nodes, err := api.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("the API does not answer at %s: %s", s.Spec.Server(), strings.TrimSpace(err.Error()))
	}
	for i := range nodes.Items {
		found[nodes.Items[i].Name] = &nodes.Items[i]
	}
	leases, err := api.CoordinationV1().Leases(metav1.NamespaceSystem).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil // the nodes are what counts
	}
	s.Leaders = map[string]string{}
	for _, lease := range leases.Items {
		if holder := lease.Spec.HolderIdentity; holder != nil && *holder != "" {
			s.Leaders[lease.Name] = *holder
		}
	}
	return nil
}

// askReady asks a master's own apiserver for what keeps it from being ready.
func askReady(ctx context.Context, admin *rest.Config, n Node) string {
	config := rest.CopyConfig(admin)
	config.Host = urlOf(n.IP, apiPort)
	config.Timeout = 4 * time.Second
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return err.Error()
	}
	defer client.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, config.Host+"/readyz?verbose", nil)
	if err != nil {
		return err.Error()
	}
	answer, err := client.Do(request)
	if err != nil {
		return strings.TrimSpace(err.Error())
	}
	defer answer.Body.Close()
	if answer.StatusCode == http.StatusOK {
		return ""
	}
	body, _ := io.ReadAll(io.LimitReader(answer.Body, 1<<16))
	for line := range strings.Lines(string(body)) {
		if failed, found := strings.CutPrefix(line, "[-]"); found {
			return strings.TrimSpace(failed)
		}
	}
	return answer.Status
}

// askEtcd asks each member by itself: they may have lost each other.
func (s *Status) askEtcd(ctx context.Context, l layout) {
	if !s.Spec.VIP.IsValid() {
		return // the one member is inside the apiserver, which tells
	}
	var all sync.WaitGroup
	for i := range s.Nodes {
		n := &s.Nodes[i]
		if n.Role != Master || n.Etcd == Outside {
			continue
		}
		all.Go(func() { n.Member = askMember(ctx, l, n.Node) })
		all.Go(func() { n.Sync = askDisk(ctx, l, n.Node) })
	}
	all.Wait()
}

func askMember(ctx context.Context, l layout, n Node) string {
	client, err := dialEtcd(l, n)
	if err != nil {
		return err.Error()
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, 4*time.Second)
	defer cancel()
	members, err := etcd.Members(ctx, client)
	if err != nil {
		return err.Error()
	}
	own, err := etcd.Find(members, n.Name)
	switch {
	case err != nil:
		return err.Error()
	case own.Err != nil:
		return own.Err.Error()
	case len(own.Alarms) > 0:
		return "alarm " + strings.Join(own.Alarms, ", ")
	}
	return ""
}

func askDisk(ctx context.Context, l layout, n Node) time.Duration {
	access, err := etcdAccess(l)
	if err != nil {
		return 0 // which askMember tells
	}
	ctx, cancel := context.WithTimeout(ctx, 4*time.Second)
	defer cancel()
	sync, err := etcd.SyncTime(ctx, access, urlOf(n.IP, clientPort))
	if err != nil {
		return 0
	}
	return sync
}

// holders are the running nodes that have the virtual address.
func holders(s *Spec, nodes []NodeStatus) []string {
	if !s.VIP.IsValid() {
		return nil
	}
	var names []string
	for _, n := range nodes {
		if n.Role == Master && n.Pid != 0 && hasAddress(n.Pid, s.VIP) {
			names = append(names, n.Name)
		}
	}
	return names
}

func hasAddress(pid int, ip netip.Addr) bool {
	space, in, err := openNamespace(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return false
	}
	defer space.Close()
	defer in.Close()
	addresses, err := in.AddrList(nil, netlink.FAMILY_V4)
	return err == nil && slices.ContainsFunc(addresses, func(a netlink.Addr) bool { return a.IP.Equal(ip.AsSlice()) })
}

package agent

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	goruntime "runtime"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	coordinationv1 "k8s.io/api/coordination/v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"

	"skiff/pkg/agent/image"
	"skiff/pkg/agent/runtime"
	"skiff/pkg/component"
)

// NodeConfig is what a node says of itself.
type NodeConfig struct {
	Labels  map[string]string
	Taints  []v1.Taint
	MaxPods int64 // 110 if 0
	// Reserved is kept from pods: capacity minus it is allocatable.
	Reserved v1.ResourceList
	// LeaseDuration and LeaseRenewal: 5 s and 1 s if 0. Node lifecycle controllers
	// honour the duration that stands in the lease.
	LeaseDuration, LeaseRenewal time.Duration
	ProviderID                  string
	// Thresholds say when there is too little of something; none, never.
	Thresholds Thresholds
}

// node keeps the node's own object and its lease.
type node struct {
	agent   *Agent
	cfg     NodeConfig
	started time.Time
	changed chan struct{} // images, network: look again
	missed  atomic.Bool   // the lease was renewed late: ask what the apiserver has
	ready   bool
	last    atomic.Pointer[v1.Node] // as the apiserver has answered
}

// seen is the node's object as it was last seen; nil before it is registered.
func (n *node) seen() *v1.Node {
	if nodes := n.agent.cfg.Nodes; nodes != nil {
		if found, ok, _ := nodes.GetStore().GetByKey(n.agent.cfg.NodeName); ok {
			return found.(*v1.Node)
		}
	}
	return n.last.Load()
}

func newNode(a *Agent) *node {
	cfg := a.cfg.Node
	cfg.MaxPods = cmp.Or(cfg.MaxPods, 110)
	cfg.LeaseDuration = cmp.Or(cfg.LeaseDuration, 5*time.Second)
	cfg.LeaseRenewal = cmp.Or(cfg.LeaseRenewal, time.Second)
	return &node{agent: a, cfg: cfg, started: time.Now(), changed: make(chan struct{}, 1)}
}

// lookAgain is told of what a node says of itself.
func (n *node) lookAgain() {
	select {
	case n.changed <- struct{}{}:
	default:
	}
}

// statusInterval is how often an unchanged status is told again, as the kubelet does.
const statusInterval = 5 * time.Minute

// run registers the node, then keeps its lease and its status.
func (n *node) run(ctx context.Context) error {
	leased := make(chan struct{})
	go func() {
		defer close(leased)
		n.lease(ctx)
	}()
	defer func() { <-leased }()
	current := n.register(ctx)
	if current == nil {
		return nil
	}
	n.agent.events.Event(n.reference(), v1.EventTypeNormal, "Starting", "Starting kubelet.")
	for {
		current = n.fresh(ctx, current)
		n.last.Store(current)
		wait := n.update(ctx, &current)
		select {
		case <-ctx.Done():
			return nil
		case <-n.changed:
		case <-time.After(wait):
		}
	}
}

// fresh is the node's object as the apiserver has it now, as far as that may matter: others write to
// its status too, and must not have the last word. known is what the apiserver said last.
func (n *node) fresh(ctx context.Context, known *v1.Node) *v1.Node {
	if n.missed.Swap(false) {
		found, err := n.agent.cfg.Client.CoreV1().Nodes().Get(ctx, known.Name, metav1.GetOptions{})
		if err == nil {
			return found
		}
		n.missed.Store(true)
	}
	if seen := n.seen(); seen != nil && revision(seen) > revision(known) {
		return seen
	}
	return known
}

func (n *node) reference() *v1.ObjectReference {
	return &v1.ObjectReference{Kind: "Node", Name: n.agent.cfg.NodeName, UID: types.UID(n.agent.cfg.NodeName)}
}

// register creates the node's object, or brings its labels up to date. It
// tries until it succeeds or ctx ends (nil).
func (n *node) register(ctx context.Context) *v1.Node {
	client := n.agent.cfg.Client.CoreV1().Nodes()
	for delay := 50 * time.Millisecond; ctx.Err() == nil; delay = min(2*delay, 2*time.Second) {
		want := n.object(ctx)
		found, err := client.Create(ctx, want, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			found, err = n.relabel(ctx, want)
		}
		if err == nil {
			return found
		}
		n.agent.log.Warn("register node", "err", err)
		select {
		case <-ctx.Done():
		case <-time.After(delay):
		}
	}
	return nil
}

func (n *node) relabel(ctx context.Context, want *v1.Node) (*v1.Node, error) {
	client := n.agent.cfg.Client.CoreV1().Nodes()
	found, err := client.Get(ctx, want.Name, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	changes := map[string]string{}
	for k, v := range want.Labels {
		if found.Labels[k] != v {
			changes[k] = v
		}
	}
	if len(changes) == 0 {
		return found, nil
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"labels": changes}})
	if err != nil {
		return nil, err
	}
	return client.Patch(ctx, want.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
}

// object is the node as it registers.
func (n *node) object(ctx context.Context) *v1.Node {
	name := n.agent.cfg.NodeName
	labels := map[string]string{
		v1.LabelHostname: name, v1.LabelOSStable: goruntime.GOOS, v1.LabelArchStable: goruntime.GOARCH,
		"beta.kubernetes.io/os": goruntime.GOOS, "beta.kubernetes.io/arch": goruntime.GOARCH,
	}
	for k, v := range n.cfg.Labels {
		labels[k] = v
	}
	object := &v1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels,
			Annotations: map[string]string{"volumes.kubernetes.io/controller-managed-attach-detach": "true"}},
		Spec: v1.NodeSpec{Taints: n.cfg.Taints, ProviderID: n.cfg.ProviderID},
	}
	object.Status = n.status(ctx, object, time.Now())
	return object
}

// update tells what has changed, and returns how long to wait before looking again.
func (n *node) update(ctx context.Context, current **v1.Node) time.Duration {
	now := time.Now()
	status := n.status(ctx, *current, now)
	ready := nodeReady(&status)
	wait := 10 * time.Second
	if !ready {
		wait = 50 * time.Millisecond // what is missing (the network) comes soon
	}
	if ready != n.ready {
		reason := "NodeNotReady"
		if ready {
			reason = "NodeReady"
		}
		n.agent.events.Eventf(n.reference(), v1.EventTypeNormal, reason, "Node %s status is now: %s", n.agent.cfg.NodeName, reason)
	}
	n.ready = ready
	old := (*current).Status
	if sameNodeStatus(&old, &status) && now.Sub(heartbeat(&old)) < statusInterval {
		return wait
	}
	before, err1 := json.Marshal(&v1.Node{Status: (*current).Status})
	after, err2 := json.Marshal(&v1.Node{Status: status})
	if err1 != nil || err2 != nil {
		return wait
	}
	patch, err := strategicpatch.CreateTwoWayMergePatch(before, after, v1.Node{})
	if err == nil {
		var answer *v1.Node
		answer, err = n.agent.cfg.Client.CoreV1().Nodes().Patch(ctx, (*current).Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
		if err == nil {
			*current = answer
			return wait
		}
	}
	if ctx.Err() == nil {
		n.agent.log.Warn("report node status", "err", err)
	}
	if apierrors.IsNotFound(err) {
		if found := n.register(ctx); found != nil {
			*current = found
		}
	}
	return time.Second
}

func nodeReady(s *v1.NodeStatus) bool {
	return slices.ContainsFunc(s.Conditions, func(c v1.NodeCondition) bool { return c.Type == v1.NodeReady && c.Status == v1.ConditionTrue })
}

func heartbeat(s *v1.NodeStatus) time.Time {
	for _, c := range s.Conditions {
		if c.Type == v1.NodeReady {
			return c.LastHeartbeatTime.Time
		}
	}
	return time.Time{}
}

// sameNodeStatus compares all but heartbeats.
func sameNodeStatus(a, b *v1.NodeStatus) bool {
	x, y := a.DeepCopy(), b.DeepCopy()
	for _, s := range []*v1.NodeStatus{x, y} {
		for i := range s.Conditions {
			s.Conditions[i].LastHeartbeatTime = metav1.Time{}
		}
	}
	return equality.Semantic.DeepEqual(x, y)
}

// status is the node as it is now.
func (n *node) status(ctx context.Context, object *v1.Node, now time.Time) v1.NodeStatus {
	a := n.agent
	var before v1.NodeStatus
	if object != nil {
		before = object.Status
	}
	s := v1.NodeStatus{
		VolumesAttached: before.VolumesAttached, VolumesInUse: before.VolumesInUse, DaemonEndpoints: v1.NodeDaemonEndpoints{KubeletEndpoint: v1.DaemonEndpoint{Port: int32(a.cfg.Server.Port)}},
		Features: &v1.NodeFeatures{SupplementalGroupsPolicy: ptr(true)},
		RuntimeHandlers: []v1.NodeRuntimeHandler{
			{Name: "", Features: &v1.NodeRuntimeHandlerFeatures{RecursiveReadOnlyMounts: ptr(true), UserNamespaces: ptr(false)}}},
	}
	s.Capacity, s.Allocatable = resources(n.capacity(), before.Capacity, n.cfg.Reserved)
	for _, ip := range a.hostIPs() {
		s.Addresses = append(s.Addresses, v1.NodeAddress{Type: v1.NodeInternalIP, Address: ip})
	}
	s.Addresses = append(s.Addresses, v1.NodeAddress{Type: v1.NodeHostName, Address: a.cfg.NodeName})
	s.NodeInfo = n.info(ctx)
	s.Images = n.images(ctx)
	var problem error
	if a.cfg.Network != nil {
		problem = a.cfg.Network.Ready()
	}
	s.Conditions = nodeConditions(before.Conditions, problem, n.cfg.Thresholds.pressure(a.cfg.RootDir), now)
	return s
}

// resources are what a node has, and what of that pods may take. Extended resources are listed by
// others, who alone know of them, and stay as they are.
func resources(own, listed, reserved v1.ResourceList) (capacity, allocatable v1.ResourceList) {
	capacity, allocatable = maps.Clone(own), v1.ResourceList{}
	for name, quantity := range listed {
		if extended(name) {
			capacity[name] = quantity
		}
	}
	for name, quantity := range capacity {
		left := quantity.DeepCopy()
		if held, ok := reserved[name]; ok {
			left.Sub(held)
		}
		allocatable[name] = left
	}
	return capacity, allocatable
}

// nodeConditions keeps conditions of others, and the times of those that stay.
func nodeConditions(old []v1.NodeCondition, network error, p pressures, now time.Time) []v1.NodeCondition {
	var out []v1.NodeCondition
	add := func(kind v1.NodeConditionType, is bool, reason, message string) {
		c := v1.NodeCondition{Type: kind, Status: v1.ConditionFalse, Reason: reason, Message: message,
			LastHeartbeatTime: metav1.NewTime(now.Truncate(time.Second)), LastTransitionTime: metav1.NewTime(now.Truncate(time.Second))}
		if is {
			c.Status = v1.ConditionTrue
		}
		for _, o := range old {
			if o.Type == kind && o.Status == c.Status {
				c.LastTransitionTime = o.LastTransitionTime
			}
		}
		out = append(out, c)
	}
	choose := func(is bool, yes, no string) string {
		if is {
			return yes
		}
		return no
	}
	add(v1.NodeMemoryPressure, p.memory, choose(p.memory, "KubeletHasInsufficientMemory", "KubeletHasSufficientMemory"),
		choose(p.memory, "kubelet has insufficient memory available", "kubelet has sufficient memory available"))
	add(v1.NodeDiskPressure, p.disk, choose(p.disk, "KubeletHasDiskPressure", "KubeletHasNoDiskPressure"),
		choose(p.disk, "kubelet has disk pressure", "kubelet has no disk pressure"))
	add(v1.NodePIDPressure, p.pids, choose(p.pids, "KubeletHasInsufficientPID", "KubeletHasSufficientPID"),
		choose(p.pids, "kubelet has insufficient PID available", "kubelet has sufficient PID available"))
	if network != nil {
		add(v1.NodeReady, false, "KubeletNotReady", "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:"+network.Error())
	} else {
		add(v1.NodeReady, true, "KubeletReady", "kubelet is posting ready status")
	}
	for _, o := range old {
		if !slices.ContainsFunc(out, func(c v1.NodeCondition) bool { return c.Type == o.Type }) {
			out = append(out, o)
		}
	}
	return out
}

func (n *node) capacity() v1.ResourceList {
	var fs unix.Statfs_t
	_ = unix.Statfs(n.agent.cfg.RootDir, &fs)
	return v1.ResourceList{
		v1.ResourceCPU:              *resource.NewMilliQuantity(n.agent.milliCPU, resource.DecimalSI),
		v1.ResourceMemory:           *resource.NewQuantity(n.agent.memory, resource.BinarySI),
		v1.ResourceEphemeralStorage: *resource.NewQuantity(int64(fs.Blocks)*fs.Bsize, resource.BinarySI),
		v1.ResourcePods:             *resource.NewQuantity(n.cfg.MaxPods, resource.DecimalSI),
		"hugepages-1Gi":             *resource.NewQuantity(0, resource.DecimalSI),
		"hugepages-2Mi":             *resource.NewQuantity(0, resource.DecimalSI),
	}
}

func (a *Agent) allocatable() v1.ResourceList { return a.node.capacity() }

func (n *node) info(ctx context.Context) v1.NodeSystemInfo {
	var uts unix.Utsname
	_ = unix.Uname(&uts)
	version, _ := n.agent.runtime.Version(ctx)
	return v1.NodeSystemInfo{
		MachineID: trimmed("/etc/machine-id"), SystemUUID: cmp.Or(trimmed("/sys/class/dmi/id/product_uuid"), trimmed("/etc/machine-id")),
		BootID: trimmed("/proc/sys/kernel/random/boot_id"), KernelVersion: unix.ByteSliceToString(uts.Release[:]),
		OSImage: osImage(), ContainerRuntimeVersion: version, KubeletVersion: component.Version().GitVersion,
		KubeProxyVersion: "", OperatingSystem: goruntime.GOOS, Architecture: goruntime.GOARCH,
	}
}

func trimmed(path string) string {
	b, _ := os.ReadFile(path)
	return strings.TrimSpace(string(b))
}

func osImage() string {
	b, _ := os.ReadFile("/etc/os-release")
	for _, line := range strings.Split(string(b), "\n") {
		if value, ok := strings.CutPrefix(line, "PRETTY_NAME="); ok {
			return strings.Trim(value, `"`)
		}
	}
	return "Linux"
}

// maxImages and maxNames bound a node's list of images, as the kubelet does.
const maxImages, maxNames = 50, 5

func (n *node) images(ctx context.Context) []v1.ContainerImage {
	list, err := n.agent.images.List(ctx)
	if err != nil {
		return nil
	}
	slices.SortFunc(list, func(a, b image.Listed) int {
		return cmp.Or(cmp.Compare(b.Size, a.Size), slices.Compare(a.Names, b.Names))
	})
	var out []v1.ContainerImage
	for _, i := range list[:min(len(list), maxImages)] {
		out = append(out, v1.ContainerImage{Names: i.Names[:min(len(i.Names), maxNames)], SizeBytes: i.Size})
	}
	return out
}

// lease renews the node's lease until ctx ends.
func (n *node) lease(ctx context.Context) {
	client := n.agent.cfg.Client.CoordinationV1().Leases(v1.NamespaceNodeLease)
	name := n.agent.cfg.NodeName
	seconds := int32(n.cfg.LeaseDuration / time.Second)
	var held *coordinationv1.Lease
	renewed := time.Now()
	for ctx.Err() == nil {
		request, cancel := context.WithTimeout(ctx, n.cfg.LeaseDuration)
		var err error
		now := metav1.NowMicro()
		if held == nil {
			held, err = client.Get(request, name, metav1.GetOptions{})
			if apierrors.IsNotFound(err) {
				held, err = client.Create(request, &coordinationv1.Lease{
					ObjectMeta: metav1.ObjectMeta{Name: name, OwnerReferences: n.owner(request)},
					Spec:       coordinationv1.LeaseSpec{HolderIdentity: &name, LeaseDurationSeconds: &seconds, RenewTime: &now},
				}, metav1.CreateOptions{})
			}
		}
		if err == nil && held != nil {
			next := held.DeepCopy()
			next.Spec.HolderIdentity, next.Spec.LeaseDurationSeconds, next.Spec.RenewTime = &name, &seconds, &now
			if len(next.OwnerReferences) == 0 {
				next.OwnerReferences = n.owner(request)
			}
			var updated *coordinationv1.Lease
			if updated, err = client.Update(request, next, metav1.UpdateOptions{}); err == nil {
				held = updated
				if time.Since(renewed) > n.cfg.LeaseDuration/2 { // the node may have been called unreachable
					n.missed.Store(true)
					n.lookAgain()
				}
				renewed = time.Now()
			}
		}
		cancel()
		wait := n.cfg.LeaseRenewal
		if err != nil {
			held = nil
			wait = min(wait, 200*time.Millisecond)
			if ctx.Err() == nil {
				n.agent.log.Debug("renew node lease", "err", err)
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
}

// owner ties the lease to the node's object, if that is there already.
func (n *node) owner(ctx context.Context) []metav1.OwnerReference {
	found, err := n.agent.cfg.Client.CoreV1().Nodes().Get(ctx, n.agent.cfg.NodeName, metav1.GetOptions{})
	if err != nil {
		return nil
	}
	return []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: found.Name, UID: found.UID}}
}

// machine is what the node has of the machine's CPUs (in thousandths) and memory.
func machine(limits runtime.Limits) (milliCPU, memory int64) {
	milliCPU, memory = 1000*int64(goruntime.NumCPU()), meminfo()["MemTotal"]
	if limits.CPUQuota > 0 {
		milliCPU = min(milliCPU, 1000*limits.CPUQuota/int64(limits.CPUPeriod))
	}
	if limits.Memory > 0 {
		memory = min(memory, limits.Memory)
	}
	return milliCPU, memory
}

// meminfo reads /proc/meminfo in bytes.
func meminfo() map[string]int64 {
	out := map[string]int64{}
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return out
	}
	defer f.Close()
	scanner := bufio.NewScanner(f)
	for scanner.Scan() {
		var name string
		var n int64
		if _, err := fmt.Sscanf(scanner.Text(), "%s %d kB", &name, &n); err == nil {
			out[strings.TrimSuffix(name, ":")] = n << 10
		}
	}
	return out
}

func ptr[T any](v T) *T { return &v }

// insecureTLS: who asks a pod's own port how it is can't know its authority.
func insecureTLS() *tls.Config { return &tls.Config{InsecureSkipVerify: true} } // #nosec

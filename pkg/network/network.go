package network

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/cache"
)

// Config is what a [Network] is made from.
type Config struct {
	// NodeName is the Node whose pod range this process serves.
	NodeName string
	// StateDir holds one file per address in use. It must lie on a disk that
	// survives the process; it may be lost with the machine.
	StateDir string
	// ClusterCIDRs hold the pods of all nodes, ServiceCIDRs the service VIPs.
	ClusterCIDRs []netip.Prefix
	ServiceCIDRs []netip.Prefix
	// LocalAddresses are service addresses that the node itself answers on, the
	// name server's for one. They are put on lo.
	LocalAddresses []netip.Addr
	// Nodes watches all nodes. Whoever made it starts it.
	Nodes cache.SharedIndexInformer

	// Bridge and VXLAN name the devices: "skiff0" and "skiff.vxlan" by default.
	Bridge string
	VXLAN  string
	// VNI and VXLANPort identify the tunnel; 36 and 4789 (RFC 7348) by default.
	// They must be the same on all nodes.
	VNI       int
	VXLANPort int

	Logger *slog.Logger
}

// Network is the pod network of one node. All methods may be called
// concurrently; those that need the node's pod range wait for [Network.Run]
// to have learnt it.
type Network struct {
	config    Config
	log       *slog.Logger
	addresses *addresses
	filter    *filter

	// ready is closed when the bridge stands; the fields below are fixed then.
	ready  chan struct{}
	handle *netlink.Handle
	bridge *netlink.Bridge
	local  Local

	mtu      atomic.Int64 // of pods attached from now on
	state    State        // what is programmed between nodes; Run's own
	problem  atomic.Pointer[error]
	podLocks [64]sync.Mutex // by the hash of a pod's id
}

// New makes a Network. It touches nothing until [Network.Run].
func New(config Config) *Network {
	config.Bridge = cmp.Or(config.Bridge, "skiff0")
	config.VXLAN = cmp.Or(config.VXLAN, "skiff.vxlan")
	config.VNI = cmp.Or(config.VNI, 36)
	config.VXLANPort = cmp.Or(config.VXLANPort, 4789)
	if config.Logger == nil {
		config.Logger = slog.Default()
	}
	return &Network{
		config:    config,
		log:       config.Logger,
		addresses: &addresses{dir: config.StateDir},
		filter:    &filter{},
		ready:     make(chan struct{}),
	}
}

// errNotReady is what [Network.Ready] says before the first attempt.
var errNotReady = errors.New("network: waiting for the node's pod range (spec.podCIDR)")

// Ready returns nil when pods can be attached, and otherwise why not. It never blocks.
func (n *Network) Ready() error {
	select {
	case <-n.ready:
		return nil
	default:
	}
	if problem := n.problem.Load(); problem != nil {
		return *problem
	}
	return errNotReady
}

// await blocks until the node's own network stands.
func (n *Network) await(ctx context.Context) error {
	select {
	case <-n.ready:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w (%w)", n.Ready(), context.Cause(ctx))
	}
}

// Run sets up the node's bridge as soon as the Node has a pod range, and then
// keeps routes and tunnels in step with all nodes until ctx ends. What it has
// programmed stays when it returns: running pods don't notice a restart.
func (n *Network) Run(ctx context.Context) error {
	changed := make(chan struct{}, 1)
	poke := func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	registration, err := n.config.Nodes.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { poke() },
		UpdateFunc: func(old, new any) {
			if before, ok := old.(*corev1.Node); ok && !sameNetwork(before, new.(*corev1.Node)) {
				poke()
			}
		},
		DeleteFunc: func(any) { poke() },
	})
	if err != nil {
		return fmt.Errorf("network: watching nodes: %w", err)
	}
	defer n.config.Nodes.RemoveEventHandler(registration)
	go func() { // the last of the first events may come before HasSynced knows
		if cache.WaitForCacheSync(ctx.Done(), registration.HasSynced) {
			poke()
		}
	}()

	// A route can vanish without a word from the API (an uplink that went down
	// and came back), so the kernel's table is read again now and then.
	refresh := time.NewTicker(30 * time.Second)
	defer refresh.Stop()
	var orphans map[string]bool
	retry := time.NewTimer(0)
	defer retry.Stop()
	delay := 50 * time.Millisecond
	reread := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-retry.C:
		case <-refresh.C:
			reread = true
			if n.Ready() == nil {
				if orphans, err = n.sweep(orphans); err != nil {
					n.log.Warn("sweeping links", "error", err)
				}
			}
		}
		err := n.sync(registration.HasSynced(), reread)
		if err != nil {
			if n.problem.Swap(&err) == nil || delay > time.Second {
				n.log.Warn("the node's network is not complete yet", "error", err)
			}
			retry.Reset(delay)
			delay = min(2*delay, 5*time.Second)
			continue
		}
		reread, delay = false, 50*time.Millisecond
		n.problem.Store(nil)
	}
}

// sync brings the kernel to what the nodes in the cache ask for.
func (n *Network) sync(synced, reread bool) error {
	nodes := make([]*corev1.Node, 0, 8)
	var own *corev1.Node
	for _, item := range n.config.Nodes.GetStore().List() {
		node := item.(*corev1.Node)
		nodes = append(nodes, node)
		if node.Name == n.config.NodeName {
			own = node
		}
	}
	if own == nil {
		return fmt.Errorf("network: node %q is not registered yet", n.config.NodeName)
	}
	if n.Ready() != nil {
		if err := n.setUp(own); err != nil {
			return err
		}
		close(n.ready)
		n.log.Info("pod network is up", "bridge", n.config.Bridge, "podCIDR", n.local.PodCIDR, "mtu", n.mtu.Load())
	} else if podCIDR, err := podRange(own); err != nil || podCIDR != n.local.PodCIDR {
		return fmt.Errorf("network: the node's pod range changed from %s to %s: restart the agent when its pods are gone", n.local.PodCIDR, podCIDR)
	}
	if !synced {
		return nil // a partial list must not remove routes
	}
	if reread || n.state.Routes == nil {
		state, err := n.read()
		if err != nil {
			return err
		}
		n.state = state
	}
	want, refused := Plan(n.local, nodes)
	for _, err := range refused {
		n.log.Warn("no route to a node", "error", err)
	}
	return n.apply(Steps(n.state, want), want)
}

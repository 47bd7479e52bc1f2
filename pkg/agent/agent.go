// Package agent runs the pods of one node.
//
// The way of a pod, in reading order:
//
//	agent.go      news of pods from the apiserver and of containers from containerd,
//	              each handed to the one worker that owns the pod
//	worker.go     that worker: a loop around Step, with everything slow done beside it
//	step.go       Step, the pure decision what to do next; state.go is what it looks at
//	sandbox.go    namespaces, cgroup, network
//	operations.go images and hooks; probes.go the probes; launch.go what a container is
//	              started with (env.go, files.go)
//	status.go     Status, the pure derivation of what is reported; statuses.go reports it
//	adopt.go      what a restarted agent makes of containers that run already
//	node.go       the node's own object, its conditions, its lease
//	server.go     the kubelet's HTTPS API: logs, exec, attach, port-forward, stats
//
// An agent that stops, or dies, leaves its containers alone; the next one finds
// them by their labels and goes on. Nothing here polls: what happens comes from
// watches of the apiserver and from containerd's events.
//
// Honest limits: no static pods, no device plugins, no CSI, no user
// namespaces, no in-place resize, no eviction under pressure, Linux only. What a
// pod asks for beyond that is refused with an event and a status that say so.
package agent

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	k8sruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"skiff/pkg/agent/image"
	"skiff/pkg/agent/runtime"
	"skiff/pkg/network"
)

// Network connects pods. *network.Network is one; nil leaves pods with
// nothing but their loopback.
type Network interface {
	Attach(ctx context.Context, pod network.Pod) ([]netip.Addr, error)
	Detach(ctx context.Context, podID string) error
	Reclaim(ctx context.Context, live []string) error
	Ready() error
}

// Config is what an Agent is made of. Client, NodeName, NodeIPs and Runtime
// are required.
type Config struct {
	Client   kubernetes.Interface
	NodeName string
	NodeIPs  []netip.Addr
	Runtime  runtime.Config // RunDir defaults to RootDir/run
	Network  Network

	// Services are of all namespaces; nil leaves service variables out. Whoever
	// made the informer starts it.
	Services cache.SharedIndexInformer
	// Nodes hold at least this node, for its labels and taints; nil uses what the
	// apiserver last answered.
	Nodes cache.SharedIndexInformer

	RootDir    string // state that survives a reboot; "/var/lib/kubelet"
	LogDir     string // "/var/log/pods"
	HostsDir   string // of registries: "/etc/containerd/certs.d"
	ResolvConf string // "/etc/resolv.conf"

	ClusterDNS    []string
	ClusterDomain string

	Node   NodeConfig
	Server ServerConfig

	PodPidsLimit int64 // per pod; 0 none

	// Release is called for a pod that is being deleted, before its first signal: it
	// returns when the local proxy no longer sends to it, and is waited for at most
	// two seconds. Nil waits for nothing.
	Release func(ctx context.Context, pod *v1.Pod)

	Log *slog.Logger
}

// Agent runs the pods of one node.
type Agent struct {
	cfg     Config
	log     *slog.Logger
	runtime *runtime.Runtime
	images  *image.Store
	objects *objects
	events  record.EventRecorder
	// What the node has: thousandths of CPUs, and bytes.
	milliCPU, memory int64

	statuses   *statuses
	node       *node
	hookClient *http.Client
	operations sync.WaitGroup

	mu      sync.Mutex
	workers map[types.UID]*worker
	owners  map[string]*worker             // by container id
	used    map[types.UID]*v1.Pod          // admitted pods, for the sums of admission
	found   map[string][]runtime.Container // of pods without a worker yet, by uid
	synced  atomic.Bool
	ctx     context.Context
	wg      sync.WaitGroup
}

// New makes an Agent. Run starts it.
func New(cfg Config) (*Agent, error) {
	if cfg.Client == nil || cfg.NodeName == "" || len(cfg.NodeIPs) == 0 {
		return nil, fmt.Errorf("agent: client, node name and node IPs are required")
	}
	or := func(s *string, otherwise string) {
		if *s == "" {
			*s = otherwise
		}
	}
	or(&cfg.RootDir, "/var/lib/kubelet")
	or(&cfg.LogDir, "/var/log/pods")
	or(&cfg.ResolvConf, resolvConf)
	or(&cfg.Runtime.RunDir, filepath.Join(cfg.RootDir, "run"))
	or(&cfg.ClusterDomain, "cluster.local")
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	cfg.Runtime.Log = cfg.Log
	a := &Agent{
		cfg: cfg, log: cfg.Log,
		runtime:    runtime.New(cfg.Runtime),
		hookClient: &http.Client{Timeout: 0, Transport: hookTransport()},
		workers:    map[types.UID]*worker{},
		owners:     map[string]*worker{},
		used:       map[types.UID]*v1.Pod{},
		found:      map[string][]runtime.Container{},
	}
	a.objects = newObjects(cfg.Client, a.log, a.objectsChanged)
	a.statuses = newStatuses(cfg.Client, a.log)
	return a, nil
}

// Run runs until ctx ends. It waits for containerd; the apiserver may come and
// go. Containers go on running when it returns.
func (a *Agent) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	a.ctx = ctx
	broadcaster := record.NewBroadcaster(record.WithContext(ctx))
	defer broadcaster.Shutdown()
	broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: a.cfg.Client.CoreV1().Events("")})
	a.events = broadcaster.NewRecorder(scheme.Scheme, v1.EventSource{Component: "kubelet", Host: a.cfg.NodeName})

	if err := a.runtime.Open(ctx); err != nil {
		return fmt.Errorf("agent: %w", err)
	}
	defer a.runtime.Close()
	a.images = image.NewStore(a.runtime.Client(), image.Config{HostsDir: a.cfg.HostsDir, Snapshotter: a.cfg.Runtime.Snapshotter})
	a.milliCPU, a.memory = machine(a.runtime.NodeLimits())
	a.node = newNode(a)
	if err := a.find(ctx); err != nil {
		return fmt.Errorf("agent: %w", err)
	}

	var parts sync.WaitGroup
	failed := make(chan error, 4)
	part := func(name string, run func(context.Context) error) {
		parts.Go(func() {
			if err := run(ctx); err != nil && ctx.Err() == nil {
				failed <- fmt.Errorf("%s: %w", name, err)
				cancel()
			}
		})
	}
	a.objects.mu.Lock()
	a.objects.ctx = ctx
	a.objects.mu.Unlock()
	part("objects", func(ctx context.Context) error { a.objects.run(ctx); return nil })
	part("statuses", a.statuses.run)
	part("containerd", func(ctx context.Context) error { return a.runtime.Run(ctx, a.containerEvent) })
	part("node", a.node.run)
	part("server", a.serve)
	part("pods", a.watchPods)
	parts.Wait()
	a.wg.Wait()
	a.operations.Wait()
	select {
	case err := <-failed:
		return fmt.Errorf("agent: %w", err)
	default:
		return nil
	}
}

// watchPods feeds the workers from the pods that are bound to this node.
func (a *Agent) watchPods(ctx context.Context) error {
	selector := fields.OneTermEqualSelector("spec.nodeName", a.cfg.NodeName).String()
	pods := a.cfg.Client.CoreV1().Pods(metav1.NamespaceAll)
	_, controller := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
			ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (k8sruntime.Object, error) {
				options.FieldSelector = selector
				return pods.List(ctx, options)
			},
			WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
				options.FieldSelector = selector
				return pods.Watch(ctx, options)
			},
		}, a.cfg.Client),
		ObjectType: &v1.Pod{},
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc:    func(obj any) { a.podChanged(obj.(*v1.Pod)) },
			UpdateFunc: func(_, obj any) { a.podChanged(obj.(*v1.Pod)) },
			DeleteFunc: func(obj any) {
				if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
					obj = gone.Obj
				}
				if pod, ok := obj.(*v1.Pod); ok {
					a.podRemoved(pod)
				}
			},
		},
	})
	a.wg.Go(func() {
		if cache.WaitForCacheSync(ctx.Done(), controller.HasSynced) {
			a.synced.Store(true)
			a.clean(ctx)
		}
	})
	controller.RunWithContext(ctx)
	return nil
}

// podChanged hands a pod to its worker, or makes one.
func (a *Agent) podChanged(pod *v1.Pod) {
	a.mu.Lock()
	w := a.workers[pod.UID]
	if w == nil {
		a.begin(pod)
	}
	a.mu.Unlock()
	if w != nil { // outside of the lock, for this may wait for the worker
		w.update(pod)
	}
}

// begin starts the worker of a pod. The lock is held.
func (a *Agent) begin(pod *v1.Pod) {
	w := newWorker(a, pod)
	found := a.found[string(pod.UID)]
	delete(a.found, string(pod.UID))
	for _, c := range found {
		a.owners[c.ID] = w
	}
	a.workers[pod.UID] = w
	a.wg.Go(func() {
		w.run(a.ctx, found)
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.ctx.Err() != nil {
			return
		}
		delete(a.workers, pod.UID)
		delete(a.used, pod.UID)
		for id, owner := range a.owners {
			if owner == w {
				delete(a.owners, id)
			}
		}
		a.objects.hold(pod.UID, nil)
	})
}

func (a *Agent) podRemoved(pod *v1.Pod) {
	a.mu.Lock()
	w := a.workers[pod.UID]
	a.mu.Unlock()
	if w != nil {
		// The last version may carry a shorter grace period.
		w.update(pod)
		w.removed()
	}
}

// own says whose a container is, before any event of it can come.
func (a *Agent) own(id string, w *worker) {
	a.mu.Lock()
	a.owners[id] = w
	a.mu.Unlock()
}

// containerEvent hands an exit to the container's worker.
func (a *Agent) containerEvent(e runtime.Event) {
	switch {
	case e.Resync:
		a.resync(a.ctx)
	case e.Exited != "":
		a.mu.Lock()
		w := a.owners[e.Exited]
		a.mu.Unlock()
		if w != nil {
			w.post(func() { w.exited(e.Exited) })
		}
	case e.Images:
		a.node.lookAgain()
	}
}

func (a *Agent) objectsChanged(pods []types.UID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, uid := range pods {
		if w := a.workers[uid]; w != nil {
			go w.objectsChanged()
		}
	}
}

// services are all that are known of.
func (a *Agent) services() []*v1.Service {
	if a.cfg.Services == nil {
		return nil
	}
	all, _ := corelisters.NewServiceLister(a.cfg.Services.GetIndexer()).List(labels.Everything())
	return all
}

func (a *Agent) hostIPs() []string {
	out := make([]string, 0, len(a.cfg.NodeIPs))
	for _, ip := range a.cfg.NodeIPs {
		out = append(out, ip.String())
	}
	return out
}

func hookTransport() http.RoundTripper {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.Proxy, t.DisableKeepAlives = nil, true
	t.TLSClientConfig = insecureTLS()
	t.ResponseHeaderTimeout = time.Minute
	return t
}

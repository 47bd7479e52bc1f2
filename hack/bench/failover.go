package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"skiff/pkg/cluster"
	"skiff/test/fault/inject"
	"skiff/test/fault/record"
)

// patience is how long anything may take before the benchmark gives up.
const patience = time.Minute

// ha is a highly available cluster, in which one thing after another is broken.
type ha struct {
	spec     *cluster.Spec
	config   *rest.Config // through the VIP
	client   kubernetes.Interface
	recorder *record.Recorder
	churn    *record.Churn
}

// row is a line of the table: a trial breaks something in a healthy cluster, and says for
// how long something was away because of it.
type row struct {
	what, goal string
	trial      func(ctx context.Context, h *ha, n int) (time.Duration, error)
}

var rows = []row{
	{"apiserver killed: a client's errors", "goal 2 s", func(ctx context.Context, h *ha, n int) (time.Duration, error) {
		return h.clients(ctx, h.process(h.spec.Masters()[n%3].Name, "apiserver").Kill)
	}},
	{"load balancer killed: a client's errors", "goal 2 s", func(ctx context.Context, h *ha, _ int) (time.Duration, error) {
		return h.clients(ctx, h.process(inject.Holder(h.spec), h.spec.LoadBalancer).Kill)
	}},
	{"keepalived killed: a client's errors", "goal 2 s", func(ctx context.Context, h *ha, _ int) (time.Duration, error) {
		return h.clients(ctx, h.process(inject.Holder(h.spec), "keepalived").Kill)
	}},
	{"VIP's master lost: a client's errors", "goal 2 s", func(ctx context.Context, h *ha, _ int) (time.Duration, error) {
		node := inject.Holder(h.spec)
		took, err := h.clients(ctx, func() error { return inject.PowerCut(name, node) })
		return took, errors.Join(err, cluster.Start(ctx, name, node, patience, nil))
	}},
	{"leading etcd member killed: no write", "goal 3 s", func(ctx context.Context, h *ha, _ int) (time.Duration, error) {
		node, err := inject.EtcdLeader(ctx, h.spec)
		if err != nil {
			return 0, err
		}
		g, err := h.gaps(ctx, h.process(node, "etcd").Kill)
		return g.Write, err
	}},
	{"scheduler killed: a new pod is bound", "goal 5 s", leader("scheduler", unix.SIGKILL)},
	{"scheduler stopped: a new pod is bound", "goal 1 s", leader("scheduler", unix.SIGTERM)},
	{"controller killed: a new pod is made", "goal 5 s", leader("controller", unix.SIGKILL)},
	{"controller stopped: a new pod is made", "goal 1 s", leader("controller", unix.SIGTERM)},
	{"worker lost: NotReady", "goal 10 s", lostWorker},
	{"two masters back: all clients served", "goal 10 s", lostQuorum},
}

// failover measures how long a cluster of three masters and three workers takes to start, and
// to go on after something in it has broken.
func failover(ctx context.Context, bin string, starts, trials int) error {
	var ready []time.Duration
	h := &ha{}
	for range starts {
		if err := cluster.Delete(name, nil); err != nil {
			return err
		}
		begin := time.Now()
		var err error
		h.spec, err = cluster.Create(ctx, cluster.CreateOptions{
			Options: cluster.Options{Name: name, Masters: 3, Workers: 3, Isolated: true, Bin: bin}, Wait: patience})
		if err != nil {
			return err
		}
		ready = append(ready, time.Since(begin))
	}
	report("3 masters + 3 workers, all Ready", ready, "goal 6 s")
	if err := h.start(ctx); err != nil {
		return err
	}
	defer h.recorder.Abandon()
	for _, r := range rows {
		var took []time.Duration
		for n := range trials {
			if err := h.healthy(ctx); err != nil {
				return fmt.Errorf("before %q: %w", r.what, err)
			}
			d, err := r.trial(ctx, h, n)
			if err != nil {
				return fmt.Errorf("%s: %w", r.what, err)
			}
			took = append(took, d)
		}
		report(r.what, took, r.goal)
	}
	return nil
}

// start begins what runs all the time: clients, and work for scheduler and controller.
func (h *ha) start(ctx context.Context) error {
	config, err := clientcmd.BuildConfigFromFlags("", cluster.AdminKubeconfig(name))
	if err != nil {
		return err
	}
	h.config = record.Foreign(config)
	if h.client, err = kubernetes.NewForConfig(h.config); err != nil {
		return err
	}
	for _, namespace := range []string{"recorder", "churn"} {
		if _, err := h.client.CoreV1().Namespaces().Create(ctx, &v1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{}); err != nil {
			return err
		}
	}
	if h.recorder, err = record.Start(h.config, "recorder"); err != nil {
		return err
	}
	h.churn, err = record.StartChurn(ctx, h.config, "churn")
	return err
}

func (h *ha) process(node, process string) inject.Process {
	return inject.Process{Cluster: name, Node: node, Name: process}
}

// poll asks until check has no objection.
func poll(ctx context.Context, check func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		err := check(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (h *ha) healthy(ctx context.Context) error {
	return poll(ctx, func(ctx context.Context) error {
		status, err := cluster.GetStatus(ctx, name)
		if err == nil && len(status.Causes()) > 0 {
			err = errors.New(strings.Join(status.Causes(), "; "))
		}
		return err
	})
}

// gaps breaks something, and measures how long clients got no answers.
func (h *ha) gaps(ctx context.Context, breaks func() error) (record.Gaps, error) {
	const late = 4 * time.Second // what is noticed late counts as well
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	begin := time.Now()
	if err := breaks(); err != nil {
		return record.Gaps{}, err
	}
	time.Sleep(late)
	if err := h.recorder.Settled(ctx, time.Now()); err != nil {
		return record.Gaps{}, err
	}
	return record.MeasureGaps(h.recorder.Operations(), h.recorder.Offset(begin), h.recorder.Offset(time.Now())), nil
}

// clients is the gap of the client that had it worst.
func (h *ha) clients(ctx context.Context, breaks func() error) (time.Duration, error) {
	g, err := h.gaps(ctx, breaks)
	return max(g.Write, g.Read), err
}

// leader ends the component that leads, and measures until another has done its work.
func leader(component string, signal unix.Signal) func(context.Context, *ha, int) (time.Duration, error) {
	return func(ctx context.Context, h *ha, _ int) (time.Duration, error) {
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		lock, works := "kube-scheduler", h.churn.Bound
		if component == "controller" {
			lock, works = "kube-controller-manager", h.churn.Created
		}
		lease, err := h.client.CoordinationV1().Leases(metav1.NamespaceSystem).Get(ctx, lock, metav1.GetOptions{})
		if err != nil {
			return 0, err
		}
		if lease.Spec.HolderIdentity == nil {
			return 0, fmt.Errorf("nobody leads %s", lock)
		}
		p := h.process(record.Lock{Holder: *lease.Spec.HolderIdentity}.Node(), component)
		at := time.Now()
		if err := p.Signal(signal); err != nil {
			return 0, err
		}
		return works(ctx, at)
	}
}

func lostWorker(ctx context.Context, h *ha, n int) (time.Duration, error) {
	node := h.spec.Workers()[n%3].Name
	begin := time.Now()
	if err := inject.PowerCut(name, node); err != nil {
		return 0, err
	}
	err := poll(ctx, func(ctx context.Context) error {
		now, err := h.client.CoreV1().Nodes().Get(ctx, node, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, c := range now.Status.Conditions {
			if c.Type == v1.NodeReady && c.Status != v1.ConditionTrue {
				return nil
			}
		}
		return fmt.Errorf("%s is still Ready", node)
	})
	took := time.Since(begin)
	return took, errors.Join(err, cluster.Start(ctx, name, node, patience, nil))
}

func lostQuorum(ctx context.Context, h *ha, n int) (time.Duration, error) {
	masters := h.spec.Masters()
	dead := []string{masters[n%3].Name, masters[(n+1)%3].Name}
	for _, node := range dead {
		if err := inject.PowerCut(name, node); err != nil {
			return 0, err
		}
	}
	begin := time.Now()
	for _, node := range dead {
		if err := cluster.Start(ctx, name, node, 0, nil); err != nil {
			return 0, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err := h.recorder.Settled(ctx, begin)
	return time.Since(begin), err
}

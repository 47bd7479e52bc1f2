package fault

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	coordinationv1 "k8s.io/api/coordination/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"skiff/pkg/cluster"
	"skiff/test/fault/inject"
	"skiff/test/fault/record"
)

// comeBack is how long anything may take to be well again. What is promised is a
// fraction of that, and measured.
const comeBack = 40 * time.Second

var (
	configMaps = v1.SchemeGroupVersion.WithResource("configmaps")
	quotas     = v1.SchemeGroupVersion.WithResource("resourcequotas")
	endpoints  = v1.SchemeGroupVersion.WithResource("endpoints")
	pods       = v1.SchemeGroupVersion.WithResource("pods")
	leases     = coordinationv1.SchemeGroupVersion.WithResource("leases")
)

// scenario is what goes on around one fault.
type scenario struct {
	*testing.T
	namespace string
	recorder  *record.Recorder
	busy      *record.Watcher   // of what the recorder writes
	idle      []*record.Watcher // of what nobody writes, each on a connection of its own, so at several apiservers
	leases    *record.Watcher
	endpoints *record.Watcher
	lists     atomic.Int64         // that an informer has made
	steady    map[string]container // by id; see untouched
	// restarted: the fault ends containers, so they are not compared.
	restarted bool
}

// begin makes the cluster well, whatever was done to it before, and starts to record.
func begin(t *testing.T) *scenario {
	s := &scenario{T: t}
	s.mend()
	s.healthy()
	s.namespace = newNamespace(t)
	s.steady = s.containers()

	ctx, cancel := context.WithTimeout(t.Context(), comeBack)
	defer cancel()
	s.busy = s.watch(ctx, configMaps, s.namespace)
	for range 3 {
		s.idle = append(s.idle, s.watch(ctx, quotas, s.namespace))
	}
	s.leases = s.watch(ctx, leases, metav1.NamespaceSystem)
	s.endpoints = s.watch(ctx, endpoints, metav1.NamespaceSystem)
	s.inform()
	var err error
	s.recorder, err = record.Start(restConfig, s.namespace)
	s.must(err)
	t.Cleanup(s.recorder.Abandon)
	s.settled(time.Now(), "before the fault")
	return s
}

// Error and the three like it are testing's, and remember what they say for the end.
func (s *scenario) Error(args ...any) { s.Helper(); s.complain(fmt.Sprintln(args...)); s.Fail() }

func (s *scenario) Errorf(format string, args ...any) {
	s.Helper()
	s.complain(fmt.Sprintf(format, args...))
	s.Fail()
}

func (s *scenario) Fatal(args ...any) { s.Helper(); s.complain(fmt.Sprintln(args...)); s.FailNow() }

func (s *scenario) Fatalf(format string, args ...any) {
	s.Helper()
	s.complain(fmt.Sprintf(format, args...))
	s.FailNow()
}

func (s *scenario) complain(text string) {
	s.Helper()
	text = strings.TrimSpace(text)
	s.Log(text)
	fmt.Fprintf(&complaints, "%s: %s\n", s.Name(), text)
}

func (s *scenario) watch(ctx context.Context, resource schema.GroupVersionResource, namespace string) *record.Watcher {
	s.Helper()
	w, err := record.Watch(ctx, restConfig, resource, namespace)
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { w.Stop() })
	return w
}

// inform runs an informer of client-go's, and counts how often it lists.
func (s *scenario) inform() {
	config := record.Foreign(restConfig)
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			if q := r.URL.Query(); q.Get("watch") == "" || q.Get("sendInitialEvents") == "true" {
				s.lists.Add(1)
			}
			return next.RoundTrip(r)
		})
	})
	set, err := kubernetes.NewForConfig(config)
	if err != nil {
		s.Fatal(err)
	}
	factory := informers.NewSharedInformerFactoryWithOptions(set, 0, informers.WithNamespace(s.namespace))
	informer := factory.Core().V1().ConfigMaps().Informer()
	ctx, cancel := context.WithCancel(context.Background())
	factory.StartWithContext(ctx)
	s.Cleanup(func() { cancel(); factory.Shutdown() })
	s.eventually("the informer has synced", func() error {
		if !informer.HasSynced() {
			return errors.New("it has not")
		}
		return nil
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// end waits until all is well, and checks what was seen.
func (s *scenario) end() {
	s.healthy()
	s.settled(time.Now(), "in the end")
	ctx, cancel := context.WithTimeout(s.Context(), comeBack)
	defer cancel()
	if err := s.recorder.Stop(ctx); err != nil {
		s.Fatal(err)
	}
	operations := s.recorder.Operations()
	if err := record.CheckHistory(operations); err != nil {
		s.Error(err)
	}
	s.checkWatches(ctx, operations)
	for _, lock := range []string{"kube-scheduler", "kube-controller-manager"} {
		if err := record.CheckLock(record.Locks(s.leases.Events(), lock), 50*time.Millisecond); err != nil {
			s.Errorf("lease %s: %v", lock, err)
		}
		if err := record.CheckLock(record.Locks(s.endpoints.Events(), lock), time.Second); err != nil {
			s.Errorf("endpoints %s: %v", lock, err)
		}
	}
	s.untouched()
}

func (s *scenario) checkWatches(ctx context.Context, operations []record.Operation) {
	last := int64(0)
	for _, o := range operations {
		last = max(last, o.Revision)
	}
	if err := s.busy.Wait(ctx, fmt.Sprintf("revision %d is seen", last), func(events []record.Event) bool {
		return len(events) > 0 && events[len(events)-1].Revision >= last
	}); err != nil {
		s.Error(err)
	}
	if err := record.CheckWatch(operations, s.busy.Events()); err != nil {
		s.Error(err)
	}
	quota := &v1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "at-last"}}
	if _, err := client.CoreV1().ResourceQuotas(s.namespace).Create(ctx, quota, metav1.CreateOptions{}); err != nil {
		s.Fatal(err)
	}
	resumed := 0
	for _, w := range s.idle {
		if err := w.Wait(ctx, "the one event is seen", func(events []record.Event) bool { return len(events) == 1 }); err != nil {
			s.Error(err)
		}
		resumed += w.Resumed()
	}
	for _, w := range append(s.idle, s.busy, s.leases, s.endpoints) {
		if err := w.Stop(); err != nil {
			s.Error(err)
		}
	}
	s.Logf("watches: the busy one resumed %d times, the three idle ones %d; the informer listed %d times", s.busy.Resumed(), resumed, s.lists.Load())
}

// settled waits until all of the recorder's clients get answers to what they ask after a moment.
func (s *scenario) settled(since time.Time, what string) {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), comeBack)
	defer cancel()
	if err := s.recorder.Settled(ctx, since); err != nil {
		s.Fatalf("%s: %v; what the cluster says: %v", what, err, unwell(s.Context()))
	}
}

// gaps keeps looking at the clients for a while after a fault, because some faults
// show late, waits until they are served, and logs how long they were not.
func (s *scenario) gaps(since time.Time, d time.Duration, what string) {
	s.Helper()
	s.rest(time.Until(since.Add(d)))
	s.settled(time.Now(), what)
	operations, from, to := s.recorder.Operations(), s.recorder.Offset(since), s.recorder.Offset(time.Now())
	s.Logf("%s: %v", what, record.MeasureGaps(operations, from, to))
	for _, complaint := range record.Complaints(operations, from, to) {
		s.Logf("  %s", complaint)
	}
}

// rest lets a fault last.
func (s *scenario) rest(d time.Duration) {
	select {
	case <-s.Context().Done():
	case <-time.After(d):
	}
}

// mend takes back whatever was done to the cluster.
func (s *scenario) mend() {
	s.Helper()
	for _, n := range spec.Nodes {
		if cluster.InitPid(name, n.Name) == 0 {
			if err := cluster.Start(s.Context(), name, n.Name, 0, nil); err != nil {
				s.Fatal(err)
			}
		}
		if err := inject.Heal(name, n.Name); err != nil {
			s.Fatal(err)
		}
		processes, err := inject.Processes(name, n.Name)
		if err != nil {
			s.Fatal(err)
		}
		for _, p := range processes {
			p.Signal(unix.SIGCONT)
		}
	}
}

// healthy waits until every node is Ready and every process runs.
func (s *scenario) healthy() {
	s.Helper()
	s.eventually("the cluster is healthy", func() error { return unwell(s.Context()) })
}

// says waits until the cluster's status names a cause.
func (s *scenario) says(cause string) {
	s.Helper()
	s.eventually(fmt.Sprintf("the status says %q", cause), func() error { return s.said(cause) })
}

// said wants the cluster's status to name a cause.
func (s *scenario) said(cause string) error {
	status, err := cluster.GetStatus(s.Context(), name)
	if err == nil && !strings.Contains(strings.Join(status.Causes(), "\n"), cause) {
		err = fmt.Errorf("it says %q", status.Causes())
	}
	return err
}

// unwell is what the cluster says is wrong with it.
func unwell(ctx context.Context) error {
	status, err := cluster.GetStatus(ctx, name)
	if err != nil {
		return err
	}
	// A machine whose disk is slow is no fault of ours.
	causes := slices.DeleteFunc(status.Causes(), func(c string) bool { return strings.HasPrefix(c, "the disk of ") })
	if len(causes) > 0 {
		return errors.New(strings.Join(causes, "; "))
	}
	return nil
}

// eventually waits for something that has no event to wait for.
func (s *scenario) eventually(what string, check func() error) time.Duration {
	s.Helper()
	begin := time.Now()
	ctx, cancel := context.WithTimeout(s.Context(), comeBack)
	defer cancel()
	for {
		err := check()
		if err == nil {
			return time.Since(begin)
		}
		select {
		case <-ctx.Done():
			s.Fatalf("%s: still not so after %v: %v", what, comeBack, err)
		case <-time.After(30 * time.Millisecond):
		}
	}
}

// must ends the test on an error.
func (s *scenario) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

func newNamespace(t *testing.T) string {
	t.Helper()
	n, err := client.CoreV1().Namespaces().Create(t.Context(), &v1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "fault-"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.CoreV1().Namespaces().Delete(context.Background(), n.Name, metav1.DeleteOptions{}) })
	return n.Name
}

func (s *scenario) process(node, process string) inject.Process {
	return inject.Process{Cluster: name, Node: node, Name: process}
}

// kill kills a process and returns when, and what waits until another runs.
func (s *scenario) kill(node, process string) time.Time {
	s.Helper()
	p := s.process(node, process)
	pid := p.Pid()
	at := time.Now()
	s.must(p.Kill())
	ctx, cancel := context.WithTimeout(s.Context(), comeBack)
	defer cancel()
	s.must(p.Replaced(ctx, pid))
	return at
}

// holder is the master that has the VIP.
func (s *scenario) holder() string {
	s.Helper()
	var node string
	s.eventually("a master has the VIP", func() error {
		if node = inject.Holder(spec); node == "" {
			return errors.New("none has it")
		}
		return nil
	})
	return node
}

// other is a master that is none of these.
func (s *scenario) other(but ...string) string {
	s.Helper()
next:
	for _, m := range spec.Masters() {
		for _, b := range but {
			if m.Name == b {
				continue next
			}
		}
		return m.Name
	}
	s.Fatalf("there is no master but %v", but)
	return ""
}

// leader is the master whose scheduler or controller leads.
func (s *scenario) leader(lock string) string {
	s.Helper()
	var node string
	s.eventually(lock+" has a leader", func() error {
		locks := record.Locks(s.leases.Events(), lock)
		if len(locks) == 0 || locks[len(locks)-1].Holder == "" {
			return errors.New("nobody has it")
		}
		node = locks[len(locks)-1].Node()
		return nil
	})
	return node
}

// startNode starts a node that was killed.
func (s *scenario) startNode(node string) {
	s.Helper()
	s.must(cluster.Start(s.Context(), name, node, 0, nil))
}

// direct is a client's configuration that sits on a master and asks the apiserver there.
func (s *scenario) direct(node string) *rest.Config {
	c := rest.CopyConfig(restConfig)
	c.Host = "https://127.0.0.1:6443"
	c.Dial = inject.DialFrom(name, node)
	return c
}

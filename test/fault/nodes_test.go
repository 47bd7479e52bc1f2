package fault

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"skiff/pkg/cluster"
	"skiff/test/fault/inject"
	"skiff/test/fault/record"
)

// Promised: the VIP answers within two seconds.
func lostMaster(s *scenario) {
	node := s.holder()
	at := time.Now()
	s.must(inject.PowerCut(name, node))
	s.gaps(at, 8*time.Second, "the VIP's "+node+" without power")
	s.says("node " + node + " is stopped")
	s.startNode(node)
}

func cutMaster(s *scenario)  { cut(s, inject.Full, s.holder()) }
func deafMaster(s *scenario) { cut(s, inject.In, s.other(s.holder())) }
func muteMaster(s *scenario) { cut(s, inject.Out, s.holder()) }
func masterWithoutEtcd(s *scenario) {
	cut(s, inject.Etcd, s.leader("kube-scheduler"))
}

// cut takes a master out of the majority, which goes on. On the other side, where one client
// sits beside its apiserver, no read may be out of date, and nobody may be elected.
func cut(s *scenario, c inject.Cut, node string) {
	s.must(s.recorder.Aside(s.direct(node)))
	churn, done := s.churn()
	before := map[string]int64{}
	for component := range locks {
		before[component] = s.logSize(node, component)
	}
	at := time.Now()
	s.must(c.Apply(name, node))
	s.Cleanup(func() { inject.Heal(name, node) })
	s.works(churn, at, fmt.Sprintf("%s cut off (%s)", node, c))
	s.gaps(at, 8*time.Second, fmt.Sprintf("%s cut off (%s)", node, c))
	s.says("etcd goes on without " + node)
	if c != inject.Etcd { // or its components go to another's apiserver, and may lead
		s.leadsNowhere(node, before)
	}
	healed := time.Now()
	s.must(inject.Heal(name, node))
	s.gaps(healed, 2*time.Second, node+" is back")
	s.works(churn, healed, node+" is back")
	done()
}

// leadsNowhere wants nothing on a node to lead, or to have been elected since its logs had a size.
func (s *scenario) leadsNowhere(node string, before map[string]int64) {
	s.Helper()
	for component, lock := range locks {
		if leader := s.leader(lock); leader == node {
			s.Errorf("the leader of %s is on %s, which is cut off", lock, node)
		}
		if log := s.logSince(node, component, before[component]); strings.Contains(log, "msg=leading ") {
			s.Errorf("%s on %s, which is cut off, was elected:\n%s", component, node, log)
		}
	}
}

func (s *scenario) logSize(node, component string) int64 {
	s.Helper()
	info, err := os.Stat(cluster.LogFile(name, node, component))
	s.must(err)
	return info.Size()
}

func (s *scenario) logSince(node, component string, size int64) string {
	s.Helper()
	data, err := os.ReadFile(cluster.LogFile(name, node, component))
	s.must(err)
	return string(data[min(size, int64(len(data))):])
}

// Promised: NotReady within ten seconds, and its pods replaced as soon as they
// tolerate that no longer.
func lostWorker(s *scenario) {
	s.restarted = true
	worker := spec.Workers()[0].Name
	watcher := s.deploy()
	at := time.Now()
	s.must(inject.PowerCut(name, worker))
	s.replacedPods(watcher, worker, at)
	s.startNode(worker)
}

func cutWorker(s *scenario) {
	worker := spec.Workers()[1].Name
	watcher := s.deploy()
	at := time.Now()
	s.must(inject.Full.Apply(name, worker))
	s.Cleanup(func() { inject.Heal(name, worker) })
	s.replacedPods(watcher, worker, at)
	s.says("node " + worker + " is NotReady")
	s.must(inject.Heal(name, worker))
	s.eventually("the pods that were given up are gone", func() error {
		return s.podsAre(4, func(p *v1.Pod) bool { return p.Spec.NodeName != worker })
	})
}

// impatient pods are evicted three seconds after their node is found unwell.
const impatience = 3

// deploy starts four impatient pods on the two workers, and watches them.
func (s *scenario) deploy() *record.Watcher {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), comeBack)
	defer cancel()
	watcher := s.watch(ctx, pods, s.namespace)
	seconds := int64(impatience)
	d := deployment("impatient", 4,
		v1.Toleration{Key: v1.TaintNodeNotReady, Operator: v1.TolerationOpExists, Effect: v1.TaintEffectNoExecute, TolerationSeconds: &seconds},
		v1.Toleration{Key: v1.TaintNodeUnreachable, Operator: v1.TolerationOpExists, Effect: v1.TaintEffectNoExecute, TolerationSeconds: &seconds})
	_, err := client.AppsV1().Deployments(s.namespace).Create(ctx, d, metav1.CreateOptions{})
	s.must(err)
	s.eventually("the impatient pods are ready", func() error { return s.podsAre(4, ready) })
	return watcher
}

// podsAre wants so many pods in the scenario's namespace that are not being deleted, all of a kind.
func (s *scenario) podsAre(wanted int, kind func(*v1.Pod) bool) error {
	list, err := client.CoreV1().Pods(s.namespace).List(s.Context(), metav1.ListOptions{})
	if err != nil {
		return err
	}
	n := 0
	for _, p := range list.Items {
		if p.DeletionTimestamp == nil && kind(&p) {
			n++
		}
	}
	if n != wanted || len(list.Items) != wanted {
		return fmt.Errorf("%d of %d pods", n, len(list.Items))
	}
	return nil
}

func (s *scenario) notReady(node string) error {
	n, err := client.CoreV1().Nodes().Get(s.Context(), node, metav1.GetOptions{})
	if err != nil {
		return err
	}
	for _, c := range n.Status.Conditions {
		if c.Type == v1.NodeReady && c.Status != v1.ConditionTrue {
			return nil
		}
	}
	return fmt.Errorf("%s is still Ready", node)
}

// replacedPods waits until a lost worker's impatient pods run elsewhere, and wants none of
// them to have been given up before it was time.
func (s *scenario) replacedPods(watcher *record.Watcher, worker string, at time.Time) {
	s.Helper()
	s.eventually(worker+" is NotReady", func() error { return s.notReady(worker) })
	unwell := time.Now()
	s.Logf("%s is NotReady %v after it was lost", worker, unwell.Sub(at).Round(time.Millisecond))
	s.eventually("its pods run elsewhere", func() error {
		list, err := client.CoreV1().Pods(s.namespace).List(s.Context(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		n := 0
		for _, p := range list.Items {
			if p.DeletionTimestamp == nil && ready(&p) && p.Spec.NodeName != worker {
				n++
			}
		}
		if n != 4 {
			return fmt.Errorf("%d of 4", n)
		}
		return nil
	})
	s.Logf("its pods run elsewhere %v after it was lost", time.Since(at).Round(time.Millisecond))
	for _, e := range watcher.Events() {
		if e.Object.GetDeletionTimestamp() != nil && e.At.Before(at.Add(impatience*time.Second)) {
			s.Errorf("pod %s was deleted %v after its node was lost", e.Object.GetName(), e.At.Sub(at))
		}
	}
	if err := record.CheckPods(watcher.Events(), 4, true); err != nil {
		s.Error(err)
	}
}

// When most nodes are not heard of, it is more likely that something is wrong with hearing.
// Nobody is evicted then, however impatient.
func mostNodesSilent(s *scenario) {
	watcher := s.deploy()
	thaw, err := s.process(s.other(s.holder()), "agent").Freeze()
	s.must(err)
	at := time.Now()
	for _, w := range spec.Workers() {
		s.must(inject.Full.Apply(name, w.Name))
		s.Cleanup(func() { inject.Heal(name, w.Name) })
	}
	for _, w := range spec.Workers() {
		s.eventually(w.Name+" is NotReady", func() error { return s.notReady(w.Name) })
	}
	s.Logf("the workers are NotReady %v after they were cut off", time.Since(at).Round(time.Millisecond))
	s.rest((impatience + 4) * time.Second)
	for _, w := range spec.Workers() {
		s.must(inject.Heal(name, w.Name))
	}
	s.must(thaw())
	s.healthy()
	for _, e := range watcher.Events() {
		if e.Object.GetDeletionTimestamp() != nil {
			s.Errorf("pod %s on %s was evicted", e.Object.GetName(), nodeName(e.Object))
		}
	}
}

func nodeName(pod *unstructured.Unstructured) string {
	node, _, _ := unstructured.NestedString(pod.Object, "spec", "nodeName")
	return node
}

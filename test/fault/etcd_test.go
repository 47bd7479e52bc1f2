package fault

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/pkg/cluster"
	"skiff/test/fault/inject"
	"skiff/test/fault/record"
)

// Promised: writes go on within three seconds. The leading member is the one that hurts.
func killedMember(s *scenario) {
	for range 2 {
		node := s.etcdLeader()
		at := s.kill(node, "etcd")
		s.gaps(at, 3*time.Second, "leading etcd member on "+node+" killed")
		s.healthy()
	}
	node := s.other(s.etcdLeader())
	at := s.kill(node, "etcd")
	s.gaps(at, 3*time.Second, "following etcd member on "+node+" killed")
}

// etcdLeader is the master with the member that leads.
func (s *scenario) etcdLeader() string {
	s.Helper()
	var node string
	s.eventually("etcd has a leader", func() (err error) {
		node, err = inject.EtcdLeader(s.Context(), spec)
		return err
	})
	return node
}

// A member whose disk is full stops; the others go on. With room again it comes back.
func fullDisk(s *scenario) {
	ctx, cancel := context.WithTimeout(s.Context(), comeBack)
	defer cancel()
	member := s.process(s.etcdLeader(), "etcd")
	disk, err := inject.OwnDisk(ctx, member, 400)
	s.must(err)
	s.healthy()
	at := time.Now()
	s.must(disk.Fill())
	s.Cleanup(func() { disk.Free() })
	s.grow("etcd goes on without " + member.Node)
	s.gaps(at, 5*time.Second, "disk of "+member.String()+" full")
	s.must(disk.Free())
	s.healthy()
	s.must(disk.Restore(ctx))
}

// grow has etcd need more disk, until the status says what becomes of that. The files have a reserve: two of 64 MiB for
// the log, and what is free in that of the data.
func (s *scenario) grow(until string) {
	s.Helper()
	namespace := newNamespace(s.T)
	write := func(n int) error {
		m := &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("big-", n)}, Data: map[string]string{"x": strings.Repeat("x", 512<<10)}}
		_, err := client.CoreV1().ConfigMaps(namespace).Create(s.Context(), m, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) { // an answer was lost
			return nil
		}
		return err
	}
	for n := range 400 {
		s.eventually("a large object is written", func() error { return write(n) })
		if n%20 == 19 && s.said(until) == nil {
			return
		}
	}
	s.says(until)
}

// A database at its quota takes no writes, and says so; what is there can be read, and deleted to make room.
func fullDatabase(s *scenario) {
	maps := client.CoreV1().ConfigMaps(newNamespace(s.T))
	object := func(name string) *v1.ConfigMap { return &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}} }
	_, err := maps.Create(s.Context(), object("before"), metav1.CreateOptions{})
	s.must(err)
	at := time.Now()
	s.must(inject.FillDatabase(s.Context(), spec))
	s.says("alarm NOSPACE")
	if _, err := maps.Create(s.Context(), object("more"), metav1.CreateOptions{}); !apierrors.IsInternalError(err) || !strings.Contains(err.Error(), "database space exceeded") {
		s.Errorf("a write: %v", err)
	}
	_, err = maps.Get(s.Context(), "before", metav1.GetOptions{})
	s.must(err)
	s.must(maps.Delete(s.Context(), "before", metav1.DeleteOptions{}))
	s.rest(time.Until(at.Add(8 * time.Second))) // until leaders and leases are over
	for _, command := range [][]string{{"compact"}, {"defrag"}, {"alarms", "--", "--disarm"}} {
		if out, err := ctl(append([]string{"cluster", "etcd", name}, command...)...); err != nil {
			s.Fatalf("ctl cluster etcd %v: %v\n%s", command, err, out)
		}
	}
	s.gaps(time.Now(), 0, "the database has room again")
}

// A member whose disk takes its time gives the leadership away, and is asked no more than need be.
func slowDisk(s *scenario) {
	ctx, cancel := context.WithTimeout(s.Context(), 2*comeBack)
	defer cancel()
	member := s.process(s.etcdLeader(), "etcd")
	disk, err := inject.OwnDisk(ctx, member, 1000)
	s.must(err)
	s.healthy()
	s.eventually("the member leads again", func() error { return inject.MoveEtcdLeader(ctx, spec, member.Node) })
	at := time.Now()
	restore, err := disk.Slow(10)
	if errors.Is(err, inject.ErrNoThrottle) {
		s.Skip(err)
	}
	s.must(err)
	s.Cleanup(func() { restore() })
	s.says("the disk of " + member.Node + " is slow")
	s.eventually("another member leads", func() error {
		leader, err := inject.EtcdLeader(ctx, spec)
		if err == nil && leader == member.Node {
			err = errors.New("it still leads")
		}
		return err
	})
	s.Logf("another member leads %v after the disk became slow", time.Since(at).Round(time.Millisecond))
	s.gaps(at, 10*time.Second, "disk of "+member.String()+" slow")
	s.must(restore())
	s.must(disk.Restore(ctx))
}

// A member that has lost its disk is replaced by a new one.
func wipedMember(s *scenario) {
	member := s.process(s.other(s.etcdLeader()), "etcd")
	at := time.Now()
	s.must(inject.Wipe(member))
	s.gaps(at, 3*time.Second, "disk of "+member.String()+" wiped")
	s.says("etcd goes on without " + member.Node)
	if out, err := ctl("cluster", "replace", name, member.Node); err != nil {
		s.Fatalf("ctl cluster replace: %v\n%s", err, out)
	}
}

// Without a majority nothing may be acknowledged. Promised: ten seconds after the
// masters are back it works again.
func lostQuorum(s *scenario) {
	dead := spec.Masters()[:2]
	for _, m := range dead {
		s.must(inject.PowerCut(name, m.Name))
	}
	from := s.recorder.Offset(time.Now())
	s.rest(4 * time.Second)
	s.says("etcd has lost its quorum: 1 of 3 members works")
	to := s.recorder.Offset(time.Now())
	for _, o := range s.recorder.Operations() {
		if o.Call > from && o.Return < to && o.Kind == record.Swap && o.Outcome == record.Done {
			s.Errorf("acknowledged by a minority: %v", o)
		}
	}
	at := time.Now()
	for _, m := range dead {
		s.startNode(m.Name)
	}
	s.gaps(at, 0, "two masters are back")
}

// Nothing of what a power cut interrupts may have been acknowledged in vain.
func powerCut(s *scenario) {
	s.restarted = true
	cut := make(chan error, len(spec.Nodes))
	for _, n := range spec.Nodes {
		go func() { cut <- inject.PowerCut(name, n.Name) }()
	}
	for range spec.Nodes {
		s.must(<-cut)
	}
	at := time.Now()
	s.must(cluster.Start(s.Context(), name, "", 0, nil))
	s.gaps(at, 0, "power is back")
	s.healthy()
	s.containers()
	s.Logf("all nodes ready and all pods running %v after the power came back", time.Since(at).Round(time.Millisecond))
}

// Everything that runs on the nodes, but for the pods, is killed at once.
func everythingKilled(s *scenario) {
	at := time.Now()
	for _, n := range spec.Nodes {
		processes, err := inject.Processes(name, n.Name)
		s.must(err)
		for _, p := range processes {
			s.must(p.Kill())
		}
	}
	s.gaps(at, time.Second, "every process killed")
	s.healthy()
	s.Logf("healthy %v after every process was killed", time.Since(at).Round(time.Millisecond))
}

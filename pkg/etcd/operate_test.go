package etcd

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"
)

// The tests here run side by side: they mostly wait, for elections and a second for each member that stops.

// trio is three members with mutual TLS and a client that knows them all.
type trio struct {
	t       *testing.T
	ctx     context.Context
	files   Files
	tls     *tls.Config
	configs []Config
	members []*Member
	client  *clientv3.Client
}

// newTrio describes three members.
func newTrio(t *testing.T) *trio {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	c := &trio{t: t, ctx: ctx, members: make([]*Member, 3)}
	c.files, c.tls = authority(t)
	initial := map[string][]string{}
	var endpoints []string
	for _, name := range []string{"one", "two", "three"} {
		config := Config{Name: name, DataDir: t.TempDir(), NoSync: true, Log: slog.New(slog.DiscardHandler), InitialCluster: initial,
			Heartbeat: 20 * time.Millisecond, Election: 400 * time.Millisecond,
			Peers:   Endpoint{Listen: []string{freeURL(t)}, TLS: c.files},
			Clients: Endpoint{Listen: []string{freeURL(t)}, TLS: c.files}}
		initial[name] = config.Peers.Listen
		endpoints = append(endpoints, config.Clients.Listen...)
		c.configs = append(c.configs, config)
	}
	c.client = c.dial(endpoints...)
	return c
}

func (c *trio) dial(endpoints ...string) *clientv3.Client {
	c.t.Helper()
	client, err := Dial(DialConfig{Endpoints: endpoints, TLS: c.tls, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { client.Close() })
	return client
}

// start starts some members at once: a single one of several would wait for the others.
func (c *trio) start(which ...int) {
	c.t.Helper()
	var starting sync.WaitGroup
	errs := make([]error, len(c.members))
	for _, i := range which {
		starting.Go(func() { c.members[i], errs[i] = Start(c.ctx, c.configs[i]) })
	}
	starting.Wait()
	for _, i := range which {
		if errs[i] != nil {
			c.t.Fatal(errs[i])
		}
		c.t.Cleanup(c.members[i].Close)
	}
}

func (c *trio) put(client *clientv3.Client, key, value string) int64 {
	c.t.Helper()
	for { // a change of membership or leader may refuse one or two
		answer, err := client.Put(c.ctx, key, value)
		if err == nil {
			return answer.Header.Revision
		}
		if c.ctx.Err() != nil {
			c.t.Fatal(err)
		}
	}
}

// want checks a key as one member alone has it.
func (c *trio) want(i int, key, value string) {
	c.t.Helper()
	answer, err := c.members[i].Client().Get(c.ctx, key)
	if err != nil || len(answer.Kvs) != 1 || string(answer.Kvs[0].Value) != value {
		c.t.Fatalf("member %s has %v for %s: %v, want %s", c.configs[i].Name, answer, key, err, value)
	}
}

// healthy waits until nothing is wrong.
func (c *trio) healthy(client *clientv3.Client) {
	c.t.Helper()
	for err := Diagnose(c.ctx, client); err != nil; err = Diagnose(c.ctx, client) {
		if c.ctx.Err() != nil {
			c.t.Fatal(err)
		}
	}
}

// wipe empties a member's directory.
func (c *trio) wipe(i int) {
	c.t.Helper()
	if err := os.RemoveAll(filepath.Join(c.configs[i].DataDir, "member")); err != nil {
		c.t.Fatal(err)
	}
}

// rejoin lets a wiped member join through the clients' URLs of another.
func (c *trio) rejoin(i, through int) {
	c.t.Helper()
	c.configs[i].Join = DialConfig{Endpoints: c.configs[through].Clients.Listen, TLS: c.tls}
	c.start(i)
}

func wantError(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one with %q", parts)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q, want %q in it", err, part)
		}
	}
}

func TestMembersAndDiagnosis(t *testing.T) {
	t.Parallel()
	c := newTrio(t)
	c.start(0, 1, 2)
	c.healthy(c.client)
	c.members[1].Close()
	members, err := Members(c.ctx, c.client)
	if err != nil || len(members) != 3 {
		t.Fatalf("%v, %v", members, err)
	}
	leaders := 0
	for _, m := range members {
		if m.Leader {
			leaders++
		}
		if down := m.Name == "two"; down != (m.Err != nil) {
			t.Errorf("member %v: %v", m, m.Err)
		} else if !down && (m.Version == "" || m.DBSize == 0 || m.Term == 0 || m.Applied == 0 || m.Quota == 0) {
			t.Errorf("member %+v says nothing of itself", m)
		}
	}
	if leaders != 1 {
		t.Errorf("%d leaders", leaders)
	}
	two, err := Find(members, "two")
	if err != nil || two.ID != c.members[1].ID() {
		t.Errorf("found %v, %v", two, err)
	}
	_, err = Find(members, "four")
	wantError(t, err, `no etcd member "four"`)
	wantError(t, Diagnose(c.ctx, c.client), "member two doesn't answer", "connection refused")
	if err := Ready(c.ctx, c.client); err != nil {
		t.Errorf("not ready with two of three: %v", err)
	}
	c.members[2].Close()
	wantError(t, Ready(c.ctx, c.client), "the quorum is lost: 1 of 3 voting members answer, 2 are needed")
	wantError(t, Leave(c.ctx, c.client, two.ID), "the quorum is lost")
	c.members[0].Close()
	wantError(t, Diagnose(c.ctx, c.client), "no etcd member answers")
}

func TestSnapshotRestoredIntoThree(t *testing.T) {
	t.Parallel()
	old, c := newTrio(t), newTrio(t)
	old.start(0, 1, 2)
	revision := old.put(old.client, "k", "kept")
	file := filepath.Join(t.TempDir(), "snapshot")
	if err := Snapshot(old.ctx, old.client, file); err != nil {
		t.Fatal(err)
	}
	old.put(old.client, "k", "later")

	for i := range c.configs {
		err := Restore(RestoreConfig{Config: c.configs[i], Snapshot: file})
		if err != nil {
			t.Fatal(err)
		}
		err = Restore(RestoreConfig{Config: c.configs[i], Snapshot: file})
		wantError(t, err, "holds a member already")
	}
	c.start(0, 1, 2)
	c.want(2, "k", "kept")
	answer, err := c.client.Get(c.ctx, "k")
	if err != nil || answer.Kvs[0].ModRevision != revision {
		t.Fatalf("%v, %v; want revision %d", answer, err, revision)
	}
	if answer.Header.Revision < revision+RevisionBump {
		t.Errorf("revision %d has not jumped", answer.Header.Revision)
	}
	// A watch that goes on from what it knew must be told to begin anew.
	watched := <-c.client.Watch(c.ctx, "k", clientv3.WithRev(revision+1))
	if watched.CompactRevision < revision+RevisionBump {
		t.Errorf("the watch got %+v: %v", watched, watched.Err())
	}
	if list, err := c.client.MemberList(c.ctx); err != nil || list.Header.ClusterId == uint64(old.members[0].server.Server.Cluster().ID()) {
		t.Errorf("the restored cluster can't be told from the old one: %v", err)
	}

	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	wantError(t, Restore(RestoreConfig{Config: Config{DataDir: t.TempDir()}, Snapshot: file}), "damaged")
	if err := os.Truncate(file, 1000); err != nil {
		t.Fatal(err)
	}
	wantError(t, Restore(RestoreConfig{Config: Config{DataDir: t.TempDir()}, Snapshot: file}), "no complete snapshot")
}

func TestWipedMemberJoinsAnew(t *testing.T) {
	t.Parallel()
	c := newTrio(t)
	c.start(0, 1, 2)
	c.put(c.client, "k", "1")
	old := c.members[2].ID()
	c.members[2].Close()
	c.wipe(2)
	c.put(c.client, "k", "2")
	_, err := Start(c.ctx, c.configs[2])
	wantError(t, err, "lost its data", "--join")
	c.wipe(2)
	c.rejoin(2, 0)
	c.want(2, "k", "2")
	if c.members[2].ID() == old {
		t.Error("the member came back as the one that had promised more than it has")
	}
	if list, err := c.client.MemberList(c.ctx); err != nil || len(list.Members) != 3 {
		t.Errorf("%v, %v; want three members", list, err)
	}
	c.healthy(c.client)

	// With its data it doesn't join again.
	old = c.members[2].ID()
	c.members[2].Close()
	c.rejoin(2, 0)
	if c.members[2].ID() != old {
		t.Error("a member with data joined again")
	}
	// Who answers isn't replaced, and a name is used once.
	_, err = Join(c.ctx, c.client, c.configs[1])
	wantError(t, err, "is running at "+c.configs[1].Peers.Listen[0])
	other := c.configs[1]
	other.Peers.Listen = []string{freeURL(t)}
	_, err = Join(c.ctx, c.client, other)
	wantError(t, err, "there is a member of that name")
	// Nobody can be replaced without a quorum.
	c.members[1].Close()
	c.members[2].Close()
	c.wipe(2)
	_, err = Join(c.ctx, c.client, c.configs[2])
	wantError(t, err, "the quorum is lost")
}

func TestRecoverFromLostQuorum(t *testing.T) {
	t.Parallel()
	c := newTrio(t)
	c.start(0, 1, 2)
	revision := c.put(c.client, "k", "kept")
	for i := range 50 { // an acknowledged write may stand in the log of the survivor alone
		revision = c.put(c.client, fmt.Sprint("k", i), "kept")
	}
	c.want(0, "k49", "kept")
	_, err := Recover(c.ctx, RecoverConfig{DataDir: c.configs[0].DataDir})
	wantError(t, err, "it is running")
	for _, m := range c.members {
		m.Close()
	}
	c.wipe(1)
	c.wipe(2)
	logWrite(t, c.configs[0].DataDir, "last", "kept")
	for range 2 { // it may be repeated
		r, err := Recover(c.ctx, RecoverConfig{DataDir: c.configs[0].DataDir, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		if r.Name != "one" || fmt.Sprint(r.PeerURLs) != fmt.Sprint(c.configs[0].Peers.Listen) || !hasDatabase(r.Backup) {
			t.Errorf("recovered %+v", r)
		}
	}
	c.start(0)
	c.want(0, "last", "kept")
	for i := range 50 {
		c.want(0, fmt.Sprint("k", i), "kept")
	}
	answer, err := c.members[0].Client().Get(c.ctx, "k")
	if err != nil || answer.Header.Revision < revision+2*RevisionBump {
		t.Errorf("at revision %v, %v", answer.Header, err)
	}
	c.rejoin(1, 0)
	c.rejoin(2, 1)
	c.put(c.client, "k", "new")
	c.want(2, "k", "new")
	c.healthy(c.client)
}

// logWrite puts a write into a stopped member's log, as one that the leader has sent and, when most had it, acknowledged,
// without having told this member yet.
func logWrite(t *testing.T, dataDir, key, value string) {
	t.Helper()
	dir := filepath.Join(dataDir, "member", "wal")
	snapshots, err := wal.ValidSnapshotEntries(zap.NewNop(), dir)
	if err != nil {
		t.Fatal(err)
	}
	w, err := wal.Open(zap.NewNop(), dir, snapshots[len(snapshots)-1])
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	_, state, entries, err := w.ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	data, err := proto.Marshal(&etcdserverpb.InternalRaftRequest{Header: &etcdserverpb.RequestHeader{ID: 1},
		Put: &etcdserverpb.PutRequest{Key: []byte(key), Value: []byte(value)}})
	if err != nil {
		t.Fatal(err)
	}
	last := entries[len(entries)-1]
	entry := proto.CloneOf(last)
	entry.Type, entry.Index, entry.Data = raftpb.EntryNormal.Enum(), new(last.GetIndex()+1), data
	if err := w.Save(state, []*raftpb.Entry{entry}); err != nil {
		t.Fatal(err)
	}
}

func hasDatabase(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "snap", "db"))
	return err == nil
}

func TestKilledJoinIsRepeated(t *testing.T) {
	t.Parallel()
	c := newTrio(t)
	for i := range c.configs {
		c.configs[i].InitialCluster = nil
	}
	c.start(0)
	client := c.dial(c.configs[0].Clients.Listen...)
	for range 2 { // killed after it was added, before it had data
		if _, err := Join(c.ctx, client, c.configs[1]); err != nil {
			t.Fatal(err)
		}
	}
	c.rejoin(1, 0)
	c.put(client, "k", "1")
	// Killed once more, with a directory and no vote.
	joined, err := Join(c.ctx, client, c.configs[2])
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(c.ctx)
	cancel()
	if m, err := Start(ctx, joined); err == nil {
		m.Close()
		t.Fatal("started although it was cancelled")
	}
	c.rejoin(2, 0)
	c.want(2, "k", "1")
	c.healthy(client)
}

func TestDefragmentUnderLoad(t *testing.T) {
	t.Parallel()
	c := newTrio(t)
	c.start(0, 1, 2)
	value := strings.Repeat("x", 1<<16)
	for i := range 100 {
		c.put(c.client, fmt.Sprint("k", i%10), value)
	}
	if _, err := Compact(c.ctx, c.client); err != nil {
		t.Fatal(err)
	}
	before := c.sizes()
	ctx, stop := context.WithCancel(c.ctx)
	var writing sync.WaitGroup
	writing.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			c.client.Put(ctx, "counter", fmt.Sprint(i))
		}
	})
	err := Defragment(c.ctx, c.client)
	stop()
	writing.Wait()
	if err != nil {
		t.Fatal(err)
	}
	for i, after := range c.sizes() {
		if after >= before[i] {
			t.Errorf("member %d: %d bytes, %d before", i, after, before[i])
		}
	}
	c.healthy(c.client)
	c.members[0].Close()
	wantError(t, Defragment(c.ctx, c.client), "member one doesn't answer")
}

func (c *trio) sizes() (sizes []int64) {
	c.t.Helper()
	members, err := Members(c.ctx, c.client)
	if err != nil {
		c.t.Fatal(err)
	}
	for _, m := range members {
		sizes = append(sizes, m.DBSize)
	}
	return sizes
}

func TestFullDatabase(t *testing.T) {
	t.Parallel()
	c := newTrio(t)
	for i := range c.configs {
		c.configs[i].Quota = 2 << 20
	}
	c.start(0, 1, 2)
	value := strings.Repeat("x", 1<<17)
	var err error
	for i := 0; err == nil; i++ {
		next := value
		if i > 10 { // less than a page from here on: what isn't taken leaves no room below the quota
			next = value[:1<<10]
		}
		_, err = c.client.Put(c.ctx, fmt.Sprint("k", i), next)
	}
	wantError(t, err, "database space exceeded")
	wantError(t, Diagnose(c.ctx, c.client), "NOSPACE", "reached its quota")
	if err := Ready(c.ctx, c.client); err != nil {
		t.Errorf("reads fail: %v", err)
	}
	wantError(t, Disarm(c.ctx, c.client), "still fills its quota")
	if _, err := c.client.Txn(c.ctx).Then(clientv3.OpDelete("k", clientv3.WithPrefix())).Commit(); err != nil {
		t.Fatalf("deleting: %v", err)
	}
	if _, err := Compact(c.ctx, c.client); err != nil {
		t.Fatal(err)
	}
	if err := Defragment(c.ctx, c.client); err != nil {
		t.Fatal(err)
	}
	if err := Disarm(c.ctx, c.client); err != nil {
		t.Fatal(err)
	}
	if _, err := c.client.Put(c.ctx, "k", value); err != nil {
		t.Errorf("after recovery: %v", err)
	}
	c.healthy(c.client)
}

// A leader whose disk is slow lets another lead, and goes on as a member.
func TestSlowDiskGivesTheLeadershipAway(t *testing.T) {
	t.Parallel()
	c := newTrio(t)
	c.start(0, 1, 2)
	c.put(c.client, "a", "1")
	leader := -1
	for i, m := range c.members {
		if m.server.Server.Lead() == m.ID() {
			leader = i
		}
	}
	slow := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "slow"})
	m := c.members[leader]
	go m.watchDisk(c.configs[leader].Log, slow, 10*time.Millisecond)
	for m.server.Server.Lead() == m.ID() {
		slow.Observe(1)
		if sleepErr := sleep(c.ctx, time.Millisecond); sleepErr != nil {
			t.Fatal("it still leads")
		}
	}
	c.put(c.client, "b", "2")
	c.want(leader, "b", "2")
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

package store

import (
	"context"
	"encoding/base64"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"pgregory.net/rapid"
)

// A read that was under way when a caller came may have missed what that caller knows of.
func TestCoalescerNeverJoinsAReadUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var reads, written atomic.Int64
		c := coalescer{read: func() (int64, error) {
			at := written.Load()
			reads.Add(1)
			time.Sleep(time.Second)
			return at, nil
		}}
		var group sync.WaitGroup
		for i := range 100 {
			group.Go(func() {
				time.Sleep(time.Duration(i) * 17 * time.Millisecond)
				mine := written.Add(1)
				if got, err := c.get(t.Context()); err != nil || got < mine {
					t.Errorf("read %d (%v) after writing %d", got, err, mine)
				}
			})
		}
		group.Wait()
		if n := reads.Load(); n > 4 {
			t.Errorf("%d reads for 100 callers in 1.7 s, at a second each", n)
		}
	})
}

func TestLogForgetsByCountAndAge(t *testing.T) {
	start := time.Unix(0, 0)
	var l eventLog
	l.oldest = 10
	for i := range 10 {
		l.changes = append(l.changes, &change{revision: int64(11 + i), at: start.Add(time.Duration(i) * time.Minute)})
	}
	expect := func(what string, oldest, first int64, length int) {
		t.Helper()
		if l.oldest != oldest || l.first != first || len(l.changes) != length {
			t.Errorf("%s: oldest %d, first %d, %d changes; want %d, %d, %d", what, l.oldest, l.first, len(l.changes), oldest, first, length)
		}
	}
	l.trim(100, start.Add(5*time.Minute))
	expect("young and few", 10, 0, 10)
	l.trim(8, start)
	expect("too many", 12, 2, 8)
	l.trim(100, start.Add(8*time.Minute+time.Second))
	expect("too old", 14, 4, 6)
	l.prepend([]*change{{revision: 13, at: start.Add(9 * time.Minute)}, {revision: 14, at: start.Add(9 * time.Minute)}}, 12)
	expect("prepended", 12, 2, 8)
	l.trim(6, start.Add(9*time.Minute))
	expect("what was put in front has room", 12, 2, 8)
	if _, ok := l.from(1); ok {
		t.Error("a position that is gone is served")
	}
	if got, _ := l.from(l.after(18)); len(got) != 2 || got[0].revision != 19 {
		t.Errorf("after 18 come %d", len(got))
	}
	l.trim(100, start.Add(time.Hour))
	expect("all too old", 20, 10, 0)
}

func TestContinueTokens(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		segment := rapid.StringMatching(`[a-z0-9]([-a-z0-9.]{0,10}[a-z0-9])?`)
		start := segment.Draw(t, "namespace") + "/" + segment.Draw(t, "name") + "\x00"
		revision := rapid.OneOf(rapid.Int64Min(1), rapid.Just(int64(-1))).Draw(t, "revision")
		got, gotRevision, err := parseContinue(formatContinue(start, revision))
		if err != nil || got != start || gotRevision != revision {
			t.Fatalf("%q at %d came back as %q at %d: %v", start, revision, got, gotRevision, err)
		}
	})
	// Kubernetes' own, as kubectl gets it.
	token := base64.RawURLEncoding.EncodeToString([]byte(`{"v":"meta.k8s.io/v1","rv":1234,"start":"kube-system/coredns\u0000"}`))
	if start, revision, err := parseContinue(token); start != "kube-system/coredns\x00" || revision != 1234 || err != nil {
		t.Errorf("got %q, %d, %v", start, revision, err)
	}
	if got := formatContinue("kube-system/coredns\x00", 1234); got != token {
		t.Errorf("made %s, want %s", got, token)
	}
}

func FuzzContinue(f *testing.F) {
	f.Add(formatContinue("a/b\x00", 5))
	f.Add(formatContinue("../../secrets/a", 5))
	f.Fuzz(func(t *testing.T, token string) {
		start, revision, err := parseContinue(token)
		if err == nil && (revision == 0 || start == "" || strings.HasPrefix(start, "/") || strings.Contains("/"+start+"/", "/../")) {
			t.Errorf("%q gives %q at %d", token, start, revision)
		}
	})
}

func TestLastBookmarkComesBeforeTheEnd(t *testing.T) {
	for _, c := range []struct{ every, left, want time.Duration }{
		{time.Minute, time.Hour, time.Minute},
		{time.Minute, 50 * time.Second, 48 * time.Second},
		{time.Minute, 2 * time.Second, time.Minute}, // sent already
		{time.Minute, -time.Second, time.Minute},
	} {
		if got := bookmarkIn(c.every, c.left); got != c.want {
			t.Errorf("%v before the end: in %v, want %v", c.left, got, c.want)
		}
	}
}

func TestRoute(t *testing.T) {
	s := New(Config{})
	for _, path := range []string{"pods", "services/specs", "services/endpoints", "example.com/widgets", "minions"} {
		s.resources[path] = &resource{codec: codec{prefix: path}}
	}
	for key, want := range map[string]string{
		"/registry/pods/a/b":                  "pods",
		"/registry/podsx/a/b":                 "",
		"/registry/services/specs/a/b":        "services/specs",
		"/registry/services/endpoints/a/b":    "services/endpoints",
		"/registry/services/other/a":          "",
		"/registry/example.com/widgets/a/b":   "example.com/widgets",
		"/registry/example.com/widgets/b":     "example.com/widgets",
		"/registry/example.com/gadgets/a/b":   "",
		"/registry/minions/n":                 "minions",
		"/registry/pods":                      "",
		"/registry/":                          "",
		"/registry/ranges/serviceips":         "",
		"/registry/configmaps/pods/minions/x": "",
	} {
		got := ""
		if r := s.route(key); r != nil {
			got = r.codec.prefix
		}
		if got != want {
			t.Errorf("%s belongs to %q, want %q", key, got, want)
		}
	}
}

func TestEncodingsThatNobodyUsesGo(t *testing.T) {
	b := &budget{}
	e := &Entry{budget: b}
	calls := 0
	get := func() {
		data, err := e.Encoding("k", func() ([]byte, error) { calls++; return make([]byte, 100), nil })
		if len(data) != 100 || err != nil {
			t.Fatal(len(data), err)
		}
	}
	get()
	get()
	if calls != 1 || b.bytes.Load() != 100 {
		t.Errorf("%d calls, %d bytes, want 1 and 100", calls, b.bytes.Load())
	}
	if size := e.sweep(); size != 100 {
		t.Errorf("%d bytes stay after use, want 100", size)
	}
	if size := e.sweep(); size != 0 {
		t.Errorf("%d bytes stay unused, want none", size)
	}
	get()
	b.bytes.Store(encodingLimit + 1)
	get()
	get()
	if calls != 4 {
		t.Errorf("%d calls, want 4: nothing is kept above the limit", calls)
	}
}

func TestLeasesAreShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		granter := &fakeGranter{}
		l := leases{granter: granter}
		get := func(ttl time.Duration) int64 {
			id, err := l.get(context.Background(), ttl)
			if err != nil {
				t.Fatal(err)
			}
			return int64(id)
		}
		first := get(time.Hour)
		time.Sleep(59 * time.Second)
		if get(time.Hour) != first {
			t.Error("an hour's lease isn't shared within a minute")
		}
		if get(time.Minute) == first {
			t.Error("leases of different length are shared")
		}
		time.Sleep(2 * time.Second)
		second := get(time.Hour)
		if second == first {
			t.Error("a lease is shared for more than a minute")
		}
		for range keysPerLease - 1 {
			get(time.Hour)
		}
		if get(time.Hour) == second {
			t.Errorf("more than %d keys share a lease", keysPerLease)
		}
		if want := "[3660 63 3660 3660]"; fmt.Sprint(granter.seconds) != want {
			t.Errorf("granted %v, want %s", granter.seconds, want)
		}
	})
}

type fakeGranter struct{ seconds []int64 }

func (f *fakeGranter) Grant(_ context.Context, seconds int64) (*clientv3.LeaseGrantResponse, error) {
	f.seconds = append(f.seconds, seconds)
	return &clientv3.LeaseGrantResponse{ID: clientv3.LeaseID(len(f.seconds))}, nil
}

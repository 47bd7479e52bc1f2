package store_test

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"skiff/pkg/etcd"
	"skiff/pkg/store"
	"skiff/pkg/store/storetest"
)

// history is small, so that tests can run out of it.
const history = 50

// member is an embedded etcd that tests share for as long as nobody needs to kill it.
type member struct {
	t    testing.TB
	dir  string
	etcd *etcd.Member
}

func newMember(t testing.TB) *member {
	m := &member{t: t, dir: t.TempDir()}
	m.start()
	t.Cleanup(func() { m.etcd.Close() })
	return m
}

func (m *member) start() {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	var err error
	m.etcd, err = etcd.Start(ctx, etcd.Config{DataDir: m.dir, NoSync: true, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		m.t.Fatal(err)
	}
}

// run starts a store on client, and stops it before the member goes.
func run(t testing.TB, client *clientv3.Client, change ...func(*store.Config)) (*store.Store, func()) {
	config := store.Config{Client: client, History: history, BookmarkEvery: 10 * time.Millisecond, CompactEvery: -1,
		Log: slog.New(slog.NewTextHandler(t.Output(), nil))}
	for _, c := range change {
		c(&config)
	}
	s := store.New(config)
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	group.Go(func() {
		if err := s.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	stop := sync.OnceFunc(func() { cancel(); group.Wait() })
	t.Cleanup(stop)
	return s, stop
}

func embedded(t *testing.T) storetest.Instance { return embeddedWith(t, history) }

func embeddedWith(t *testing.T, history int) storetest.Instance {
	m := newMember(t)
	short := func(c *store.Config) { c.History = history }
	s, stop := run(t, m.etcd.Client(), short)
	another := func() store.Interface {
		other, _ := run(t, m.etcd.Client(), short)
		return other
	}
	return storetest.Instance{
		Interface: s,
		History:   history,
		Another:   another,
		Compact: func(revision int64) error {
			_, err := m.etcd.Client().Compact(t.Context(), revision, clientv3.WithCompactPhysical())
			return err
		},
		Restart: func() store.Interface {
			stop()
			m.etcd.Close()
			m.start()
			return another()
		},
	}
}

func TestEmbedded(t *testing.T) {
	t.Parallel()
	storetest.Run(t, embedded)
}

func TestEmbeddedAgainstModel(t *testing.T) {
	t.Parallel()
	storetest.Compare(t, embeddedWith(t, 5))
}

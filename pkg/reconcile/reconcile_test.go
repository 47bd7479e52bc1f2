package reconcile

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

// run starts a loop inside a synctest bubble and stops it when the test ends.
func run(t *testing.T, config Config[string]) *Loop[string] {
	t.Helper()
	config.Name, config.Logger = "test", quiet
	loop := New(config)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		loop.Run(ctx)
	}()
	t.Cleanup(func() { cancel(); <-done })
	return loop
}

func TestErrorsAreRetriedWithGrowingDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var at []time.Duration
		loop := run(t, Config[string]{
			MinDelay: 10 * time.Millisecond, MaxDelay: 40 * time.Millisecond,
			Reconcile: func(context.Context, string) (time.Duration, error) {
				at = append(at, time.Since(start))
				if len(at) < 5 {
					return 0, errors.New("not yet")
				}
				return 0, nil
			}})
		loop.Add("a")
		time.Sleep(time.Minute)
		synctest.Wait()
		want := []time.Duration{0, 10, 30, 70, 110}
		if len(at) != len(want) {
			t.Fatalf("turns at %v, want %d of them", at, len(want))
		}
		for i := range want {
			if at[i] != want[i]*time.Millisecond {
				t.Errorf("turn %d at %v, want %v", i, at[i], want[i]*time.Millisecond)
			}
		}
	})
}

func TestPanicCostsOneTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := 0
		loop := run(t, Config[string]{Reconcile: func(context.Context, string) (time.Duration, error) {
			turns++
			if turns == 1 {
				panic("boom")
			}
			return 0, nil
		}})
		loop.Add("a")
		time.Sleep(time.Second)
		if turns != 2 {
			t.Fatalf("%d turns, want 2", turns)
		}
	})
}

func TestAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := 0
		loop := run(t, Config[string]{Reconcile: func(context.Context, string) (time.Duration, error) {
			turns++
			return time.Minute, nil
		}})
		loop.Add("a")
		time.Sleep(150 * time.Second)
		if turns != 3 {
			t.Fatalf("%d turns in 150 s of one a minute, want 3", turns)
		}
	})
}

// cache is an informer's store as far as this package looks at it.
type cache struct {
	version string
	items   map[string]any
}

func (c *cache) LastStoreSyncResourceVersion() string { return c.version }
func (c *cache) GetByKey(key string) (any, bool, error) {
	item, ok := c.items[key]
	return item, ok, nil
}

func TestWaitsForOwnWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pods := &cache{version: "10", items: map[string]any{}}
		turns := 0
		var loop *Loop[string]
		loop = run(t, Config[string]{Reconcile: func(context.Context, string) (time.Duration, error) {
			turns++
			if turns == 1 {
				loop.Wrote("a", pods, "100")
			}
			return 0, nil
		}})
		loop.Add("a")
		loop.Add("b")
		time.Sleep(time.Second)
		loop.Add("a")
		time.Sleep(time.Second)
		if turns != 2 { // a once, b once
			t.Fatalf("%d turns before the cache had the write, want 2", turns)
		}
		pods.version = "9" // shorter and older: compared as numbers
		time.Sleep(2 * time.Second)
		if turns != 2 {
			t.Fatal("a turn with an older cache")
		}
		pods.version = "101"
		time.Sleep(2 * time.Second)
		if turns != 3 {
			t.Fatalf("%d turns after the cache had the write, want 3", turns)
		}
	})
}

func TestWaitsForOwnDeletion(t *testing.T) {
	pod := func(uid string, terminating bool) *v1.Pod {
		p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "u"}}
		p.UID = "u"
		if uid != "" {
			p.UID = "other"
		}
		if terminating {
			p.DeletionTimestamp = &metav1.Time{Time: time.Now()}
		}
		return p
	}
	for name, seen := range map[string]func(c *cache){
		"gone":        func(c *cache) { delete(c.items, "ns/p") },
		"replaced":    func(c *cache) { c.items["ns/p"] = pod("other", false) },
		"terminating": func(c *cache) { c.items["ns/p"] = pod("", true) },
	} {
		t.Run(name, func(t *testing.T) {
			c := &cache{items: map[string]any{"ns/p": pod("", false)}}
			loop := New(Config[string]{Name: "test", Logger: quiet})
			loop.Deleted("a", c, "ns/p", "u")
			if _, wait := loop.unseen("a"); !wait {
				t.Fatal("didn't wait while the cache still had the object")
			}
			seen(c)
			if _, wait := loop.unseen("a"); wait {
				t.Fatal("still waits")
			}
		})
	}
}

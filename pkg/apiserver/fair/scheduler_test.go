package fair

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// queued is a level with plenty of queues.
func queued(name string, nominal, reserved, limit int) Level {
	return Level{Name: name, Nominal: nominal, Reserved: reserved, Limit: limit, Queues: 64, QueueLength: 50, HandSize: 6}
}

// hand is the hash of a flow whose hand of 6 of 64 cards has none of those before it.
func hand(n int) uint64 {
	taken := map[int]bool{}
	for hash := uint64(1); ; hash = hash*6364136223846793005 + 1442695040888963407 {
		clash := false
		deal(hash, 64, 6, func(card int) { clash = clash || taken[card] })
		if clash {
			continue
		}
		if n == 0 {
			return hash
		}
		deal(hash, 64, 6, func(card int) { taken[card] = true })
		n--
	}
}

// client sends requests of one flow, so many at a time, until ctx ends.
type client struct {
	flow     uint64
	level    string
	width    int
	parallel int
	takes    time.Duration

	done, refused atomic.Int64
	longest       atomic.Int64 // wait, in ns
}

func (c *client) run(ctx context.Context, s *Scheduler) {
	for range c.parallel {
		go func() {
			for ctx.Err() == nil {
				began := time.Now()
				t, err := s.Acquire(ctx, Request{Level: c.level, Flow: c.flow, Width: c.width, Wait: 15 * time.Second})
				if err != nil && ctx.Err() == nil {
					c.refused.Add(1)
				}
				if err != nil {
					time.Sleep(time.Second)
					continue
				}
				c.longest.Store(max(c.longest.Load(), int64(time.Since(began))))
				time.Sleep(c.takes)
				t.Release()
				c.done.Add(1)
			}
		}()
	}
}

// during runs clients against a scheduler for a while.
func during(t *testing.T, s *Scheduler, d time.Duration, clients ...*client) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	for _, c := range clients {
		c.run(ctx, s)
	}
	time.Sleep(d)
	cancel()
	time.Sleep(time.Minute) // all are over
	for _, u := range s.Usage() {
		if u.Used != 0 || u.Running != 0 || u.Waiting != 0 {
			t.Errorf("something is left: %+v", u)
		}
	}
}

// Two flows that want more than there is get the same service, though the requests of one take five times as
// long; and one that wants little gets all of it, at once.
func TestFlowsShareALevel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewScheduler(8, []Level{queued("all", 8, 8, 8)})
		short := &client{flow: hand(0), level: "all", parallel: 60, takes: 20 * time.Millisecond}
		long := &client{flow: hand(1), level: "all", parallel: 60, takes: 100 * time.Millisecond}
		modest := &client{flow: hand(2), level: "all", parallel: 1, takes: 20 * time.Millisecond}
		during(t, s, time.Minute, short, long, modest)
		a, b := float64(short.done.Load())*0.02, float64(long.done.Load())*0.1
		if ratio := a / b; ratio < 0.8 || ratio > 1.25 {
			t.Errorf("short requests had %.1f seat-seconds, long ones %.1f", a, b)
		}
		if total := a + b; total < 0.85*8*60 {
			t.Errorf("seats stood empty: %.1f seat-seconds were used of %d", total, 8*60)
		}
		if wait := time.Duration(modest.longest.Load()); wait > 300*time.Millisecond {
			t.Errorf("who wants little waited %v", wait)
		}
		if modest.refused.Load() > 0 || short.refused.Load() > 0 {
			t.Errorf("refused: %d of the modest, %d of the short", modest.refused.Load(), short.refused.Load())
		}
	})
}

// A flow that is wide pays for its seats.
func TestWidthCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewScheduler(40, []Level{queued("all", 40, 40, 40)})
		narrow := &client{flow: hand(0), level: "all", parallel: 200, takes: 50 * time.Millisecond}
		wide := &client{flow: hand(1), level: "all", width: 6, parallel: 40, takes: 50 * time.Millisecond}
		during(t, s, 30*time.Second, narrow, wide)
		a, b := float64(narrow.done.Load()), 6*float64(wide.done.Load())
		if ratio := a / b; ratio < 0.75 || ratio > 1.33 {
			t.Errorf("narrow requests had %.0f seats, wide ones %.0f", a, b)
		}
	})
}

// What is reserved is there at once, whatever others do; what isn't used is lent, and comes back as soon as a request ends.
func TestLevelsLend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewScheduler(20, []Level{queued("leaders", 4, 4, 20), queued("high", 8, 4, 20), queued("low", 8, 0, 20)})
		flood := &client{flow: 1, level: "low", parallel: 200, takes: 100 * time.Millisecond}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		flood.run(ctx, s)
		time.Sleep(time.Second + time.Millisecond)
		used := func() map[string]int {
			all := map[string]int{}
			for _, u := range s.Usage() {
				all[u.Level] = u.Used
			}
			return all
		}
		if got := used(); got["low"] != 12 { // all but what the two others keep
			t.Errorf("alone, low uses %d seats of 20, 8 of which are reserved", got["low"])
		}
		for _, level := range []string{"leaders", "high"} {
			for i := range 4 {
				began := time.Now()
				ticket, err := s.Acquire(ctx, Request{Level: level, Flow: uint64(i), Wait: time.Second})
				if err != nil || time.Since(began) > 0 {
					t.Fatalf("request %d of level %s waited %v for a reserved seat: %v", i, level, time.Since(began), err)
				}
				defer ticket.Release()
			}
		}
		began := time.Now()
		var others sync.WaitGroup
		for i := range 4 { // lent at the moment
			others.Go(func() {
				if _, err := s.Acquire(ctx, Request{Level: "high", Flow: uint64(i), Wait: time.Second}); err != nil {
					t.Error(err)
				}
			})
		}
		others.Wait()
		if took := time.Since(began); took == 0 || took > 100*time.Millisecond {
			t.Errorf("lent seats came back after %v", took)
		}
		if got := used(); got["high"] != 8 || got["low"] != 8 {
			t.Errorf("seats in use: %v", got)
		}
		cancel()
		time.Sleep(time.Second)
	})
}

// A wide request gets its seats though narrow ones of other levels would always be quicker to take them.
func TestWideRequestsDontStarve(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewScheduler(100, []Level{queued("a", 50, 0, 100), queued("b", 50, 0, 100)})
		a := &client{flow: 1, level: "a", parallel: 250, takes: 30 * time.Millisecond}
		b := &client{flow: 2, level: "b", width: 8, parallel: 1, takes: 30 * time.Millisecond}
		during(t, s, 10*time.Second, a, b)
		if b.done.Load() < 100 || time.Duration(b.longest.Load()) > 200*time.Millisecond {
			t.Errorf("%d wide requests were served, one waited %v", b.done.Load(), time.Duration(b.longest.Load()))
		}
	})
}

func TestRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		strict := Level{Name: "strict", Nominal: 1, Reserved: 1, Limit: 1}
		short := Level{Name: "short", Nominal: 1, Reserved: 1, Limit: 1, Queues: 1, QueueLength: 1, HandSize: 1}
		s := NewScheduler(2, []Level{short, {Name: "free", Exempt: true}, strict})
		acquire := func(ctx context.Context, level string) (*Ticket, error) {
			return s.Acquire(ctx, Request{Level: level, Wait: time.Second})
		}
		must := func(level string) *Ticket {
			ticket, err := acquire(t.Context(), level)
			if err != nil {
				t.Fatalf("%s: %v", level, err)
			}
			return ticket
		}
		one := must("nowhere") // the last level stands in
		if _, err := acquire(t.Context(), "strict"); !errors.Is(err, ErrConcurrency) {
			t.Errorf("a level without queues: %v", err)
		}
		one.Release()
		one.Release() // once is enough
		must("strict").Release()

		running := must("short")
		ended := make(chan error, 1)
		go func() { _, err := acquire(t.Context(), "short"); ended <- err }()
		synctest.Wait()
		if _, err := acquire(t.Context(), "short"); !errors.Is(err, ErrQueueFull) {
			t.Errorf("a full queue: %v", err)
		}
		began := time.Now()
		if err := <-ended; !errors.Is(err, ErrTimeOut) || time.Since(began) != time.Second {
			t.Errorf("a wait too long: %v after %v", err, time.Since(began))
		}

		ctx, cancel := context.WithCancel(t.Context())
		go func() { _, err := acquire(ctx, "short"); ended <- err }()
		synctest.Wait()
		cancel()
		if err := <-ended; !errors.Is(err, ErrCancelled) {
			t.Errorf("cancelled while queued: %v", err)
		}
		for range 10 {
			must("free") // never waits, and needs no seat
		}
		go func() { _, err := acquire(t.Context(), "short"); ended <- err }()
		synctest.Wait()
		running.Release()
		if err := <-ended; err != nil {
			t.Errorf("after a release: %v", err)
		}
	})
}

// What waits goes on when the configuration changes, also in a level that goes.
func TestConfigureWhileWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		keep, gone := queued("keep", 1, 1, 1), queued("gone", 1, 1, 1)
		s := NewScheduler(2, []Level{gone, keep})
		var served atomic.Int64
		for i := range 10 {
			for _, level := range []string{"keep", "gone"} {
				go func() {
					ticket, err := s.Acquire(t.Context(), Request{Level: level, Flow: uint64(i), Wait: time.Minute})
					if err != nil {
						t.Errorf("%s: %v", level, err)
						return
					}
					served.Add(1)
					time.Sleep(time.Second)
					ticket.Release()
				}()
			}
		}
		synctest.Wait()
		keep.Queues, keep.HandSize = 3, 2
		s.Configure(2, []Level{keep})
		time.Sleep(30 * time.Second)
		s.mu.Lock()
		levels := len(s.levels)
		s.mu.Unlock()
		if served.Load() != 20 || levels != 1 {
			t.Errorf("%d of 20 were served; levels: %d", served.Load(), levels)
		}
		s.Configure(10, []Level{queued("keep", 10, 10, 10)})
		for i := range 10 {
			if _, err := s.Acquire(t.Context(), Request{Level: "keep", Flow: uint64(i), Wait: 0}); err != nil {
				t.Fatalf("seat %d of 10: %v", i, err)
			}
		}
	})
}

// Whatever comes, no level has more than its limit, all together no more than there is, each is given what it reserves, and
// nobody waits while there is room.
func TestInvariants(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { chaos(t, rand.New(rand.NewPCG(seed, 1))) })
		})
	}
}

func chaos(t *testing.T, random *rand.Rand) {
	total := 0
	var levels []Level
	for i := range 2 + random.IntN(4) {
		nominal := 1 + random.IntN(10)
		total += nominal
		levels = append(levels, queued(fmt.Sprint(i), nominal, random.IntN(nominal+1), nominal+random.IntN(20)))
	}
	s := NewScheduler(total, levels)
	check := func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		taken, used := 0, 0
		for _, l := range s.levels {
			taken, used = taken+l.taken(0), used+l.used
			if l.used > l.Limit {
				t.Errorf("level %s uses %d of %d", l.Name, l.used, l.Limit)
			}
			if next := l.next(); next != nil && l.used+next.width <= l.Reserved {
				t.Errorf("level %s waits for %d seats with %d of %d reserved in use", l.Name, next.width, l.used, l.Reserved)
			}
		}
		if taken != s.taken || used > s.total {
			t.Errorf("taken %d, counted %d; in use %d of %d", taken, s.taken, used, s.total)
		}
		if s.waiting > 0 && s.pick() != nil {
			t.Error("somebody waits who may start")
		}
	}
	for range 300 {
		r := Request{Level: fmt.Sprint(random.IntN(len(levels))), Flow: random.Uint64(), Width: 1 + random.IntN(3), Wait: time.Duration(random.IntN(300)) * time.Millisecond}
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(1+random.IntN(500))*time.Millisecond)
		takes := time.Duration(random.IntN(100)) * time.Millisecond
		go func() {
			defer cancel()
			if ticket, err := s.Acquire(ctx, r); err == nil {
				time.Sleep(takes)
				ticket.Release()
			}
		}()
		time.Sleep(time.Duration(random.IntN(4)) * time.Millisecond)
		synctest.Wait()
		check()
	}
	time.Sleep(time.Second)
	check()
	for _, u := range s.Usage() {
		if u.Used+u.Running+u.Waiting != 0 {
			t.Errorf("something is left: %+v", u)
		}
	}
}

func TestDeal(t *testing.T) {
	counts := map[int]int{}
	for range 10_000 {
		hash, seen := rand.Uint64(), map[int]bool{}
		deal(hash, 64, 6, func(card int) {
			if card < 0 || card >= 64 || seen[card] {
				t.Fatalf("card %d of hash %d, after %v", card, hash, seen)
			}
			seen[card] = true
			counts[card]++
		})
		if len(seen) != 6 {
			t.Fatalf("a hand of %v", seen)
		}
	}
	for card := range 64 {
		if n := counts[card]; n < 750 || n > 1125 { // 937 on average
			t.Errorf("card %d was dealt %d times", card, n)
		}
	}
}

func BenchmarkAcquire(b *testing.B) {
	s := NewScheduler(600, []Level{queued("low", 300, 100, 600), queued("high", 300, 100, 600)})
	b.Run("free", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(p *testing.PB) {
			for p.Next() {
				t, err := s.Acquire(context.Background(), Request{Level: "low", Flow: 42, Wait: time.Second})
				if err != nil {
					b.Fatal(err)
				}
				t.Release()
			}
		})
	})
	b.Run("contended", func(b *testing.B) {
		s := NewScheduler(1, []Level{queued("low", 1, 1, 1)})
		b.ReportAllocs()
		b.SetParallelism(20)
		b.RunParallel(func(p *testing.PB) {
			for p.Next() {
				t, err := s.Acquire(context.Background(), Request{Level: "low", Flow: 42, Wait: time.Minute})
				if err != nil {
					b.Fatal(err)
				}
				t.Release()
			}
		})
	})
}

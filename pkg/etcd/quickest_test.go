package etcd

import (
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

type named string

func (n named) Pick(balancer.PickInfo) (balancer.PickResult, error) {
	return balancer.PickResult{SubConn: nil, Metadata: map[string][]string{"name": {string(n)}}}, nil
}

// Calls go where answers are quick, and away from a member that is slow, fails, or says nothing; after a while it is tried again.
func TestQuickest(t *testing.T) {
	for name, spoil := range map[string]func(l *load, now time.Time){
		"slow":   func(l *load, now time.Time) { l.begin(); l.end(now.Add(-time.Second), now, nil) },
		"fails":  func(l *load, now time.Time) { l.begin(); l.end(now, now, status.Error(codes.Unavailable, "no leader")) },
		"silent": func(l *load, _ time.Time) { l.begin(); l.begin(); l.begin() },
	} {
		t.Run(name, func(t *testing.T) {
			bad := &load{}
			p := picker{{named("a"), &load{}}, {named("bad"), bad}, {named("c"), &load{}}}
			count := func() map[string]int {
				calls := map[string]int{}
				for range 200 {
					result, err := p.Pick(balancer.PickInfo{FullMethodName: "/etcdserverpb.KV/Range"})
					if err != nil {
						t.Fatal(err)
					}
					calls[result.Metadata["name"][0]]++
					result.Done(balancer.DoneInfo{})
				}
				return calls
			}
			if calls := count(); calls["a"] == 0 || calls["bad"] == 0 || calls["c"] == 0 {
				t.Errorf("equals are called %v", calls)
			}
			spoil(bad, time.Now())
			if calls := count(); calls["bad"] > 0 {
				t.Errorf("calls are %v", calls)
			}
			if now := time.Now(); bad.waiting == 0 && bad.cost(now.Add(time.Minute)) > p[0].load.cost(now) {
				t.Errorf("it is never tried again")
			}
		})
	}
}

// An answer that takes longer than before counts at once; shorter ones count by half.
func TestLoad(t *testing.T) {
	l, now := &load{}, time.Now()
	call := func(took time.Duration) {
		l.begin()
		l.end(now.Add(-took), now, nil)
	}
	call(10 * time.Millisecond)
	call(time.Second)
	peak := l.cost(now)
	if peak != 1 {
		t.Errorf("after a second's answer the cost is %v", peak)
	}
	call(10 * time.Millisecond)
	if cost := l.cost(now); cost != (1+.01)/2 {
		t.Errorf("after a quick answer it is %v", cost)
	}
	if cost := l.cost(now.Add(forgetting)); cost > peak/5 {
		t.Errorf("five seconds later it is %v", cost)
	}
}

func TestPace(t *testing.T) {
	var p pace
	count, sum := uint64(1000), 1000.0 // before the first look
	for i, step := range []struct {
		syncs uint64
		each  float64
		want  time.Duration
	}{
		{10, .001, 0}, {10, .001, 0}, {10, .001, 0}, {10, .001, 0}, // too little waiting to tell by
		{2, .5, 1020 * time.Millisecond / 22}, {0, 0, 1010 * time.Millisecond / 12}, {0, 0, 500 * time.Millisecond},
		{0, 0, 0},
	} {
		count += step.syncs
		sum += float64(step.syncs) * step.each
		if got := p.look(count, sum); (got - step.want).Abs() > time.Millisecond {
			t.Errorf("look %d: %v, want %v", i, got, step.want)
		}
	}
}

// The histogram is etcd's own: it counts what a member does.
func TestSyncsAreCounted(t *testing.T) {
	counted := func() uint64 {
		var now dto.Metric
		if err := syncs.Write(&now); err != nil {
			t.Fatal(err)
		}
		return now.GetHistogram().GetSampleCount()
	}
	before := counted()
	m := start(t, Config{DataDir: t.TempDir()})
	if _, err := m.Client().Put(t.Context(), "x", "y"); err != nil {
		t.Fatal(err)
	}
	if after := counted(); after <= before {
		t.Errorf("%d syncs were counted, then %d", before, after)
	}
}

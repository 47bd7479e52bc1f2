package etcd

import (
	"math"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/balancer/endpointsharding"
	"google.golang.org/grpc/balancer/pickfirst"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"
)

// quickest is the name of a gRPC balancer that calls the member which is expected to answer first, where
// round robin would send every third call to one with a slow disk, or without a leader. Expected
// is the peak-sensitive moving average of a member's answers, times the calls that wait for it
// (as in Finagle's Peak EWMA): one that falls silent is left after a few calls, and tried again after a while.
const quickest = "skiff_quickest"

func init() { balancer.Register(quickestBuilder{}) }

type quickestBuilder struct{}

func (quickestBuilder) Name() string { return quickest }

func (quickestBuilder) Build(cc balancer.ClientConn, options balancer.BuildOptions) balancer.Balancer {
	listener := &quickestConn{ClientConn: cc, loads: map[string]*load{}}
	return endpointsharding.NewBalancer(listener, options, balancer.Get(pickfirst.Name).Build, endpointsharding.Options{})
}

// quickestConn puts the picker in the place of round robin's.
type quickestConn struct {
	balancer.ClientConn
	loads map[string]*load // by address; UpdateState's own
}

func (c *quickestConn) UpdateState(state balancer.State) {
	var p picker
	for _, child := range endpointsharding.ChildStatesFromPicker(state.Picker) {
		if child.State.ConnectivityState != connectivity.Ready {
			continue
		}
		address := child.Endpoint.Addresses[0].Addr
		if c.loads[address] == nil {
			c.loads[address] = &load{}
		}
		p = append(p, member{child.State.Picker, c.loads[address]})
	}
	if len(p) > 0 {
		state.Picker = p
	}
	c.ClientConn.UpdateState(state)
}

// picker chooses among the members that there are connections to.
type picker []member

type member struct {
	balancer.Picker
	load *load
}

// Pick implements balancer.Picker.
func (p picker) Pick(info balancer.PickInfo) (balancer.PickResult, error) {
	now := time.Now()
	first := rand.IntN(len(p)) // of equals, none is always first
	best, least := p[first], math.Inf(1)
	for i := range p {
		m := p[(first+i)%len(p)]
		if cost := m.load.cost(now); cost < least {
			best, least = m, cost
		}
	}
	result, err := best.Picker.Pick(info)
	if err != nil || !strings.HasPrefix(info.FullMethodName, "/etcdserverpb.KV/") { // streams end when they like
		return result, err
	}
	done := result.Done
	best.load.begin()
	result.Done = func(info balancer.DoneInfo) {
		best.load.end(now, time.Now(), info.Err)
		if done != nil {
			done(info)
		}
	}
	return result, nil
}

// load is what is expected of a member.
type load struct {
	mu      sync.Mutex
	average float64 // seconds
	at      time.Time
	waiting int
}

const (
	// forgetting is the time constant of the average.
	forgetting = 5 * time.Second
	// failed is what a call counts at least that a member could not carry out.
	failed = time.Second
)

// cost grows with what a call to the member is expected to take.
func (l *load) cost(now time.Time) float64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	const least = 1e-4 // members that answer that quickly are all alike
	return max(l.average*math.Exp(-now.Sub(l.at).Seconds()/forgetting.Seconds()), least) * float64(l.waiting+1)
}

func (l *load) begin() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiting++
}

// end takes in how long a call took, and how it ended. A longer time than expected counts at once, a shorter one by half:
// members that had no leader for a moment must not look as bad for long as one that says nothing.
func (l *load) end(began, now time.Time, err error) {
	took := now.Sub(began)
	if code := status.Code(err); code == codes.Unavailable || code == codes.DeadlineExceeded {
		took = max(took, failed)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiting--
	expected := l.average * math.Exp(-now.Sub(l.at).Seconds()/forgetting.Seconds())
	if l.average = took.Seconds(); l.average < expected {
		l.average = (l.average + expected) / 2
	}
	l.at = now
}

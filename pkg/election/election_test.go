package election

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
	"k8s.io/utils/ptr"
)

// process is a candidate with a network of its own, which can be cut.
type process struct {
	name     string
	server   *server
	election *Election
	stop     context.CancelFunc
	done     chan error

	mu      sync.Mutex
	cut     bool
	delay   time.Duration
	leading bool
	since   time.Time
	lingers time.Duration // how long its work goes on after it should have ended
}

func (p *process) RoundTrip(r *http.Request) (*http.Response, error) {
	p.mu.Lock()
	cut, delay := p.cut, p.delay
	p.mu.Unlock()
	if cut {
		select {
		case <-r.Context().Done():
			return nil, r.Context().Err()
		case <-time.After(30 * time.Second):
			return nil, errors.New("connection timed out")
		}
	}
	if delay > 0 { // the server takes it in the end, whether or not somebody still waits
		time.Sleep(delay)
	}
	if isWrite(r) {
		r = r.Clone(r.Context())
		r.Header.Set("Who", p.name)
	}
	return p.server.RoundTrip(r)
}

func (p *process) set(cut bool, delay time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut, p.delay = cut, delay
}

func (p *process) leads() (bool, time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.leading, p.since
}

// start runs a candidate whose work is a write every 50 ms.
func start(t *testing.T, s *server, name string) *process {
	p := &process{name: name, server: s, done: make(chan error, 1)}
	config := Defaults("test")
	config.Logger = slog.New(slog.NewTextHandler(io.Discard, nil))
	config.Client = &rest.Config{Host: "http://server", Transport: p, QPS: -1, ContentConfig: rest.ContentConfig{ContentType: "application/json"}}
	var err error
	if p.election, err = New(config); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	p.stop = stop
	go func() { p.done <- p.election.Run(ctx, p.work) }()
	return p
}

func (p *process) work(ctx context.Context, won Won) error {
	client, err := kubernetes.NewForConfig(won.Config)
	if err != nil {
		return err
	}
	p.mu.Lock()
	p.leading, p.since = true, time.Now()
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		p.leading = false
		p.mu.Unlock()
	}()
	for ctx.Err() == nil {
		short, cancel := context.WithTimeout(ctx, 30*time.Second)
		_, _ = client.CoreV1().ConfigMaps("ns").Create(short, &corev1.ConfigMap{}, metav1.CreateOptions{})
		cancel()
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond):
		}
	}
	time.Sleep(p.lingers)
	return context.Cause(ctx)
}

// end stops processes and waits for them.
func end(processes ...*process) {
	for _, p := range processes {
		p.set(false, 0)
		p.stop()
	}
	for _, p := range processes {
		<-p.done
	}
	time.Sleep(time.Minute) // for requests still on their way
}

func TestOneLeads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(true)
		a := start(t, s, "a")
		time.Sleep(time.Second)
		b, c := start(t, s, "b"), start(t, s, "c")
		time.Sleep(20 * time.Second)
		if leads, _ := a.leads(); !leads {
			t.Error("a, which came first, doesn't lead")
		}
		for _, p := range []*process{b, c} {
			if leads, _ := p.leads(); leads {
				t.Errorf("%s leads too", p.name)
			}
		}
		endpoints, lease := s.holders()
		if endpoints != a.election.identity || lease != a.election.identity {
			t.Errorf("held by %q and %q", endpoints, lease)
		}
		end(a, b, c)
	})
}

func TestReleaseHandsOverAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(true)
		a := start(t, s, "a")
		time.Sleep(time.Second)
		b := start(t, s, "b")
		time.Sleep(10 * time.Second)
		stopped := time.Now()
		a.stop()
		if err := <-a.done; err != nil {
			t.Errorf("a clean stop is no error: %v", err)
		}
		time.Sleep(5 * time.Second)
		leads, since := b.leads()
		if took := since.Sub(stopped); !leads || took > time.Second {
			t.Errorf("b leads: %v, after %v", leads, took)
		}
		end(b)
	})
}

func TestKilledLeaderIsReplaced(t *testing.T) {
	for seed := range uint64(10) {
		synctest.Test(t, func(t *testing.T) {
			s := newServer(true)
			a := start(t, s, "a")
			time.Sleep(time.Second)
			b, c := start(t, s, "b"), start(t, s, "c")
			time.Sleep(10*time.Second + time.Duration(rand.New(rand.NewPCG(seed, 0)).IntN(1000))*time.Millisecond)
			killed := time.Now()
			a.set(true, 0)
			time.Sleep(10 * time.Second)
			ofB, sinceB := b.leads()
			ofC, sinceC := c.leads()
			if ofB == ofC {
				t.Fatalf("b leads: %v, c leads: %v", ofB, ofC)
			}
			since := sinceB
			if ofC {
				since = sinceC
			}
			if took := since.Sub(killed); took > 4*time.Second {
				t.Errorf("took %v", took)
			}
			if err := <-a.done; !errors.As(err, new(*Deposed)) {
				t.Errorf("the deposed leader ends with %v", err)
			}
			end(b, c)
		})
	}
}

// A leader that stood still while another took over has its late writes refused, and stops.
func TestLateWritesAreFenced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(true)
		a := start(t, s, "a")
		time.Sleep(time.Second)
		b := start(t, s, "b")
		time.Sleep(10 * time.Second)
		a.set(false, 30*time.Second) // everything on its way takes half a minute, as if it stood still that long
		err := <-a.done
		deposed, ok := errors.AsType[*Deposed](err)
		if !ok {
			t.Fatalf("the deposed leader ends with %v", err)
		}
		if leads, _ := b.leads(); !leads {
			t.Error("b doesn't lead")
		}
		time.Sleep(time.Minute)
		end(b)
		if s.refused == 0 {
			t.Errorf("no late write was refused (%v)", deposed)
		}
		s.noneInterleave(t)
	})
}

// noneInterleave checks that nobody wrote after another one had.
func (s *server) noneInterleave(t *testing.T) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	over := map[string]bool{}
	for i, w := range s.writes {
		if i > 0 && s.writes[i-1].by != w.by {
			over[s.writes[i-1].by] = true
		}
		if over[w.by] {
			t.Fatalf("write %d: %s wrote at %v, after %s had", i, w.by, w.at, s.writes[i-1].by)
		}
	}
}

// Half of the lock is deleted while somebody leads. Without the Lease the leader goes on; without the Endpoints its fence
// is over, and one of the candidates leads next.
func TestLockIsDeleted(t *testing.T) {
	for _, half := range []string{"leases", "endpoints"} {
		synctest.Test(t, func(t *testing.T) {
			s := newServer(true)
			a := start(t, s, "a")
			time.Sleep(time.Second)
			b := start(t, s, "b")
			time.Sleep(10 * time.Second)
			s.remove(half)
			time.Sleep(5 * time.Second)
			ofA, _ := a.leads()
			ofB, _ := b.leads()
			if stays := half == "leases"; ofA != stays || ofB == stays {
				t.Errorf("without %s: a leads: %t, b leads: %t", half, ofA, ofB)
			}
			endpoints, lease := s.holders()
			if endpoints == "" || endpoints != lease {
				t.Errorf("without %s: held by %q and %q", half, endpoints, lease)
			}
			end(a, b)
			s.noneInterleave(t)
		})
	}
}

// A leader whose work doesn't heed its end doesn't keep the process from ending.
func TestDeposedDoesNotLinger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(true)
		a := start(t, s, "a")
		a.lingers = 20 * time.Second
		time.Sleep(5 * time.Second)
		cut := time.Now()
		a.set(true, 0)
		err := <-a.done
		if took := time.Since(cut); !errors.As(err, new(*Deposed)) || took > 10*time.Second {
			t.Errorf("ended after %v with %v", took, err)
		}
		time.Sleep(time.Minute)
	})
}

func TestEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(true)
		a := start(t, s, "a")
		time.Sleep(5 * time.Second)
		end(a)
		id := a.election.identity
		s.mu.Lock()
		defer s.mu.Unlock()
		if want := fmt.Sprintf("[Endpoints: %[1]s became leader Lease: %[1]s became leader Endpoints: %[1]s stopped leading Lease: %[1]s stopped leading]", id); fmt.Sprint(s.events) != want {
			t.Errorf("told %v, want %s", s.events, want)
		}
	})
}

func TestForeignLeaseHolderIsRespected(t *testing.T) {
	// Its clock is right, or decades wrong.
	for _, wrong := range []time.Duration{0, -30 * 365 * 24 * time.Hour, 30 * 365 * 24 * time.Hour} {
		t.Run(wrong.String(), func(t *testing.T) { foreignLeaseHolder(t, wrong) })
	}
}

func foreignLeaseHolder(t *testing.T, wrong time.Duration) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(false)
		kube, err := kubernetes.NewForConfig(&rest.Config{Host: "http://server", Transport: s, QPS: -1, ContentConfig: rest.ContentConfig{ContentType: "application/json"}})
		if err != nil {
			t.Fatal(err)
		}
		leases := kube.CoordinationV1().Leases(metav1.NamespaceSystem)
		lease, err := leases.Create(t.Context(), &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: "test", Namespace: metav1.NamespaceSystem},
			Spec: coordinationv1.LeaseSpec{HolderIdentity: ptr.To("kube"), LeaseDurationSeconds: ptr.To(int32(15)), LeaseTransitions: ptr.To(int32(7))}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		a := start(t, s, "a")
		for range 30 { // renewed every two seconds, as Kubernetes' components do
			time.Sleep(2 * time.Second)
			lease.Spec.RenewTime = ptr.To(metav1.NewMicroTime(time.Now().Add(wrong)))
			if lease, err = leases.Update(t.Context(), lease, metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
			if leads, _ := a.leads(); leads {
				t.Fatal("a leads beside the holder of the Lease")
			}
		}
		last := time.Now()
		time.Sleep(20 * time.Second)
		leads, since := a.leads()
		if took := since.Sub(last); !leads || took < 14*time.Second || took > 17*time.Second {
			t.Errorf("a leads: %v, after %v; the Lease says 15 s", leads, took)
		}
		if lease, err = leases.Get(t.Context(), "test", metav1.GetOptions{}); err != nil || *lease.Spec.LeaseTransitions != 8 {
			t.Errorf("transitions not counted on: %v, %v", lease.Spec.LeaseTransitions, err)
		}
		end(a)
	})
}

// Whatever the network does, writes of two leaders don't interleave: with
// fencing even if they arrive late, without it as long as they take no time.
func TestLeadersNeverInterleave(t *testing.T) {
	for seed := range uint64(40) {
		fencing := seed%2 == 0
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				random := rand.New(rand.NewPCG(seed, 1))
				s := newServer(fencing)
				var processes []*process
				for i := range 3 {
					processes = append(processes, start(t, s, fmt.Sprintf("%d.0", i)))
				}
				for step := range 60 {
					time.Sleep(time.Duration(random.IntN(2000)) * time.Millisecond)
					i := random.IntN(len(processes))
					p := processes[i]
					switch random.IntN(5) {
					case 0:
						p.set(true, 0)
					case 1:
						if fencing {
							p.set(false, time.Duration(random.IntN(6000))*time.Millisecond)
						}
					case 2, 3:
						p.set(false, 0)
					case 4: // restarted, cleanly or not
						p.stop()
					}
					for i, p := range processes {
						select {
						case <-p.done:
							processes[i] = start(t, s, fmt.Sprintf("%d.%d", i, step+1))
						default:
						}
					}
				}
				for _, p := range processes {
					p.set(false, 0)
				}
				time.Sleep(time.Minute)
				settled := time.Now()
				end(processes...)
				s.noneInterleave(t)
				s.mu.Lock()
				defer s.mu.Unlock()
				if len(s.writes) == 0 || settled.Sub(s.writes[len(s.writes)-1].at) > 10*time.Second {
					t.Error("nobody works in the end")
				}
			})
		})
	}
}

func TestCombine(t *testing.T) {
	for _, c := range []struct{ endpoints, lease, want string }{
		{"", "", ""}, {"a", "a", "a"}, {"me", "me", "me"},
		{"", "a", "a"}, {"a", "", "a"}, {"me", "", ""}, {"", "me", ""},
		{"a", "b", "leaderelection.k8s.io/unknown"}, {"me", "a", "leaderelection.k8s.io/unknown"},
	} {
		onEndpoints, onLease := recordOfLease(nil), recordOfLease(nil)
		onEndpoints.HolderIdentity, onLease.HolderIdentity = c.endpoints, c.lease
		if got := combine("me", onEndpoints, onLease).HolderIdentity; got != c.want {
			t.Errorf("endpoints %q, lease %q: got %q, want %q", c.endpoints, c.lease, got, c.want)
		}
	}
}

func TestConfigIsChecked(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"fraction of a second": func(c *Config) { c.LeaseDuration = 3500 * time.Millisecond },
		"deadline after lease": func(c *Config) { c.RenewDeadline = 3 * time.Second },
		"no retries":           func(c *Config) { c.RetryPeriod = 1900 * time.Millisecond; c.LeaseDuration = 10 * time.Second },
		"unknown lock":         func(c *Config) { c.ResourceLock = "configmaps" },
	} {
		c := Defaults("test")
		change(&c)
		if _, err := New(c); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	if _, err := New(Defaults("test")); err != nil {
		t.Errorf("defaults: %v", err)
	}
}

func TestMain(m *testing.M) {
	klog.LogToStderr(false)
	klog.SetOutput(io.Discard)
	// The second one holds up who meets errors too often by the time since the last one. The first is that of the process' start, by a
	// real clock: seen from a test's clock it lies a quarter of a century ahead, and is waited for.
	utilruntime.ErrorHandlers = utilruntime.ErrorHandlers[:1]
	os.Exit(m.Run())
}

// A leader whose lease has run out doesn't write, whatever the apiserver would say.
func TestNoWritesAfterTheLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fence{lock: "kube-system/test", deposed: func(*Deposed) {}}
		f.renewed(time.Now().Add(3 * time.Second))
		sent := 0
		guarded := f.guard(roundTripper(func(r *http.Request) (*http.Response, error) {
			sent++
			return &http.Response{StatusCode: http.StatusOK, Body: http.NoBody, Request: r}, nil
		}))
		try := func(method string) error {
			r, err := http.NewRequestWithContext(t.Context(), method, "http://server/", nil)
			if err != nil {
				t.Fatal(err)
			}
			_, err = guarded.RoundTrip(r)
			return err
		}
		if err := try(http.MethodPost); err != nil || sent != 1 {
			t.Errorf("a leader may write: %v", err)
		}
		time.Sleep(4 * time.Second)
		if err := try(http.MethodPost); !errors.As(err, new(*Deposed)) || sent != 1 {
			t.Errorf("wrote after the lease had run out: %v", err)
		}
		if err := try(http.MethodGet); err != nil || sent != 2 {
			t.Errorf("reading is always allowed: %v", err)
		}
	})
}

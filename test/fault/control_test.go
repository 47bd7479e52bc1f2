package fault

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"skiff/pkg/election"
	"skiff/test/fault/record"
)

// Promised: at most two seconds of errors through the VIP. Watches go on at
// another apiserver, which can take them up where they were.
func killedAPIServer(s *scenario) {
	for _, m := range spec.Masters() {
		at := s.kill(m.Name, "apiserver")
		s.gaps(at, 2*time.Second, "apiserver of "+m.Name+" killed")
		s.healthy()
	}
}

// One that neither answers nor refuses is worse: it has to be found out.
func frozenAPIServer(s *scenario) {
	p := s.process(s.other(), "apiserver")
	at := time.Now()
	thaw, err := p.Freeze()
	s.must(err)
	s.says("on " + p.Node + " apiserver (stopped by a signal) is not running")
	s.gaps(at, 6*time.Second, p.String()+" frozen")
	s.must(thaw())
}

// Promised: the VIP answers within two seconds.
func killedBalancer(s *scenario) {
	for range 2 {
		node := s.holder()
		at := s.kill(node, spec.LoadBalancer)
		s.gaps(at, 4*time.Second, spec.LoadBalancer+" on the VIP's "+node+" killed")
	}
}

func killedKeepalived(s *scenario) {
	for range 2 {
		node := s.holder()
		at := s.kill(node, "keepalived")
		s.gaps(at, 4*time.Second, "keepalived on the VIP's "+node+" killed")
	}
}

// locks are those of the components that are elected.
var locks = map[string]string{"scheduler": "kube-scheduler", "controller": "kube-controller-manager"}

// churn keeps both components at work until done is called, which checks what they did.
func (s *scenario) churn() (c *record.Churn, done func()) {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), comeBack)
	defer cancel()
	c, err := record.StartChurn(ctx, restConfig, newNamespace(s.T))
	s.must(err)
	stopped := false
	stop := func(ctx context.Context) error {
		stopped = true
		return c.Stop(ctx)
	}
	s.Cleanup(func() {
		if !stopped { // the test has failed; don't wait for what may never come
			ended, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			stop(ended)
		}
	})
	s.works(c, time.Now(), "at first")
	return c, func() {
		s.Helper()
		ctx, cancel := context.WithTimeout(s.Context(), comeBack)
		defer cancel()
		if err := stop(ctx); err != nil {
			s.Error(err)
		}
	}
}

// works waits until what is asked for after a moment is done by both.
func (s *scenario) works(c *record.Churn, since time.Time, what string) {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), comeBack)
	defer cancel()
	created, err := c.Created(ctx, since)
	if err == nil {
		var bound time.Duration
		if bound, err = c.Bound(ctx, since); err == nil {
			s.Logf("%s: a new replica set's pod is created after %v, bound after %v", what, created.Round(time.Millisecond), bound.Round(time.Millisecond))
			return
		}
	}
	s.Fatalf("%s: %v", what, err)
}

// Promised: another works within five seconds, or one after a clean stop.
func killedLeader(s *scenario, component string) {
	c, done := s.churn()
	c.Undisturbed = true
	for _, signal := range []unix.Signal{unix.SIGKILL, unix.SIGTERM, unix.SIGKILL, unix.SIGTERM} {
		p := s.process(s.leader(locks[component]), component)
		pid, at := p.Pid(), time.Now()
		s.must(p.Signal(signal))
		s.works(c, at, "leading "+p.String()+", "+unix.SignalName(signal))
		s.replaced(p.Node, component, pid)
	}
	done()
}

// A leader that sleeps for long wakes up with writes on its lips. None of them may be
// accepted, and it has to notice that its time is over, and end.
func frozenLeader(s *scenario, component string) {
	frozen := 10 * time.Second
	if soak != "" {
		frozen = 30 * time.Second
	}
	c, done := s.churn()
	c.Undisturbed = true
	lock := locks[component]
	p := s.process(s.leader(lock), component)
	pid, epoch, at := p.Pid(), s.epoch(lock), time.Now()
	thaw, err := p.Freeze()
	s.must(err)
	s.works(c, at, "leading "+p.String()+" frozen")
	if now := s.epoch(lock); now == epoch {
		s.Errorf("%s: another works, and the epoch is still %s", lock, now)
	}
	s.fenced(lock, epoch)
	s.says("on " + p.Node + " " + component + " (stopped by a signal) is not running")
	s.rest(time.Until(at.Add(frozen)))
	at = time.Now()
	s.must(thaw())
	s.replaced(p.Node, component, pid)
	s.Logf("%v ended %v after it could go on", p, time.Since(at).Round(time.Millisecond))
	s.works(c, time.Now(), "afterwards")
	done()
}

func (s *scenario) replaced(node, process string, pid int) {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), comeBack)
	defer cancel()
	s.must(s.process(node, process).Replaced(ctx, pid))
}

// epoch is what a lock's leader would send with its writes at the moment.
func (s *scenario) epoch(lock string) (epoch string) {
	s.Helper()
	config := rest.CopyConfig(restConfig)
	config.Timeout = 5 * time.Second
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			response, err := next.RoundTrip(r)
			if err == nil {
				epoch = response.Header.Get(election.EpochHeader)
			}
			return response, err
		})
	})
	set, err := kubernetes.NewForConfig(config)
	s.must(err)
	_, err = set.CoreV1().Endpoints(metav1.NamespaceSystem).Get(s.Context(), lock, metav1.GetOptions{})
	s.must(err)
	if epoch == "" {
		s.Fatalf("%s has no epoch", lock)
	}
	return epoch
}

// fenced wants writes under an epoch that is over to be refused.
func (s *scenario) fenced(lock, epoch string) {
	s.Helper()
	config := rest.CopyConfig(restConfig)
	config.Timeout = 5 * time.Second
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			r = r.Clone(r.Context())
			r.Header.Set(election.FenceHeader, metav1.NamespaceSystem+"/"+lock+"="+epoch)
			return next.RoundTrip(r)
		})
	})
	set, err := kubernetes.NewForConfig(config)
	s.must(err)
	late := &v1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "late"}}
	_, err = set.CoreV1().ResourceQuotas(s.namespace).Create(s.Context(), late, metav1.CreateOptions{})
	if err == nil || !strings.Contains(err.Error(), "has ended") {
		s.Errorf("a write under the last leader's epoch: %v", err)
	}
}

// Other binaries, and back: the API is answered all along, and containers are not touched.
func upgraded(s *scenario) {
	churn, done := s.churn()
	other := s.TempDir()
	for _, binary := range []string{"init", "apiserver", "scheduler", "controller", "agent"} {
		data, err := os.ReadFile(filepath.Join(root, "bin", binary))
		s.must(err)
		s.must(os.WriteFile(filepath.Join(other, binary), data, 0o755))
	}
	for _, bin := range []string{other, filepath.Join(root, "bin")} {
		at := time.Now()
		if out, err := ctl("cluster", "upgrade", name, "--bin", bin); err != nil {
			s.Fatalf("ctl cluster upgrade: %v\n%s", err, out)
		}
		s.gaps(at, 0, "upgraded to "+bin)
		s.works(churn, time.Now(), "afterwards")
	}
	done()
}

package apiserver_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"skiff/pkg/apiserver"
	"skiff/pkg/election"
	"skiff/pkg/etcd"
)

const masterKeys = "/registry/masterleases/"

func advertise(address string) func(*apiserver.Config) {
	return func(c *apiserver.Config) { c.AdvertiseAddress = netip.MustParseAddr(address) }
}

// serves waits until the kubernetes service leads to these addresses.
func serves(t *testing.T, client kubernetes.Interface, want ...string) {
	t.Helper()
	ctx := limited(t)
	for {
		var got, sliced []string
		endpoints, err := client.CoreV1().Endpoints("default").Get(ctx, "kubernetes", metav1.GetOptions{})
		if err == nil && len(endpoints.Subsets) > 0 {
			for _, a := range endpoints.Subsets[0].Addresses {
				got = append(got, a.IP)
			}
		}
		slice, err := client.DiscoveryV1().EndpointSlices("default").Get(ctx, "kubernetes", metav1.GetOptions{})
		if err == nil {
			sliced = addressesOf(slice)
		}
		if slices.Equal(got, want) && slices.Equal(sliced, want) {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("endpoints %v, slice %v, want %v", got, sliced, want)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func addressesOf(slice *discoveryv1.EndpointSlice) (out []string) {
	for _, e := range slice.Endpoints {
		out = append(out, e.Addresses...)
	}
	return out
}

func TestMasters(t *testing.T) {
	t.Parallel()
	one := start(t, advertise("127.0.0.1"))
	two := over(t, one.etcd, advertise("127.0.0.2"))
	client := typed(t, one, "application/vnd.kubernetes.protobuf")
	serves(t, client, "127.0.0.1", "127.0.0.2")

	// One that is killed leaves when its lease ends.
	grant := func(seconds int64, address string) clientv3.LeaseID {
		lease, err := one.etcd.Client().Grant(limited(t), seconds)
		if err == nil {
			_, err = one.etcd.Client().Put(limited(t), masterKeys+address, "", clientv3.WithLease(lease.ID))
		}
		if err != nil {
			t.Fatal(err)
		}
		return lease.ID
	}
	grant(1, "127.0.0.3")
	serves(t, client, "127.0.0.1", "127.0.0.2", "127.0.0.3")
	serves(t, client, "127.0.0.1", "127.0.0.2")

	// One that is back under its address stays, though the lease of its predecessor ends.
	old := grant(1, "127.0.0.3")
	three := over(t, one.etcd, advertise("127.0.0.3"))
	for {
		left, err := one.etcd.Client().TimeToLive(limited(t), old)
		if err != nil {
			t.Fatal(err)
		}
		if left.TTL < 0 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	serves(t, client, "127.0.0.1", "127.0.0.2", "127.0.0.3")

	// What one writes the others show, to consistent reads at once.
	for n := range 20 {
		name := fmt.Sprintf("n%d", n)
		if _, err := client.CoreV1().ConfigMaps("default").Create(limited(t), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := typed(t, two, "application/json").CoreV1().ConfigMaps("default").Get(limited(t), name, metav1.GetOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	two.stop()
	serves(t, client, "127.0.0.1", "127.0.0.3")
	three.stop()
	serves(t, client, "127.0.0.1")
}

// A server that stops is not ready first, and gone from the endpoints; it serves on for a while, and then ends watches without
// an error, so that they go on elsewhere.
func TestLeaving(t *testing.T) {
	t.Parallel()
	one := start(t, advertise("127.0.0.1"))
	two := over(t, one.etcd, advertise("127.0.0.2"), func(c *apiserver.Config) { c.ShutdownDelay = time.Second })
	client := typed(t, one, "application/json")
	serves(t, client, "127.0.0.1", "127.0.0.2")
	w, err := typed(t, two, "application/json").CoreV1().ConfigMaps("default").Watch(limited(t), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	stopped := make(chan struct{})
	go func() { defer close(stopped); two.stop() }()
	for {
		code, _, body := raw(t, two, "GET", "/readyz", "", "")
		if code == http.StatusOK {
			continue
		}
		if !strings.Contains(string(body), "[-]shutdown failed: process is shutting down") {
			t.Errorf("%d %s", code, body)
		}
		break
	}
	serves(t, client, "127.0.0.1")
	if code, _, body := raw(t, two, "POST", maps, asJSON, `{"metadata":{"name":"late"}}`); code != http.StatusCreated {
		t.Errorf("a request while it leaves: %d %s", code, body)
	}
	var last []string
	for event := range w.ResultChan() {
		object, err := event.Object.(*corev1.ConfigMap)
		if !err {
			t.Fatalf("the watch ended with %+v", event.Object)
		}
		last = append(last, object.Name)
	}
	if !slices.Contains(last, "late") {
		t.Errorf("the watch saw %v", last)
	}
	<-stopped
}

// A server whose etcd has lost its quorum says so, refuses what it can't know, in bounded time, and is back with etcd.
func TestMinority(t *testing.T) {
	t.Parallel()
	describe := func(name string) etcd.Config {
		return etcd.Config{Name: name, DataDir: t.TempDir(), NoSync: true, Log: slog.New(slog.DiscardHandler),
			Peers: etcd.Endpoint{Listen: []string{freeURL(t)}}, Heartbeat: 20 * time.Millisecond}
	}
	first := describe("one")
	member, err := etcd.Start(t.Context(), first)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(member.Close)
	joined, err := etcd.Join(limited(t), member.Client(), describe("two"))
	if err != nil {
		t.Fatal(err)
	}
	second, err := etcd.Start(limited(t), joined)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { second.Close() })
	i := over(t, member)
	if code, _, body := raw(t, i, "POST", maps, asJSON, `{"metadata":{"name":"a"}}`); code != http.StatusCreated {
		t.Fatalf("%d %s", code, body)
	}
	if code, _, body := raw(t, i, "GET", maps+"/a", "", ""); code != http.StatusOK {
		t.Fatalf("%d %s", code, body)
	}
	second.Close() // one of two is no majority

	for code, body := 200, []byte(nil); code == http.StatusOK; {
		code, _, body = raw(t, i, "GET", "/readyz", "", "")
		if code != http.StatusOK && !strings.Contains(string(body), "[-]etcd failed: etcd serves no consistent read") {
			t.Errorf("%d %s", code, body)
		}
	}
	if code, _, body := raw(t, i, "GET", "/livez", "", ""); code != http.StatusOK {
		t.Errorf("a restart would not help: %d %s", code, body)
	}
	began := time.Now()
	if code, _, body := raw(t, i, "GET", maps+"/a", "", ""); code != http.StatusGatewayTimeout {
		t.Errorf("a consistent read: %d %s", code, body)
	}
	if code, _, body := raw(t, i, "POST", maps, asJSON, `{"metadata":{"name":"b"}}`); code != http.StatusGatewayTimeout {
		t.Errorf("a write: %d %s", code, body)
	}
	if took := time.Since(began); took > 30*time.Second { // not a timing, but less than the request's limit
		t.Errorf("refused after %v", took)
	}
	if code, _, body := raw(t, i, "GET", maps+"/a?resourceVersion=0", "", ""); code != http.StatusOK {
		t.Errorf("a read of whatever there is: %d %s", code, body)
	}
	if second, err = etcd.Start(limited(t), joined); err != nil {
		t.Fatal(err)
	}
	for code := 500; code != http.StatusOK; {
		code, _, _ = raw(t, i, "GET", "/readyz", "", "")
	}
	if code, _, body := raw(t, i, "GET", maps+"/a", "", ""); code != http.StatusOK {
		t.Errorf("%d %s", code, body)
	}
}

func freeURL(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return "http://" + l.Addr().String()
}

// Epochs are etcd's, so a fence holds on every server.
func TestFenceOnEveryServer(t *testing.T) {
	t.Parallel()
	one := start(t, advertise("127.0.0.1"))
	two := over(t, one.etcd, advertise("127.0.0.2"))
	first := lead(t, one, "POST", "one")
	if reason := write(t, two, "a", first); reason != "" {
		t.Errorf("the leader's write on the other server was refused: %s", reason)
	}
	second := lead(t, two, "PUT", "two")
	if reason := write(t, one, "b", first); reason != "Fenced" {
		t.Errorf("a deposed leader's write: %q", reason)
	}
	if code, _, body := raw(t, one, "DELETE", leaders+"/boss", "", ""); code != http.StatusOK {
		t.Fatalf("%d %s", code, body)
	}
	third := lead(t, one, "POST", "two")
	if reason := write(t, two, "b", second); reason != "Fenced" {
		t.Errorf("a write under a record that was deleted and made anew: %q", reason)
	}
	if reason := write(t, two, "b", third); reason != "" {
		t.Errorf("the new leader's write was refused: %s", reason)
	}
}

// Candidates on two servers: one of them leads, and when it ends the other one does.
func TestElectionOnTwoServers(t *testing.T) {
	t.Parallel()
	one := start(t, advertise("127.0.0.1"))
	two := over(t, one.etcd, advertise("127.0.0.2"))
	leads := make(chan int, 2)
	run := func(n int, i *instance) (stop func()) {
		config := election.Defaults("boss")
		config.Client, config.Logger = i.config, slog.New(slog.DiscardHandler)
		candidate, err := election.New(config)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			if err := candidate.Run(ctx, func(ctx context.Context, won election.Won) error {
				if won.Revision == 0 {
					t.Errorf("%d won at no revision", n)
				}
				client, err := kubernetes.NewForConfig(won.Config)
				if err == nil {
					_, err = client.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("of-%d", n)}}, metav1.CreateOptions{})
				}
				if err != nil {
					t.Errorf("%d leads, and can't write: %v", n, err)
				}
				leads <- n
				<-ctx.Done()
				return nil
			}); err != nil {
				t.Errorf("%d: %v", n, err)
			}
		}()
		return sync.OnceFunc(func() { cancel(); <-done })
	}
	stops := []func(){run(0, one), run(1, two)}
	t.Cleanup(stops[0])
	t.Cleanup(stops[1])
	first := <-leads
	stops[first]()
	if second := <-leads; second == first {
		t.Errorf("%d leads again after it ended", first)
	}
}

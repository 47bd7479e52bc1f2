package record

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	corev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
)

// Foreign makes the configuration of a client that knows one address and no
// tricks: it gives up a connection attempt after half a second, and asks by TCP's
// keepalive whether the other side is there. Each client made of it has a connection of its own.
func Foreign(config *rest.Config) *rest.Config {
	c := rest.CopyConfig(config)
	c.QPS = -1
	c.WarningHandlerWithContext = rest.NoWarnings{} // Endpoints are deprecated, we know
	if c.Dial != nil {
		return c // it has a way of its own
	}
	c.Dial = (&net.Dialer{Timeout: 500 * time.Millisecond,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: time.Second, Interval: time.Second, Count: 2}}).DialContext
	return c
}

// The recorder's pace: each client pauses between two requests, and gives a request so long.
const (
	pause    = 40 * time.Millisecond
	patience = time.Second
	field    = "value" // of a ConfigMap's data
	contests = 2       // keys that two clients write
)

// Recorder is a number of clients that write and read ConfigMaps of one namespace,
// and note all they do: compare-and-swaps of keys that two clients contest,
// creations, and reads of both by others.
type Recorder struct {
	config    *rest.Config
	namespace string
	begin     time.Time
	stop      context.CancelFunc
	ctx       context.Context
	group     sync.WaitGroup

	mu      sync.Mutex
	clients int
	log     []Operation
}

// Start begins to record. config leads to the API, with whatever there is between.
func Start(config *rest.Config, namespace string) (*Recorder, error) {
	r := &Recorder{config: config, namespace: namespace, begin: time.Now()}
	r.ctx, r.stop = context.WithCancel(context.Background())
	for key := range contests {
		name := fmt.Sprintf("contest-%d", key)
		for range 2 {
			if err := r.client(config, func(c *client) { c.swap(name) }); err != nil {
				return nil, err
			}
		}
		if err := r.client(config, func(c *client) { c.read(name) }); err != nil {
			return nil, err
		}
	}
	return r, r.client(config, func(c *client) { c.create() })
}

// Aside adds a client that reads the contested keys by a way of its own: at an
// apiserver that is cut off, say. It counts for the history, and not for gaps.
func (r *Recorder) Aside(config *rest.Config) error {
	return r.client(config, func(c *client) {
		c.aside = true
		for n := 0; c.rest(); n++ {
			c.get(fmt.Sprintf("contest-%d", n%contests))
		}
	})
}

type client struct {
	*Recorder
	number int
	aside  bool
	maps   corev1.ConfigMapInterface
}

func (r *Recorder) client(config *rest.Config, run func(*client)) error {
	foreign := Foreign(config)
	foreign.Wrap(impatient)
	set, err := kubernetes.NewForConfig(foreign)
	if err != nil {
		return err
	}
	r.mu.Lock()
	r.clients++
	c := &client{Recorder: r, number: r.clients, maps: set.CoreV1().ConfigMaps(r.namespace)}
	r.mu.Unlock()
	r.group.Go(func() { run(c) })
	return nil
}

// impatient hides from client-go that a connection broke: it would wait a second
// then before it reads again, and what is measured is the server.
func impatient(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		response, err := next.RoundTrip(r)
		if err != nil {
			err = errors.New("round trip: " + known.Replace(err.Error()))
		}
		return response, err
	})
}

// known are the words by which client-go knows a broken connection.
var known = strings.NewReplacer("connection reset by peer", "connection was reset by peer",
	"sent GOAWAY and closed", "sent GOAWAY, and closed", "use of closed network", "use of a closed network")

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// rest waits until it is time for the next request; false means that it is over.
func (c *client) rest() bool {
	select {
	case <-c.ctx.Done():
		return false
	case <-time.After(pause):
		return true
	}
}

// request is the context of one request.
func (c *client) request() (context.Context, context.CancelFunc) {
	return context.WithTimeout(c.ctx, patience)
}

func (c *client) now() time.Duration { return time.Since(c.begin) }

// note completes an operation with its answer, and keeps it.
func (c *client) note(o Operation, written *v1.ConfigMap, err error) {
	o.Client, o.Aside, o.Return = c.number, c.aside, c.now()
	switch {
	case err == nil:
		o.Outcome = Done
		if o.Kind == Swap {
			o.Revision, _ = strconv.ParseInt(written.ResourceVersion, 10, 64)
		}
	case o.Kind == Swap && (apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err)):
		o.Outcome = Refused
	default:
		o.Outcome, o.Err = Unknown, err.Error()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.log = append(c.log, o)
}

// get reads a key, and notes it.
func (c *client) get(name string) (*v1.ConfigMap, error) {
	ctx, cancel := c.request()
	defer cancel()
	o := Operation{Key: name, Kind: Read, Call: c.now()}
	m, err := c.maps.Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		m, err = nil, nil
	}
	if m != nil {
		o.Value = m.Data[field]
	}
	c.note(o, nil, err)
	return m, err
}

func (c *client) read(name string) {
	for c.rest() {
		c.get(name)
	}
}

// swap replaces a key's value by one of its own again and again, building on what it wrote
// last, or read after something went wrong.
func (c *client) swap(name string) {
	var have *v1.ConfigMap
	known := false
	for n := 0; c.rest(); n++ {
		if !known {
			m, err := c.get(name)
			if err != nil {
				continue
			}
			have, known = m, true
		}
		next, o := c.next(name, have, n)
		next, err := c.write(have, next)
		c.note(o, next, err)
		have, known = next, err == nil && n%8 != 0 // now and then look at what the other has made of it
	}
}

func (c *client) next(name string, have *v1.ConfigMap, n int) (*v1.ConfigMap, Operation) {
	o := Operation{Key: name, Kind: Swap, Value: fmt.Sprintf("%d-%d", c.number, n), Call: c.now()}
	next := &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if have != nil {
		o.From = have.Data[field]
		next = have.DeepCopy()
	}
	next.Data = map[string]string{field: o.Value}
	return next, o
}

func (c *client) write(have, next *v1.ConfigMap) (*v1.ConfigMap, error) {
	ctx, cancel := c.request()
	defer cancel()
	if have == nil {
		return c.maps.Create(ctx, next, metav1.CreateOptions{})
	}
	return c.maps.Update(ctx, next, metav1.UpdateOptions{})
}

// create makes objects that stay as they are.
func (c *client) create() {
	for n := 0; c.rest(); n++ {
		next, o := c.next(fmt.Sprintf("created-%d", n), nil, n)
		written, err := c.write(nil, next)
		c.note(o, written, err)
	}
}

// Stop ends recording with a last look at every key, which must succeed before
// ctx ends.
func (r *Recorder) Stop(ctx context.Context) error {
	r.stop()
	r.group.Wait()
	set, err := kubernetes.NewForConfig(Foreign(r.config))
	if err != nil {
		return err
	}
	for {
		call := time.Since(r.begin)
		list, err := set.CoreV1().ConfigMaps(r.namespace).List(ctx, metav1.ListOptions{})
		if err == nil {
			r.last(list.Items, call)
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("the last look at what was written: %w", err)
		}
	}
}

func (r *Recorder) last(items []v1.ConfigMap, call time.Duration) {
	values := map[string]string{}
	for _, m := range items {
		values[m.Name] = m.Data[field]
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	keys := map[string]bool{}
	for _, o := range r.log {
		keys[o.Key] = true
	}
	for key := range keys {
		r.log = append(r.log, Operation{Key: key, Kind: Read, Value: values[key], Outcome: Done, Call: call, Return: time.Since(r.begin)})
	}
}

// Abandon ends recording without a last look: there is nothing to check then.
func (r *Recorder) Abandon() {
	r.stop()
	r.group.Wait()
}

// Operations are those so far.
func (r *Recorder) Operations() []Operation {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]Operation(nil), r.log...)
}

// Offset turns a moment into the time that operations are noted with.
func (r *Recorder) Offset(t time.Time) time.Duration { return t.Sub(r.begin) }

// Settled waits until every client has succeeded with a request that it made after
// a moment.
func (r *Recorder) Settled(ctx context.Context, since time.Time) error {
	after := r.Offset(since)
	for {
		there := map[int]bool{}
		r.mu.Lock()
		clients, last := contests*3+1, Operation{}
		for i := len(r.log) - 1; i >= 0 && r.log[i].Return > after; i-- {
			switch o := r.log[i]; {
			case o.Aside:
			case o.Call > after && o.Outcome != Unknown:
				there[o.Client] = true
			case last.Err == "":
				last = o
			}
		}
		r.mu.Unlock()
		if len(there) == clients {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d of %d clients get an answer; the last that did not: %v", len(there), clients, last)
		case <-time.After(pause):
		}
	}
}

package election

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
)

// What a fencing apiserver and a leader say to each other.
const (
	// EpochHeader is in the answer to a write of a lock's Endpoints object: the
	// revision at which the present holder took it.
	EpochHeader = "Skiff-Epoch"
	// FenceHeader is in a leader's writes: "<namespace>/<name>=<epoch>" of its lock.
	FenceHeader = "Skiff-Fence"
	// ReasonFenced is the status reason of a write whose epoch is over (409).
	ReasonFenced metav1.StatusReason = "Fenced"
)

// Deposed is why leading ended though nobody asked for it.
type Deposed struct {
	Lock string // namespace/name
	// Fenced: the apiserver refused a write because there is another leader.
	// Otherwise the lease was not renewed in time, or somebody else holds it.
	Fenced  bool
	Message string
}

func (d *Deposed) Error() string { return fmt.Sprintf("no longer leader of %s: %s", d.Lock, d.Message) }

// fence decides whether a leader's writes may go out, and marks those that do.
type fence struct {
	lock    string // namespace/name
	deposed func(*Deposed)

	mu         sync.Mutex
	epoch      int64     // 0: the apiserver doesn't fence
	validUntil time.Time // when the lease runs out unless renewed
	over       *Deposed  // set once
}

// renewed notes that the lock is ours until the given time.
func (f *fence) renewed(until time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.validUntil = until
}

// depose lets no write out from now on. The first reason is the one that counts.
func (f *fence) depose(fenced bool, message string) {
	f.mu.Lock()
	first := f.over == nil
	if first {
		f.over = &Deposed{Lock: f.lock, Fenced: fenced, Message: message}
	}
	d := f.over
	f.mu.Unlock()
	if first {
		f.deposed(d)
	}
}

// err returns why leading has ended, or nil.
func (f *fence) err() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.over == nil {
		return nil
	}
	return f.over
}

// pass returns the header value for a write now, or why there must be none.
func (f *fence) pass(now time.Time) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.over != nil:
		return "", f.over
	case now.After(f.validUntil):
		return "", &Deposed{Lock: f.lock, Message: "the lease has run out"}
	case f.epoch == 0:
		return "", nil
	}
	return f.lock + "=" + strconv.FormatInt(f.epoch, 10), nil
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func isWrite(r *http.Request) bool {
	switch r.Method {
	case http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete:
		return true
	}
	return false
}

// guard wraps the transport of the leader's clients.
func (f *fence) guard(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		if !isWrite(r) {
			return next.RoundTrip(r)
		}
		value, err := f.pass(time.Now())
		if err != nil {
			return nil, err
		}
		if value != "" {
			r = r.Clone(r.Context())
			r.Header.Set(FenceHeader, value)
		}
		response, err := next.RoundTrip(r)
		if err == nil && response.StatusCode == http.StatusConflict {
			if status := peekStatus(response); status != nil && status.Reason == ReasonFenced {
				f.depose(true, status.Message)
			}
		}
		return response, err
	})
}

// learn wraps the transport of the lock's own client: it takes the epoch from
// answers to writes of the Endpoints object.
func (f *fence) learn(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		response, err := next.RoundTrip(r)
		if err != nil || !isWrite(r) || response.StatusCode >= 300 || !strings.Contains(r.URL.Path, "/endpoints") {
			return response, err
		}
		epoch, _ := strconv.ParseInt(response.Header.Get(EpochHeader), 10, 64) // absent: 0
		f.mu.Lock()
		f.epoch = epoch
		f.mu.Unlock()
		return response, nil
	})
}

// peekStatus reads the status in an answer and leaves the answer as it was. It returns nil if there is none.
func peekStatus(response *http.Response) *metav1.Status {
	const limit = 1 << 20
	body, err := io.ReadAll(io.LimitReader(response.Body, limit))
	response.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(body), response.Body), response.Body}
	if err != nil {
		return nil
	}
	object, _, err := scheme.Codecs.UniversalDeserializer().Decode(body, nil, nil)
	if err != nil {
		return nil
	}
	status, _ := object.(*metav1.Status)
	return status
}

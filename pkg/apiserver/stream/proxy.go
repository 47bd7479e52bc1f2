package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/gorilla/websocket"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/proxy"
)

// Target is where a request goes.
type Target struct {
	Location  *url.URL
	Transport http.RoundTripper
	// Upgrade: the request makes sense only as an upgrade to a stream.
	Upgrade bool
	// Rewrite makes links in HTML pages lead through the proxy.
	Rewrite bool
}

// Proxy passes a request on, and the answer or the streams back. fail is called when the
// target can't be reached; nothing was written then.
func Proxy(w http.ResponseWriter, r *http.Request, t Target, fail func(error)) {
	handler := proxy.NewUpgradeAwareHandler(t.Location, t.Transport, t.Rewrite, t.Upgrade, responder(fail))
	handler.UseLocationHost = t.Upgrade
	handler.RejectForwardingRedirects = !t.Rewrite
	handler.ServeHTTP(w, r)
}

type responder func(error)

func (fail responder) Error(_ http.ResponseWriter, r *http.Request, err error) {
	if !errors.Is(r.Context().Err(), context.Canceled) { // otherwise the client has gone
		fail(err)
	}
}

// maxRefusal is how much of an agent's error is passed on.
const maxRefusal = 2000

// Copy answers with what a GET of the target returns: a container's log. With flush, each piece goes
// out as it comes, as it does for a WebSocket.
func Copy(w http.ResponseWriter, r *http.Request, t Target, flush bool, resource schema.GroupResource, name string) error {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, t.Location.String(), nil)
	if err != nil {
		return err
	}
	client := &http.Client{
		Transport:     t.Transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	answer, err := client.Do(req)
	if err != nil {
		if r.Context().Err() != nil {
			return r.Context().Err()
		}
		var failed *url.Error
		if errors.As(err, &failed) {
			err = fmt.Errorf("%s %q: %w", failed.Op, failed.URL, failed.Err)
		}
		return apierrors.NewInternalError(err)
	}
	defer answer.Body.Close()
	if answer.StatusCode < http.StatusOK || answer.StatusCode > http.StatusPartialContent {
		return refusal(answer, resource, name)
	}
	if websocket.IsWebSocketUpgrade(r) {
		copyToSocket(w, r, answer.Body, cancel)
		return nil
	}
	w.Header().Set("Content-Type", "text/plain")
	w.WriteHeader(http.StatusOK)
	var out io.Writer = w
	if flush {
		control := http.NewResponseController(w)
		_ = control.Flush()
		out = flushing{w, control}
	}
	_, _ = io.Copy(out, answer.Body) // either side may hang up
	return nil
}

type flushing struct {
	io.Writer
	control *http.ResponseController
}

func (f flushing) Write(p []byte) (int, error) {
	n, err := f.Writer.Write(p)
	if err == nil {
		err = f.control.Flush()
	}
	return n, err
}

// refusal passes on why an agent refused.
func refusal(answer *http.Response, resource schema.GroupResource, name string) error {
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxRefusal))
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	switch answer.StatusCode {
	case http.StatusInternalServerError:
		return apierrors.NewInternalError(fmt.Errorf("%s", body))
	case http.StatusBadRequest:
		return apierrors.NewBadRequest(string(body))
	}
	return apierrors.NewGenericServerResponse(answer.StatusCode, "", resource, name, string(body), 0, false)
}

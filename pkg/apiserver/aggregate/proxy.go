package aggregate

import (
	"context"
	"net/http"
	"net/url"
	"strings"

	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/transport"
	"k8s.io/streaming/pkg/httpstream"

	"skiff/pkg/apiserver/request"
	"skiff/pkg/apiserver/stream"
)

// forwarded are headers that a proxy writes: what a client puts there is no business of the server behind this one.
var forwarded = []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Uri", "X-Real-Ip"}

// Proxy passes a request on to the server of a version, in the name of who made it, and the answer or the streams back.
// What it says itself are Kubernetes' texts.
func (a *Aggregator) Proxy(w http.ResponseWriter, r *http.Request, to *Remote) {
	user := request.UserFrom(r.Context())
	if !to.Available() {
		http.Error(w, "service unavailable", http.StatusServiceUnavailable)
		return
	}
	service := to.object.Spec.Service
	address, err := a.cfg.Resolve(r.Context(), service.Namespace, service.Name, portOf(to.object))
	if err != nil {
		a.cfg.Logger.Warn("an APIService's service can't be found", "name", to.object.Name, "error", err)
		http.Error(w, "service unavailable", http.StatusServiceUnavailable)
		return
	}
	location := &url.URL{Scheme: "https", Host: address, Path: r.URL.Path, RawPath: r.URL.RawPath, RawQuery: r.URL.RawQuery}
	ctx := r.Context()
	if strings.Count(strings.Trim(r.URL.Path, "/"), "/") == 2 { // discovery: all clients wait for it
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, checkTime)
		defer cancel()
	}
	r = r.WithContext(ctx)
	r.URL, r.Host, r.Header = location, address, utilnet.CloneHeader(r.Header)
	for _, name := range forwarded {
		r.Header.Del(name)
	}
	r.Header.Set("Audit-Id", request.AuditIDFrom(ctx))
	transport.SetAuthProxyHeaders(r, user.Name, user.UID, user.Groups, user.Extra)
	request.Started(r.Context()) // a watch: what it costs is the other server's
	stream.Proxy(w, r, stream.Target{Location: location, Transport: to.transport, Upgrade: httpstream.IsUpgradeRequest(r)}, func(err error) {
		a.suspect(to)
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
	})
}

// suspect has a server looked at before its time: it hasn't answered a request.
func (a *Aggregator) suspect(r *Remote) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if w := a.workers[r.object.Name]; w != nil {
		poke(w.poke)
	}
}

package apiserver

import (
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"skiff/pkg/apiserver/request"
	"skiff/pkg/component"
)

// metrics are Kubernetes' own, by name and label, as far as dashboards use them.
type metrics struct {
	registry    *prometheus.Registry
	requests    *prometheus.CounterVec
	durations   *prometheus.HistogramVec
	longRunning *prometheus.GaugeVec
	inFlight    *prometheus.GaugeVec
	watchEvents *prometheus.CounterVec
	refused     *prometheus.CounterVec
}

func newMetrics() *metrics {
	where := []string{"verb", "group", "version", "resource", "subresource", "scope", "component"}
	m := &metrics{
		registry: component.Metrics(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "apiserver_request_total",
			Help: "Counter of apiserver requests broken out for each verb, dry run value, group, version, resource, scope, component, and HTTP response code.",
		}, append([]string{"dry_run", "code"}, where...)),
		durations: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "apiserver_request_duration_seconds",
			Help:    "Response latency distribution in seconds for each verb, dry run value, group, version, resource, subresource, scope and component.",
			Buckets: []float64{0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 45, 60},
		}, append([]string{"dry_run"}, where...)),
		longRunning: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "apiserver_longrunning_requests",
			Help: "Gauge of all active long-running apiserver requests broken out by verb, group, version, resource, scope and component. Not all requests are tracked this way.",
		}, where),
		inFlight: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "apiserver_current_inflight_requests",
			Help: "Maximal number of currently used inflight request limit of this apiserver per request kind in last second.",
		}, []string{"request_kind"}),
		watchEvents: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "apiserver_watch_events_total",
			Help: "Number of events sent in watch clients",
		}, []string{"group", "version", "resource"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "apiserver_request_terminations_total",
			Help: "Number of requests which apiserver terminated in self-defense.",
		}, append([]string{"code"}, where...)),
	}
	m.registry.MustRegister(m.requests, m.durations, m.longRunning, m.inFlight, m.watchEvents, m.refused)
	return m
}

func longRunningLabels(i *request.Info) []string {
	return []string{metricVerb(i), i.APIGroup, i.APIVersion, i.Resource, i.Subresource, scope(i), "apiserver"}
}

// request counts one answer. Paths that nobody serves are counted without their words,
// which are the client's choice.
func (m *metrics) request(i *request.Info, r *http.Request, code int, took time.Duration) {
	labels := []string{metricVerb(i), "", "", "", "", scope(i), "apiserver"}
	if i.IsResourceRequest && code != http.StatusNotFound && code != http.StatusMethodNotAllowed {
		labels = longRunningLabels(i)
	}
	dryRun := ""
	if len(r.URL.Query()["dryRun"]) > 0 {
		dryRun = "All"
	}
	m.requests.WithLabelValues(append([]string{dryRun, strconv.Itoa(code)}, labels...)...).Inc()
	if !i.LongRunning() {
		m.durations.WithLabelValues(append([]string{dryRun}, labels...)...).Observe(took.Seconds())
	}
	if code == http.StatusTooManyRequests || code == http.StatusGatewayTimeout {
		m.refused.WithLabelValues(append([]string{strconv.Itoa(code)}, labels...)...).Inc()
	}
}

func metricVerb(i *request.Info) string {
	switch i.Verb {
	case "create":
		return "POST"
	case "update":
		return "PUT"
	case "get", "list", "watch", "patch", "delete", "deletecollection", "connect", "post", "put":
		return upper[i.Verb]
	}
	return "other"
}

var upper = map[string]string{
	"get": "GET", "list": "LIST", "watch": "WATCH", "patch": "PATCH", "delete": "DELETE",
	"deletecollection": "DELETECOLLECTION", "connect": "CONNECT", "post": "POST", "put": "PUT",
}

func scope(i *request.Info) string {
	switch {
	case !i.IsResourceRequest:
		return ""
	case i.Name != "" || i.Verb == "create":
		return "resource"
	case i.Namespace != "":
		return "namespace"
	}
	return "cluster"
}

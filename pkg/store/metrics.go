package store

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"skiff/pkg/api"
)

// metrics are counted under the names that kube-apiserver gives them.
type metrics struct {
	requests   *prometheus.HistogramVec
	errors     *prometheus.CounterVec
	terminated *prometheus.CounterVec
}

var (
	perResource  = []string{"group", "resource"}
	objects      = prometheus.NewDesc("apiserver_resource_objects", "Number of stored objects.", perResource, nil)
	oldObjects   = prometheus.NewDesc("apiserver_storage_objects", "Number of stored objects.", []string{"resource"}, nil)
	received     = prometheus.NewDesc("apiserver_watch_cache_events_received_total", "Events received in the watch cache.", perResource, nil)
	cacheVersion = prometheus.NewDesc("apiserver_watch_cache_resource_version",
		"Resource version of the watch cache, its 15 least significant digits.", perResource, nil)
)

func newMetrics() metrics {
	perRequest := []string{"operation", "group", "resource"}
	return metrics{
		requests: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "etcd_request_duration_seconds",
			Help:    "Latency of requests to etcd.",
			Buckets: []float64{0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 45, 60}},
			perRequest),
		errors: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "etcd_request_errors_total",
			Help: "Requests to etcd that failed."}, perRequest),
		terminated: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "apiserver_terminated_watchers_total",
			Help: "Watches that were ended because they fell behind."}, perResource),
	}
}

// request counts one request to etcd.
func (m *metrics) request(operation string, kind *api.Kind, began time.Time, err error) {
	m.requests.WithLabelValues(operation, kind.Group, kind.Resource).Observe(time.Since(began).Seconds())
	if err != nil {
		m.errors.WithLabelValues(operation, kind.Group, kind.Resource).Inc()
	}
}

// Describe implements [prometheus.Collector].
func (s *Store) Describe(out chan<- *prometheus.Desc) {
	s.metrics.requests.Describe(out)
	s.metrics.errors.Describe(out)
	s.metrics.terminated.Describe(out)
	for _, d := range []*prometheus.Desc{objects, oldObjects, received, cacheVersion} {
		out <- d
	}
}

// Collect implements [prometheus.Collector].
func (s *Store) Collect(out chan<- prometheus.Metric) {
	s.metrics.requests.Collect(out)
	s.metrics.errors.Collect(out)
	s.metrics.terminated.Collect(out)
	for _, r := range s.all() {
		r.mu.RLock()
		loading, count, end, revision := r.loading, r.tree.Len(), r.log.end(), max(s.applied.Load(), r.revision)
		r.mu.RUnlock()
		if loading {
			continue
		}
		group, resource := r.codec.kind.Group, r.codec.kind.Resource
		out <- prometheus.MustNewConstMetric(objects, prometheus.GaugeValue, float64(count), group, resource)
		out <- prometheus.MustNewConstMetric(oldObjects, prometheus.GaugeValue, float64(count), r.codec.kind.GroupResource().String())
		out <- prometheus.MustNewConstMetric(received, prometheus.CounterValue, float64(end), group, resource)
		out <- prometheus.MustNewConstMetric(cacheVersion, prometheus.GaugeValue, float64(revision%1e15), group, resource)
	}
}

// all are the resources cached now.
func (s *Store) all() []*resource {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]*resource, 0, len(s.resources))
	for _, r := range s.resources {
		all = append(all, r)
	}
	return all
}

package proxy

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
)

// metrics are those of kube-proxy that mean something here, under its names.
type metrics struct {
	duration, latency          prometheus.Histogram
	lastSync                   prometheus.Gauge
	services, endpoints        prometheus.Counter
	partialFailures, fullSyncs prometheus.Counter
	noLocalEndpoints           *prometheus.GaugeVec
	programmedRules            prometheus.Gauge
}

func newMetrics(registerer prometheus.Registerer) *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Subsystem: "kubeproxy", Name: name, Help: help})
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Subsystem: "kubeproxy", Name: name, Help: help})
	}
	m := &metrics{
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{Subsystem: "kubeproxy", Name: "sync_proxy_rules_duration_seconds",
			Help: "SyncProxyRules latency in seconds", Buckets: prometheus.ExponentialBuckets(0.001, 2, 15)}),
		latency: prometheus.NewHistogram(prometheus.HistogramOpts{Subsystem: "kubeproxy", Name: "network_programming_duration_seconds",
			Help: "In Cluster Network Programming Latency in seconds", Buckets: prometheus.ExponentialBuckets(0.015625, 2, 16)}),
		lastSync:         gauge("sync_proxy_rules_last_timestamp_seconds", "The last time proxy rules were successfully synced"),
		services:         counter("sync_proxy_rules_service_changes_total", "Cumulative proxy rules Service changes"),
		endpoints:        counter("sync_proxy_rules_endpoint_changes_total", "Cumulative proxy rules Endpoint changes"),
		partialFailures:  counter("sync_proxy_rules_nftables_sync_failures_total", "Cumulative proxy nftables sync failures"),
		fullSyncs:        counter("sync_full_proxy_rules_total", "Cumulative programmings of the whole table"),
		programmedRules:  gauge("sync_proxy_rules_frontends", "Service addresses and ports that are programmed"),
		noLocalEndpoints: prometheus.NewGaugeVec(prometheus.GaugeOpts{Subsystem: "kubeproxy", Name: "sync_proxy_rules_no_local_endpoints_total", Help: "Number of services with a Local traffic policy and no endpoints"}, []string{"traffic_policy"}),
	}
	if registerer != nil {
		registerer.MustRegister(m.duration, m.latency, m.lastSync, m.services, m.endpoints, m.partialFailures, m.fullSyncs, m.programmedRules, m.noLocalEndpoints)
	}
	return m
}

func (m *metrics) observe(began time.Time, services, endpoints int, table *Table, err error) {
	m.duration.Observe(time.Since(began).Seconds())
	m.services.Add(float64(services))
	m.endpoints.Add(float64(endpoints))
	if err != nil {
		m.partialFailures.Inc()
		return
	}
	m.lastSync.SetToCurrentTime()
	m.programmedRules.Set(float64(len(table.rules)))
	m.noLocalEndpoints.WithLabelValues("internal").Set(float64(table.dropped[Services]))
	m.noLocalEndpoints.WithLabelValues("external").Set(float64(table.dropped[Outside]))
}

func endpointChanges(work pending) int { return len(work.slices) }

// observeLatency measures from the change that the endpoints controller saw.
func (m *metrics) observeLatency(changed map[types.NamespacedName]*discoveryv1.EndpointSlice) {
	for _, slice := range changed {
		if slice == nil {
			continue
		}
		if began, err := time.Parse(time.RFC3339Nano, slice.Annotations[corev1.EndpointsLastChangeTriggerTime]); err == nil {
			m.latency.Observe(time.Since(began).Seconds())
		}
	}
}

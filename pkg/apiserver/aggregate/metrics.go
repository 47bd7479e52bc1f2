package aggregate

import (
	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
)

// metrics are Kubernetes' own.
type metrics struct {
	unavailable *prometheus.GaugeVec
	losses      *prometheus.CounterVec
}

func newMetrics(registry prometheus.Registerer) *metrics {
	m := &metrics{
		unavailable: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "aggregator_unavailable_apiservice",
			Help: "Gauge of APIServices which are marked as unavailable broken down by APIService name.",
		}, []string{"name"}),
		losses: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "aggregator_unavailable_apiservice_total",
			Help: "Counter of APIServices which are marked as unavailable broken down by APIService name and reason.",
		}, []string{"name", "reason"}),
	}
	registry.MustRegister(m.unavailable, m.losses)
	return m
}

// seen counts a condition that a check came to; before: the server answered until then.
func (m *metrics) seen(name string, condition *v1.APIServiceCondition, before bool) {
	if condition.Status == v1.ConditionTrue {
		m.unavailable.WithLabelValues(name).Set(0)
		return
	}
	m.unavailable.WithLabelValues(name).Set(1)
	if before {
		m.losses.WithLabelValues(name, condition.Reason).Inc()
	}
}

func (m *metrics) forget(name string) {
	m.unavailable.DeleteLabelValues(name)
	m.losses.DeletePartialMatch(prometheus.Labels{"name": name})
}

package fair

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are Kubernetes' own, by name and label, as far as dashboards use them.
type metrics struct {
	rejected, dispatched *prometheus.CounterVec
	waited               *prometheus.HistogramVec
}

func newMetrics() metrics {
	return metrics{
		rejected: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "apiserver_flowcontrol_rejected_requests_total",
			Help: "Number of requests rejected by API Priority and Fairness subsystem",
		}, []string{"priority_level", "flow_schema", "reason"}),
		dispatched: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "apiserver_flowcontrol_dispatched_requests_total",
			Help: "Number of requests executed by API Priority and Fairness subsystem",
		}, []string{"priority_level", "flow_schema"}),
		waited: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "apiserver_flowcontrol_request_wait_duration_seconds",
			Help:    "Length of time a request spent waiting in its queue",
			Buckets: []float64{0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30},
		}, []string{"priority_level", "flow_schema", "execute"}),
	}
}

// Admit waits for a request's seats, and counts what came of it.
func (k *Keeper) Admit(ctx context.Context, m Match, width int, wait time.Duration) (*Ticket, error) {
	began := time.Now()
	t, err := k.Acquire(ctx, Request{Level: m.Level, Flow: m.Flow, Width: width, Wait: wait})
	if err != nil {
		k.metrics.rejected.WithLabelValues(m.Level, m.Schema, err.Error()).Inc()
		k.metrics.waited.WithLabelValues(m.Level, m.Schema, "false").Observe(time.Since(began).Seconds())
		return nil, err
	}
	k.metrics.dispatched.WithLabelValues(m.Level, m.Schema).Inc()
	k.metrics.waited.WithLabelValues(m.Level, m.Schema, "true").Observe(t.Waited().Seconds())
	return t, nil
}

var (
	nominalSeats = levelGauge("nominal_limit_seats", "Nominal number of execution seats configured for each priority level")
	usedSeats    = levelGauge("current_executing_seats", "Concurrency (number of seats) occupied by the currently executing (initial stage for a WATCH, any stage otherwise) requests in the API Priority and Fairness subsystem")
	running      = levelGauge("current_executing_requests", "Number of requests in initial (for a WATCH) or any (for a non-WATCH) execution stage in the API Priority and Fairness subsystem")
	inQueue      = levelGauge("current_inqueue_requests", "Number of requests currently pending in queues of the API Priority and Fairness subsystem")
)

func levelGauge(name, help string) *prometheus.Desc {
	return prometheus.NewDesc("apiserver_flowcontrol_"+name, help, []string{"priority_level"}, nil)
}

// Describe implements [prometheus.Collector].
func (k *Keeper) Describe(out chan<- *prometheus.Desc) { prometheus.DescribeByCollect(k, out) }

// Collect implements [prometheus.Collector].
func (k *Keeper) Collect(out chan<- prometheus.Metric) {
	k.metrics.rejected.Collect(out)
	k.metrics.dispatched.Collect(out)
	k.metrics.waited.Collect(out)
	for _, u := range k.Usage() {
		for desc, n := range map[*prometheus.Desc]int{nominalSeats: u.Nominal, usedSeats: u.Used, running: u.Running, inQueue: u.Waiting} {
			out <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, float64(n), u.Level)
		}
	}
}

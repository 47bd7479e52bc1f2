package scheduler

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics carry the names and labels of Kubernetes' scheduler.
type metrics struct {
	attempts  *prometheus.CounterVec
	attempt   *prometheus.HistogramVec
	algorithm prometheus.Histogram
	sli       *prometheus.HistogramVec
	tries     prometheus.Histogram
	victims   prometheus.Histogram
	preempted prometheus.Counter
}

func newMetrics(registry prometheus.Registerer, pending func(place) float64) *metrics {
	histogram := func(name, help string, buckets []float64) prometheus.HistogramOpts {
		return prometheus.HistogramOpts{Namespace: "scheduler", Name: name, Help: help, Buckets: buckets}
	}
	m := &metrics{
		attempts: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "scheduler", Name: "schedule_attempts_total",
			Help: "Number of attempts to schedule pods, by the result. 'unschedulable' means a pod could not be scheduled, while 'error' means an internal scheduler problem."},
			[]string{"result", "profile"}),
		attempt: prometheus.NewHistogramVec(histogram("scheduling_attempt_duration_seconds", "Scheduling attempt latency in seconds (scheduling algorithm + binding)",
			prometheus.ExponentialBuckets(0.001, 2, 15)), []string{"result", "profile"}),
		algorithm: prometheus.NewHistogram(histogram("scheduling_algorithm_duration_seconds", "Scheduling algorithm latency in seconds", prometheus.ExponentialBuckets(0.001, 2, 15))),
		sli: prometheus.NewHistogramVec(histogram("pod_scheduling_sli_duration_seconds",
			"E2e latency for a pod being scheduled, from the time the pod enters the scheduling queue and might involve multiple scheduling attempts.",
			prometheus.ExponentialBuckets(0.01, 2, 20)), []string{"attempts"}),
		tries:   prometheus.NewHistogram(histogram("pod_scheduling_attempts", "Number of attempts to successfully schedule a pod.", prometheus.ExponentialBuckets(1, 2, 5))),
		victims: prometheus.NewHistogram(histogram("preemption_victims", "Number of selected preemption victims", prometheus.ExponentialBuckets(1, 2, 7))),
		preempted: prometheus.NewCounter(prometheus.CounterOpts{Namespace: "scheduler", Name: "preemption_attempts_total",
			Help: "Total preemption attempts in the cluster till now"}),
	}
	if registry == nil {
		return m
	}
	registry.MustRegister(m.attempts, m.attempt, m.algorithm, m.sli, m.tries, m.victims, m.preempted)
	for p, name := range placeNames {
		if name != "" {
			registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "scheduler", Name: "pending_pods",
				ConstLabels: prometheus.Labels{"queue": name}, Help: "Number of pending pods, by the queue type. 'active' means number of pods in activeQ; 'backoff' means number of pods in backoffQ; 'unschedulable' means number of pods in unschedulablePods that the scheduler attempted to schedule and failed; 'gated' is the number of unschedulable pods that the scheduler never attempted to schedule because they are gated."},
				func() float64 { return pending(place(p)) }))
		}
	}
	return m
}

func (m *metrics) tried(result, profile string, start time.Time) {
	m.attempts.WithLabelValues(result, profile).Inc()
	m.attempt.WithLabelValues(result, profile).Observe(time.Since(start).Seconds())
}

func (m *metrics) scheduled(it *item, profile string, start time.Time) {
	m.tried("scheduled", profile, start)
	m.tries.Observe(float64(it.tries))
	label := "15+"
	if it.tries < 15 {
		label = strconv.Itoa(it.tries)
	}
	m.sli.WithLabelValues(label).Observe(time.Since(it.since).Seconds())
}

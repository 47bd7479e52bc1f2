package dns

import (
	"time"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the most used of CoreDNS's, under its names.
type metrics struct {
	requests, responses *prometheus.CounterVec
	duration            prometheus.Histogram
}

func newMetrics(registerer prometheus.Registerer) *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "coredns", Subsystem: "dns", Name: "requests_total",
			Help: "Counter of DNS requests made per protocol and type."}, []string{"proto", "type"}),
		responses: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "coredns", Subsystem: "dns", Name: "responses_total",
			Help: "Counter of response status codes."}, []string{"rcode"}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: "coredns", Subsystem: "dns", Name: "request_duration_seconds",
			Help: "Histogram of the time (in seconds) each request took.", Buckets: prometheus.ExponentialBuckets(0.00025, 2, 16)}),
	}
	if registerer != nil {
		registerer.MustRegister(m.requests, m.responses, m.duration)
	}
	return m
}

func (m *metrics) observe(query, reply *dns.Msg, tcp bool, began time.Time) {
	transport, kind := "udp", "other"
	if tcp {
		transport = "tcp"
	}
	if len(query.Question) == 1 {
		// A client must not be able to make up label values.
		switch query.Question[0].Qtype {
		case dns.TypeA, dns.TypeAAAA, dns.TypeSRV, dns.TypePTR, dns.TypeCNAME, dns.TypeTXT, dns.TypeSOA, dns.TypeNS, dns.TypeMX:
			kind = dns.TypeToString[query.Question[0].Qtype]
		}
	}
	rcode, known := dns.RcodeToString[reply.Rcode]
	if !known {
		rcode = "other"
	}
	m.requests.WithLabelValues(transport, kind).Inc()
	m.responses.WithLabelValues(rcode).Inc()
	m.duration.Observe(time.Since(began).Seconds())
}

package etcd

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// A leader writes to its disk before it goes on, heartbeats included, so that one slow disk of three makes the
// whole cluster slow, or keeps electing. Followers don't wait for each other. So a member watches how long
// its disk takes, and gives the leadership away when that is long.
const (
	// SlowSync is what a sync of the log takes on average when a disk counts as slow. etcd wants 10 ms.
	SlowSync = 100 * time.Millisecond

	lookEvery = time.Second
	looks     = 3                      // that the average is taken over
	enough    = 300 * time.Millisecond // of waiting in them
	// Where all disks are slow, passing the leadership round helps nobody.
	giveAgain = time.Minute
)

// SyncSeconds is the metric, served at a member's /metrics, that tells how long the last few seconds' syncs took on average.
const SyncSeconds = "skiff_etcd_disk_sync_seconds"

var syncSeconds = prometheus.NewGauge(prometheus.GaugeOpts{Name: SyncSeconds, Help: "How long a sync of etcd's log took on average in the last seconds."})

func init() { prometheus.MustRegister(syncSeconds) }

// syncs is etcd's own histogram of the process' syncs. To ask to register it is how to get it.
var syncs = sharedMetric(prometheus.NewHistogram(prometheus.HistogramOpts{Name: "etcd_disk_wal_fsync_duration_seconds", Help: "The latency distributions of fsync called by WAL."}))

func sharedMetric(m prometheus.Histogram) prometheus.Metric {
	var there prometheus.AlreadyRegisteredError
	if errors.As(prometheus.Register(m), &there) {
		return there.ExistingCollector.(prometheus.Metric)
	}
	return m
}

// SyncTime asks the member at a clients' URL for [SyncSeconds].
func SyncTime(ctx context.Context, access *tls.Config, url string) (time.Duration, error) {
	transport := &http.Transport{TLSClientConfig: access, DisableKeepAlives: true}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/metrics", nil)
	if err != nil {
		return 0, err
	}
	answer, err := transport.RoundTrip(request)
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	for lines := bufio.NewScanner(answer.Body); lines.Scan(); {
		if value, found := strings.CutPrefix(lines.Text(), SyncSeconds+" "); found {
			seconds, err := strconv.ParseFloat(value, 64)
			return time.Duration(seconds * float64(time.Second)), err
		}
	}
	return 0, fmt.Errorf("%s: no %s (%s)", url, SyncSeconds, answer.Status)
}

// watchDisk looks at a histogram of syncs, now and then, until the member stops.
func (m *Member) watchDisk(log *slog.Logger, syncs prometheus.Metric, every time.Duration) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	var disk pace
	var given time.Time
	for {
		select {
		case <-m.server.Server.StoppingNotify():
			return
		case <-ticker.C:
		}
		var now dto.Metric
		if err := syncs.Write(&now); err != nil {
			return // it is no histogram
		}
		average := disk.look(now.GetHistogram().GetSampleCount(), now.GetHistogram().GetSampleSum())
		syncSeconds.Set(average.Seconds())
		if average < SlowSync || time.Since(given) < giveAgain || m.server.Server.Lead() != m.ID() {
			continue
		}
		given = time.Now()
		log.Warn("the disk is slow, so another member is to lead", "sync", average)
		if err := m.server.Server.TryTransferLeadershipOnShutdown(); err != nil { // at any time, in spite of its name
			log.Warn("the leadership could not be given away", "err", err)
		}
	}
}

// pace averages the last looks at a count and a sum that only grow.
type pace struct {
	count [looks + 1]uint64
	sum   [looks + 1]float64
	seen  int
}

// look takes the present count and sum of seconds. The average is 0 while there is too little to tell by.
func (p *pace) look(count uint64, sum float64) time.Duration {
	copy(p.count[:], p.count[1:])
	copy(p.sum[:], p.sum[1:])
	p.count[looks], p.sum[looks] = count, sum
	waited := time.Duration((sum - p.sum[0]) * float64(time.Second))
	if p.seen++; p.seen <= looks || waited < enough {
		return 0
	}
	return waited / time.Duration(count-p.count[0])
}

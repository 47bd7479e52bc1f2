// Package probe asks containers how they are: by a command, HTTP, TCP or gRPC.
//
// Run repeats a probe by its schedule and reports when its verdict changes; what
// a verdict means (ready, started, to be restarted) is the pod worker's business.
//
// Timing is Kubernetes', with one liberty: readiness and startup probes are
// repeated faster than their period until the first success, within the first
// period of a container's life. Such early failures count for nothing.
package probe

import (
	"context"
	"math/rand/v2"
	"time"

	v1 "k8s.io/api/core/v1"
)

// Kind is what a probe is for.
type Kind string

// The kinds, as they begin messages.
const (
	Liveness  Kind = "Liveness"
	Readiness Kind = "Readiness"
	Startup   Kind = "Startup"
)

// Result is one answer.
type Result int

// Unknown answers (the probe itself couldn't be made) change nothing. Warning is
// a success with something to tell.
const (
	Unknown Result = iota
	Success
	Warning
	Failure
)

// Config describes one probe of one container.
type Config struct {
	Kind      Kind
	Spec      *v1.Probe
	StartedAt time.Time // of the container
	// Adopted says that the container ran before this process did: its first
	// probe is put off by a part of the period, so that not all come at once.
	Adopted bool
	// Do asks once, within ctx.
	Do func(ctx context.Context) (Result, string)
	// Told is called for every failure and warning that counts.
	Told func(result Result, message string)
	// Verdict is called when a threshold is reached, and then again only when the verdict changes.
	Verdict func(healthy bool, message string)
}

// earlyStep is the first interval between early probes; it doubles.
const earlyStep = 25 * time.Millisecond

// Run probes until ctx ends, or the verdict is final: the first of a startup
// probe, a failure of a liveness probe.
func Run(ctx context.Context, c Config) {
	period := seconds(c.Spec.PeriodSeconds, 10)
	timeout := seconds(c.Spec.TimeoutSeconds, 1)
	first := c.StartedAt.Add(time.Duration(c.Spec.InitialDelaySeconds) * time.Second)
	early := c.Kind != Liveness && !c.Adopted
	if c.Kind == Liveness && c.Spec.InitialDelaySeconds == 0 {
		first = first.Add(period)
	}
	if c.Adopted {
		first = time.Now().Add(rand.N(period))
	}
	earlyUntil := first.Add(period)
	counter := counter{success: int(max(c.Spec.SuccessThreshold, 1)), failure: int(max(c.Spec.FailureThreshold, 1))}
	step := earlyStep
	wait := time.Until(first)
	for {
		timer := time.NewTimer(max(wait, 0))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		asked := time.Now()
		limited, cancel := context.WithTimeout(ctx, timeout)
		result, message := c.Do(limited)
		cancel()
		if ctx.Err() != nil {
			return
		}
		if early && result == Failure && time.Now().Add(step).Before(earlyUntil) {
			wait, step = step, 2*step
			continue
		}
		early = false
		wait = period - time.Since(asked)
		if result == Failure || result == Warning {
			c.Told(result, message)
		}
		if !counter.add(result) {
			continue
		}
		healthy := result != Failure
		c.Verdict(healthy, message)
		if c.Kind == Startup || c.Kind == Liveness && !healthy {
			return
		}
	}
}

func seconds(n, otherwise int32) time.Duration {
	if n <= 0 {
		n = otherwise
	}
	return time.Duration(n) * time.Second
}

// counter counts equal answers in a row.
type counter struct {
	success, failure int
	last             Result
	run              int
	verdict          Result
}

// add takes an answer, and says whether it makes for a new verdict.
func (c *counter) add(r Result) bool {
	if r == Unknown {
		return false
	}
	if r == Warning {
		r = Success
	}
	if r == c.last {
		c.run++
	} else {
		c.last, c.run = r, 1
	}
	threshold := c.success
	if r == Failure {
		threshold = c.failure
	}
	if c.run < threshold || c.verdict == r {
		return false
	}
	c.verdict = r
	return true
}

package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"

	"skiff/pkg/agent/probe"
	"skiff/pkg/agent/runtime"
)

// startProbes sets the probes of a running container going: its startup probe,
// and after that has succeeded the others.
func (w *worker) startProbes(c *Container, adopted bool) {
	a := c.Current
	if c.Role == InitRole || c.Role == EphemeralRole {
		return
	}
	ctx, cancel := context.WithCancel(w.opCtx)
	w.probes[a.ID] = cancel
	if c.Spec.StartupProbe != nil && !a.Started {
		w.probe(ctx, c, probe.Startup, c.Spec.StartupProbe, adopted)
		return
	}
	w.probeRunning(ctx, c, adopted)
}

func (w *worker) probeRunning(ctx context.Context, c *Container, adopted bool) {
	if c.Spec.ReadinessProbe != nil {
		w.probe(ctx, c, probe.Readiness, c.Spec.ReadinessProbe, adopted)
	}
	if c.Spec.LivenessProbe != nil {
		w.probe(ctx, c, probe.Liveness, c.Spec.LivenessProbe, adopted)
	}
}

// stopProbes ends the probes of a container. One that is only being stopped
// goes on being asked whether it is ready.
func (w *worker) stopProbes(id string, all bool) {
	if cancel := w.probes[id]; cancel != nil && all {
		cancel()
		delete(w.probes, id)
	}
}

func (w *worker) probe(ctx context.Context, c *Container, kind probe.Kind, spec *v1.Probe, adopted bool) {
	a := c.Current
	ref := containerReference(w.pod, c)
	w.agent.operations.Add(1)
	config := probe.Config{
		Kind: kind, Spec: spec, StartedAt: a.StartedAt, Adopted: adopted,
		Do: func(ctx context.Context) (probe.Result, string) {
			return w.agent.ask(ctx, spec, c.Spec, a.ID, w.podIP())
		},
		Told: func(result probe.Result, message string) {
			text := fmt.Sprintf("%s probe failed: %s", kind, message)
			reason := "Unhealthy"
			if result == probe.Warning {
				reason, text = "ProbeWarning", fmt.Sprintf("%s probe warning: %s", kind, message)
			}
			w.post(func() {
				if a.Running() && (a.Stop == nil || kind == probe.Readiness) {
					w.agent.events.Event(ref, v1.EventTypeWarning, reason, text)
				}
			})
		},
		Verdict: func(healthy bool, _ string) {
			w.post(func() { w.judged(ctx, c, a, kind, spec, healthy) })
		},
	}
	go func() {
		defer w.agent.operations.Done()
		probe.Run(ctx, config)
	}()
}

// judged takes in a probe's verdict.
func (w *worker) judged(ctx context.Context, c *Container, a *Attempt, kind probe.Kind, spec *v1.Probe, healthy bool) {
	if c.Current != a || !a.Running() {
		return
	}
	switch {
	case kind == probe.Readiness:
		a.Ready = healthy
	case kind == probe.Startup && healthy:
		a.Started = true
		w.probeRunning(ctx, c, false)
	case !healthy && a.Stop == nil && !w.ending():
		name := "Container"
		if c.Role == SidecarRole {
			name = "Init container"
		}
		message := fmt.Sprintf("%s %s failed %s probe", name, c.Name, strings.ToLower(string(kind)))
		if c.Role == MainRole && probeRestarts(w.pod, c.Spec) {
			message += ", will be restarted"
		}
		a.Unhealthy = &Kill{Message: message, Grace: spec.TerminationGracePeriodSeconds}
	}
}

// probeRestarts: a container that fails its probe is restarted unless its policy is Never.
func probeRestarts(pod *v1.Pod, c *v1.Container) bool {
	if c.RestartPolicy != nil {
		return *c.RestartPolicy != v1.ContainerRestartPolicyNever
	}
	return pod.Spec.RestartPolicy != v1.RestartPolicyNever
}

// ask makes one probe.
func (a *Agent) ask(ctx context.Context, spec *v1.Probe, c *v1.Container, id, podIP string) (probe.Result, string) {
	timeout := time.Duration(max(spec.TimeoutSeconds, 1)) * time.Second
	switch {
	case spec.Exec != nil:
		out := &limitedBuffer{limit: 10 << 10}
		code, err := a.runtime.Exec(ctx, id, runtime.ExecConfig{Args: spec.Exec.Command, Stdout: out, Stderr: out})
		switch {
		case errors.Is(err, context.DeadlineExceeded):
			return probe.Failure, fmt.Sprintf("command timed out: %q timed out after %v", strings.Join(spec.Exec.Command, " "), timeout)
		case errors.Is(err, runtime.ErrNotFound):
			return probe.Unknown, err.Error()
		case err != nil:
			return probe.Failure, err.Error()
		case code != 0:
			return probe.Failure, out.String()
		}
		return probe.Success, out.String()
	case spec.HTTPGet != nil:
		return probe.HTTP(ctx, spec.HTTPGet, c, podIP)
	case spec.TCPSocket != nil:
		return probe.TCP(ctx, spec.TCPSocket, c, podIP)
	case spec.GRPC != nil:
		return probe.GRPC(ctx, spec.GRPC, podIP, timeout)
	}
	return probe.Unknown, "missing probe handler"
}

package core

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/pkg/api/check"
)

// whileRunning checks probes and hooks, which only containers that go on running have.
func (c podCheck) whileRunning(at *field.Path, ctr *corev1.Container, in surroundings) check.Errors {
	grace := in.spec.TerminationGracePeriodSeconds
	var errs check.Errors
	if l := ctr.Lifecycle; l != nil {
		at := at.Child("lifecycle")
		if l.PostStart != nil {
			errs = append(errs, lifecycleHandler(at.Child("postStart"), l.PostStart, grace)...)
		}
		if l.PreStop != nil {
			errs = append(errs, lifecycleHandler(at.Child("preStop"), l.PreStop, grace)...)
		}
		if l.StopSignal != nil {
			errs = append(errs, c.off(at.Child("stopSignal"), "ContainerStopSignals", hasStopSignal)...)
		}
	}
	once := func(at *field.Path, p *corev1.Probe) check.Errors {
		if p == nil || p.SuccessThreshold == 1 {
			return nil
		}
		return check.Errors{field.Invalid(at.Child("successThreshold"), p.SuccessThreshold, "must be 1")}
	}
	liveness, readiness, startup := at.Child("livenessProbe"), at.Child("readinessProbe"), at.Child("startupProbe")
	errs = slices.Concat(errs, probe(liveness, ctr.LivenessProbe), once(liveness, ctr.LivenessProbe), probe(readiness, ctr.ReadinessProbe))
	if p := ctr.ReadinessProbe; p != nil && p.TerminationGracePeriodSeconds != nil {
		errs = append(errs, field.Invalid(readiness.Child("terminationGracePeriodSeconds"), *p.TerminationGracePeriodSeconds, "must not be set for readinessProbes"))
	}
	return slices.Concat(errs, probe(startup, ctr.StartupProbe), once(startup, ctr.StartupProbe))
}

func hasStopSignal(s *corev1.PodSpec) bool {
	for ctr := range containersOf(s) {
		if ctr.Lifecycle != nil && ctr.Lifecycle.StopSignal != nil {
			return true
		}
	}
	return false
}

func probe(at *field.Path, p *corev1.Probe) check.Errors {
	if p == nil {
		return nil
	}
	errs := slices.Concat(
		oneSource(at, "handler type", []source{
			{"exec", p.Exec != nil, func() check.Errors { return execAction(at.Child("exec"), p.Exec) }},
			{"httpGet", p.HTTPGet != nil, func() check.Errors { return httpGet(at.Child("httpGet"), p.HTTPGet) }},
			{"tcpSocket", p.TCPSocket != nil, func() check.Errors { return check.PortOrName(at.Child("tcpSocket", "port"), p.TCPSocket.Port) }},
			{"grpc", p.GRPC != nil, func() check.Errors { return check.PortOrName(at.Child("grpc", "port"), intstr.FromInt32(p.GRPC.Port)) }},
		}),
		check.NonNegative(at.Child("initialDelaySeconds"), p.InitialDelaySeconds),
		check.NonNegative(at.Child("timeoutSeconds"), p.TimeoutSeconds),
		check.NonNegative(at.Child("periodSeconds"), p.PeriodSeconds),
		check.NonNegative(at.Child("successThreshold"), p.SuccessThreshold),
		check.NonNegative(at.Child("failureThreshold"), p.FailureThreshold),
	)
	if g := p.TerminationGracePeriodSeconds; g != nil && *g <= 0 {
		errs = append(errs, field.Invalid(at.Child("terminationGracePeriodSeconds"), *g, "must be greater than 0"))
	}
	return errs
}

func lifecycleHandler(at *field.Path, h *corev1.LifecycleHandler, grace *int64) check.Errors {
	return oneSource(at, "handler type", []source{
		{"exec", h.Exec != nil, func() check.Errors { return execAction(at.Child("exec"), h.Exec) }},
		{"httpGet", h.HTTPGet != nil, func() check.Errors { return httpGet(at.Child("httpGet"), h.HTTPGet) }},
		{"tcpSocket", h.TCPSocket != nil, func() check.Errors { return check.PortOrName(at.Child("tcpSocket", "port"), h.TCPSocket.Port) }},
		{"sleep", h.Sleep != nil, func() check.Errors {
			if grace == nil || h.Sleep.Seconds >= 0 && h.Sleep.Seconds <= *grace {
				return nil
			}
			return check.Errors{field.Invalid(at.Child("sleep"), h.Sleep.Seconds, fmt.Sprintf("must be non-negative and less than terminationGracePeriodSeconds (%d)", *grace))}
		}},
	})
}

func execAction(at *field.Path, e *corev1.ExecAction) check.Errors {
	if len(e.Command) == 0 {
		return check.Errors{field.Required(at.Child("command"), "")}
	}
	return nil
}

func httpGet(at *field.Path, h *corev1.HTTPGetAction) check.Errors {
	errs := slices.Concat(need(at, "path", h.Path), check.PortOrName(at.Child("port"), h.Port), check.OneOf(at.Child("scheme"), h.Scheme, corev1.URISchemeHTTP, corev1.URISchemeHTTPS))
	for _, header := range h.HTTPHeaders {
		errs = append(errs, check.Messages(at.Child("httpHeaders"), header.Name, utilvalidation.IsHTTPHeaderName(header.Name))...)
	}
	return errs
}

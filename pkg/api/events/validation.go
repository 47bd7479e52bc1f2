package events

import (
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/pkg/api"
	"skiff/pkg/api/check"
	"skiff/pkg/api/core"
)

// stored is the event as core/v1 has it, whose field names the messages show.
func stored(obj api.Object) *corev1.Event {
	converted, err := toCore(obj)
	if err != nil {
		return &corev1.Event{}
	}
	return converted.(*corev1.Event)
}

// validate is stricter than core/v1: an event of this API has none of what it replaced.
func validate(obj api.Object) field.ErrorList {
	e := stored(obj)
	errs := slices.Concat(core.ValidateEvent(e, "reportingController"), series(e))
	if e.EventTime.IsZero() {
		errs = append(errs, field.Required(field.NewPath("eventTime"), ""))
	}
	if e.Type != corev1.EventTypeNormal && e.Type != corev1.EventTypeWarning {
		errs = append(errs, field.Invalid(field.NewPath("type"), "", fmt.Sprintf("has invalid value: %v", e.Type)))
	}
	unset := func(is bool, name string) {
		if !is {
			errs = append(errs, field.Invalid(field.NewPath(name), "", "needs to be unset"))
		}
	}
	unset(e.FirstTimestamp.IsZero(), "firstTimestamp")
	unset(e.LastTimestamp.IsZero(), "lastTimestamp")
	unset(e.Count == 0, "count")
	unset(e.Source == corev1.EventSource{}, "source")
	return errs
}

func series(e *corev1.Event) check.Errors {
	if e.Series == nil {
		return nil
	}
	var errs check.Errors
	if e.Series.Count < 2 {
		errs = append(errs, field.Invalid(field.NewPath("series.count"), "", "should be at least 2"))
	}
	if e.Series.LastObservedTime.IsZero() {
		errs = append(errs, field.Required(field.NewPath("series.lastObservedTime"), ""))
	}
	return errs
}

// micros is what all clients keep of a time.
func micros(t metav1.MicroTime) metav1.MicroTime {
	return metav1.MicroTime{Time: t.Truncate(time.Microsecond).UTC()}
}

// validateUpdate: only the series of an event goes on.
func validateUpdate(obj, old api.Object) field.ErrorList {
	e, was := stored(obj), stored(old)
	errs := core.ValidateEvent(e, "reportingController")
	if len(check.Immutable(nil, e.Series, was.Series)) > 0 {
		errs = append(errs, series(e)...)
	}
	for _, f := range []struct {
		name     string
		now, old any
	}{
		{"involvedObject", e.InvolvedObject, was.InvolvedObject}, {"reason", e.Reason, was.Reason}, {"message", e.Message, was.Message},
		{"source", e.Source, was.Source}, {"firstTimestamp", e.FirstTimestamp, was.FirstTimestamp}, {"lastTimestamp", e.LastTimestamp, was.LastTimestamp},
		{"count", e.Count, was.Count}, {"type", e.Type, was.Type}, {"eventTime", micros(e.EventTime), micros(was.EventTime)}, {"action", e.Action, was.Action},
		{"related", e.Related, was.Related}, {"reportingController", e.ReportingController, was.ReportingController}, {"reportingInstance", e.ReportingInstance, was.ReportingInstance},
	} {
		errs = append(errs, check.Immutable(field.NewPath(f.name), f.now, f.old)...)
	}
	return errs
}

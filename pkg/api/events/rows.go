// Package events holds the catalogue's row of the group events.k8s.io: the events of the core group
// once more, under newer field names. etcd holds core/v1 events.
package events

import (
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/fields"

	"skiff/pkg/api"
	"skiff/pkg/api/core"
)

var gv = eventsv1.SchemeGroupVersion

// Kinds returns the group's rows.
func Kinds() []*api.Kind { return []*api.Kind{eventKind()} }

func eventKind() *api.Kind {
	return api.Define[eventsv1.Event, eventsv1.EventList](gv, "events", api.Kind{
		ShortNames:          []string{"ev"},
		Validate:            validate,
		ValidateUpdate:      validateUpdate,
		Namespaced:          true,
		Stored:              corev1.SchemeGroupVersion.WithKind("Event"),
		ToStored:            toCore,
		FromStored:          fromCore,
		UnconditionalUpdate: true,
		CreateOnUpdate:      true,
		NameValidation:      validation.NameIsDNSSubdomain,
		TTL:                 core.EventTTL,
		SelectableFields:    selectable,
		FieldAliases: map[string]string{
			"regarding.kind":            "involvedObject.kind",
			"regarding.namespace":       "involvedObject.namespace",
			"regarding.name":            "involvedObject.name",
			"regarding.uid":             "involvedObject.uid",
			"regarding.apiVersion":      "involvedObject.apiVersion",
			"regarding.resourceVersion": "involvedObject.resourceVersion",
			"regarding.fieldPath":       "involvedObject.fieldPath",
			"reportingController":       "reportingComponent",
		},
		Columns: core.EventColumns,
		Cells:   cells,
	})
}

// selectable has the names of core/v1, which entries of the store carry.
func selectable(obj api.Object) fields.Set {
	stored, err := toCore(obj)
	if err != nil {
		return nil
	}
	return core.EventFields(stored)
}

func toCore(obj api.Object) (api.Object, error) {
	e := obj.(*eventsv1.Event)
	out := &corev1.Event{
		ObjectMeta:          e.ObjectMeta,
		InvolvedObject:      e.Regarding,
		Reason:              e.Reason,
		Message:             e.Note,
		Source:              e.DeprecatedSource,
		FirstTimestamp:      e.DeprecatedFirstTimestamp,
		LastTimestamp:       e.DeprecatedLastTimestamp,
		Count:               e.DeprecatedCount,
		Type:                e.Type,
		EventTime:           e.EventTime,
		Series:              (*corev1.EventSeries)(e.Series),
		Action:              e.Action,
		Related:             e.Related,
		ReportingController: e.ReportingController,
		ReportingInstance:   e.ReportingInstance,
	}
	out.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Event"))
	return out, nil
}

func fromCore(obj api.Object) (api.Object, error) {
	e := obj.(*corev1.Event)
	out := &eventsv1.Event{
		ObjectMeta:               e.ObjectMeta,
		EventTime:                e.EventTime,
		Series:                   (*eventsv1.EventSeries)(e.Series),
		ReportingController:      e.ReportingController,
		ReportingInstance:        e.ReportingInstance,
		Action:                   e.Action,
		Reason:                   e.Reason,
		Regarding:                e.InvolvedObject,
		Related:                  e.Related,
		Note:                     e.Message,
		Type:                     e.Type,
		DeprecatedSource:         e.Source,
		DeprecatedFirstTimestamp: e.FirstTimestamp,
		DeprecatedLastTimestamp:  e.LastTimestamp,
		DeprecatedCount:          e.Count,
	}
	out.SetGroupVersionKind(gv.WithKind("Event"))
	return out, nil
}

func cells(obj api.Object) []any {
	stored, err := toCore(obj)
	if err != nil {
		return nil
	}
	return core.EventCells(stored)
}

package flowcontrol

import (
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/utils/ptr"

	"skiff/pkg/api"
)

var flowSchemaColumns = api.Columns("Name, PriorityLevel, MatchingPrecedence, DistinguisherMethod, Age, MissingPL")

func flowSchemaCells(obj api.Object) []any {
	s := obj.(*flowcontrolv1.FlowSchema)
	method, dangling := "<none>", "?"
	if s.Spec.DistinguisherMethod != nil {
		method = string(s.Spec.DistinguisherMethod.Type)
	}
	for _, c := range s.Status.Conditions {
		if c.Type == flowcontrolv1.FlowSchemaConditionDangling {
			dangling = string(c.Status)
			break
		}
	}
	return []any{s.Name, s.Spec.PriorityLevelConfiguration.Name, int64(s.Spec.MatchingPrecedence), method, api.Age(s), dangling}
}

var priorityLevelColumns = api.Columns("Name, Type, NominalConcurrencyShares, Queues, HandSize, QueueLengthLimit, Age")

func priorityLevelCells(obj api.Object) []any {
	p := obj.(*flowcontrolv1.PriorityLevelConfiguration)
	shares, queues, hand, length := any("<none>"), any("<none>"), any("<none>"), any("<none>")
	if l := p.Spec.Limited; l != nil {
		shares = int64(ptr.Deref(l.NominalConcurrencyShares, 0))
		if q := l.LimitResponse.Queuing; q != nil {
			queues, hand, length = int64(q.Queues), int64(q.HandSize), int64(q.QueueLengthLimit)
		}
	}
	return []any{p.Name, string(p.Spec.Type), shares, queues, hand, length, api.Age(p)}
}

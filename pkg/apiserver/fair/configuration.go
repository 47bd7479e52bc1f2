package fair

import (
	"cmp"
	"fmt"
	"slices"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"
	"k8s.io/utils/ptr"
)

// Configuration is what the stored objects come to: the schemas that requests are matched with, in order, and the levels.
type Configuration struct {
	schemas []flowSchema
	Levels  []Level
}

// compile makes a configuration. Schemas whose level doesn't exist are left out. The mandatory objects are as Kubernetes has them where
// the store hasn't got them (yet); catch-all is always the last schema and the last level.
func compile(seats int, schemas []*flowcontrolv1.FlowSchema, levels []*flowcontrolv1.PriorityLevelConfiguration) *Configuration {
	schemas, levels = slices.Clip(schemas), slices.Clip(levels)
	for _, l := range bootstrap.MandatoryPriorityLevelConfigurations {
		if !slices.ContainsFunc(levels, func(o *flowcontrolv1.PriorityLevelConfiguration) bool { return o.Name == l.Name }) {
			levels = append(levels, l)
		}
	}
	for _, s := range bootstrap.MandatoryFlowSchemas {
		if !slices.ContainsFunc(schemas, func(o *flowcontrolv1.FlowSchema) bool { return o.Name == s.Name }) {
			schemas = append(schemas, s)
		}
	}
	c := &Configuration{}
	byName := map[string]*flowcontrolv1.PriorityLevelConfiguration{}
	total := 0
	for _, l := range levels {
		byName[l.Name] = l
		share, _ := shares(l)
		total += share
	}
	for _, l := range levels {
		c.Levels = append(c.Levels, seatsOf(l, seats, total))
	}
	slices.SortFunc(c.Levels, func(a, b Level) int {
		return cmp.Or(last(a.Name == flowcontrolv1.PriorityLevelConfigurationNameCatchAll, b.Name == flowcontrolv1.PriorityLevelConfigurationNameCatchAll), cmp.Compare(a.Name, b.Name))
	})
	for _, s := range schemas {
		if level := byName[s.Spec.PriorityLevelConfiguration.Name]; level != nil {
			c.schemas = append(c.schemas, flowSchema{s, level})
		}
	}
	slices.SortFunc(c.schemas, func(a, b flowSchema) int {
		return cmp.Or(last(a.Name == flowcontrolv1.FlowSchemaNameCatchAll, b.Name == flowcontrolv1.FlowSchemaNameCatchAll),
			cmp.Compare(a.Spec.MatchingPrecedence, b.Spec.MatchingPrecedence), cmp.Compare(a.Name, b.Name))
	})
	return c
}

// maxQueues bounds the queues of a level: Kubernetes' validation allows ten million, which are more than a server has memory for.
const maxQueues = 1024

// last orders what is last behind the rest.
func last(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

// defaultShares are those of a level that names none.
const defaultShares = 30

// shares are a level's share of the server, and how many percent of it it lends.
func shares(l *flowcontrolv1.PriorityLevelConfiguration) (share, lendable int) {
	if e := l.Spec.Exempt; l.Spec.Type == flowcontrolv1.PriorityLevelEnablementExempt {
		if e == nil {
			return 0, 0
		}
		return int(ptr.Deref(e.NominalConcurrencyShares, 0)), int(ptr.Deref(e.LendablePercent, 0))
	}
	if limited := l.Spec.Limited; limited != nil {
		return int(ptr.Deref(limited.NominalConcurrencyShares, defaultShares)), int(ptr.Deref(limited.LendablePercent, 0))
	}
	return defaultShares, 0
}

// seatsOf is a level's part of the seats, of which all levels together have total shares.
func seatsOf(l *flowcontrolv1.PriorityLevelConfiguration, seats, total int) Level {
	share, lendable := shares(l)
	level := Level{Name: l.Name, Exempt: l.Spec.Type == flowcontrolv1.PriorityLevelEnablementExempt}
	if total > 0 {
		level.Nominal = (seats*share + total - 1) / total
	}
	level.Reserved = level.Nominal - (level.Nominal*lendable+50)/100
	level.Limit = seats
	limited := l.Spec.Limited
	if level.Exempt || limited == nil {
		return level
	}
	if limited.BorrowingLimitPercent != nil {
		level.Limit = level.Nominal + (level.Nominal*int(*limited.BorrowingLimitPercent)+50)/100
	}
	if q := limited.LimitResponse.Queuing; q != nil && limited.LimitResponse.Type == flowcontrolv1.LimitResponseTypeQueue {
		level.Queues, level.QueueLength, level.HandSize = min(int(q.Queues), maxQueues), int(q.QueueLengthLimit), int(q.HandSize)
	}
	return level
}

// dangling is the condition of a schema whose level exists, or doesn't; nil when its status says so already.
func dangling(s *flowcontrolv1.FlowSchema, exists bool, now metav1.Time) *flowcontrolv1.FlowSchemaCondition {
	want := flowcontrolv1.FlowSchemaCondition{
		Type: flowcontrolv1.FlowSchemaConditionDangling, Status: flowcontrolv1.ConditionFalse, Reason: "Found", LastTransitionTime: now,
		Message: fmt.Sprintf("This FlowSchema references the PriorityLevelConfiguration object named %q and it exists", s.Spec.PriorityLevelConfiguration.Name),
	}
	if !exists {
		want.Status, want.Reason = flowcontrolv1.ConditionTrue, "NotFound"
		want.Message = fmt.Sprintf("This FlowSchema references the PriorityLevelConfiguration object named %q but there is no such object", s.Spec.PriorityLevelConfiguration.Name)
	}
	for _, have := range s.Status.Conditions {
		if have.Type != want.Type {
			continue
		}
		if have.Status == want.Status && have.Reason == want.Reason && have.Message == want.Message {
			return nil
		}
		if have.Status == want.Status {
			want.LastTransitionTime = have.LastTransitionTime
		}
	}
	return &want
}

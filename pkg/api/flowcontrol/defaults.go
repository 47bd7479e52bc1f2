package flowcontrol

import (
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"

	"skiff/pkg/api"
)

// Kubernetes' defaults of API priority and fairness.
const (
	defaultPrecedence  = 1000
	defaultShares      = 30
	defaultHandSize    = 8
	defaultQueues      = 64
	defaultQueueLength = 50
)

func defaultFlowSchema(obj api.Object) {
	if s := &obj.(*flowcontrolv1.FlowSchema).Spec; s.MatchingPrecedence == 0 {
		s.MatchingPrecedence = defaultPrecedence
	}
}

func defaultPriorityLevel(obj api.Object) {
	s := &obj.(*flowcontrolv1.PriorityLevelConfiguration).Spec
	if l := s.Limited; l != nil {
		setIfNil(&l.NominalConcurrencyShares, defaultShares)
		setIfNil(&l.LendablePercent, 0)
		if q := l.LimitResponse.Queuing; q != nil {
			setIfZero(&q.HandSize, defaultHandSize)
			setIfZero(&q.Queues, defaultQueues)
			setIfZero(&q.QueueLengthLimit, defaultQueueLength)
		}
	}
	if e := s.Exempt; e != nil {
		setIfNil(&e.NominalConcurrencyShares, 0)
		setIfNil(&e.LendablePercent, 0)
	}
}

func setIfNil(field **int32, n int32) {
	if *field == nil {
		*field = &n
	}
}

func setIfZero(field *int32, n int32) {
	if *field == 0 {
		*field = n
	}
}

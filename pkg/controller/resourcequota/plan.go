package resourcequota

import (
	"maps"
	"time"

	v1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff/pkg/api/quota"
)

// Snapshot is what a plan is made from. The contents have to be read after the quota.
type Snapshot struct {
	Quota    *v1.ResourceQuota
	Contents []quota.Content
	Now      time.Time
}

// Plan is the status that a quota should have.
type Plan struct {
	Write  *v1.ResourceQuota // nil: it has it
	Limits bool              // the limits change, so that writes begin to be charged that weren't before
	Reason string
}

// Decide adds up. What is limited and can't be counted now keeps its last count.
func Decide(s Snapshot) Plan {
	used := v1.ResourceList{}
	for name := range s.Quota.Spec.Hard {
		if last, ok := s.Quota.Status.Used[name]; ok {
			used[name] = last
		}
	}
	for _, content := range s.Contents {
		maps.Copy(used, quota.Sum(s.Quota, content, s.Now))
	}
	p := Plan{Limits: !same(s.Quota.Spec.Hard, s.Quota.Status.Hard)}
	switch {
	case p.Limits:
		p.Reason = "the limits have changed"
	case !same(used, s.Quota.Status.Used):
		p.Reason = "the usage has changed"
	default:
		return Plan{}
	}
	p.Write = s.Quota.DeepCopy()
	p.Write.Status = v1.ResourceQuotaStatus{Hard: s.Quota.Spec.Hard.DeepCopy(), Used: used}
	return p
}

func same(a, b v1.ResourceList) bool {
	return len(a) == 0 && len(b) == 0 || apiequality.Semantic.DeepEqual(a, b)
}

// tracked are the resources whose objects count towards a quota.
func tracked(q *v1.ResourceQuota) map[schema.GroupResource]bool {
	all := map[schema.GroupResource]bool{}
	for name := range q.Spec.Hard {
		if gr, ok := quota.Resource(name); ok {
			all[gr] = true
		}
	}
	return all
}

package deployment

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	apps "k8s.io/api/apps/v1"
	v1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"

	"skiff/pkg/controller/workload"
)

// Snapshot is what a plan is made from.
type Snapshot struct {
	Deployment  *apps.Deployment
	ReplicaSets []*apps.ReplicaSet // all that the deployment controls
	// Pods of each of those sets, by the set's UID, whatever their phase.
	Pods map[types.UID][]*v1.Pod
	Now  time.Time
}

// Action is what a step does with a replica set.
type Action string

const (
	Create Action = "create"
	Update Action = "update"
	Delete Action = "delete"
)

// Step is one write to a replica set.
type Step struct {
	Action     Action
	ReplicaSet *apps.ReplicaSet // as it shall be
	Reason     string
	// Event is the message of a ScalingReplicaSet event on the deployment; empty is none.
	Event string
}

// Plan is what one turn does: the steps in order, then the deployment's status.
type Plan struct {
	Steps []Step
	// Deployment holds the new status, and the annotation with the new revision.
	Deployment *apps.Deployment
	// StatusChanged: Deployment differs from the snapshot's.
	StatusChanged bool
	// Again asks for another turn after this time, to notice a missed progress deadline; 0 is none.
	Again time.Duration
}

// Decide works out the next turn. A turn moves a rollout one move: it scales
// the new set up, or else old ones down; what follows depends on pods that have to come or go first.
func Decide(s Snapshot) Plan {
	r := newRollout(s)
	switch {
	case r.d.DeletionTimestamp != nil:
		r.status = r.counted()
	case r.d.Spec.Paused:
		r.notePause()
		r.syncRevision(false)
		r.scale()
		r.cleanUp()
		r.status = r.counted()
	default:
		r.notePause()
		r.syncRevision(false)
		if r.scalingEvent() {
			r.scale()
			r.status = r.counted()
			break
		}
		if r.d.Spec.Strategy.Type == apps.RecreateDeploymentStrategyType {
			r.recreate()
		} else {
			r.roll()
		}
		r.status = r.progressed()
	}
	return r.plan()
}

// rollout is the scratch state of one decision: copies of the sets, changed in
// memory as the decision goes along, and compared with the originals in the end.
type rollout struct {
	s        Snapshot
	d        *apps.Deployment // a copy; d.Status is still what was last reported, but for notes made on the way
	status   apps.DeploymentStatus
	newSet   *apps.ReplicaSet // nil while there is none
	old      []*apps.ReplicaSet
	original map[*apps.ReplicaSet]*apps.ReplicaSet // nil value: to be created
	reasons  map[*apps.ReplicaSet]string
	changed  []*apps.ReplicaSet // in the order of their first change
	deleted  []*apps.ReplicaSet
}

func newRollout(s Snapshot) *rollout {
	r := &rollout{
		s: s, d: s.Deployment.DeepCopy(),
		original: map[*apps.ReplicaSet]*apps.ReplicaSet{},
		reasons:  map[*apps.ReplicaSet]string{},
	}
	for _, rs := range sorted(s.ReplicaSets, older) {
		scratch := rs.DeepCopy()
		r.original[scratch] = rs
		// Of several sets with the wanted template (an upgrade can leave them), the oldest counts.
		if r.newSet == nil && SameTemplate(&rs.Spec.Template, &r.d.Spec.Template) {
			r.newSet = scratch
		} else {
			r.old = append(r.old, scratch)
		}
	}
	return r
}

// SameTemplate compares templates but for the hash label, which only the sets' have.
func SameTemplate(a, b *v1.PodTemplateSpec) bool {
	if !apiequality.Semantic.DeepEqual(a.Spec, b.Spec) {
		return false
	}
	withoutHash := func(t *v1.PodTemplateSpec) *metav1.ObjectMeta {
		meta := t.ObjectMeta.DeepCopy()
		delete(meta.Labels, apps.DefaultDeploymentUniqueLabelKey)
		return meta
	}
	return apiequality.Semantic.DeepEqual(withoutHash(a), withoutHash(b))
}

func (r *rollout) all() []*apps.ReplicaSet {
	if r.newSet == nil {
		return r.old
	}
	return append(slices.Clone(r.old), r.newSet)
}

func (r *rollout) touch(rs *apps.ReplicaSet, reason string) {
	if !slices.Contains(r.changed, rs) {
		r.changed = append(r.changed, rs)
	}
	r.reasons[rs] = reason
}

// resize changes a set's size. With annotate, the annotations that remember the
// deployment's size are written even if the set's own stays.
func (r *rollout) resize(rs *apps.ReplicaSet, size int32, annotate bool, reason string) bool {
	resized := *rs.Spec.Replicas != size
	if !resized && !annotate {
		return false
	}
	rs.Spec.Replicas = &size
	if annotateSize(rs, *r.d.Spec.Replicas, *r.d.Spec.Replicas+maxSurge(r.d)) || resized {
		r.touch(rs, reason)
	}
	return resized
}

// syncRevision brings the wanted template's set up to date with the deployment's annotations and
// revision; if there is none, it makes one when create says so.
func (r *rollout) syncRevision(create bool) {
	revision := nextRevision(r.old)
	switch {
	case r.newSet != nil:
		annotated := annotateNew(r.d, r.newSet, revision)
		if annotated || r.newSet.Spec.MinReadySeconds != r.d.Spec.MinReadySeconds {
			r.newSet.Spec.MinReadySeconds = r.d.Spec.MinReadySeconds
			r.touch(r.newSet, "the deployment's annotations, revision or minReadySeconds changed")
		}
		if value := r.newSet.Annotations[RevisionAnnotation]; value != "" {
			setRevision(r.d, value)
		}
		if hasDeadline(r.d) && condition(r.d.Status, apps.DeploymentProgressing) == nil {
			r.note(&r.d.Status, apps.DeploymentProgressing, v1.ConditionTrue, FoundNewRSReason,
				fmt.Sprintf("Found new replica set %q", r.newSet.Name))
		}
	case create:
		r.newSet = r.build(revision)
		r.touch(r.newSet, "no replica set has the deployment's template")
		setRevision(r.d, fmt.Sprint(revision))
		if hasDeadline(r.d) {
			r.note(&r.d.Status, apps.DeploymentProgressing, v1.ConditionTrue, NewReplicaSetReason,
				fmt.Sprintf("Created new replica set %q", r.newSet.Name))
		}
	}
}

// build makes the set for the deployment's template. Its name is deterministic, so
// that a second attempt finds the first.
func (r *rollout) build(revision int64) *apps.ReplicaSet {
	hash := workload.Hash(&r.d.Spec.Template, r.d.Status.CollisionCount)
	template := *r.d.Spec.Template.DeepCopy()
	template.Labels = withLabel(template.Labels, hash)
	selector := r.d.Spec.Selector.DeepCopy()
	selector.MatchLabels = withLabel(selector.MatchLabels, hash)
	prefix := r.d.Name
	prefix = prefix[:min(len(prefix), validation.DNS1123SubdomainMaxLength-1-len(hash))]
	rs := &apps.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{
			Name:            prefix + "-" + hash,
			Namespace:       r.d.Namespace,
			Labels:          template.Labels,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(r.d, kind)},
		},
		Spec: apps.ReplicaSetSpec{
			Replicas:        new(int32),
			MinReadySeconds: r.d.Spec.MinReadySeconds,
			Selector:        selector,
			Template:        template,
		},
	}
	size := newSize(r.d, r.old, 0)
	rs.Spec.Replicas = &size
	annotateNew(r.d, rs, revision)
	annotateSize(rs, *r.d.Spec.Replicas, *r.d.Spec.Replicas+maxSurge(r.d))
	return rs
}

func withLabel(labels map[string]string, hash string) map[string]string {
	labels = maps.Clone(labels)
	if labels == nil {
		labels = map[string]string{}
	}
	labels[apps.DefaultDeploymentUniqueLabelKey] = hash
	return labels
}

// cleanUp deletes old sets beyond the history limit, oldest revision first.
func (r *rollout) cleanUp() {
	limit := r.d.Spec.RevisionHistoryLimit
	if limit == nil || *limit == math.MaxInt32 {
		return
	}
	alive := slices.DeleteFunc(sorted(r.old, byRevision), func(rs *apps.ReplicaSet) bool { return rs.DeletionTimestamp != nil })
	for _, rs := range alive[:max(0, len(alive)-int(*limit))] {
		if slices.Contains(r.changed, rs) {
			continue // its pods are yet to go
		}
		if rs.Status.Replicas == 0 && *rs.Spec.Replicas == 0 && rs.Generation <= rs.Status.ObservedGeneration {
			r.deleted = append(r.deleted, rs)
		}
	}
}

func (r *rollout) plan() Plan {
	var p Plan
	for _, rs := range r.changed {
		step := Step{Action: Update, ReplicaSet: rs, Reason: r.reasons[rs]}
		before := int32(0)
		if original := r.original[rs]; original == nil {
			step.Action = Create
		} else {
			before = *original.Spec.Replicas
		}
		if after := *rs.Spec.Replicas; after != before {
			direction := map[int]string{1: "up", -1: "down"}[cmp.Compare(after, before)]
			step.Event = fmt.Sprintf("Scaled %s replica set %s from %d to %d", direction, rs.Name, before, after)
		}
		p.Steps = append(p.Steps, step)
	}
	for _, rs := range r.deleted {
		p.Steps = append(p.Steps, Step{Action: Delete, ReplicaSet: rs, Reason: "beyond the revision history limit"})
	}
	reported := r.s.Deployment
	r.d.Status = r.status
	p.Deployment = r.d
	p.StatusChanged = !apiequality.Semantic.DeepEqual(reported.Status, r.status) ||
		reported.Annotations[RevisionAnnotation] != r.d.Annotations[RevisionAnnotation]
	p.Again = r.deadlineCheck()
	return p
}

package deployment

import (
	"fmt"
	"strconv"
	"strings"

	apps "k8s.io/api/apps/v1"
	v1 "k8s.io/api/core/v1"
)

// Annotations of deployments and their replica sets.
const (
	// RevisionAnnotation numbers the rollout that a set belongs to; kubectl rollout reads it.
	RevisionAnnotation = "deployment.kubernetes.io/revision"
	// RevisionHistoryAnnotation lists the numbers that a set had before it was rolled back to.
	RevisionHistoryAnnotation = "deployment.kubernetes.io/revision-history"
	// DesiredReplicasAnnotation is the deployment's size when the set was sized:
	// a difference tells scaling from rolling.
	DesiredReplicasAnnotation = "deployment.kubernetes.io/desired-replicas"
	// MaxReplicasAnnotation is that size with the surge.
	MaxReplicasAnnotation = "deployment.kubernetes.io/max-replicas"
)

// maxHistoryChars bounds the history annotation's length.
const maxHistoryChars = 2000

// ownAnnotations are not copied from a deployment to its sets.
var ownAnnotations = map[string]bool{
	v1.LastAppliedConfigAnnotation: true,
	RevisionAnnotation:             true,
	RevisionHistoryAnnotation:      true,
	DesiredReplicasAnnotation:      true,
	MaxReplicasAnnotation:          true,
	apps.DeprecatedRollbackTo:      true,
}

// nextRevision is one more than the highest revision of the old sets.
func nextRevision(old []*apps.ReplicaSet) int64 {
	highest := int64(0)
	for _, rs := range old {
		if n, err := revision(rs); err == nil {
			highest = max(highest, n)
		}
	}
	return highest + 1
}

// annotateNew copies the deployment's annotations to its new set and raises the
// set's revision. A set that had a revision before is being rolled back to, and keeps
// the old number in its history. It reports whether anything changed.
func annotateNew(d *apps.Deployment, rs *apps.ReplicaSet, next int64) bool {
	changed := false
	if rs.Annotations == nil {
		rs.Annotations = map[string]string{}
	}
	for key, value := range d.Annotations {
		if has, ok := rs.Annotations[key]; !ownAnnotations[key] && (!ok || has != value) {
			rs.Annotations[key] = value
			changed = true
		}
	}
	before, had := rs.Annotations[RevisionAnnotation]
	number := int64(0)
	if before != "" {
		n, err := strconv.ParseInt(before, 10, 64)
		if err != nil { // not ours to overwrite
			return changed
		}
		number = n
	}
	// It is never lowered, also not when the old sets with the highest numbers were deleted.
	if number >= next {
		return changed
	}
	rs.Annotations[RevisionAnnotation] = strconv.FormatInt(next, 10)
	if had {
		rs.Annotations[RevisionHistoryAnnotation] = appendHistory(rs.Annotations[RevisionHistoryAnnotation], before)
	}
	return true
}

// appendHistory drops the oldest revisions where the list would grow too long.
func appendHistory(history, revision string) string {
	if history == "" {
		return revision
	}
	for len(history)+1+len(revision) > maxHistoryChars {
		_, rest, more := strings.Cut(history, ",")
		if !more {
			return revision
		}
		history = rest
	}
	return history + "," + revision
}

// annotateSize records the deployment's size on a set and reports whether that changed anything.
func annotateSize(rs *apps.ReplicaSet, desired, most int32) bool {
	if rs.Annotations == nil {
		rs.Annotations = map[string]string{}
	}
	changed := false
	for key, value := range map[string]string{
		DesiredReplicasAnnotation: fmt.Sprint(desired),
		MaxReplicasAnnotation:     fmt.Sprint(most),
	} {
		if rs.Annotations[key] != value {
			rs.Annotations[key] = value
			changed = true
		}
	}
	return changed
}

func setRevision(d *apps.Deployment, value string) {
	if d.Annotations == nil {
		d.Annotations = map[string]string{}
	}
	d.Annotations[RevisionAnnotation] = value
}

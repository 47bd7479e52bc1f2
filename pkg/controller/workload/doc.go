// Package workload holds what the reconcilers of pod-owning kinds share:
// which pods and replica sets belong to an owner ([Classify]), what a pod made from
// a template looks like ([PodFromTemplate]), how a template is named ([Hash]), which
// pods go first when there are too many ([RankForDeletion]), and how pods
// are made in batches that grow only while creation succeeds ([SlowStart]).
//
// Everything but [Pods] and [Adopter] is pure. The formats (hash, generated names, annotation
// and index values) are those of Kubernetes, so that a cluster can be handed
// over in either direction without a single pod being replaced.
package workload

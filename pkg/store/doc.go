// Package store keeps revisioned objects in etcd, in Kubernetes' own layout, and serves reads and
// watches from memory.
//
// Keys are /registry/<path>/<namespace>/<name>; values are the k8s\x00
// protobuf envelope or JSON, as the kind says. An object's resourceVersion is
// the etcd revision of its last write, so one transaction never holds two
// objects of one resource: they would share a revision, and a watch resumed
// between them would lose one.
//
// [Interface] is what the apiserver uses and [Store] is it. To read on:
//
//   - write.go: a write is one etcd transaction that compares the object's revision, with the
//     comparisons and operations of its [Effect]s. It never touches the cache.
//   - follow.go: one etcd watch over everything feeds the caches. After a connection was lost it goes on
//     where it was; if etcd has compacted that, all is read again and the differences become events.
//   - resource.go: what is cached of one resource, loaded when it is asked for first: a
//     copy-on-write B-tree of the newest entries, and a log (log.go) of recent changes.
//   - etcd.go: a consistent read asks etcd for its revision (callers share the question) and waits until
//     the cache has reached it; follow's askProgress helps where no event comes.
//   - list.go: a list is a snapshot of the tree. A list at an older revision is a snapshot with the
//     log's later changes undone, or read from etcd where the log doesn't reach back.
//   - watch.go: a watcher is a position in the log, without a goroutine or a buffer. It sleeps on the
//     narrowest value its selectors demand (pods by spec.nodeName, say), so that a change wakes only
//     those it may concern. backfill.go extends the log into the past from etcd.
//   - entry.go, encoding.go, protobuf.go: an object at a revision, and its encodings, each made once for everybody.
//   - compact.go, lease.go: what etcd has to forget.
//   - encryption: how values are encrypted there; the caches hold them plain.
//
// Kinds that are served in two versions ([api.Kind].Stored: events, horizontal pod autoscalers) are
// cached once, in the stored version: [Entry.Object] returns that one, [Entry.As] the version
// that a request names. Objects given to and taken from Create, Update and Delete are of the kind that
// is named in the call. Selectors name fields of the stored kind.
//
// Custom resources may be stored in any of their versions. They are cached as they are, by a row of the
// catalogue's that converts nothing ([api.Custom].Stored), and each version has selectable fields of its own.
//
// Limits. An object that can't be decoded fails the reads that would show it, and can't be deleted
// here. A log keeps the changes of 5 minutes, 10,000 at most ([Config].History), and takes ten times that from etcd for
// a watch that began elsewhere; a watch from before that, or one that falls behind, gets 410 Expired. The
// time of a deletion that happened while etcd was out of reach *and* was compacted meanwhile is not
// known: it is reported at the revision of the resync.
package store

package apiserver

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/leaderelection/resourcelock"

	"skiff/pkg/api"
	"skiff/pkg/election"
	"skiff/pkg/store"
)

// Fencing keeps a leader that doesn't know yet that it was deposed from writing.
//
// Every Endpoints object that holds a leader-election record has an epoch: an etcd key
// beside it, written in the same transaction whenever the record's holder changes, or the object
// appears or goes. Answers that carry such an object name the epoch's revision in the
// header Skiff-Epoch. A client that leads by that object sends, with each write,
// Skiff-Fence: <namespace>/<name>=<revision>; the write's transaction compares the epoch's
// revision, and fails with reason "Fenced" if it is another one. The response header is
// how clients learn that a server does this: an apiserver of Kubernetes sends none and
// ignores the request's.
const epochPrefix = "/registry/skiff/epochs/"

func epochKey(namespace, name string) string { return epochPrefix + namespace + "/" + name }

// fence reads the header of a write; nil without one.
func fence(header http.Header) (func(obj, old api.Object) (store.Effect, error), error) {
	text := header.Get(election.FenceHeader)
	if text == "" {
		return nil, nil
	}
	object, revisionText, ok := strings.Cut(text, "=")
	namespace, name, ok2 := strings.Cut(object, "/")
	revision, err := strconv.ParseInt(revisionText, 10, 64)
	if !ok || !ok2 || err != nil || revision <= 0 || namespace == "" || name == "" || strings.Contains(name, "/") {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("%s: %q is not <namespace>/<name>=<revision>", election.FenceHeader, text))
	}
	key := epochKey(namespace, name)
	return func(_, _ api.Object) (store.Effect, error) {
		return store.Effect{
			Compare: []clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(key), "=", revision)},
			Else:    []clientv3.Op{clientv3.OpGet(key)},
			Failed: func(answer *clientv3.TxnResponse) error {
				if kvs := answer.Responses[0].GetResponseRange().GetKvs(); len(kvs) > 0 && kvs[0].ModRevision == revision {
					return nil // something else failed
				}
				return &apierrors.StatusError{ErrStatus: metav1.Status{
					Status: metav1.StatusFailure, Code: http.StatusConflict, Reason: election.ReasonFenced,
					Message: fmt.Sprintf("the leadership of %s/%s that this write was made under (epoch %d) has ended", namespace, name, revision),
				}}
			},
		}, nil
	}, nil
}

// holder is who leads by an object, "" if nobody does, and whether it holds a record at all.
func holder(obj api.Object) (identity string, elects bool) {
	endpoints, ok := obj.(*corev1.Endpoints)
	if !ok {
		return "", false
	}
	record, ok := endpoints.Annotations[resourcelock.LeaderElectionRecordAnnotationKey]
	if !ok {
		return "", false
	}
	return holderIn(record), true
}

// epoch writes the epoch key when the leader changes: the holder, or the record's being there.
func epoch(obj, old api.Object) (store.Effect, error) {
	var now, before string
	var elects, elected bool
	var key string
	if obj != nil {
		now, elects = holder(obj)
		key = epochKey(obj.GetNamespace(), obj.GetName())
	}
	if old != nil {
		before, elected = holder(old)
		key = epochKey(old.GetNamespace(), old.GetName())
	}
	if elects == elected && now == before {
		return store.Effect{}, nil
	}
	return store.Effect{Ops: []clientv3.Op{clientv3.OpPut(key, now)}}, nil
}

// sendEpoch tells the epoch of an object by which is elected, as it was when the object was
// written: a later one is another leader's, and would let this one's writes pass.
func (s *server) sendEpoch(ctx context.Context, w http.ResponseWriter, c *call, entry *store.Entry) error {
	if c.kind.Kind != "Endpoints" || c.kind.Group != "" {
		return nil
	}
	obj, err := entry.Shared()
	if err != nil {
		return err
	}
	if _, elects := holder(obj); !elects {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, etcdTime)
	defer cancel()
	key := epochKey(entry.Key.Namespace, entry.Key.Name)
	answer, err := s.cfg.Etcd.Get(ctx, key)
	if err == nil && len(answer.Kvs) > 0 && answer.Kvs[0].ModRevision > entry.Revision {
		answer, err = s.cfg.Etcd.Get(ctx, key, clientv3.WithRev(entry.Revision))
	}
	if err != nil {
		return fmt.Errorf("read the epoch of %s: %w", entry.Key, err)
	}
	if len(answer.Kvs) > 0 {
		w.Header().Set(election.EpochHeader, strconv.FormatInt(answer.Kvs[0].ModRevision, 10))
	}
	return nil
}

// holderIn reads the holder out of a leader-election record; one that can't be read has none.
func holderIn(record string) string {
	var fields struct {
		HolderIdentity string `json:"holderIdentity"`
	}
	if err := json.Unmarshal([]byte(record), &fields); err != nil {
		return ""
	}
	return fields.HolderIdentity
}

// newWrite is the frame of every write of a request: how long the object lives, and what
// else its transaction holds.
func (s *server) newWrite(ctx context.Context, c *call, obj api.Object) (store.Write, error) {
	var w store.Write
	if c.kind.TTL != nil {
		if obj == nil {
			obj = c.kind.New()
		}
		w.TTL = c.kind.TTL(obj)
	}
	if c.fence != nil {
		w.Effects = append(w.Effects, c.fence)
	}
	if c.kind.Group == "" {
		switch c.kind.Kind {
		case "Endpoints":
			w.Effects = append(w.Effects, epoch)
		case "Service":
			w.Effects = append(w.Effects, s.services.effect)
		}
	}
	if s.quotas.bear(c) {
		w.Effects = append(w.Effects, s.quotas.effect(ctx, c))
	}
	return w, nil
}

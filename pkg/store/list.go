package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/tidwall/btree"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"skiff/pkg/api"
)

// futureWait is how long a read waits for a revision that etcd may not have reached yet.
const futureWait = 3 * time.Second

// Get implements [Interface].
func (s *Store) Get(ctx context.Context, kind *api.Kind, key Key, minRevision int64) (*Entry, error) {
	if !key.sound(kind) {
		return nil, notFound(kind, key.Name)
	}
	r, err := s.resource(ctx, kind)
	if err != nil {
		return nil, err
	}
	if minRevision >= 0 {
		if err := s.reach(ctx, minRevision); err != nil {
			return nil, err
		}
	}
	e := r.get(key.suffix())
	if e == nil {
		return nil, notFound(kind, key.Name)
	}
	if e.err != nil {
		return nil, apierrors.NewInternalError(e.err)
	}
	return e, nil
}

// reach brings the cache to at least a revision; 0 is everything that was acknowledged before.
func (s *Store) reach(ctx context.Context, revision int64) error {
	if revision == 0 {
		return s.current(ctx)
	}
	if s.applied.Load() >= revision {
		return nil
	}
	waiting, cancel := context.WithTimeout(ctx, futureWait)
	defer cancel()
	err := s.waitFor(waiting, revision)
	if err != nil && ctx.Err() == nil {
		return tooLarge(revision, s.applied.Load())
	}
	return err
}

// List implements [Interface].
func (s *Store) List(ctx context.Context, kind *api.Kind, q Query) (*Page, error) {
	plan, err := q.plan()
	if err != nil {
		return nil, err
	}
	r, err := s.resource(ctx, kind)
	if err != nil {
		return nil, err
	}
	if !plan.any {
		if err := s.reach(ctx, max(plan.exact, plan.atLeast)); err != nil {
			return nil, err
		}
	}
	l := lister{plan: plan, filter: newFilter(kind, q.Namespace, q.Name, q.Labels, q.Fields), limit: q.Limit}
	if plan.exact == 0 {
		tree, revision := r.snapshot()
		return l.tree(tree, revision)
	}
	if plan.exact < s.compacted.Load() {
		return nil, plan.expired() // though the cache may remember: any apiserver gives the same answer
	}
	if tree, ok := r.snapshotAt(plan.exact); ok {
		return l.tree(tree, plan.exact)
	}
	return l.etcd(ctx, s, r.codec)
}

// Count implements [Interface].
func (s *Store) Count(kind *api.Kind, namespace string, limit int) (n int) {
	r := s.cached(kind)
	if r == nil {
		return 0
	}
	tree, _ := r.snapshot()
	if namespace == "" {
		return min(tree.Len(), limit)
	}
	prefix := namespacePrefix(namespace)
	tree.Ascend(prefix, func(suffix string, _ *Entry) bool {
		if n == limit || !strings.HasPrefix(suffix, prefix) {
			return false
		}
		n++
		return true
	})
	return n
}

// readPlan is what the parameters of a list ask for; at most one of any, exact and atLeast is set, and
// none of them is a consistent read. https://kubernetes.io/docs/reference/using-api/api-concepts/#semantics-for-get-and-list
type readPlan struct {
	any            bool
	exact, atLeast int64
	start          string // first suffix to look at
	prefix         string // of all suffixes
	continued      bool
}

func (q Query) plan() (readPlan, error) {
	var p readPlan
	if q.Namespace != "" {
		p.prefix = q.Namespace + "/"
	}
	p.start = p.prefix
	asked, err := parseRevision(q.ResourceVersion)
	if err != nil {
		return p, err
	}
	if q.Continue != "" {
		start, revision, err := parseContinue(q.Continue)
		if err != nil {
			return p, apierrors.NewBadRequest(fmt.Sprintf("invalid continue token: %v", err))
		}
		if asked != 0 {
			return p, apierrors.NewBadRequest("specifying resource version is not allowed when using continue")
		}
		p.start, p.continued = p.prefix+start, true
		p.exact = max(revision, 0) // negative: go on with the newest state
		return p, nil
	}
	switch {
	case q.Match == "Exact" && asked == 0:
		return p, apierrors.NewBadRequest("resourceVersionMatch \"Exact\" is forbidden for resourceVersion \"0\" or unset")
	case q.Match == "Exact", q.Match == "" && q.Limit > 0 && asked > 0: // the second is how it was before there was a match parameter
		p.exact = asked
	case q.ResourceVersion == "0":
		p.any = true
	default:
		p.atLeast = asked
	}
	return p, nil
}

// lister collects one page.
type lister struct {
	plan   readPlan
	filter filter
	limit  int64

	page Page
	last string // suffix of the last entry looked at
	more bool
	err  error
}

// take looks at one more object, and reports whether the page has room for further ones.
func (l *lister) take(e *Entry, suffix string) bool {
	if l.limit > 0 && int64(len(l.page.Entries)) >= l.limit {
		l.more = true
		return false
	}
	l.last = suffix
	if e.err != nil {
		l.err = apierrors.NewInternalError(e.err)
		return false
	}
	if l.err = l.filter.check(e); l.err != nil {
		return false
	}
	if l.filter.match(e) {
		l.page.Entries = append(l.page.Entries, e)
	}
	return true
}

// finish makes the page. rest counts the objects not looked at, if that is asked for.
func (l *lister) finish(revision int64, rest func() int64) (*Page, error) {
	if l.err != nil {
		return nil, l.err
	}
	l.page.Revision = revision
	if l.more {
		l.page.Continue = formatContinue(strings.TrimPrefix(l.last, l.plan.prefix)+"\x00", revision)
		if l.filter.everything {
			n := rest()
			l.page.Remaining = &n
		}
	}
	return &l.page, nil
}

func (l *lister) tree(tree *btree.Map[string, *Entry], revision int64) (*Page, error) {
	if l.filter.name != "" && l.filter.namespace != "" && !l.plan.continued {
		suffix := Key{Namespace: l.filter.namespace, Name: l.filter.name}.suffix()
		if e, ok := tree.Get(suffix); ok {
			l.take(e, suffix)
		}
		return l.finish(revision, nil)
	}
	if l.filter.everything && l.limit <= 0 && l.plan.prefix == "" {
		l.page.Entries = make([]*Entry, 0, tree.Len())
	}
	tree.Ascend(l.plan.start, func(suffix string, e *Entry) bool {
		return strings.HasPrefix(suffix, l.plan.prefix) && l.take(e, suffix)
	})
	return l.finish(revision, func() (n int64) {
		tree.Ascend(l.last+"\x00", func(suffix string, _ *Entry) bool {
			if strings.HasPrefix(suffix, l.plan.prefix) {
				n++
				return true
			}
			return false
		})
		return n
	})
}

// etcd reads the page at a revision that the cache doesn't know any more.
func (l *lister) etcd(ctx context.Context, s *Store, c codec) (*Page, error) {
	revision, rest := l.plan.exact, int64(0)
	err := c.scan(ctx, s.client, c.prefix+l.plan.prefix, c.prefix+l.plan.start, &revision, func(kv *mvccpb.KeyValue) bool {
		if l.more {
			rest++
			return true
		}
		if l.take(c.entry(kv), c.suffix(kv.Key)) {
			return true
		}
		rest++
		return l.err == nil && l.filter.everything // count on
	})
	if errors.Is(err, rpctypes.ErrCompacted) {
		return nil, l.plan.expired()
	}
	if err != nil {
		return nil, unavailable("listing "+c.kind.Resource, err)
	}
	return l.finish(revision, func() int64 { return rest })
}

// expired refuses a revision that etcd compacted; a continued list is offered to go on with the newest state.
func (p readPlan) expired() error {
	if !p.continued {
		return apierrors.NewResourceExpired(tooOldList)
	}
	err := apierrors.NewResourceExpired(tooOldContinue)
	err.ErrStatus.ListMeta.Continue = formatContinue(strings.TrimPrefix(p.start, p.prefix), -1)
	return err
}

package authz

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff/pkg/apiserver/lookup"
	"skiff/pkg/apiserver/request"
)

// Source is what an Authorizer reads and writes of the cluster.
type Source interface {
	lookup.Reader
	lookup.Feed
	lookup.Writer
}

// Authorizer is the union of system:masters, the Node authorizer and RBAC.
type Authorizer struct {
	RBAC   *RBAC
	node   *nodeAuthorizer
	source Source
	policy *Policy
	synced atomic.Int32  // resources whose first list has arrived
	read   chan struct{} // closed when all of them have
	stored atomic.Bool   // the policy is
}

// New returns an Authorizer that knows nothing until [Authorizer.Run] feeds it.
func New(source Source) (*Authorizer, error) {
	policy, err := DefaultPolicy()
	if err != nil {
		return nil, err
	}
	return &Authorizer{RBAC: NewRBAC(), node: newNodeAuthorizer(policy), source: source, policy: policy, read: make(chan struct{})}, nil
}

// Verdict is the answer to one request. The zero value is a denial.
type Verdict struct {
	Allowed bool
	grant   *grant // the binding that allows, when RBAC did
	reason  string
	missing error
}

// Reason explains the verdict as Kubernetes does; it may be empty.
func (v Verdict) Reason() string {
	if v.grant != nil {
		return "RBAC: allowed by " + v.grant.String()
	}
	if v.missing == nil {
		return v.reason
	}
	missing := fmt.Sprintf("RBAC: %v", v.missing)
	if v.reason == "" {
		return missing
	}
	return v.reason + "\n" + missing
}

// firstReading is how long a denial waits for what decisions depend on to be read.
const firstReading = 10 * time.Second

// Authorize decides whether user may do what info asks for. Until everything has been read, a
// denial waits: to the clients of a server that has just been restarted it would be final.
func (a *Authorizer) Authorize(ctx context.Context, user *request.User, info *request.Info) Verdict {
	read := a.Ready() == nil
	verdict := a.decide(ctx, user, info)
	if verdict.Allowed || read {
		return verdict
	}
	select {
	case <-a.read:
	case <-time.After(firstReading):
	case <-ctx.Done():
	}
	return a.decide(ctx, user, info)
}

func (a *Authorizer) decide(ctx context.Context, user *request.User, info *request.Info) Verdict {
	if user.InGroup(request.Masters) {
		return Verdict{Allowed: true}
	}
	node, isNode := NodeName(user)
	var reason string
	if isNode {
		allowed, why := a.node.authorize(ctx, node, info)
		if allowed {
			return Verdict{Allowed: true}
		}
		reason = why
	}
	if g := a.RBAC.authorize(user, info); g != nil {
		return Verdict{Allowed: true, grant: g}
	}
	// Only a denial pays for finding out which roles were missing.
	_, missing := a.RBAC.Rules(user, info.Namespace)
	return Verdict{reason: reason, missing: missing}
}

// NodeName returns the node that a user is the agent of. ok is false for everyone
// else; the name is empty for a member of system:nodes whose name is no node's.
func NodeName(user *request.User) (name string, ok bool) {
	name, ok = strings.CutPrefix(user.Name, "system:node:")
	return name, ok && user.InGroup("system:nodes")
}

// Run stores the default roles, and follows all roles and bindings and what the Node
// authorizer needs, until ctx ends.
func (a *Authorizer) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	follow := func(resource schema.GroupResource, handle func([]lookup.Change)) {
		group.Go(func() error {
			err := a.source.Follow(ctx, resource, a.sync, handle)
			return fmt.Errorf("authorizer: following %s: %w", resource, err)
		})
	}
	for _, resource := range []string{"roles", "rolebindings", "clusterroles", "clusterrolebindings"} {
		follow(rbacv1.Resource(resource), a.RBAC.Apply)
	}
	for _, resource := range graphResources {
		follow(resource, a.node.graph.apply)
	}
	group.Go(func() error {
		err := lookup.Retry(ctx, "storing the default roles", func(ctx context.Context) error {
			return Bootstrap(ctx, a.source, a.policy)
		})
		if err != nil {
			return err
		}
		a.stored.Store(true)
		return nil
	})
	err := group.Wait()
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return ctx.Err()
	}
	return err
}

// sources is how many resources decisions depend on.
var sources = int32(4 + len(graphResources))

// sync notes that the first list of one more of them has arrived.
func (a *Authorizer) sync() {
	if a.synced.Add(1) == sources {
		close(a.read)
	}
}

// Ready is nil once all that decisions depend on has been read.
func (a *Authorizer) Ready() error {
	select {
	case <-a.read:
		return nil
	default:
		return fmt.Errorf("authorizer: %d of %d resources read", a.synced.Load(), sources)
	}
}

// BootstrapReady is nil once the default roles and bindings are stored (Kubernetes'
// health check poststarthook/rbac/bootstrap-roles).
func (a *Authorizer) BootstrapReady() error {
	if !a.stored.Load() {
		return errors.New("not finished")
	}
	return nil
}

// Forbidden is the error for a request that was denied, in Kubernetes' words.
func Forbidden(user *request.User, info *request.Info, reason string) *apierrors.StatusError {
	message := notHTML.Replace(forbiddenMessage(user, info))
	if reason != "" {
		message += ": " + reason
	}
	return apierrors.NewForbidden(info.GroupResource(), info.Name, errors.New(message))
}

// notHTML keeps an answer from passing for a page.
var notHTML = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;")

func forbiddenMessage(user *request.User, info *request.Info) string {
	if !info.IsResourceRequest {
		return fmt.Sprintf("User %q cannot %s path %q", user.Name, info.Verb, info.Path)
	}
	resource := info.Resource
	if info.Subresource != "" {
		resource += "/" + info.Subresource
	}
	message := fmt.Sprintf("User %q cannot %s resource %q in API group %q", user.Name, info.Verb, resource, info.APIGroup)
	if info.Namespace != "" {
		return message + fmt.Sprintf(" in the namespace %q", info.Namespace)
	}
	return message + " at the cluster scope"
}

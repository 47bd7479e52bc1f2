package request

import (
	"context"

	"k8s.io/apimachinery/pkg/runtime"

	"skiff/pkg/api"
)

// User is who makes a request.
type User = api.User

// Names and groups that Kubernetes reserves.
const (
	Anonymous       = "system:anonymous"
	Unauthenticated = "system:unauthenticated"
	Authenticated   = "system:authenticated"
	Masters         = "system:masters"
)

// AnonymousUser is who a request without credentials comes from.
func AnonymousUser() *User {
	return &User{Name: Anonymous, Groups: []string{Unauthenticated}}
}

// Operation is what a write does to the object.
type Operation string

// The operations, as admission webhooks and policies name them.
const (
	Create  Operation = "CREATE"
	Update  Operation = "UPDATE"
	Delete  Operation = "DELETE"
	Connect Operation = "CONNECT"
)

// Attributes is what admission decides on.
type Attributes struct {
	Operation   Operation
	Kind        *api.Kind // the resource's row, also for a subresource
	Subresource string
	Namespace   string
	Name        string // empty on a create with generateName that isn't resolved yet
	// Object is the new object: of the resource itself, or for an action (binding,
	// eviction, token, exec options …) the action's own body. It may be changed by
	// mutation, and is nil on delete.
	Object runtime.Object
	// Old is the current object on update and delete, nil otherwise; read only.
	Old     runtime.Object
	User    *User
	DryRun  bool
	Options runtime.Object // *metav1.CreateOptions, UpdateOptions, PatchOptions or DeleteOptions
	// Warn adds a warning header to the response; never nil.
	Warn func(text string)
	// Annotate adds an audit annotation; never nil.
	Annotate func(key, value string)
}

type key int

const (
	infoKey key = iota
	auditKey
	warnKey
	annotateKey
	startedKey
)

// WithInfo attaches what is asked for.
func WithInfo(ctx context.Context, info *Info) context.Context {
	return context.WithValue(ctx, infoKey, info)
}

// InfoFrom returns what is asked for, nil outside of a request.
func InfoFrom(ctx context.Context) *Info {
	info, _ := ctx.Value(infoKey).(*Info)
	return info
}

// WithUser attaches who asks.
func WithUser(ctx context.Context, user *User) context.Context { return api.WithUser(ctx, user) }

// UserFrom returns who asks, nil outside of an authenticated request.
func UserFrom(ctx context.Context) *User { return api.UserFrom(ctx) }

// WithAuditID attaches the request's audit id.
func WithAuditID(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, auditKey, id)
}

// AuditIDFrom returns the request's audit id, or "".
func AuditIDFrom(ctx context.Context) string {
	id, _ := ctx.Value(auditKey).(string)
	return id
}

// WithWarn attaches where warnings for the client go.
func WithWarn(ctx context.Context, warn func(string)) context.Context {
	return context.WithValue(ctx, warnKey, warn)
}

// Warn adds a warning to the response of the request that ctx belongs to.
func Warn(ctx context.Context, text string) {
	if warn, ok := ctx.Value(warnKey).(func(string)); ok {
		warn(text)
	}
}

// WithAnnotate attaches where the annotations of the request's audit event go.
func WithAnnotate(ctx context.Context, annotate func(key, value string)) context.Context {
	return context.WithValue(ctx, annotateKey, annotate)
}

// Annotate notes something in the audit event of the request that ctx belongs to; what was noted first
// under a key stays. It may be called concurrently, and does nothing where nobody keeps an audit log.
func Annotate(ctx context.Context, key, value string) {
	if annotate, ok := ctx.Value(annotateKey).(func(string, string)); ok {
		annotate(key, value)
	}
}

// WithStarted attaches what is to be called when a long-running request has started.
func WithStarted(ctx context.Context, started func()) context.Context {
	return context.WithValue(ctx, startedKey, started)
}

// Started says that a long-running request has done what costs the server something (a watch has sent its initial events, a stream is
// passed on), and gives back its seat. It may be called more than once.
func Started(ctx context.Context) {
	if started, ok := ctx.Value(startedKey).(func()); ok {
		started()
	}
}

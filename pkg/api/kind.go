// Package api is what Skiff adds to the wire types of k8s.io/api: the
// catalogue of kinds. One [Kind] is one row: its names, where it is stored,
// how it is defaulted, validated, selected and printed. Every handler of the
// apiserver is generic over a row, so that adding a kind is adding a row (and
// a file with its defaults and validation), never a handler.
//
// The objects here are always the versioned wire types: there are no
// "internal" types, and so no conversions, save for the two resources that
// Kubernetes serves in two versions (events and horizontal pod autoscalers),
// whose rows carry a pair of conversion functions.
//
// A newcomer reads in this order: [Kind] (kind.go) is the row and [Define] how one
// is written; [Catalogue] (catalogue.go) is the set of rows a server serves;
// [Scheme] (scheme.go) knows the Go types and codecs; storage.go is what etcd
// holds; lifecycle.go what holds for every kind on create and update; meta.go the
// rules for names and metadata; table.go what kubectl prints. The rows themselves are in one subpackage per
// API group, and pkg/api/catalogue puts them together.
//
// Limits: beta and alpha versions are not served, and an etcd that still holds objects in
// a version that Kubernetes 1.36 doesn't write is refused object by object
// with an error that names the version, not misread. Defaults are filled in when an
// object is written, not when it is read from etcd.
package api

import (
	"context"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Object is what every stored kind is: a runtime object with metadata.
type Object interface {
	runtime.Object
	metav1.Object
}

// Kind is one row of the catalogue: one resource in one version.
// Function fields may be nil, which means "nothing to do".
type Kind struct {
	schema.GroupVersionKind

	Resource   string   // plural, lower case: "pods"
	Singular   string   // "pod"
	ListKind   string   // "PodList", which is also the default
	ShortNames []string // "po"
	Categories []string // "all"
	Namespaced bool
	// Verbs that the main resource serves; nil is [AllVerbs].
	Verbs []string

	// StoragePath is what follows /registry/ in etcd: "pods", "services/specs",
	// "minions". Custom resources use "<group>/<resource>".
	StoragePath string
	// Stored is the version that etcd holds, when it is not this one; ToStored
	// and FromStored convert then.
	Stored     schema.GroupVersionKind
	ToStored   func(Object) (Object, error)
	FromStored func(Object) (Object, error)
	// StorageVersion is written into the envelope instead of the row's own version where
	// Kubernetes still stores an older version whose wire format is the same
	// (v1beta1 mutating admission policies, until 1.37). Both are read.
	StorageVersion string
	// Decoded completes an object that comes from etcd with what its protobuf form has no place for.
	Decoded func(Object)
	// StoredAsJSON says that etcd holds JSON (custom resources, CRDs, APIServices)
	// instead of the k8s\x00 protobuf envelope.
	StoredAsJSON bool

	// Older reads the JSON of a stored object in another version, which Kubernetes writes still (CRDs, in v1beta1);
	// nil without an error is a version that it doesn't know.
	Older func(version string, data []byte) (Object, error)

	// Custom is what a custom resource has beyond; nil for all that are Go types.
	Custom *Custom

	New     func() Object
	NewList func() runtime.Object

	// Default fills in what the client left out, as Kubernetes does.
	// It must be idempotent.
	Default func(Object)
	// Virtual kinds are never stored: the server answers a create itself
	// (SubjectAccessReview, TokenReview, Binding, Eviction …).
	Virtual bool

	// PrepareForCreate and PrepareForUpdate run before validation and take away
	// what a client can't decide. They are the kind's own part: callers use
	// [Kind.PrepareCreate] and [Kind.PrepareUpdate], which do what holds for all kinds
	// (status of kinds with a status subresource, generation) around them. The server adds
	// uid and timestamps.
	PrepareForCreate func(ctx context.Context, obj Object)
	PrepareForUpdate func(ctx context.Context, obj, old Object)
	// Kept are the fields ("status.conditions") that an update of the main resource can't change, so that no manager
	// owns them through it. nil is the usual: the status, if there is a subresource for it.
	Kept []string
	// PrepareForDelete changes an object that is to be deleted for the first time, if that is
	// for somebody else to finish by taking away a finalizer, which it adds (CRDs).
	PrepareForDelete func(obj Object, now time.Time)
	// KeepsStatusOnCreate: a new object brings its status along (nodes, which kubelets
	// register complete).
	KeepsStatusOnCreate bool

	// NameValidation is the rule for metadata.name (prefix: for generateName).
	// [ValidateMeta] applies it, and all that holds for every kind's metadata.
	NameValidation func(name string, prefix bool) []string
	// AnyFinalizer lets finalizers be named without a domain.
	AnyFinalizer bool
	// Validate reports everything that is wrong with a new object beyond its metadata.
	Validate func(obj Object) field.ErrorList
	// ValidateUpdate reports what is wrong with obj as the successor of old.
	ValidateUpdate func(obj, old Object) field.ErrorList
	// Warnings are sent as Warning headers with create and update (old is nil on create).
	Warnings func(obj, old Object) []string
	// DeletionWarnings are sent with the answer to a deletion, of an object or of a collection.
	DeletionWarnings func(*metav1.DeleteOptions) []string

	// Subresources that are views of the stored object ("status", "scale",
	// "ephemeralcontainers", "resize", "approval", "finalize"), by name.
	// Those that are actions (binding, eviction, log, exec, token …) are listed
	// here as well, with Action set, so that discovery shows them.
	Subresources map[string]*Subresource

	// UnconditionalUpdate: an update without resourceVersion is taken.
	UnconditionalUpdate bool
	// CreateOnUpdate: a PUT or an apply of an object that doesn't exist creates it
	// by PUT as well (leases, endpoints, events …).
	CreateOnUpdate bool
	// HasGeneration: metadata.generation starts at 1 and grows when anything but
	// metadata and status changes.
	HasGeneration bool
	// DefaultGarbageCollection is what a deletion without a propagation policy
	// does; the zero value is background.
	DefaultGarbageCollection metav1.DeletionPropagation
	// ReturnsDeleted: a deletion that completes at once answers with the object's last
	// state; otherwise with a Status of success.
	ReturnsDeleted bool
	// GraceSeconds decides how long a deletion may take, when it is graceful
	// (pods); nil means that objects of this kind go at once.
	GraceSeconds func(obj Object, options *metav1.DeleteOptions) int64
	// TTL is how long an object lives in the store; nil or 0 is forever (events: an hour).
	TTL func(obj Object) time.Duration

	// SelectableFields are the fields that a field selector may name, beyond
	// metadata.name and metadata.namespace, with their values in obj. Called with
	// an empty object it must return the complete set of names.
	SelectableFields func(obj Object) fields.Set
	// UnknownField is the format of the complaint about another field, where it isn't the usual one.
	UnknownField string
	// FieldAliases map a further name that a selector may use to a selectable field's.
	FieldAliases map[string]string

	// Columns and Cells are the kind's table. A nil Columns is the default table
	// (Name, Created At). Cells returns one value per column: string, int64, bool.
	Columns []metav1.TableColumnDefinition
	Cells   func(obj Object) []any
	// OpenAPI describes the kind where reflection on its Go type doesn't do.
	OpenAPI func(v3 bool) (*Definitions, error)
	// Types converts objects to the typed values of server-side apply, for kinds that aren't in
	// client-go's schema.
	Types func() (managedfields.TypeConverter, error)
	// RowConditions mark a row of the table: a pod that has ended is Completed.
	RowConditions func(obj Object) []metav1.TableRowCondition

	shape shape
}

// Subresource is a further path below an object.
type Subresource struct {
	// GroupVersionKind of the body; zero is the parent's (status).
	schema.GroupVersionKind
	Verbs []string
	// Action: not a view of the object; the server has a handler of its own for it.
	Action bool
	New    func() runtime.Object

	// Kept are like a kind's: for "status", its spec is the usual one.
	Kept []string
	// KeepsMeta: a status subresource that changes no metadata either.
	KeepsMeta bool
	// View subresources. PrepareForUpdate copies back into obj whatever this
	// subresource may not change; ValidateUpdate replaces the kind's own.
	// For "status", [Define] adds that everything but metadata and status is kept.
	PrepareForUpdate func(ctx context.Context, obj, old Object)
	ValidateUpdate   func(obj, old Object) field.ErrorList

	// Scale views (autoscaling/v1 Scale): the paths of replicas and selector.
	Scale *Scale
}

// Scale reads and writes the replica count of an object.
type Scale struct {
	// Get returns spec.replicas, status.replicas and the selector as a string.
	Get func(obj Object) (spec, status int32, selector string)
	Set func(obj Object, replicas int32)
	// Paths say for each version where the count is in the object; nil is spec, replicas.
	Paths managedfields.ResourcePathMappings
	// Check reports an object that has no scale; its error is a [NoReplicas] when one can be set. Get
	// and Set are for the others only. nil: all have one.
	Check func(obj Object) error
}

// NoReplicas says that an object's count of replicas isn't set.
type NoReplicas struct{ Path string }

func (e NoReplicas) Error() string {
	return fmt.Sprintf("the spec replicas field %q does not exist", e.Path)
}

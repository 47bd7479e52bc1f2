package api

// Custom is what a custom resource's row has beyond that of a Go type. Its objects are unstructured;
// several versions share one storage, where objects may be of any of them.
type Custom struct {
	// Stored is the row as which etcd's objects are decoded: of the storage version, but leaving each
	// object in the version that it was written in. It need not be in the catalogue. FromStored of
	// the served rows converts, ToStored converts to the storage version.
	Stored *Kind
	// Decode reads what etcd holds; set on stored rows only.
	Decode func(data []byte) (Object, error)
	// Coerce makes of a decoded object what decoding into a Go type would: fields that are
	// not in the schema go, and are reported if asked for; metadata has the right types.
	Coerce func(obj Object, report bool) (unknown []string, err error)
	// Warnings are sent with every answer: the version is deprecated.
	Warnings []string
	// Terminating: nothing can be created any more, and discovery says so.
	Terminating bool
	// Convert makes the object of another version of the resource, in which its fields may be owned.
	Convert func(obj Object, version string) (Object, error)
}

// Definitions are the OpenAPI schemas of a kind, as JSON objects, with their names.
type Definitions struct {
	Object, List string // which of All are the kind's and its list's
	All          map[string]map[string]any
}

// reading are the verbs that remain of a resource whose definition is being deleted.
var reading = []string{"delete", "deletecollection", "get", "list", "watch"}

// ListedVerbs are the verbs that discovery shows. Not to be changed.
func (k *Kind) ListedVerbs() []string {
	if k.Custom != nil && k.Custom.Terminating {
		return reading
	}
	return k.ServedVerbs()
}

// customVerbs are those of custom resources, in the order that Kubernetes shows.
var customVerbs = []string{"delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"}

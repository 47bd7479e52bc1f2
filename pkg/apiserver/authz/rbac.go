package authz

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"

	"skiff/pkg/apiserver/request"
)

// RBAC answers from the roles that are bound to a user. Feed it with
// [RBAC.Apply]; all methods may be called concurrently.
type RBAC struct {
	index atomic.Pointer[rbacIndex]

	// What follows belongs to Apply.
	mu       sync.Mutex
	roles    map[objectName]*role
	bindings map[string]map[string]*binding // by namespace ("": cluster role bindings) and name
}

// rbacIndex is one immutable state of all bindings. Roles are reached through
// pointers whose rules change in place, so that a change of a role costs nothing here.
type rbacIndex struct {
	cluster    map[subject][]*grant
	namespaces map[string]map[subject][]*grant
}

// subject is a user or a group; service accounts are users.
type subject struct {
	group bool
	name  string
}

type objectName struct{ namespace, name string }

// role is a slot for a role's rules. It exists as long as the role does or a binding
// refers to it; rules is nil while the role does not exist.
type role struct {
	rules atomic.Pointer[[]rbacv1.PolicyRule]
	refs  int
}

func (r *role) current() []rbacv1.PolicyRule {
	if rules := r.rules.Load(); rules != nil {
		return *rules
	}
	return nil
}

// binding is a role binding or (without a namespace) a cluster role binding.
type binding struct {
	objectName
	ref      rbacv1.RoleRef
	subjects []rbacv1.Subject
	role     *role
}

// grant is one subject of a binding.
type grant struct {
	*binding
	subject rbacv1.Subject
}

// String names the grant as Kubernetes' audit log does, the odd name/namespace included.
func (g *grant) String() string {
	kind, name := "ClusterRoleBinding", g.name
	if g.namespace != "" {
		kind, name = "RoleBinding", g.name+"/"+g.namespace
	}
	who := g.subject.Name
	if g.subject.Kind == rbacv1.ServiceAccountKind {
		who += "/" + cmp.Or(g.subject.Namespace, g.namespace)
	}
	return fmt.Sprintf("%s %q of %s %q to %s %q", kind, name, g.ref.Kind, g.ref.Name, g.subject.Kind, who)
}

// NewRBAC returns an RBAC that knows no roles: everybody is denied.
func NewRBAC() *RBAC {
	r := &RBAC{roles: map[objectName]*role{}, bindings: map[string]map[string]*binding{}}
	r.index.Store(&rbacIndex{})
	return r
}

// authorize returns the grant that allows the request, or nil. It does not allocate.
func (r *RBAC) authorize(user *request.User, info *request.Info) *grant {
	index := r.index.Load()
	if g := find(index.cluster, user, info); g != nil {
		return g
	}
	if info.Namespace == "" {
		return nil
	}
	return find(index.namespaces[info.Namespace], user, info)
}

func find(grants map[subject][]*grant, user *request.User, info *request.Info) *grant {
	if g := findAmong(grants[subject{name: user.Name}], info); g != nil {
		return g
	}
	for _, group := range user.Groups {
		if g := findAmong(grants[subject{group: true, name: group}], info); g != nil {
			return g
		}
	}
	return nil
}

func findAmong(grants []*grant, info *request.Info) *grant {
	for _, g := range grants {
		if allows(g.role.current(), info) {
			return g
		}
	}
	return nil
}

// grants lists what is bound to a user in a namespace, cluster-wide bindings first;
// each binding appears once.
func (r *RBAC) grants(user *request.User, namespace string) []*grant {
	index := r.index.Load()
	scopes := []map[subject][]*grant{index.cluster}
	if namespace != "" {
		scopes = append(scopes, index.namespaces[namespace])
	}
	var out []*grant
	seen := map[*binding]bool{}
	for _, scope := range scopes {
		keys := []subject{{name: user.Name}}
		for _, group := range user.Groups {
			keys = append(keys, subject{group: true, name: group})
		}
		for _, key := range keys {
			for _, g := range scope[key] {
				if !seen[g.binding] {
					seen[g.binding] = true
					out = append(out, g)
				}
			}
		}
	}
	return out
}

// Rules returns all rules that hold for a user in a namespace ("": cluster-wide
// only). The error names bound roles that do not exist; the rules are right even so.
func (r *RBAC) Rules(user *request.User, namespace string) ([]rbacv1.PolicyRule, error) {
	var rules []rbacv1.PolicyRule
	var missing []error
	for _, g := range r.grants(user, namespace) {
		if g.role.rules.Load() == nil {
			missing = append(missing, missingRole(g.ref))
		}
		rules = append(rules, g.role.current()...)
	}
	return rules, utilerrors.NewAggregate(missing)
}

func missingRole(ref rbacv1.RoleRef) error {
	if ref.Kind == "Role" {
		return apierrors.NewNotFound(rbacv1.Resource("role"), ref.Name)
	}
	return apierrors.NewNotFound(rbacv1.Resource("clusterrole"), ref.Name)
}

// reindex publishes a new index after the bindings of these namespaces changed.
// The caller holds mu.
func (r *RBAC) reindex(dirty map[string]bool) {
	old := r.index.Load()
	next := &rbacIndex{cluster: old.cluster, namespaces: old.namespaces}
	cloned := false
	for namespace := range dirty {
		if namespace == "" {
			next.cluster = grantsOf(r.bindings[""])
			continue
		}
		if !cloned {
			next.namespaces, cloned = maps.Clone(old.namespaces), true
			if next.namespaces == nil {
				next.namespaces = map[string]map[subject][]*grant{}
			}
		}
		if bindings := r.bindings[namespace]; len(bindings) > 0 {
			next.namespaces[namespace] = grantsOf(bindings)
		} else {
			delete(next.namespaces, namespace)
		}
	}
	r.index.Store(next)
}

// grantsOf sorts the grants of one scope by subject, each list by the binding's name.
func grantsOf(bindings map[string]*binding) map[subject][]*grant {
	out := map[subject][]*grant{}
	for _, name := range slices.Sorted(maps.Keys(bindings)) {
		b := bindings[name]
		for _, s := range b.subjects {
			if key, ok := subjectKey(s, b.namespace); ok {
				out[key] = append(out[key], &grant{binding: b, subject: s})
			}
		}
	}
	return out
}

// subjectKey is who a binding's subject means; ok is false for a subject that means
// nobody.
func subjectKey(s rbacv1.Subject, namespace string) (subject, bool) {
	switch s.Kind {
	case rbacv1.UserKind:
		return subject{name: s.Name}, true
	case rbacv1.GroupKind:
		return subject{group: true, name: s.Name}, true
	case rbacv1.ServiceAccountKind:
		namespace = cmp.Or(s.Namespace, namespace)
		return subject{name: "system:serviceaccount:" + namespace + ":" + s.Name}, namespace != ""
	}
	return subject{}, false
}

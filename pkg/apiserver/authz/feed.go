package authz

import (
	rbacv1 "k8s.io/api/rbac/v1"

	"skiff/pkg/api"
	"skiff/pkg/apiserver/lookup"
)

// Apply takes over changes of the four RBAC kinds. Changes of one call become visible
// together.
func (r *RBAC) Apply(changes []lookup.Change) {
	r.mu.Lock()
	defer r.mu.Unlock()
	dirty := map[string]bool{}
	for _, change := range changes {
		if change.Deleted {
			r.remove(change.Object, dirty)
		} else {
			r.put(change.Object, dirty)
		}
	}
	if len(dirty) > 0 {
		r.reindex(dirty)
	}
}

func (r *RBAC) put(obj api.Object, dirty map[string]bool) {
	switch o := obj.(type) {
	case *rbacv1.ClusterRole:
		r.slot(objectName{name: o.Name}).rules.Store(&o.Rules)
	case *rbacv1.Role:
		r.slot(objectName{o.Namespace, o.Name}).rules.Store(&o.Rules)
	case *rbacv1.ClusterRoleBinding:
		r.putBinding(&binding{objectName: objectName{name: o.Name}, ref: o.RoleRef, subjects: o.Subjects}, dirty)
	case *rbacv1.RoleBinding:
		r.putBinding(&binding{objectName: objectName{o.Namespace, o.Name}, ref: o.RoleRef, subjects: o.Subjects}, dirty)
	}
}

func (r *RBAC) remove(obj api.Object, dirty map[string]bool) {
	switch o := obj.(type) {
	case *rbacv1.ClusterRole:
		r.removeRole(objectName{name: o.Name})
	case *rbacv1.Role:
		r.removeRole(objectName{o.Namespace, o.Name})
	case *rbacv1.ClusterRoleBinding:
		r.removeBinding(objectName{name: o.Name}, dirty)
	case *rbacv1.RoleBinding:
		r.removeBinding(objectName{o.Namespace, o.Name}, dirty)
	}
}

// slot returns the slot of a role, which need not exist yet.
func (r *RBAC) slot(name objectName) *role {
	s := r.roles[name]
	if s == nil {
		s = &role{}
		r.roles[name] = s
	}
	return s
}

func (r *RBAC) removeRole(name objectName) {
	if s := r.roles[name]; s != nil {
		s.rules.Store(nil)
		r.release(name, s)
	}
}

// release forgets a slot that nothing needs any more.
func (r *RBAC) release(name objectName, s *role) {
	if s.refs == 0 && s.rules.Load() == nil {
		delete(r.roles, name)
	}
}

// roleName is the role that a binding refers to. ok is false for a reference that
// can't be followed, which grants nothing.
func (b *binding) roleName() (name objectName, ok bool) {
	switch {
	case b.ref.Kind == "ClusterRole":
		return objectName{name: b.ref.Name}, true
	case b.ref.Kind == "Role" && b.namespace != "":
		return objectName{b.namespace, b.ref.Name}, true
	}
	return objectName{}, false
}

func (r *RBAC) putBinding(b *binding, dirty map[string]bool) {
	r.removeBinding(b.objectName, dirty)
	name, ok := b.roleName()
	if !ok {
		return
	}
	b.role = r.slot(name)
	b.role.refs++
	if r.bindings[b.namespace] == nil {
		r.bindings[b.namespace] = map[string]*binding{}
	}
	r.bindings[b.namespace][b.name] = b
	dirty[b.namespace] = true
}

func (r *RBAC) removeBinding(name objectName, dirty map[string]bool) {
	b := r.bindings[name.namespace][name.name]
	if b == nil {
		return
	}
	delete(r.bindings[name.namespace], name.name)
	if len(r.bindings[name.namespace]) == 0 {
		delete(r.bindings, name.namespace)
	}
	dirty[name.namespace] = true
	b.role.refs--
	if role, ok := b.roleName(); ok {
		r.release(role, b.role)
	}
}

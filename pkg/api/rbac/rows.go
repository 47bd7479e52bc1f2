// Package rbac holds the catalogue's rows of the group rbac.authorization.k8s.io (roles and their bindings).
package rbac

import (
	rbacv1 "k8s.io/api/rbac/v1"

	"skiff/pkg/api"
)

var gv = rbacv1.SchemeGroupVersion

// Kinds returns the group's rows.
func Kinds() []*api.Kind {
	return []*api.Kind{
		roleKind(),
		roleBindingKind(),
		clusterRoleKind(),
		clusterRoleBindingKind(),
	}
}

func roleKind() *api.Kind {
	return api.Define[rbacv1.Role, rbacv1.RoleList](gv, "roles", api.Kind{
		Validate:            validateRole,
		ValidateUpdate:      validateRoleUpdate,
		Namespaced:          true,
		UnconditionalUpdate: true,
		CreateOnUpdate:      true,
		NameValidation:      api.PathSegment,
	})
}

func roleBindingKind() *api.Kind {
	return api.Define[rbacv1.RoleBinding, rbacv1.RoleBindingList](gv, "rolebindings", api.Kind{
		Validate:            validateRoleBinding,
		ValidateUpdate:      validateRoleBindingUpdate,
		Namespaced:          true,
		UnconditionalUpdate: true,
		CreateOnUpdate:      true,
		Default:             defaultRoleBinding,
		NameValidation:      api.PathSegment,
		Columns:             bindingColumns,
		Cells:               roleBindingCells,
	})
}

func clusterRoleKind() *api.Kind {
	return api.Define[rbacv1.ClusterRole, rbacv1.ClusterRoleList](gv, "clusterroles", api.Kind{
		Validate:            validateClusterRole,
		ValidateUpdate:      validateClusterRoleUpdate,
		UnconditionalUpdate: true,
		CreateOnUpdate:      true,
		NameValidation:      api.PathSegment,
	})
}

func clusterRoleBindingKind() *api.Kind {
	return api.Define[rbacv1.ClusterRoleBinding, rbacv1.ClusterRoleBindingList](gv, "clusterrolebindings", api.Kind{
		Validate:            validateClusterRoleBinding,
		ValidateUpdate:      validateClusterRoleBindingUpdate,
		UnconditionalUpdate: true,
		CreateOnUpdate:      true,
		Default:             defaultClusterRoleBinding,
		NameValidation:      api.PathSegment,
		Columns:             bindingColumns,
		Cells:               clusterRoleBindingCells,
	})
}

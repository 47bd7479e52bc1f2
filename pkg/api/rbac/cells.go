package rbac

import (
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"

	"skiff/pkg/api"
)

var bindingColumns = api.Columns("Name, Role, Age, +Users, +Groups, +ServiceAccounts")

func roleBindingCells(obj api.Object) []any {
	b := obj.(*rbacv1.RoleBinding)
	return bindingCells(b, b.RoleRef, b.Subjects)
}

func clusterRoleBindingCells(obj api.Object) []any {
	b := obj.(*rbacv1.ClusterRoleBinding)
	return bindingCells(b, b.RoleRef, b.Subjects)
}

func bindingCells(obj api.Object, role rbacv1.RoleRef, subjects []rbacv1.Subject) []any {
	var users, groups, accounts []string
	for _, s := range subjects {
		switch s.Kind {
		case rbacv1.UserKind:
			users = append(users, s.Name)
		case rbacv1.GroupKind:
			groups = append(groups, s.Name)
		case rbacv1.ServiceAccountKind:
			accounts = append(accounts, s.Namespace+"/"+s.Name)
		}
	}
	return []any{obj.GetName(), role.Kind + "/" + role.Name, api.Age(obj),
		strings.Join(users, ", "), strings.Join(groups, ", "), strings.Join(accounts, ", ")}
}

// Package authorization holds the catalogue's rows of the group authorization.k8s.io, whose kinds are
// questions that the server answers and never stores.
package authorization

import (
	authorizationv1 "k8s.io/api/authorization/v1"

	"skiff/pkg/api"
)

var gv = authorizationv1.SchemeGroupVersion

// Kinds returns the group's rows.
func Kinds() []*api.Kind {
	return []*api.Kind{
		api.DefineVirtual[authorizationv1.SubjectAccessReview](gv, "subjectaccessreviews", api.Kind{}),
		api.DefineVirtual[authorizationv1.SelfSubjectAccessReview](gv, "selfsubjectaccessreviews", api.Kind{}),
		api.DefineVirtual[authorizationv1.LocalSubjectAccessReview](gv, "localsubjectaccessreviews", api.Kind{Namespaced: true}),
		api.DefineVirtual[authorizationv1.SelfSubjectRulesReview](gv, "selfsubjectrulesreviews", api.Kind{}),
	}
}

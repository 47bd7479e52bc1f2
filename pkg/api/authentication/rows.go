// Package authentication holds the catalogue's rows of the group authentication.k8s.io, whose kinds are
// questions that the server answers and never stores.
package authentication

import (
	authenticationv1 "k8s.io/api/authentication/v1"

	"skiff/pkg/api"
)

var gv = authenticationv1.SchemeGroupVersion

// Kinds returns the group's rows.
func Kinds() []*api.Kind {
	return []*api.Kind{
		api.DefineVirtual[authenticationv1.TokenReview](gv, "tokenreviews", api.Kind{}),
		api.DefineVirtual[authenticationv1.SelfSubjectReview](gv, "selfsubjectreviews", api.Kind{}),
	}
}

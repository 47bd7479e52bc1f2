package apiserver

import (
	"context"

	"skiff/pkg/api"
	"skiff/pkg/apiserver/admission/policy"
	"skiff/pkg/apiserver/lookup"
)

// checkPolicies keeps the status of validating policies.
func (s *server) checkPolicies(ctx context.Context) error {
	rows := lookup.NewStore(s.store, byResource(s.cfg.Catalogue))
	return policy.KeepStatus(ctx, policy.StatusConfig{
		Checker: &policy.TypeChecker{Catalogue: s.cfg.Catalogue, Schema: s.openapi.Schema},
		Feed:    rows, Writer: rows,
		Track: func(live, next api.Object, owner string) api.Object {
			return s.managers.Of(s.kind(next.GetObjectKind().GroupVersionKind()), "status").Update(live, next, owner)
		},
	})
}

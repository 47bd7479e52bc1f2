package apiserver

import (
	"context"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"skiff/pkg/api"
	"skiff/pkg/apiserver/admission/policy"
	"skiff/pkg/apiserver/lookup"
)

// checkPolicies keeps the status of validating policies.
func (s *server) checkPolicies(ctx context.Context) error {
	rows := lookup.NewStore(s.store, byResource(s.cfg.Catalogue))
	return policy.KeepStatus(ctx, policy.StatusConfig{
		Checker: &policy.TypeChecker{Catalogue: s.cfg.Catalogue, Schema: s.openapi.Schema},
		Feed:    rows, Writer: rows, Apply: s.applyStatus,
	})
}

// applyStatus makes status an owner's in a copy of live, whoever owned it before.
func (s *server) applyStatus(live api.Object, status any, owner string) (api.Object, error) {
	fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(status)
	if err != nil {
		return nil, err
	}
	configuration := &unstructured.Unstructured{Object: map[string]any{"status": fields}}
	configuration.SetGroupVersionKind(live.GetObjectKind().GroupVersionKind())
	configuration.SetName(live.GetName())
	return s.managers.Of(s.kind(configuration.GroupVersionKind()), "status").Apply(live, configuration, owner, true)
}

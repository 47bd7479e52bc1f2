package apiserver

import (
	"context"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/pkg/api"
	"skiff/pkg/apiserver/crd"
	"skiff/pkg/apiserver/request"
	"skiff/pkg/store"
)

// newCustom makes what serves custom resources.
func newCustom(s *server) *crd.Controller {
	return crd.New(crd.Config{
		Catalogue: s.cfg.Catalogue, Store: s.store, Logger: s.logger,
		Services: s.serviceAddress,
		Track: func(live, next api.Object) api.Object {
			kind := s.kind(next.GetObjectKind().GroupVersionKind())
			return s.managers.Of(kind, "status").Update(live, next, "kube-apiserver")
		},
		Delete:  s.deleteCustom,
		Dropped: s.managers.Forget,
	})
}

// runCustom serves custom resources; the server is ready when all that are defined are served.
func (s *server) runCustom(ctx context.Context) error {
	return s.crds.Run(ctx, func() { s.customReady.Store(true) })
}

// deleteCustom deletes an object whose definition goes. Admission has nothing to say to that.
func (s *server) deleteCustom(ctx context.Context, kind *api.Kind, key store.Key) error {
	info := &request.Info{Verb: "delete"}
	info.Name, info.Namespace = key.Name, key.Namespace
	_, err := s.deletionOf(ctx, &call{Info: info, kind: kind, key: key}, &metav1.DeleteOptions{}, true)
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

package apiserver

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"skiff/pkg/api"
	"skiff/pkg/apiserver/aggregate"
	"skiff/pkg/apiserver/lookup"
	"skiff/pkg/apiserver/request"
	"skiff/pkg/store"
)

// newAggregator makes what knows of the APIs that other servers answer.
func newAggregator(s *server) *aggregate.Aggregator {
	return aggregate.New(aggregate.Config{
		Catalogue: s.cfg.Catalogue, Store: s.store, Objects: lookup.NewStore(s.store, byResource(s.cfg.Catalogue)), Logger: s.logger,
		Metrics: s.metrics.registry, Resolve: s.serviceAddress,
		CertFile: s.cfg.ProxyCertFile, KeyFile: s.cfg.ProxyKeyFile,
		Track: func(live, next api.Object) api.Object {
			return s.managers.Of(s.kind(apiregistrationv1.SchemeGroupVersion.WithKind("APIService")), "status").Update(live, next, "kube-apiserver")
		},
		Delete: s.deleteAPIService,
	})
}

// deleteAPIService deletes one that this server made. Admission has nothing to say to that.
func (s *server) deleteAPIService(ctx context.Context, object *apiregistrationv1.APIService) error {
	kind := s.kind(apiregistrationv1.SchemeGroupVersion.WithKind("APIService"))
	info := &request.Info{Verb: "delete"}
	info.Name = object.Name
	options := &metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(object.UID))}
	_, err := s.deletionOf(ctx, &call{Info: info, kind: kind, key: store.Key{Path: kind.StoragePath, Name: object.Name}}, options, true)
	return err
}

// remote is the other server that a request below /api or /apis is for; nil if it is this one.
func (s *server) remote(r *http.Request) *aggregate.Remote {
	state := s.aggregator.State()
	if state.Alone() {
		return nil
	}
	if info := request.InfoFrom(r.Context()); info.IsResourceRequest {
		return state.Remote(info.GroupVersion())
	}
	return state.At(strings.Trim(r.URL.Path, "/"))
}

// passDocument passes a request for an OpenAPI v3 document on to the server that has it, and says whether there is one.
func (s *server) passDocument(w http.ResponseWriter, r *http.Request) bool {
	remote := s.aggregator.State().At(strings.TrimPrefix(r.URL.Path, "/openapi/v3/"))
	if remote == nil {
		return false
	}
	// The hash may be that of an older document, for which a server answers with a redirection.
	query := r.URL.Query()
	query.Del("hash")
	r.URL.RawQuery = query.Encode()
	s.aggregator.Proxy(w, r, remote)
	return true
}

// trust is what servers of aggregated APIs are told: the files as they are now.
func (s *Security) trust() (aggregate.Trust, error) {
	front := s.FrontProxy
	t := aggregate.Trust{Names: front.Names, UserHeaders: front.UserHeaders, UIDHeaders: front.UIDHeaders,
		GroupHeaders: front.GroupHeaders, ExtraPrefixes: front.ExtraPrefixes}
	for file, into := range map[string]*[]byte{s.ClientCAFile: &t.ClientCA, front.CAFile: &t.ProxyCA} {
		var err error
		if file == "" {
			continue
		}
		if *into, err = os.ReadFile(file); err != nil {
			return t, err
		}
	}
	return t, nil
}

// publishTrust keeps the config map from which servers of aggregated APIs learn how to recognize users.
func (s *server) publishTrust(ctx context.Context) error {
	if s.cfg.Trust == nil {
		return nil
	}
	trust, err := s.cfg.Trust()
	if err != nil {
		return fmt.Errorf("what servers of aggregated APIs have to know: %w", err)
	}
	return s.ensure(ctx, corev1.SchemeGroupVersion.WithKind("ConfigMap"), metav1.NamespaceSystem, "extension-apiserver-authentication", func(current api.Object) (api.Object, error) {
		next := &corev1.ConfigMap{}
		if current != nil {
			next = current.DeepCopyObject().(*corev1.ConfigMap)
		}
		var err error
		next.Data, err = trust.Merge(next.Data, time.Now())
		return next, err
	})
}

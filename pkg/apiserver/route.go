package apiserver

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/gorilla/mux"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff/pkg/api"
	"skiff/pkg/apiserver/request"
	"skiff/pkg/component"
	"skiff/pkg/store"
)

// router has a route per kind of path, not per resource: what lies below /api and /apis
// is parsed by package request, since names may hold any character.
func (s *server) router() http.Handler {
	r := mux.NewRouter().SkipClean(true).UseEncodedPath()
	for _, endpoint := range []string{"healthz", "livez", "readyz"} {
		r.PathPrefix("/"+endpoint).Handler(s.cfg.Health.Endpoint(endpoint)).Methods(http.MethodGet, http.MethodHead)
	}
	r.Handle("/metrics", promhttp.HandlerFor(s.metrics.registry, promhttp.HandlerOpts{})).Methods(http.MethodGet)
	r.PathPrefix("/debug/pprof/").Handler(component.Profiles()).Methods(http.MethodGet, http.MethodPost)
	for path, handler := range s.cfg.More {
		r.Handle(path, handler)
	}
	reading := []string{http.MethodGet, http.MethodHead}
	r.Handle("/", s.handler(s.discovery.root)).Methods(reading...)
	r.Handle("/openapi/v2", s.handler(s.openapi.V2)).Methods(reading...)
	r.Handle("/openapi/v3", s.handler(s.openapi.Index)).Methods(reading...)
	r.PathPrefix("/openapi/v3/").Handler(s.handler(func(w http.ResponseWriter, r *http.Request) error {
		if s.passDocument(w, r) {
			return nil
		}
		found, err := s.openapi.V3(w, r)
		if err == nil && !found {
			err = notFoundPath()
		}
		return err
	})).Methods(reading...)
	r.Handle("/version", s.handler(s.discovery.version)).Methods(reading...)
	for _, root := range []string{"/api", "/apis"} {
		r.HandleFunc(root, s.serveResource)
		r.PathPrefix(root + "/").HandlerFunc(s.serveResource)
	}
	r.NotFoundHandler = s.handler(func(http.ResponseWriter, *http.Request) error { return errNoAPI })
	r.MethodNotAllowedHandler = s.handler(func(http.ResponseWriter, *http.Request) error {
		return methodNotAllowed()
	})
	return r
}

// handler turns a function that may fail into a handler.
func (s *server) handler(serve func(http.ResponseWriter, *http.Request) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := serve(w, r); err != nil {
			s.writeError(w, r, err)
		}
	})
}

// call is a request for a resource that exists.
type call struct {
	*request.Info
	user   *request.User
	kind   *api.Kind
	sub    *api.Subresource // nil for the resource itself
	key    store.Key
	accept *accept
	fence  func(obj, old api.Object) (store.Effect, error) // nil without a fence
}

// plain is the call's format without its conversion.
func (c *call) plain(s *server) *accept {
	if c.accept == nil {
		return &accept{info: s.codec.info(runtime.ContentTypeJSON)}
	}
	a := *c.accept
	a.as = nil
	return &a
}

// attributes describes a write to admission.
func (c *call) attributes(ctx context.Context, op request.Operation, obj, old runtime.Object, options runtime.Object, dryRun bool) *request.Attributes {
	namespace := c.Namespace
	if namespace == "" && c.kind.Group == "" && c.kind.Resource == "namespaces" {
		namespace = c.Name // on create, as the paths of all other requests for one have it
	}
	return &request.Attributes{
		Operation: op, Kind: c.kind, Subresource: c.Subresource, Namespace: namespace, Name: c.Name,
		Object: obj, Old: old, User: c.user, DryRun: dryRun, Options: options,
		Warn:     func(text string) { request.Warn(ctx, text) },
		Annotate: func(key, value string) { request.Annotate(ctx, key, value) },
	}
}

// kind returns the row of a kind that the server itself needs; nil if it isn't served.
func (s *server) kind(gvk schema.GroupVersionKind) *api.Kind {
	return s.cfg.Catalogue.View().ByKind(gvk)
}

func (s *server) mutate(ctx context.Context, a *request.Attributes) error {
	if a.Operation == request.Create && a.Subresource == "" && a.Kind.Custom != nil && a.Kind.Custom.Terminating {
		return apierrors.NewForbidden(a.Kind.GroupResource(), a.Name, errors.New("create not allowed while custom resource definition is terminating"))
	}
	if s.cfg.Admission == nil {
		return nil
	}
	return s.cfg.Admission.Mutate(ctx, a)
}

func (s *server) validate(ctx context.Context, a *request.Attributes) error {
	if s.cfg.Admission == nil {
		return nil
	}
	return s.cfg.Admission.Validate(ctx, a)
}

// serveResource finds the row and the verb's handler, if no other server has them.
func (s *server) serveResource(w http.ResponseWriter, r *http.Request) {
	if remote := s.remote(r); remote != nil {
		s.aggregator.Proxy(w, r, remote)
		return
	}
	if err := s.resource(w, r); err != nil {
		s.writeError(w, r, err)
	}
}

func (s *server) resource(w http.ResponseWriter, r *http.Request) error {
	info := request.InfoFrom(r.Context())
	if !info.IsResourceRequest {
		return s.discovery.serve(w, r)
	}
	c, err := s.find(r, info)
	if err != nil {
		return err
	}
	if c.sub != nil && c.sub.Action {
		return s.action(w, r, c)
	}
	if c.accept = s.codec.accept(r, c.formats()); c.accept == nil {
		return s.codec.refused(r, c)
	}
	warnDeprecated(r, c)
	if c.kind.Virtual && info.Verb != "create" {
		return s.readVirtual(w, r, c)
	}
	switch info.Verb {
	case "get":
		return s.get(w, r, c)
	case "list":
		return s.list(w, r, c)
	case "watch":
		return s.watch(w, r, c)
	case "create":
		return s.create(w, r, c)
	case "update":
		return s.update(w, r, c)
	case "patch":
		return s.patch(w, r, c)
	case "delete":
		return s.delete(w, r, c)
	case "deletecollection":
		return s.deleteCollection(w, r, c)
	}
	return methodNotAllowed()
}

// warnDeprecated tells people that a kind is on its way out, as its Go type knows. Components,
// whose logs would fill with it, are spared.
func warnDeprecated(r *http.Request, c *call) {
	if c.kind.Custom != nil {
		for _, text := range c.kind.Custom.Warnings {
			request.Warn(r.Context(), text)
		}
		return
	}
	if c.user == nil || strings.HasPrefix(c.user.Name, "system:") {
		return
	}
	old, ok := c.kind.New().(interface{ APILifecycleDeprecated() (major, minor int) })
	if !ok {
		return
	}
	major, minor := old.APILifecycleDeprecated()
	text := fmt.Sprintf("%s %s is deprecated in v%d.%d+", c.kind.GroupVersion(), c.kind.Kind, major, minor)
	if removed, ok := old.(interface{ APILifecycleRemoved() (major, minor int) }); ok {
		major, minor := removed.APILifecycleRemoved()
		text += fmt.Sprintf(", unavailable in v%d.%d+", major, minor)
	}
	if instead, ok := old.(interface {
		APILifecycleReplacement() schema.GroupVersionKind
	}); ok {
		gvk := instead.APILifecycleReplacement()
		text += fmt.Sprintf("; use %s %s", gvk.GroupVersion(), gvk.Kind)
	}
	request.Warn(r.Context(), text)
}

// formats says how this resource can be sent: custom resources have no protobuf form, and the
// answer of a review is no row of a table.
func (c *call) formats() allowed {
	if c.kind.Virtual && c.kind.Cells == nil {
		return func(info *runtime.SerializerInfo, as *schema.GroupVersionKind) bool {
			return metadataAllowed(info, as) && (as == nil || as.Kind != "Table")
		}
	}
	if c.kind.Custom == nil || c.sub != nil && c.sub.Scale != nil {
		return metadataAllowed
	}
	return func(info *runtime.SerializerInfo, as *schema.GroupVersionKind) bool {
		return metadataAllowed(info, as) && (as != nil || info.MediaType != runtime.ContentTypeProtobuf)
	}
}

// find resolves a path to a row of the catalogue; what isn't served is 404 or 405, as
// Kubernetes' routes would have it.
func (s *server) find(r *http.Request, info *request.Info) (*call, error) {
	gvr := info.GroupVersion().WithResource(info.Resource)
	kind := s.cfg.Catalogue.View().ByResource(gvr)
	if kind == nil {
		s.crds.Refresh(r.Context(), gvr.GroupResource())
		kind = s.cfg.Catalogue.View().ByResource(gvr)
	}
	if kind == nil {
		return nil, s.notFoundIn(gvr.Group)
	}
	c := &call{Info: info, user: request.UserFrom(r.Context()), kind: kind}
	var err error
	if c.fence, err = fence(r.Header); err != nil {
		return nil, err
	}
	c.key = store.Key{Path: kind.StoragePath, Name: info.Name}
	if kind.Namespaced {
		c.key.Namespace = info.Namespace
	} else if info.Namespace != "" && info.Resource != "namespaces" {
		return nil, notFoundPath()
	}
	verbs := kind.ServedVerbs()
	if info.Subresource != "" {
		if c.sub = kind.Subresources[info.Subresource]; c.sub == nil && kind.Custom != nil {
			return nil, apierrors.NewNotFound(kind.GroupResource(), info.Name)
		} else if c.sub == nil {
			return nil, notFoundPath()
		}
		verbs = c.sub.Verbs
	}
	named := info.Name != "" && info.Verb != "list" && info.Verb != "deletecollection" && info.Verb != "watch"
	if named && kind.Namespaced && info.Namespace == "" {
		return nil, notFoundPath()
	}
	if bad := api.PathSegment(info.Name, false); named && len(bad) > 0 {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("Name parameter invalid: %q: %s", info.Name, strings.Join(bad, ";")))
	}
	// What is proxied may be any method; Kubernetes has no verb for OPTIONS.
	proxied := r.Method == http.MethodOptions && info.Subresource == "proxy"
	switch {
	case !slices.Contains(verbs, info.Verb) && kind.Custom != nil:
		return nil, apierrors.NewMethodNotSupported(kind.GroupResource(), info.Verb)
	case !slices.Contains(verbs, info.Verb) && !proxied,
		// One can list or watch all namespaces, not write to them.
		kind.Namespaced && info.Namespace == "" && info.Verb != "list" && info.Verb != "watch",
		// Names are in the body of a create and in the path of the others.
		info.Verb == "create" && info.Name != "" && c.sub == nil,
		info.Verb != "create" && info.Name == "" && info.Verb != "list" && info.Verb != "watch" && info.Verb != "deletecollection":
		return nil, methodNotAllowed()
	}
	if info.Verb == "list" || info.Verb == "deletecollection" || info.Verb == "watch" {
		// A name there comes from a selector; it is for the authorizer.
		c.key.Name = ""
	}
	return c, nil
}

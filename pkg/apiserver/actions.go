package apiserver

import (
	"net/http"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"skiff/pkg/api"
	"skiff/pkg/apiserver/request"
)

// action serves the subresources that aren't views of an object.
func (s *server) action(w http.ResponseWriter, r *http.Request, c *call) error {
	switch c.Subresource {
	case "log", "exec", "attach", "portforward", "proxy":
		return s.connect(w, r, c)
	}
	if c.accept = s.codec.accept(r, onlyPlain); c.accept == nil {
		return s.codec.notAcceptable(false)
	}
	options, body, err := s.actionBody(r, c)
	if err != nil {
		return err
	}
	switch body := body.(type) {
	case *corev1.Binding:
		if c.Resource == "pods" {
			return s.bind(w, r, c, body, options)
		}
	case *policyv1.Eviction:
		return s.evict(w, r, c, body, options)
	case *authenticationv1.TokenRequest:
		return s.token(w, r, c, body, options)
	}
	return notFoundPath()
}

// actionBody decodes the body of an action.
func (s *server) actionBody(r *http.Request, c *call) (*metav1.CreateOptions, runtime.Object, error) {
	options, err := createOptions(r)
	if err != nil {
		return nil, nil, err
	}
	info, err := s.codec.bodyFormat(r)
	if err != nil {
		return nil, nil, err
	}
	body, err := readBody(r)
	if err != nil {
		return nil, nil, err
	}
	if c.sub.New == nil {
		return nil, nil, notFoundPath()
	}
	obj, err := s.codec.decode(r, decoder(info, nil, options.FieldValidation), body, c.sub.GroupVersionKind, c.sub.New(), options.FieldValidation)
	if err != nil {
		return nil, nil, err
	}
	if meta, ok := obj.(metav1.Object); ok {
		if err := matchNamespace(c.key.Namespace, meta); err != nil {
			return nil, nil, err
		}
	}
	return options, obj, nil
}

// admitAction lets admission see an action's body.
func (s *server) admitAction(r *http.Request, c *call, body runtime.Object, options *metav1.CreateOptions) error {
	a := c.attributes(r.Context(), request.Create, body, nil, options, isDryRun(options.DryRun))
	if err := s.mutate(r.Context(), a); err != nil {
		return err
	}
	return s.validate(r.Context(), a)
}

// writeSuccess answers an action that has nothing else to say.
func (s *server) writeSuccess(w http.ResponseWriter, r *http.Request, c *call) {
	s.writeObject(w, r, http.StatusCreated, c.accept, &metav1.Status{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusSuccess, Code: http.StatusCreated,
	})
}

// token issues a service account token.
func (s *server) token(w http.ResponseWriter, r *http.Request, c *call, body *authenticationv1.TokenRequest, options *metav1.CreateOptions) error {
	if err := s.mutate(r.Context(), c.attributes(r.Context(), request.Create, body, nil, options, isDryRun(options.DryRun))); err != nil {
		return err
	}
	answer, err := s.cfg.Reviews.Token(r.Context(), c.key.Namespace, c.key.Name, body, func(complete *authenticationv1.TokenRequest) error {
		return s.validate(r.Context(), c.attributes(r.Context(), request.Create, complete, nil, options, isDryRun(options.DryRun)))
	})
	if err != nil {
		return err
	}
	answer.SetGroupVersionKind(c.sub.GroupVersionKind)
	s.writeObject(w, r, http.StatusCreated, c.accept, answer)
	return nil
}

// review answers a create of a virtual kind.
func (s *server) review(w http.ResponseWriter, r *http.Request, c *call, obj api.Object, options *metav1.CreateOptions) error {
	if err := matchNamespace(c.Namespace, obj); err != nil {
		return err
	}
	if binding, ok := obj.(*corev1.Binding); ok {
		return s.legacyBind(w, r, c, binding, options)
	}
	if err := s.admitAction(r, c, obj, options); err != nil {
		return err
	}
	answer, err := s.cfg.Reviews.Review(r.Context(), c.kind, c.Namespace, obj)
	if err != nil {
		return err
	}
	return s.writeItem(w, r, http.StatusCreated, c, drafted{answer})
}

// readVirtual answers get and list of the one virtual kind that can be read: component
// statuses, deprecated since 1.19. The store is the component that this server knows about.
func (s *server) readVirtual(w http.ResponseWriter, r *http.Request, c *call) error {
	etcd := corev1.ComponentStatus{ObjectMeta: metav1.ObjectMeta{Name: "etcd-0"}}
	condition := corev1.ComponentCondition{Type: corev1.ComponentHealthy, Status: corev1.ConditionTrue, Message: "ok"}
	if err := s.store.Ready(r.Context()); err != nil {
		condition.Status, condition.Message, condition.Error = corev1.ConditionFalse, "", err.Error()
	}
	etcd.Conditions = []corev1.ComponentCondition{condition}
	if c.Verb == "get" {
		if c.Name != etcd.Name {
			return apierrors.NewNotFound(corev1.Resource("componentstatus"), c.Name)
		}
		return s.writeItem(w, r, http.StatusOK, c, drafted{&etcd})
	}
	if c.accept.as != nil && c.accept.as.Kind == "Table" {
		return s.writeTable(w, r, http.StatusOK, c, []item{drafted{&etcd}}, metav1.ListMeta{})
	}
	list := &corev1.ComponentStatusList{Items: []corev1.ComponentStatus{etcd}}
	list.SetGroupVersionKind(c.kind.GroupVersion().WithKind("ComponentStatusList"))
	s.writeObject(w, r, http.StatusOK, c.plain(s), list)
	return nil
}

package apiserver

import (
	"context"
	"fmt"
	"mime"
	"net/http"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"skiff/pkg/api"
	"skiff/pkg/apiserver/patch"
)

var patchTypes = []string{
	string(types.JSONPatchType), string(types.MergePatchType),
	string(types.StrategicMergePatchType), string(types.ApplyYAMLPatchType),
}

// patch changes an object by one of the four patch types.
func (s *server) patch(w http.ResponseWriter, r *http.Request, c *call) error {
	p, err := s.readPatch(r, c)
	if err != nil {
		return err
	}
	if c.sub != nil && c.sub.Scale != nil {
		return s.patchScale(w, r, c, p)
	}
	return s.writeChange(w, r, c, change{
		dryRun:  isDryRun(p.options.DryRun),
		options: p.options,
		// Apply creates; the others need something to patch.
		create: p.kind == types.ApplyYAMLPatchType && c.sub == nil,
		apply: func(ctx context.Context, current api.Object) (api.Object, error) {
			next, err := s.patched(ctx, r, c, p, current)
			if err != nil {
				return nil, err
			}
			return next, matchName(c, next)
		},
	})
}

// patchRequest is a patch as it came.
type patchRequest struct {
	kind    types.PatchType
	body    []byte
	options *metav1.PatchOptions
	owner   string // the field manager
}

func (s *server) readPatch(r *http.Request, c *call) (*patchRequest, error) {
	contentType, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	supported := patchTypes
	if c.kind.Custom != nil && (c.sub == nil || c.sub.Scale == nil) {
		supported = slices.DeleteFunc(slices.Clone(patchTypes), func(t string) bool { return t == string(types.StrategicMergePatchType) })
	}
	switch {
	case err == nil && slices.Contains(supported, contentType):
	case c.kind.Custom != nil:
		return nil, unsupportedMediaType(supported)
	default:
		return nil, unroutable(http.StatusUnsupportedMediaType, "415: Unsupported Media Type")
	}
	p := &patchRequest{kind: types.PatchType(contentType)}
	if p.body, err = readBody(r); err != nil {
		return nil, err
	}
	if p.options, err = patchOptions(r, p.kind); err != nil {
		return nil, err
	}
	p.owner = manager(p.options.FieldManager, r.UserAgent())
	return p, nil
}

// patched is what the patch makes of current; nil is an object to be made by apply.
func (s *server) patched(ctx context.Context, r *http.Request, c *call, p *patchRequest, current api.Object) (api.Object, error) {
	fields := s.managers.Of(c.kind, c.Subresource)
	if p.kind == types.ApplyYAMLPatchType {
		configuration, err := readConfiguration(r, p)
		if err != nil {
			return nil, err
		}
		if current == nil {
			current = c.kind.New()
			current.GetObjectKind().SetGroupVersionKind(c.kind.GroupVersionKind)
		}
		force := p.options.Force != nil && *p.options.Force
		// What changes nothing comes back as it went in; current has to stay apart.
		next, err := fields.Apply(current.DeepCopyObject().(api.Object), configuration, p.options.FieldManager, force)
		if err != nil {
			return nil, err
		}
		if c.kind.Default != nil {
			c.kind.Default(next)
		}
		return next, nil
	}
	current.GetObjectKind().SetGroupVersionKind(c.kind.GroupVersionKind)
	patched, err := s.patchObject(r, p, current, c.kind.GroupVersionKind, c.kind.Custom, func() runtime.Object { return c.kind.New() })
	if err != nil {
		return nil, err
	}
	next := patched.(api.Object)
	if c.kind.Default != nil {
		c.kind.Default(next)
	}
	return fields.Update(current, next, p.owner), nil
}

// patchObject applies a patch other than apply, and deals with violations of strictness as the request asks.
func (s *server) patchObject(r *http.Request, p *patchRequest, current runtime.Object, gvk schema.GroupVersionKind, custom *api.Custom, empty func() runtime.Object) (runtime.Object, error) {
	validation := p.options.FieldValidation
	job := patch.Patch{
		Type: p.kind, Body: p.body, New: empty,
		Strict: validation != metav1.FieldValidationIgnore,
		Decode: func(document []byte) (runtime.Object, error) {
			obj, actual, err := decoder(s.codec.info(runtime.ContentTypeJSON), custom, validation).Decode(document, &gvk, empty())
			if custom != nil && obj != nil && actual.Kind != gvk.Kind {
				return nil, notOfKind(obj.(api.Object), actual, gvk)
			}
			if obj != nil && *actual != gvk { // with a strict decoding error, too
				return nil, apierrors.NewBadRequest(fmt.Sprintf("%s in version %q cannot be handled as a %s: %v",
					actual.Kind, actual.Version, gvk.Kind, unconvertible(actual, &gvk)))
			}
			return obj, err
		},
	}
	next, violations, err := job.Apply(current)
	if err != nil {
		return nil, err
	}
	if len(violations) > 0 {
		if validation == metav1.FieldValidationStrict {
			return nil, patch.Refuse(strings.TrimSpace(string(p.body)), violations)
		}
		warnStrict(r, violations)
	}
	next.GetObjectKind().SetGroupVersionKind(gvk)
	return next, nil
}

// readConfiguration decodes the body of an apply, and deals with doubled keys.
func readConfiguration(r *http.Request, p *patchRequest) (*unstructured.Unstructured, error) {
	configuration := &unstructured.Unstructured{Object: map[string]any{}}
	document, err := yaml.YAMLToJSON(p.body)
	if err != nil {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("error decoding YAML: error converting YAML to JSON: %v", err))
	}
	// A custom resource's integers stay what they are.
	if err := kjson.UnmarshalCaseSensitivePreserveInts(document, &configuration.Object); err != nil {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("error decoding YAML: error unmarshaling JSON: while decoding JSON: %v", err))
	}
	if p.options.FieldValidation == metav1.FieldValidationIgnore {
		return configuration, nil
	}
	if err := yaml.UnmarshalStrict(p.body, &map[string]any{}); err != nil {
		if p.options.FieldValidation == metav1.FieldValidationStrict {
			return nil, apierrors.NewBadRequest(fmt.Sprintf("error strict decoding YAML: %v", err))
		}
		warnStrict(r, []error{err})
	}
	return configuration, nil
}

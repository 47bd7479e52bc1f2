package apiserver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	internalscheme "k8s.io/apimachinery/pkg/apis/meta/internalversion/scheme"
	internalvalidation "k8s.io/apimachinery/pkg/apis/meta/internalversion/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/pkg/api"
	"skiff/pkg/apiserver/request"
)

// maxBody is the largest request body, in bytes: what etcd takes, and some.
const maxBody = 3 << 20

// readBody reads the whole body, and refuses one that is too large.
func readBody(r *http.Request) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
	if err != nil {
		if r.Context().Err() != nil {
			return nil, r.Context().Err()
		}
		if errors.Is(err, os.ErrDeadlineExceeded) { // of the connection, which is about to be the request's
			return nil, context.DeadlineExceeded
		}
		return nil, apierrors.NewBadRequest("read the request's body: " + err.Error())
	}
	if len(body) > maxBody {
		return nil, apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("limit is %d", maxBody))
	}
	auditRequest(r, body)
	return body, nil
}

// parameters reads query parameters into a meta options object.
func parameters(query url.Values, into runtime.Object) error {
	if err := internalscheme.ParameterCodec.DecodeParameters(query, metav1.SchemeGroupVersion, into); err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	return nil
}

func invalidOptions(kind string, errs field.ErrorList) error {
	if len(errs) == 0 {
		return nil
	}
	return apierrors.NewInvalid(schema.GroupKind{Group: metav1.GroupName, Kind: kind}, "", errs)
}

func createOptions(r *http.Request) (*metav1.CreateOptions, error) {
	o := &metav1.CreateOptions{}
	if err := parameters(r.URL.Query(), o); err != nil {
		return nil, err
	}
	o.SetGroupVersionKind(metav1.SchemeGroupVersion.WithKind("CreateOptions"))
	return o, invalidOptions("CreateOptions", validation.ValidateCreateOptions(o))
}

func updateOptions(r *http.Request) (*metav1.UpdateOptions, error) {
	o := &metav1.UpdateOptions{}
	if err := parameters(r.URL.Query(), o); err != nil {
		return nil, err
	}
	o.SetGroupVersionKind(metav1.SchemeGroupVersion.WithKind("UpdateOptions"))
	return o, invalidOptions("UpdateOptions", validation.ValidateUpdateOptions(o))
}

func patchOptions(r *http.Request, patch types.PatchType) (*metav1.PatchOptions, error) {
	o := &metav1.PatchOptions{}
	if err := parameters(r.URL.Query(), o); err != nil {
		return nil, err
	}
	o.SetGroupVersionKind(metav1.SchemeGroupVersion.WithKind("PatchOptions"))
	return o, invalidOptions("PatchOptions", validation.ValidatePatchOptions(o, patch))
}

// optionsCodec reads options as of any group and version: typed clients call those in a body by
// the group that they delete from, custom ones included.
var optionsCodec = &codec{media: internalscheme.Codecs.SupportedMediaTypes()}

// deleteOptions come in the body or, without one, in the query.
func deleteOptions(r *http.Request) (*metav1.DeleteOptions, error) {
	body, err := readBody(r)
	if err != nil {
		return nil, err
	}
	o := &metav1.DeleteOptions{}
	if len(body) == 0 {
		if err := parameters(r.URL.Query(), o); err != nil {
			return nil, err
		}
	} else {
		info, err := optionsCodec.bodyFormat(r)
		if err != nil {
			return nil, err
		}
		if err := checkDepth(body); err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
		gvk := metav1.SchemeGroupVersion.WithKind("DeleteOptions")
		obj, _, err := internalscheme.Codecs.DecoderToVersion(info.Serializer, gvk.GroupVersion()).Decode(body, &gvk, o)
		if err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
		if obj != runtime.Object(o) {
			return nil, apierrors.NewBadRequest("decoded object cannot be converted to DeleteOptions")
		}
	}
	o.IgnoreStoreReadErrorWithClusterBreakingPotential = nil // an alpha of etcd surgery, off as in Kubernetes
	o.SetGroupVersionKind(metav1.SchemeGroupVersion.WithKind("DeleteOptions"))
	return o, invalidOptions("DeleteOptions", validation.ValidateDeleteOptions(o))
}

// listOptions reads the parameters of list, watch and deletecollection, with the field
// selector in the kind's own field names.
func listOptions(r *http.Request, kind *api.Kind) (*internalversion.ListOptions, error) {
	o := &internalversion.ListOptions{}
	if err := parameters(r.URL.Query(), o); err != nil {
		return nil, err
	}
	if info := request.InfoFrom(r.Context()); info != nil && info.Verb == "watch" {
		o.Watch = true // also by the historic path
	}
	internalversion.SetListOptionsDefaults(o, true)
	if err := invalidOptions("ListOptions", internalvalidation.ValidateListOptions(o, true)); err != nil {
		return nil, err
	}
	if o.ShardSelector != "" {
		return nil, apierrors.NewBadRequest("shardSelector is not supported by this server")
	}
	if o.FieldSelector != nil {
		selector, err := o.FieldSelector.Transform(fieldNames(kind))
		if err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
		o.FieldSelector = selector
	}
	return o, nil
}

// fieldNames maps the names a selector may use to the kind's selectable fields.
func fieldNames(kind *api.Kind) fields.TransformFunc {
	var known fields.Set
	if kind.SelectableFields != nil {
		known = kind.SelectableFields(kind.New())
	}
	return func(name, value string) (string, string, error) {
		if to, ok := kind.FieldAliases[name]; ok {
			name = to
		}
		// Kinds without fields of their own have both, even those that have no namespace.
		if name == "metadata.name" || name == "metadata.namespace" && (kind.Namespaced || known == nil && kind.Custom == nil) {
			return name, value, nil
		}
		if _, ok := known[name]; ok {
			return name, value, nil
		}
		if known == nil {
			return "", "", fmt.Errorf("%q is not a known field selector: only \"metadata.name\", \"metadata.namespace\"", name)
		}
		return "", "", fmt.Errorf(cmp.Or(kind.UnknownField, "field label not supported: %s"), name)
	}
}

func isDryRun(values []string) bool { return slices.Contains(values, metav1.DryRunAll) }

// manager is the field manager of a write: as the client says, or the first word of its
// user agent.
func manager(name, userAgent string) string {
	if name != "" {
		return name
	}
	first, _, _ := strings.Cut(userAgent, "/")
	var b strings.Builder
	for _, c := range first {
		if !unicode.IsPrint(c) {
			continue
		}
		if b.Len()+utf8.RuneLen(c) > validation.FieldManagerMaxLength {
			break
		}
		b.WriteRune(c)
	}
	return b.String()
}

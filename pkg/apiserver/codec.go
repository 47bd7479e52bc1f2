package apiserver

import (
	"cmp"
	"encoding/hex"
	"fmt"
	"mime"
	"net/http"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/pkg/api"
	"skiff/pkg/apiserver/request"
)

// codec decodes request bodies and encodes objects that don't come from the store,
// for all kinds that are Go types.
type codec struct {
	// media are the wire formats: JSON, YAML, protobuf.
	media []runtime.SerializerInfo
}

func newCodec() *codec {
	return &codec{media: api.Codecs.SupportedMediaTypes()}
}

// info returns the serializers of a media type without parameters; nil if there are none.
func (c *codec) info(mediaType string) *runtime.SerializerInfo {
	for i := range c.media {
		if c.media[i].MediaType == mediaType {
			return &c.media[i]
		}
	}
	return nil
}

func (c *codec) mediaTypes() []string {
	types := make([]string, len(c.media))
	for i := range c.media {
		types[i] = c.media[i].MediaType
	}
	return types
}

// bodyFormat returns the serializers for a request's Content-Type.
func (c *codec) bodyFormat(r *http.Request) (*runtime.SerializerInfo, error) {
	header := r.Header.Get("Content-Type")
	if header == "" {
		header = runtime.ContentTypeJSON
	}
	if mediaType, _, err := mime.ParseMediaType(header); err == nil {
		if info := c.info(mediaType); info != nil {
			return info, nil
		}
	}
	return nil, unsupportedMediaType(c.mediaTypes())
}

// decoder reads bodies in a format, after the fieldValidation directive; those of custom
// resources are brought to their schema.
func decoder(info *runtime.SerializerInfo, custom *api.Custom, validation string) runtime.Decoder {
	d, strict := runtime.Decoder(info.Serializer), validation != metav1.FieldValidationIgnore
	if strict {
		d = info.StrictSerializer
	}
	if custom == nil {
		return d
	}
	return coercing{Decoder: d, custom: custom, report: strict}
}

// coercing decodes custom resources. What isn't in the schema is reported as strict decoding
// reports unknown fields.
type coercing struct {
	runtime.Decoder
	custom *api.Custom
	report bool
}

func (c coercing) Decode(data []byte, gvk *schema.GroupVersionKind, into runtime.Object) (runtime.Object, *schema.GroupVersionKind, error) {
	obj, actual, err := c.Decoder.Decode(data, gvk, into)
	var violations []error
	if err != nil {
		strict, ok := runtime.AsStrictDecodingError(err)
		if !ok || obj == nil {
			return nil, actual, err
		}
		violations = strict.Errors()
	}
	unknown, err := c.custom.Coerce(obj.(api.Object), c.report)
	if err != nil {
		return nil, actual, err
	}
	for _, name := range unknown {
		violations = append(violations, fmt.Errorf("unknown field %q", name))
	}
	if len(violations) > 0 {
		return obj, actual, runtime.NewStrictDecodingError(violations)
	}
	return obj, actual, nil
}

// decodeKind reads an object of a kind, like decode.
func (c *codec) decodeKind(r *http.Request, info *runtime.SerializerInfo, body []byte, kind *api.Kind, validation string) (api.Object, error) {
	obj, err := c.decode(r, decoder(info, kind.Custom, validation), body, kind.GroupVersionKind, kind.New(), validation)
	if err != nil {
		return nil, err
	}
	return obj.(api.Object), nil
}

// decode reads an object of the kind gvk into a fresh object. Strictness is the
// fieldValidation directive: what is unknown or doubled is an error (Strict), a
// warning (Warn, and the empty string), or passed over (Ignore).
func (c *codec) decode(r *http.Request, d runtime.Decoder, body []byte, gvk schema.GroupVersionKind, into runtime.Object, validation string) (runtime.Object, error) {
	if err := checkDepth(body); err != nil {
		return nil, decodeError(err, gvk, nil, body)
	}
	obj, actual, err := d.Decode(body, &gvk, into)
	if err != nil {
		strict, isStrict := runtime.AsStrictDecodingError(err)
		if !isStrict || obj == nil || validation == metav1.FieldValidationStrict {
			return nil, decodeError(err, gvk, actual, body)
		}
		warnStrict(r, strict.Errors())
	}
	if actual.Kind != gvk.Kind {
		if _, custom := obj.(runtime.Unstructured); custom {
			return nil, notOfKind(obj.(api.Object), actual, gvk)
		}
		return nil, decodeError(unconvertible(actual, &gvk), gvk, actual, body)
	}
	if actual.GroupVersion() != gvk.GroupVersion() {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("the API version in the data (%s) does not match the expected API version (%s)",
			actual.GroupVersion(), gvk.GroupVersion()))
	}
	return obj, nil
}

// notOfKind refuses a custom resource that says to be of another kind.
func notOfKind(obj api.Object, actual *schema.GroupVersionKind, want schema.GroupVersionKind) error {
	return apierrors.NewInvalid(actual.GroupKind(), obj.GetName(), field.ErrorList{field.Invalid(field.NewPath("kind"), actual.Kind, "must be "+want.Kind)})
}

// unconvertible is what Kubernetes says of a body of another kind: it would have
// to become the unversioned type of the kind wanted, which lies in a package named
// after the group.
func unconvertible(actual, want *schema.GroupVersionKind) error {
	group, _, _ := strings.Cut(cmp.Or(want.Group, "core"), ".")
	return fmt.Errorf("converting (%s.%s) to (%s.%s): unknown conversion", actual.Version, actual.Kind, group, want.Kind)
}

func decodeError(err error, want schema.GroupVersionKind, actual *schema.GroupVersionKind, body []byte) error {
	if actual != nil && actual.Kind != "" {
		return apierrors.NewBadRequest(fmt.Sprintf("%s in version %q cannot be handled as a %s: %v", actual.Kind, actual.Version, want.Kind, err))
	}
	return apierrors.NewBadRequest(fmt.Sprintf("the object provided is unrecognized (must be of type %s): %v (%s)", want.Kind, err, summary(body)))
}

// summary shows the beginning of a body that couldn't be read.
func summary(body []byte) string {
	const most = 30
	short, more := body, ""
	if len(body) > most {
		short, more = body[:most], " ..."
	}
	switch {
	case len(body) == 0:
		return "<empty>"
	case body[0] == '{':
		return string(short) + more
	}
	return hex.EncodeToString(short) + more
}

// warnStrict sends each violation of strict decoding as a warning. YAML's come
// as one error of several lines.
func warnStrict(r *http.Request, violations []error) {
	for _, violation := range violations {
		text := violation.Error()
		lines := []string{text}
		for _, prefix := range []string{"yaml: unmarshal errors:\n", "error converting YAML to JSON: yaml: unmarshal errors:\n"} {
			if rest, ok := strings.CutPrefix(text, prefix); ok {
				lines = strings.Split(rest, "\n")
				break
			}
		}
		for _, line := range lines {
			request.Warn(r.Context(), strings.TrimSpace(line))
		}
	}
}

package webhook

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"reflect"

	admissionv1 "k8s.io/api/admission/v1"
	admissionv1beta1 "k8s.io/api/admission/v1beta1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"
	plugincel "k8s.io/apiserver/pkg/admission/plugin/cel"

	"skiff/pkg/apiserver/admission/match"
	"skiff/pkg/apiserver/hookclient"
)

// view is a request as it looks at a target. It may be read concurrently.
type view struct {
	object    runtime.Object // in the target's version; nil if there is none
	rawObject runtime.RawExtension
	request   admissionv1.AdmissionRequest // without a UID
}

func newView(r *match.Request, target *match.Target) (*view, error) {
	versioned, err := r.Versioned(target)
	if err != nil {
		return nil, err
	}
	v := &view{object: versioned.VersionedObject, request: *plugincel.CreateAdmissionRequest(
		versioned.Attributes, metav1.GroupVersionResource(target.Resource), metav1.GroupVersionKind(target.Kind))}
	for _, part := range []struct {
		obj  runtime.Object
		into *runtime.RawExtension
	}{
		{versioned.VersionedObject, &v.request.Object}, {versioned.VersionedOldObject, &v.request.OldObject}, {r.Options, &v.request.Options},
	} {
		*part.into = runtime.RawExtension{}
		if part.obj == nil || reflect.ValueOf(part.obj).IsNil() {
			continue
		}
		if part.into.Raw, err = json.Marshal(part.obj); err != nil {
			return nil, apierrors.NewInternalError(err)
		}
	}
	v.rawObject = v.request.Object
	return v, nil
}

// review is the question about a view. The versions of reviews look the same.
func (v *view) review(version string) (types.UID, []byte, error) {
	request := v.request
	request.UID = uuid.NewUUID()
	body, err := json.Marshal(&admissionv1.AdmissionReview{TypeMeta: reviewType(version), Request: &request})
	return request.UID, body, err
}

func reviewType(version string) metav1.TypeMeta {
	return metav1.TypeMeta{APIVersion: admissionv1.GroupName + "/" + version, Kind: "AdmissionReview"}
}

// answer is what a webhook said.
type answer struct {
	allowed     bool
	result      *metav1.Status
	patch       []byte
	patchType   admissionv1.PatchType
	warnings    []string
	annotations map[string]string
}

// reviews reads what webhooks answer.
var reviews = hookclient.Reviews(map[schema.GroupVersion]func(*runtime.Scheme) error{
	admissionv1.SchemeGroupVersion: admissionv1.AddToScheme, admissionv1beta1.SchemeGroupVersion: admissionv1beta1.AddToScheme,
})

func newReview(version string) runtime.Object {
	if version == admissionv1beta1.SchemeGroupVersion.Version {
		return &admissionv1beta1.AdmissionReview{}
	}
	return &admissionv1.AdmissionReview{}
}

// read takes an answer apart. That it is well-formed was not asked for in v1beta1.
func read(review runtime.Object, id types.UID, mutating bool) (*answer, error) {
	if old, ok := review.(*admissionv1beta1.AdmissionReview); ok {
		return readOld(old.Response, mutating)
	}
	now := review.(*admissionv1.AdmissionReview)
	r := now.Response
	if r == nil {
		return nil, errAbsent
	}
	if err := wellFormed(now, id, mutating); err != nil {
		return nil, err
	}
	a := &answer{allowed: r.Allowed, result: r.Result, warnings: r.Warnings, annotations: r.AuditAnnotations}
	if mutating && len(r.Patch) > 0 {
		a.patch, a.patchType = r.Patch, *r.PatchType
	}
	return a, nil
}

var errAbsent = errors.New("webhook response was absent")

func readOld(r *admissionv1beta1.AdmissionResponse, mutating bool) (*answer, error) {
	if r == nil {
		return nil, errAbsent
	}
	a := &answer{allowed: r.Allowed, result: r.Result, warnings: r.Warnings, annotations: r.AuditAnnotations}
	if mutating && len(r.Patch) > 0 {
		a.patch, a.patchType = r.Patch, admissionv1.PatchTypeJSONPatch
	}
	return a, nil
}

func wellFormed(review *admissionv1.AdmissionReview, id types.UID, mutating bool) error {
	r, want := review.Response, reviewType("v1")
	if r.UID != id {
		return fmt.Errorf("expected response.uid=%q, got %q", id, r.UID)
	}
	if review.TypeMeta != want {
		return fmt.Errorf("expected webhook response of %v, got %v", want.GroupVersionKind(), review.GroupVersionKind())
	}
	patch, kind := len(r.Patch) > 0, r.PatchType
	switch {
	case !mutating && patch:
		return errors.New("validating webhook may not return response.patch")
	case !mutating && kind != nil:
		return errors.New("validating webhook may not return response.patchType")
	case patch && kind == nil:
		return errors.New("webhook returned response.patch but not response.patchType")
	case !patch && kind != nil:
		return errors.New("webhook returned response.patchType but not response.patch")
	case kind != nil && *kind == "":
		return fmt.Errorf("webhook returned invalid response.patchType of %q", *kind)
	}
	return nil
}

// refused is the answer to a client whose request a webhook denies: what the webhook says, as far as it is a refusal.
func refused(name string, result *metav1.Status) error {
	status := metav1.Status{}
	if result != nil {
		status = *result
	}
	if status.Code < http.StatusBadRequest {
		status.Code = http.StatusBadRequest
	}
	if status.Status == "" || status.Status == metav1.StatusSuccess {
		status.Status = metav1.StatusFailure
	}
	text := fmt.Sprintf("admission webhook %q denied the request", name)
	switch {
	case status.Message != "":
		text += ": " + status.Message
	case status.Reason != "":
		text += ": " + string(status.Reason)
	default:
		text += " without explanation"
	}
	status.Message = text
	return &apierrors.StatusError{ErrStatus: status}
}

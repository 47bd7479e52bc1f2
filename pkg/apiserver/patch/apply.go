package patch

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/mergepatch"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/apimachinery/pkg/util/validation/field"
	kjson "sigs.k8s.io/json"

	"skiff/pkg/apiserver/request"
)

// maxCopied is how many bytes a JSON patch's copies may add, as in Kubernetes: each copies what the
// ones before have made, so that twenty could ask for terabytes.
const maxCopied = 3 << 20

func init() { jsonpatch.AccumulatedCopySizeLimit = maxCopied } // the library has it as a variable only

// MaxOperations is how many operations a JSON patch may have: "copy" lets few bytes do much.
const MaxOperations = 10000

// Patch is a request to change an object as it stands.
type Patch struct {
	Type types.PatchType // JSON, merge or strategic merge
	Body []byte
	// Strict asks for violations: unknown and doubled fields, in the patch and in the result.
	Strict bool
	// Decode reads a patched document into a fresh object; violations of strict decoding are a
	// strict decoding error beside the object.
	Decode func(document []byte) (runtime.Object, error)
	// New returns an empty object of the kind.
	New func() runtime.Object
}

// Apply returns what the patch makes of current, and what strictness found. Errors are
// for the client: 400 for a patch that can't be read, 422 for one that doesn't fit.
func (p *Patch) Apply(current runtime.Object) (runtime.Object, []error, error) {
	if p.Type == types.StrategicMergePatchType {
		return p.strategic(current)
	}
	document, err := json.Marshal(current)
	if err != nil {
		return nil, nil, err
	}
	patched, violations, err := p.document(document)
	if err != nil {
		return nil, nil, err
	}
	obj, err := p.Decode(patched)
	if apierrors.IsInvalid(err) {
		return nil, nil, err
	}
	if err != nil {
		strict, ok := runtime.AsStrictDecodingError(err)
		if !ok {
			return nil, nil, invalid(string(patched), err)
		}
		violations = append(violations, strict.Errors()...)
	}
	return obj, violations, nil
}

// Refuse is the error for violations under strict validation; value is what was patched.
func Refuse(value string, violations []error) error {
	return invalid(value, runtime.NewStrictDecodingError(violations))
}

func invalid(value string, err error) error {
	return apierrors.NewInvalid(schema.GroupKind{}, "", field.ErrorList{field.Invalid(field.NewPath("patch"), value, err.Error())})
}

type operation struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	From  string `json:"from"`
	Value any    `json:"value"`
}

// document patches JSON by JSON patch or merge patch.
func (p *Patch) document(document []byte) ([]byte, []error, error) {
	var violations []error
	if p.Type == types.MergePatchType {
		if p.Strict {
			into := map[string]any{}
			var err error
			if violations, err = kjson.UnmarshalStrict(p.Body, &into); err != nil {
				return nil, nil, apierrors.NewBadRequest(fmt.Sprintf("error decoding patch: %v", err))
			}
		}
		patched, err := jsonpatch.MergePatch(document, p.Body)
		if errors.Is(err, jsonpatch.ErrBadJSONPatch) {
			return nil, nil, apierrors.NewBadRequest(err.Error())
		}
		return patched, violations, err
	}
	if p.Strict {
		var into []operation
		found, err := kjson.UnmarshalStrict(p.Body, &into)
		if err != nil {
			return nil, nil, apierrors.NewBadRequest(fmt.Sprintf("error decoding patch: %v", err))
		}
		for _, v := range found {
			violations = append(violations, fmt.Errorf("json patch %w", v))
		}
	}
	operations, err := jsonpatch.DecodePatch(p.Body)
	if err != nil {
		return nil, nil, apierrors.NewBadRequest(err.Error())
	}
	if len(operations) > MaxOperations {
		return nil, nil, apierrors.NewRequestEntityTooLargeError(
			fmt.Sprintf("The allowed maximum operations in a JSON patch is %d, got %d", MaxOperations, len(operations)))
	}
	patched, err := guarded(func() ([]byte, error) { return operations.Apply(document) })
	if err != nil {
		return nil, nil, apierrors.NewGenericServerResponse(http.StatusUnprocessableEntity, "", schema.GroupResource{}, "", err.Error(), 0, false)
	}
	return patched, violations, nil
}

// strategic merges by the patch strategies in the Go type's struct tags.
func (p *Patch) strategic(current runtime.Object) (runtime.Object, []error, error) {
	original, err := runtime.DefaultUnstructuredConverter.ToUnstructured(current)
	if err != nil {
		return nil, nil, err
	}
	change := map[string]any{}
	var violations []error
	if p.Strict {
		violations, err = kjson.UnmarshalStrict(p.Body, &change)
	} else {
		err = kjson.UnmarshalCaseSensitivePreserveInts(p.Body, &change)
	}
	if err != nil {
		return nil, nil, apierrors.NewBadRequest(err.Error())
	}
	patched, err := guarded(func() (strategicpatch.JSONMap, error) {
		return strategicpatch.StrategicMergeMapPatch(original, change, p.New())
	})
	if err != nil {
		return nil, nil, strategicError(err)
	}
	obj := p.New()
	if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(patched, obj, p.Strict); err != nil {
		strict, ok := runtime.AsStrictDecodingError(err)
		if !ok {
			return nil, nil, invalid(fmt.Sprintf("%+v", change), err)
		}
		violations = append(violations, strict.Errors()...)
	}
	return obj, violations, nil
}

// guarded calls a library that panics at what it doesn't expect: a merge key that is an object, the whole document
// replaced by nothing.
func guarded[T any](apply func() (T, error)) (patched T, err error) {
	defer func() {
		if reason := recover(); reason != nil {
			err = apierrors.NewBadRequest(fmt.Sprintf("error applying patch: %v", reason))
		}
	}()
	return apply()
}

func strategicError(err error) error {
	switch err {
	case mergepatch.ErrBadJSONDoc, mergepatch.ErrBadPatchFormatForPrimitiveList, mergepatch.ErrBadPatchFormatForRetainKeys,
		mergepatch.ErrBadPatchFormatForSetElementOrderList, mergepatch.ErrUnsupportedStrategicMergePatchFormat:
		return apierrors.NewBadRequest(err.Error())
	case mergepatch.ErrNoListOfLists, mergepatch.ErrPatchContentNotMatchRetainKeys:
		return apierrors.NewGenericServerResponse(http.StatusUnprocessableEntity, "", schema.GroupResource{}, "", err.Error(), 0, false)
	}
	return request.Plain(err)
}

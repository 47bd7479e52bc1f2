package policy

import (
	"context"
	"errors"
	"fmt"

	v1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff/pkg/api"
)

// parameters are the objects for each of which a bound policy is evaluated. Without a kind or a reference that is once,
// for nil; none at all is a policy that isn't evaluated.
func (p *Policies) parameters(ctx context.Context, kind *v1.ParamKind, ref *v1.ParamRef, namespace string) ([]runtime.Object, error) {
	row, err := p.paramRow(kind)
	if err != nil {
		return nil, err
	}
	if row == nil || ref == nil {
		return []runtime.Object{nil}, nil
	}
	in, err := where(row, ref, namespace)
	if err != nil {
		return nil, err
	}
	found, err := p.find(ctx, row, ref, in)
	if err != nil {
		return nil, err
	}
	if len(found) == 0 && ref.ParameterNotFoundAction != nil && *ref.ParameterNotFoundAction == v1.DenyAction {
		return nil, errors.New("no params found for policy binding with `Deny` parameterNotFoundAction")
	}
	params := make([]runtime.Object, len(found))
	for i, obj := range found {
		if params[i], err = as(row, obj); err != nil {
			return nil, err
		}
	}
	return params, nil
}

// paramRow is the row of the kind that parameters have; nil if there are none.
func (p *Policies) paramRow(kind *v1.ParamKind) (*api.Kind, error) {
	if kind == nil {
		return nil, nil
	}
	gvk := schema.FromAPIVersionAndKind(kind.APIVersion, kind.Kind)
	row := p.config.Catalogue.View().ByKind(gvk)
	if row == nil || row.Virtual {
		return nil, fmt.Errorf("failed to find resource referenced by paramKind: '%v'", gvk)
	}
	return row, nil
}

// where is the namespace in which parameters are looked for.
func where(row *api.Kind, ref *v1.ParamRef, namespace string) (string, error) {
	switch {
	case !row.Namespaced && ref.Namespace != "":
		return "", errors.New("paramRef.namespace must not be provided for a cluster-scoped `paramKind`")
	case !row.Namespaced:
		return "", nil
	case ref.Namespace != "":
		return ref.Namespace, nil
	case namespace == "":
		return "", errors.New("cannot use namespaced paramRef in policy binding that matches cluster-scoped resources")
	}
	return namespace, nil
}

func (p *Policies) find(ctx context.Context, row *api.Kind, ref *v1.ParamRef, namespace string) ([]api.Object, error) {
	switch {
	case ref.Name != "":
		obj, err := p.config.Objects.Get(ctx, row.GroupResource(), namespace, ref.Name)
		if apierrors.IsNotFound(err) {
			return nil, nil
		}
		return []api.Object{obj}, err
	case ref.Selector == nil:
		return nil, errors.New("one of name or selector must be provided")
	}
	selector, err := metav1.LabelSelectorAsSelector(ref.Selector)
	if err != nil {
		return nil, err
	}
	all, err := p.config.Objects.List(ctx, row.GroupResource(), namespace)
	if err != nil {
		return nil, err
	}
	var found []api.Object
	for _, obj := range all {
		if selector.Matches(labels.Set(obj.GetLabels())) {
			found = append(found, obj)
		}
	}
	return found, nil
}

// as is a shared object in the version of a row; with its kind, which Go types don't have of themselves.
func as(row *api.Kind, obj api.Object) (api.Object, error) {
	if obj.GetObjectKind().GroupVersionKind() == row.GroupVersionKind {
		return obj, nil
	}
	obj = obj.DeepCopyObject().(api.Object)
	if row.FromStored != nil {
		var err error
		if obj, err = row.FromStored(obj); err != nil {
			return nil, err
		}
	}
	obj.GetObjectKind().SetGroupVersionKind(row.GroupVersionKind)
	return obj, nil
}

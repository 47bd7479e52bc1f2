package match

import (
	"context"
	"errors"
	"fmt"

	v1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"

	"skiff/pkg/apiserver/request"
)

// Criteria are compiled match resources. They are immutable.
type Criteria struct {
	rules, excluded     []v1.NamedRuleWithOperations
	equivalent          bool
	namespaces, objects labels.Selector
}

// Compile compiles match resources, which it keeps: they must not be changed afterwards. Without
// rules they match every resource, as those of policies and bindings do. A nil m matches everything.
func Compile(m *v1.MatchResources) (*Criteria, error) {
	if m == nil {
		m = &v1.MatchResources{}
	}
	c := &Criteria{
		rules: m.ResourceRules, excluded: m.ExcludeResourceRules,
		equivalent: m.MatchPolicy != nil && *m.MatchPolicy == v1.Equivalent,
	}
	var err error
	if c.namespaces, err = selector(m.NamespaceSelector); err != nil {
		return nil, fmt.Errorf("namespaceSelector: %w", err)
	}
	if c.objects, err = selector(m.ObjectSelector); err != nil {
		return nil, fmt.Errorf("objectSelector: %w", err)
	}
	return c, nil
}

// selector is of the kind where nothing said means everything.
func selector(s *metav1.LabelSelector) (labels.Selector, error) {
	if s == nil {
		return labels.Everything(), nil
	}
	return metav1.LabelSelectorAsSelector(s)
}

// Match finds the resource as which a request matches; nil if it doesn't. An error is the answer to a request
// that would match, but about whose namespace nothing can be found out.
func (c *Criteria) Match(ctx context.Context, r *Request) (*Target, error) {
	if c.find(c.excluded, r) != nil {
		return nil, nil
	}
	target := &r.own
	if len(c.rules) > 0 {
		target = c.find(c.rules, r)
	}
	if target == nil || !c.objectMatches(r) {
		return nil, nil
	}
	if matches, err := c.namespaceMatches(ctx, r); err != nil || !matches {
		return nil, err
	}
	return target, nil
}

// find prefers the resource that was asked for to its equivalents, whatever the order of the rules.
func (c *Criteria) find(rules []v1.NamedRuleWithOperations, r *Request) *Target {
	for i := range rules {
		if ruleMatches(&rules[i], r.Attributes, r.own.Resource) {
			return &r.own
		}
	}
	if !c.equivalent {
		return nil
	}
	for i := range rules {
		for _, t := range r.equivalents() {
			if ruleMatches(&rules[i], r.Attributes, t.Resource) {
				return t
			}
		}
	}
	return nil
}

func (c *Criteria) objectMatches(r *Request) bool {
	return c.objects.Empty() || labelsMatch(c.objects, r.Object) || labelsMatch(c.objects, r.Old)
}

func labelsMatch(s labels.Selector, obj runtime.Object) bool {
	meta, ok := obj.(metav1.Object)
	return ok && s.Matches(labels.Set(meta.GetLabels()))
}

// namespaceMatches judges a namespace by its own labels, and never excludes other objects of the cluster.
func (c *Criteria) namespaceMatches(ctx context.Context, r *Request) (bool, error) {
	isNamespace := r.own.Resource.Resource == namespaces.Resource
	if c.namespaces.Empty() || r.Attributes.Namespace == "" && !isNamespace {
		return true, nil
	}
	if isNamespace && r.Subresource == "" && (r.Operation == request.Create || r.Operation == request.Update) {
		return labelsMatch(c.namespaces, r.Object), nil
	}
	namespace, err := r.namespaceNamed(ctx, r.Attributes.Namespace)
	if err != nil {
		if status := apierrors.APIStatus(nil); apierrors.IsNotFound(err) && errors.As(err, &status) {
			return false, err
		}
		return false, apierrors.NewInternalError(err)
	}
	return c.namespaces.Matches(labels.Set(namespace.Labels)), nil
}

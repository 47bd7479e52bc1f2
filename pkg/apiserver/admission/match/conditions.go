package match

import (
	"context"

	"github.com/google/cel-go/common/types"
	v1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/selection"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	plugincel "k8s.io/apiserver/pkg/admission/plugin/cel"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/cel/environment"

	"skiff/pkg/api/admissionregistration"
	"skiff/pkg/apiserver/authz"
	"skiff/pkg/apiserver/request"
)

// Conditions are compiled match conditions; nil holds always.
type Conditions struct {
	evaluator plugincel.ConditionEvaluator
	failOpen  bool
}

// CompileConditions compiles match conditions. params says that they may name the parameters of a policy. Those that
// can't be compiled fail when they are evaluated: validation keeps them out.
func CompileConditions(conditions []v1.MatchCondition, failure *v1.FailurePolicyType, params bool) *Conditions {
	if len(conditions) == 0 {
		return nil
	}
	results := make([]plugincel.CompilationResult, len(conditions))
	variables := plugincel.OptionalVariableDeclarations{HasParams: params, HasAuthorizer: true}
	for i := range conditions {
		expression := admissionregistration.Condition(conditions[i].Expression)
		results[i] = admissionregistration.Compiler().CompileCELExpression(expression, variables, environment.StoredExpressions)
	}
	return &Conditions{evaluator: plugincel.NewCondition(results), failOpen: failure != nil && *failure == v1.Ignore}
}

// Match says whether all conditions hold for a request at a target. One that is false decides, whatever the others
// are. If one can't be evaluated and none is false, the failure policy decides: Ignore takes the conditions for not
// met, Fail is an error.
func (c *Conditions) Match(ctx context.Context, r *Request, t *Target, params runtime.Object, rights authorizer.Authorizer) (bool, error) {
	if c == nil {
		return true, nil
	}
	versioned, err := r.Versioned(t)
	if err != nil {
		return false, err
	}
	// As in Kubernetes, conditions see the kind of the target and the resource of the request.
	asked := plugincel.CreateAdmissionRequest(versioned.Attributes, metav1.GroupVersionResource(r.own.Resource), metav1.GroupVersionKind(t.Kind))
	results, _, err := c.evaluator.ForInput(ctx, versioned, asked,
		plugincel.OptionalVariableBindings{VersionedParams: params, Authorizer: rights}, nil, celconfig.RuntimeCELCostBudgetMatchConditions)
	if err != nil {
		return false, c.failure(err)
	}
	var errs []error
	for _, result := range results {
		if result.Error != nil {
			errs = append(errs, result.Error)
		} else if result.EvalResult == types.False {
			return false, nil
		}
	}
	if len(errs) > 0 {
		return false, c.failure(utilerrors.NewAggregate(errs))
	}
	return true, nil
}

func (c *Conditions) failure(err error) error {
	if c.failOpen {
		return nil
	}
	return err
}

// Judge is who decides about rights.
type Judge interface {
	Authorize(ctx context.Context, user *request.User, info *request.Info) authz.Verdict
}

// Rights is a judge in the form that CEL's authorizer library takes.
func Rights(judge Judge) authorizer.Authorizer {
	return authorizer.AuthorizerFunc(func(ctx context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
		who := a.GetUser()
		info := &request.Info{
			IsResourceRequest: a.IsResourceRequest(), Path: a.GetPath(), Verb: a.GetVerb(),
			APIGroup: a.GetAPIGroup(), APIVersion: a.GetAPIVersion(), Namespace: a.GetNamespace(),
			Resource: a.GetResource(), Subresource: a.GetSubresource(), Name: a.GetName(),
		}
		if requirements, err := a.GetLabelSelector(); err == nil && len(requirements) > 0 {
			info.Labels = labels.NewSelector().Add(requirements...)
		}
		if requirements, err := a.GetFieldSelector(); err == nil && len(requirements) > 0 {
			info.Fields = conjunction(requirements)
		}
		verdict := judge.Authorize(ctx, &request.User{Name: who.GetName(), UID: who.GetUID(), Groups: who.GetGroups(), Extra: who.GetExtra()}, info)
		if verdict.Allowed {
			return authorizer.DecisionAllow, verdict.Reason(), nil
		}
		return authorizer.DecisionNoOpinion, verdict.Reason(), nil
	})
}

func conjunction(requirements fields.Requirements) fields.Selector {
	var terms []fields.Selector
	for _, r := range requirements {
		if r.Operator == selection.NotEquals {
			terms = append(terms, fields.OneTermNotEqualSelector(r.Field, r.Value))
		} else {
			terms = append(terms, fields.OneTermEqualSelector(r.Field, r.Value))
		}
	}
	return fields.AndSelectors(terms...)
}

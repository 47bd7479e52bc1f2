package admissionregistration

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/google/cel-go/cel"
	v1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	plugincel "k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/cel/environment"
	"k8s.io/client-go/util/jsonpath"

	"skiff/pkg/api"
	"skiff/pkg/api/check"
)

const (
	maxAnnotations = 20
	// maxAnnotationValue is in bytes, and less than what the value may become: expressions make long values of short texts.
	maxAnnotationValue = 5 << 10
)

var specPath = field.NewPath("spec")

// policy is what both kinds of policies have.
type policy struct {
	failures   *v1.FailurePolicyType
	params     *v1.ParamKind
	matches    *v1.MatchResources
	conditions []v1.MatchCondition
	variables  []v1.Variable
}

func validatingPolicy(obj api.Object) (*v1.ValidatingAdmissionPolicy, *policy) {
	p := obj.(*v1.ValidatingAdmissionPolicy)
	return p, &policy{p.Spec.FailurePolicy, p.Spec.ParamKind, p.Spec.MatchConstraints, p.Spec.MatchConditions, p.Spec.Variables}
}

func mutatingPolicy(obj api.Object) (*v1.MutatingAdmissionPolicy, *policy) {
	p := obj.(*v1.MutatingAdmissionPolicy)
	return p, &policy{p.Spec.FailurePolicy, p.Spec.ParamKind, p.Spec.MatchConstraints, p.Spec.MatchConditions, p.Spec.Variables}
}

// policyCheck is the validation of one policy.
type policyCheck struct {
	*policy
	known    map[string]bool               // expressions that were stored before, for which older rules of the language hold
	compiler plugincel.Compiler            // of everything but match conditions
	composed *plugincel.CompositedCompiler // the same, if there are variables
}

// check begins with what both kinds have, as the successor of old (nil: it is new). Defaults have filled in what must be
// there. composes says that expressions are compiled as if there were variables even if there are none.
func (p *policy) check(old *policy, known map[string]bool, composes bool) (*policyCheck, field.ErrorList) {
	c := &policyCheck{policy: p, known: known, compiler: Compiler()}
	var err error
	if len(p.variables) > 0 {
		c.composed, err = NewCompiler()
		c.compiler = c.composed
	} else if composes {
		c.compiler, err = noVariables()
	}
	if err != nil {
		return c, field.ErrorList{field.InternalError(specPath, err)}
	}
	errs := optionalOneOf(specPath.Child("failurePolicy"), p.failures, v1.Fail, v1.Ignore)
	if p.params != nil {
		errs = append(errs, checkParamKind(specPath.Child("paramKind"), p.params)...)
	}
	if at := specPath.Child("matchConstraints"); p.matches == nil {
		errs = append(errs, field.Required(at, ""))
	} else {
		errs = append(errs, checkMatches(at, p.matches)...)
		if len(p.matches.ResourceRules) == 0 {
			errs = append(errs, field.Required(at.Child("resourceRules"), ""))
		}
	}
	if old == nil || !equality.Semantic.DeepEqual(old.params, p.params) || !equality.Semantic.DeepEqual(old.conditions, p.conditions) {
		errs = append(errs, checkConditions(specPath.Child("matchConditions"), p.conditions, p.params != nil, known)...)
	}
	for i := range p.variables {
		errs = append(errs, c.variable(specPath.Child("variables").Index(i), &p.variables[i])...)
	}
	return c, errs
}

// noVariables is a compiler that could know variables, and knows none.
var noVariables = sync.OnceValues(NewCompiler)

// declared are the names that expressions may use.
func (c *policyCheck) declared() plugincel.OptionalVariableDeclarations {
	return plugincel.OptionalVariableDeclarations{HasParams: c.params != nil, HasAuthorizer: true}
}

func (c *policyCheck) expression(at *field.Path, text string, types []*cel.Type, declared plugincel.OptionalVariableDeclarations) field.ErrorList {
	return checkExpression(at, c.compiler, Expression{Text: text, Types: types}, declared, c.known[text])
}

func (c *policyCheck) variable(at *field.Path, v *v1.Variable) field.ErrorList {
	var errs field.ErrorList
	if strings.TrimSpace(v.Name) == "" {
		errs = append(errs, field.Required(at.Child("name"), "name is not specified"))
	} else if !identifier.MatchString(v.Name) || slices.Contains(reserved, v.Name) {
		errs = append(errs, field.Invalid(at.Child("name"), v.Name, "must be a valid CEL identifier"))
	}
	if strings.TrimSpace(v.Expression) == "" {
		return append(errs, field.Required(at.Child("expression"), "expression is not specified"))
	}
	mode := environment.NewExpressions
	if c.known[v.Expression] {
		mode = environment.StoredExpressions
	}
	e := Expression{Name: v.Name, Text: v.Expression, Types: Anything}
	return append(errs, compileErrors(at.Child("expression"), e, c.composed.CompileAndStoreVariable(e, c.declared(), mode))...)
}

var (
	identifier = regexp.MustCompile("^[_a-zA-Z][_a-zA-Z0-9]*$")
	reserved   = strings.Fields("true false null in as break const continue else for function if import let loop package namespace return var void while")
)

func validateValidatingPolicy(obj api.Object) field.ErrorList { return checkValidatingPolicy(obj, nil) }

func validateValidatingPolicyUpdate(obj, old api.Object) field.ErrorList {
	return checkValidatingPolicy(obj, old)
}

func checkValidatingPolicy(obj, old api.Object) field.ErrorList {
	p, common := validatingPolicy(obj)
	var before *policy
	known := map[string]bool{}
	if old != nil {
		var was *v1.ValidatingAdmissionPolicy
		was, before = validatingPolicy(old)
		before.remember(known)
		for _, v := range was.Spec.Validations {
			known[v.Expression], known[v.MessageExpression] = true, true
		}
		for _, a := range was.Spec.AuditAnnotations {
			known[a.ValueExpression] = true
		}
	}
	c, errs := common.check(before, known, false)
	if len(p.Spec.Validations) == 0 && len(p.Spec.AuditAnnotations) == 0 {
		const text = "validations or auditAnnotations must contain at least one item"
		return append(errs, field.Required(specPath.Child("validations"), text), field.Required(specPath.Child("auditAnnotations"), text))
	}
	for i := range p.Spec.Validations {
		errs = append(errs, c.validation(specPath.Child("validations").Index(i), &p.Spec.Validations[i])...)
	}
	return append(errs, c.annotations(specPath.Child("auditAnnotations"), p.Name, p.Spec.AuditAnnotations)...)
}

func (p *policy) remember(known map[string]bool) {
	for _, m := range p.conditions {
		known[m.Expression] = true
	}
	for _, v := range p.variables {
		known[v.Expression] = true
	}
}

func (c *policyCheck) validation(at *field.Path, v *v1.Validation) field.ErrorList {
	var errs field.ErrorList
	if strings.TrimSpace(v.Expression) == "" {
		errs = append(errs, field.Required(at.Child("expression"), "expression is not specified"))
	} else {
		errs = append(errs, c.expression(at.Child("expression"), v.Expression, Boolean, c.declared())...)
	}
	if v.MessageExpression != "" {
		if strings.TrimSpace(v.MessageExpression) == "" {
			errs = append(errs, field.Invalid(at.Child("messageExpression"), v.MessageExpression, "must be non-empty if specified"))
		} else {
			declared := c.declared()
			declared.HasAuthorizer = false
			errs = append(errs, c.expression(at.Child("messageExpression"), v.MessageExpression, Text, declared)...)
		}
	}
	if message := strings.TrimSpace(v.Message); v.Message != "" && message == "" {
		errs = append(errs, field.Invalid(at.Child("message"), v.Message, "must be non-empty if specified"))
	} else if strings.ContainsAny(message, "\n\r") {
		errs = append(errs, field.Invalid(at.Child("message"), v.Message, "must not contain line breaks"))
	}
	return append(errs, optionalOneOf(at.Child("reason"), v.Reason,
		metav1.StatusReasonForbidden, metav1.StatusReasonInvalid, metav1.StatusReasonRequestEntityTooLarge)...)
}

func (c *policyCheck) annotations(at *field.Path, name string, annotations []v1.AuditAnnotation) field.ErrorList {
	var errs field.ErrorList
	if len(annotations) > maxAnnotations {
		errs = append(errs, field.Invalid(at, annotations, fmt.Sprintf("must not have more than %d auditAnnotations", maxAnnotations)))
	}
	keys := map[string]bool{}
	for i, a := range annotations {
		at := at.Index(i)
		if name == "" {
			errs = append(errs, field.Invalid(at.Child("key"), a.Key, "requires metadata.name be non-empty"))
		} else {
			errs = append(errs, check.QualifiedName(at.Child("key"), name+"/"+a.Key)...)
		}
		switch value := strings.TrimSpace(a.ValueExpression); {
		case value == "":
			errs = append(errs, field.Required(at.Child("valueExpression"), "valueExpression is not specified"))
		case len(value) > maxAnnotationValue:
			errs = append(errs, field.Required(at.Child("valueExpression"), fmt.Sprintf("must not exceed %d bytes in length", maxAnnotationValue)))
		default:
			errs = append(errs, c.expression(at.Child("valueExpression"), a.ValueExpression, TextOrNothing, c.declared())...)
		}
		if keys[a.Key] {
			errs = append(errs, field.Duplicate(at.Child("key"), a.Key))
		}
		keys[a.Key] = true
	}
	return errs
}

// validatePolicyStatus checks what a type checker has written.
func validatePolicyStatus(obj, _ api.Object) field.ErrorList {
	status := &obj.(*v1.ValidatingAdmissionPolicy).Status
	at := field.NewPath("status")
	var errs field.ErrorList
	if status.TypeChecking != nil {
		for i, w := range status.TypeChecking.ExpressionWarnings {
			at := at.Child("typeChecking", "expressionWarnings").Index(i)
			errs = append(errs, check.Required(at.Child("warning"), w.Warning)...)
			if ref := strings.TrimSpace(w.FieldRef); ref == "" {
				errs = append(errs, field.Required(at.Child("fieldRef"), ""))
			} else if err := jsonpath.New("spec").Parse("{" + ref + "}"); err != nil {
				errs = append(errs, field.Invalid(at.Child("fieldRef"), ref, fmt.Sprintf("invalid JSONPath: %v", err)))
			}
		}
	}
	return append(errs, metavalidation.ValidateConditions(status.Conditions, at.Child("conditions"))...)
}

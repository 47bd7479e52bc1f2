package admissionregistration

import (
	"fmt"
	"strings"
	"sync"

	"github.com/google/cel-go/cel"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	plugincel "k8s.io/apiserver/pkg/admission/plugin/cel"
	apiservercel "k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/environment"

	"skiff/pkg/api/check"
)

// maxConditions is how many match conditions a webhook or a policy may have.
const maxConditions = 64

// Compiler compiles the CEL expressions of webhooks and policies that have no variables of their own. It is made
// when it is first asked for: that takes a moment.
var Compiler = sync.OnceValue(func() plugincel.Compiler {
	return plugincel.NewCompiler(environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion()))
})

// Condition is an expression that is true or false, as [Compiler] takes it.
type Condition string

// GetExpression returns the expression.
func (c Condition) GetExpression() string { return string(c) }

// ReturnTypes are the types that the expression may have.
func (Condition) ReturnTypes() []*cel.Type { return []*cel.Type{cel.BoolType} }

// checkConditions checks match conditions. params says that they may name a policy's parameters; known are the
// expressions that were stored before, for which older rules of the language hold.
func checkConditions(at *field.Path, conditions []admissionregistrationv1.MatchCondition, params bool, known map[string]bool) field.ErrorList {
	var errs field.ErrorList
	if len(conditions) > maxConditions {
		errs = append(errs, field.TooMany(at, len(conditions), maxConditions))
	}
	names := map[string]bool{}
	for i, c := range conditions {
		at := at.Index(i)
		if expression := strings.TrimSpace(c.Expression); expression == "" {
			errs = append(errs, field.Required(at.Child("expression"), ""))
		} else {
			variables := plugincel.OptionalVariableDeclarations{HasParams: params, HasAuthorizer: true}
			errs = append(errs, checkExpression(at.Child("expression"), Compiler(), Condition(expression), variables, known[expression])...)
		}
		if c.Name == "" {
			errs = append(errs, field.Required(at.Child("name"), ""))
			continue
		}
		errs = append(errs, check.QualifiedName(at.Child("name"), c.Name)...)
		if names[c.Name] {
			errs = append(errs, field.Duplicate(at.Child("name"), c.Name))
		}
		names[c.Name] = true
	}
	return errs
}

// checkExpression reports an expression that can't be compiled, in Kubernetes' words.
func checkExpression(at *field.Path, compiler plugincel.Compiler, e plugincel.ExpressionAccessor, variables plugincel.OptionalVariableDeclarations, known bool) field.ErrorList {
	mode := environment.NewExpressions
	if known {
		mode = environment.StoredExpressions
	}
	return compileErrors(at, e, compiler.CompileCELExpression(e, variables, mode))
}

func compileErrors(at *field.Path, e plugincel.ExpressionAccessor, result plugincel.CompilationResult) field.ErrorList {
	err := result.Error
	if err == nil {
		return nil
	}
	switch err.Type {
	case apiservercel.ErrorTypeRequired:
		return field.ErrorList{field.Required(at, err.Detail)}
	case apiservercel.ErrorTypeInvalid:
		return field.ErrorList{field.Invalid(at, e.GetExpression(), err.Detail)}
	case apiservercel.ErrorTypeInternal:
		return field.ErrorList{field.InternalError(at, err)}
	}
	return field.ErrorList{field.InternalError(at, fmt.Errorf("unsupported error type: %w", err))}
}

package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	celgo "github.com/google/cel-go/cel"
	v1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apimachinery/pkg/util/version"
	"k8s.io/apiserver/pkg/admission/plugin/cel"
	apiservercel "k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/common"
	"k8s.io/apiserver/pkg/cel/environment"
	"k8s.io/apiserver/pkg/cel/library"
	"k8s.io/apiserver/pkg/cel/openapi"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"skiff/pkg/api"
	"skiff/pkg/api/admissionregistration"
)

// TypeChecker finds what is wrong with the expressions of validating policies, given the types of what they
// validate. When they are compiled for use these aren't known: objects are of any type there.
type TypeChecker struct {
	Catalogue *api.Catalogue
	// Schema describes a kind, with all references resolved.
	Schema func(schema.GroupVersionKind) (*spec.Schema, error)
}

// maxTypes is how many kinds a rule is checked for.
const maxTypes = 10

// Check reports expressions that don't fit the types that the policy's rules name. Rules with wildcards, and
// kinds that nobody knows, are passed over.
func (t *TypeChecker) Check(p *v1.ValidatingAdmissionPolicy) []v1.ExpressionWarning {
	var envs []*typedEnv
	for _, gvk := range t.kinds(p) {
		if env := t.env(p, gvk); env != nil {
			envs = append(envs, env)
		}
	}
	var warnings []v1.ExpressionWarning
	check := func(at *field.Path, expression string) {
		var found []string
		for _, env := range envs {
			if problem := env.check(expression); problem != "" {
				found = append(found, problem)
			}
		}
		if len(found) > 0 {
			warnings = append(warnings, v1.ExpressionWarning{FieldRef: at.String(), Warning: strings.Join(found, "\n")})
		}
	}
	for i, v := range p.Spec.Validations {
		at := field.NewPath("spec", "validations").Index(i)
		check(at.Child("expression"), v.Expression)
		if v.MessageExpression != "" {
			check(at.Child("messageExpression"), v.MessageExpression)
		}
	}
	return warnings
}

// kinds are those that a policy's rules name.
func (t *TypeChecker) kinds(p *v1.ValidatingAdmissionPolicy) []schema.GroupVersionKind {
	if p.Spec.MatchConstraints == nil {
		return nil
	}
	var kinds []schema.GroupVersionKind
	for _, rule := range p.Spec.MatchConstraints.ResourceRules {
		kinds = append(kinds, t.ofRule(rule.Rule)...)
	}
	slices.SortFunc(kinds, func(a, b schema.GroupVersionKind) int {
		return cmp.Or(cmp.Compare(a.Group, b.Group), cmp.Compare(a.Version, b.Version), cmp.Compare(a.Kind, b.Kind))
	})
	return slices.Compact(kinds)
}

func (t *TypeChecker) ofRule(rule v1.Rule) []schema.GroupVersionKind {
	if slices.Contains(rule.APIGroups, "*") || slices.Contains(rule.APIVersions, "*") {
		return nil
	}
	view := t.Catalogue.View()
	var kinds []schema.GroupVersionKind
	for _, group := range rule.APIGroups {
		for _, version := range rule.APIVersions {
			for _, resource := range rule.Resources { // with a wildcard or a subresource, nothing is found
				row := view.ByResource(schema.GroupVersionResource{Group: group, Version: version, Resource: resource})
				if row != nil && len(kinds) < maxTypes {
					kinds = append(kinds, row.GroupVersionKind)
				}
			}
		}
	}
	return kinds
}

// typedEnv compiles expressions about objects of one kind.
type typedEnv struct {
	*cel.CompositedCompiler
	kind schema.GroupVersionKind
}

// env is nil for a kind that can't be described.
func (t *TypeChecker) env(p *v1.ValidatingAdmissionPolicy, kind schema.GroupVersionKind) *typedEnv {
	object := t.declared(kind, kind.Kind)
	if object == nil {
		return nil
	}
	types := []*apiservercel.DeclType{cel.BuildNamespaceType(), cel.BuildRequestType(), object}
	options := []celgo.EnvOption{
		celgo.Variable(cel.NamespaceVarName, types[0].CelType()), celgo.Variable(cel.RequestVarName, types[1].CelType()),
		celgo.Variable(cel.ObjectVarName, object.CelType()), celgo.Variable(cel.OldObjectVarName, object.CelType()),
		celgo.Variable(cel.AuthorizerVarName, library.AuthorizerType), celgo.Variable(cel.RequestResourceAuthorizerVarName, library.ResourceCheckType),
	}
	if k := p.Spec.ParamKind; k != nil {
		params := celgo.DynType
		if declared := t.declared(schema.FromAPIVersionAndKind(k.APIVersion, k.Kind), k.Kind+"Params"); declared != nil {
			types, params = append(types, declared), declared.CelType()
		}
		options = append(options, celgo.Variable(cel.ParamsVarName, params))
	}
	base, err := environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion()).Extend(environment.VersionedOptions{
		IntroducedVersion: version.MajorMinor(1, 0), EnvOptions: options, DeclTypes: types,
	})
	if err != nil {
		return nil
	}
	compiler, err := cel.NewCompositedCompilerForTypeChecking(base)
	if err != nil {
		return nil
	}
	env := &typedEnv{compiler, kind}
	compiler.Compiler = env
	for _, v := range p.Spec.Variables {
		e := admissionregistration.Expression{Name: v.Name, Text: v.Expression}
		compiler.CompileAndStoreVariable(e, cel.OptionalVariableDeclarations{}, environment.StoredExpressions)
	}
	return env
}

// declared is the CEL type of a kind; nil for one that can't be described.
func (t *TypeChecker) declared(kind schema.GroupVersionKind, name string) *apiservercel.DeclType {
	described, err := t.Schema(kind)
	if err != nil {
		return nil
	}
	declared := common.SchemaDeclType(&openapi.Schema{Schema: described}, true)
	if declared == nil {
		return nil
	}
	return declared.MaybeAssignTypeName(name)
}

// CompileCELExpression is the compiler of the environment: it knows types, demands none of the result, and
// makes no program.
func (e *typedEnv) CompileCELExpression(expression cel.ExpressionAccessor, _ cel.OptionalVariableDeclarations, mode environment.Type) cel.CompilationResult {
	env, err := e.Env(mode)
	if err != nil {
		return cel.CompilationResult{Error: &apiservercel.Error{Type: apiservercel.ErrorTypeInternal, Detail: fmt.Sprintf("fail to build env: %v", err)}}
	}
	ast, issues := env.Compile(expression.GetExpression())
	if issues != nil {
		return cel.CompilationResult{Error: &apiservercel.Error{Type: apiservercel.ErrorTypeInvalid, Detail: issues.String()}}
	}
	return cel.CompilationResult{OutputType: ast.OutputType()}
}

func (e *typedEnv) check(expression string) string {
	result := e.CompileCELExpression(admissionregistration.Expression{Text: expression}, cel.OptionalVariableDeclarations{}, environment.StoredExpressions)
	switch {
	case result.Error == nil:
		return ""
	case result.Error.Type == apiservercel.ErrorTypeInvalid:
		return fmt.Sprintf("%v: %v\n", e.kind, result.Error)
	}
	return fmt.Sprintf("%v: type checking error: %v\n", e.kind, result.Error)
}

package policy

import (
	v1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/admission/plugin/policy/mutating/patch"
	"k8s.io/apiserver/pkg/cel/environment"

	"skiff/pkg/api/admissionregistration"
	"skiff/pkg/apiserver/admission/match"
)

// compiled is what the expressions of a policy become. Those that don't compile are no error here:
// they fail whenever they are evaluated.
type compiled struct {
	ignoresFailures bool
	conditions      *match.Conditions
	validation      *validation // of a validating policy
	mutation        *mutation   // of a mutating one
}

type validation struct {
	rules                      []v1.Validation
	annotations                []v1.AuditAnnotation
	verdicts, messages, values cel.ConditionEvaluator // as many as rules, rules, annotations
}

type mutation struct {
	compiler    *cel.CompositedCompiler // keeps the variables
	reinvocable bool
	patchers    []patch.Patcher
}

// compilation is one policy's way through the compiler.
type compilation struct {
	compiler *cel.CompositedCompiler
	declared cel.OptionalVariableDeclarations
}

func begin(params *v1.ParamKind, variables []v1.Variable) (*compilation, error) {
	compiler, err := admissionregistration.NewCompiler()
	if err != nil {
		return nil, err
	}
	c := &compilation{compiler, cel.OptionalVariableDeclarations{HasParams: params != nil, HasAuthorizer: true}}
	for _, v := range variables {
		e := admissionregistration.Expression{Name: v.Name, Text: v.Expression, Types: admissionregistration.Anything}
		compiler.CompileAndStoreVariable(e, c.declared, environment.StoredExpressions)
	}
	return c, nil
}

// each compiles one expression of every element; there is none where its text is empty.
func each[T any](c *compilation, of []T, expression func(T) admissionregistration.Expression) cel.ConditionEvaluator {
	all := make([]cel.ExpressionAccessor, len(of))
	for i, v := range of {
		if e := expression(v); e.Text != "" {
			all[i] = e
		}
	}
	return c.compiler.CompileCondition(all, c.declared, environment.StoredExpressions)
}

func ignores(failures *v1.FailurePolicyType) bool { return failures != nil && *failures == v1.Ignore }

func compileValidating(p *v1.ValidatingAdmissionPolicy) (*compiled, error) {
	c, err := begin(p.Spec.ParamKind, p.Spec.Variables)
	if err != nil {
		return nil, err
	}
	out := &compiled{
		ignoresFailures: ignores(p.Spec.FailurePolicy),
		conditions:      match.CompileConditions(p.Spec.MatchConditions, p.Spec.FailurePolicy, p.Spec.ParamKind != nil),
	}
	out.validation = &validation{
		rules: p.Spec.Validations, annotations: p.Spec.AuditAnnotations,
		verdicts: each(c, p.Spec.Validations, func(v v1.Validation) admissionregistration.Expression {
			return admissionregistration.Expression{Text: v.Expression, Types: admissionregistration.Boolean}
		}),
		values: each(c, p.Spec.AuditAnnotations, func(a v1.AuditAnnotation) admissionregistration.Expression {
			return admissionregistration.Expression{Text: a.ValueExpression, Types: admissionregistration.TextOrNothing}
		}),
	}
	c.declared.HasAuthorizer = false // messages can't ask
	out.validation.messages = each(c, p.Spec.Validations, func(v v1.Validation) admissionregistration.Expression {
		return admissionregistration.Expression{Text: v.MessageExpression, Types: admissionregistration.Text}
	})
	return out, nil
}

func compileMutating(p *v1.MutatingAdmissionPolicy) (*compiled, error) {
	c, err := begin(p.Spec.ParamKind, p.Spec.Variables)
	if err != nil {
		return nil, err
	}
	out := &compiled{
		ignoresFailures: ignores(p.Spec.FailurePolicy),
		conditions:      match.CompileConditions(p.Spec.MatchConditions, p.Spec.FailurePolicy, p.Spec.ParamKind != nil),
	}
	out.mutation = &mutation{compiler: c.compiler, reinvocable: p.Spec.ReinvocationPolicy == v1.IfNeededReinvocationPolicy}
	c.declared.HasPatchTypes = true
	for _, m := range p.Spec.Mutations {
		out.mutation.patchers = append(out.mutation.patchers, c.patcher(m))
	}
	// What is needed of it are the variables; the rest is half a megabyte.
	c.compiler.Compiler, c.compiler.ConditionCompiler, c.compiler.MutatingCompiler = nil, nil, nil
	return out, nil
}

func (c *compilation) patcher(m v1.Mutation) patch.Patcher {
	compile := func(e admissionregistration.Expression) cel.MutatingEvaluator {
		return c.compiler.CompileMutatingEvaluator(e, c.declared, environment.StoredExpressions)
	}
	if m.JSONPatch != nil {
		return patch.NewJSONPatcher(compile(admissionregistration.Expression{Text: m.JSONPatch.Expression, Types: admissionregistration.Operations}))
	}
	e := admissionregistration.Expression{Types: admissionregistration.Configuration}
	if m.ApplyConfiguration != nil {
		e.Text = m.ApplyConfiguration.Expression
	}
	return patch.NewApplyConfigurationPatcher(compile(e))
}

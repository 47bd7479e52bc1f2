package admissionregistration

import (
	"fmt"
	"strings"

	"github.com/google/cel-go/cel"
	v1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/pkg/api"
	"skiff/pkg/api/check"
)

func validateMutatingPolicy(obj api.Object) field.ErrorList { return checkMutatingPolicy(obj, nil) }

func validateMutatingPolicyUpdate(obj, old api.Object) field.ErrorList {
	return checkMutatingPolicy(obj, old)
}

func checkMutatingPolicy(obj, old api.Object) field.ErrorList {
	p, common := mutatingPolicy(obj)
	var before *policy
	known := map[string]bool{}
	if old != nil {
		var was *v1.MutatingAdmissionPolicy
		was, before = mutatingPolicy(old)
		before.remember(known)
		for _, m := range was.Spec.Mutations {
			if m.ApplyConfiguration != nil {
				known[m.ApplyConfiguration.Expression] = true
			}
			if m.JSONPatch != nil {
				known[m.JSONPatch.Expression] = true
			}
		}
	}
	c, errs := common.check(before, known, true)
	errs = append(errs, onlyMutable(specPath.Child("matchConstraints"), p.Spec.MatchConstraints)...)
	if len(p.Spec.Mutations) == 0 {
		errs = append(errs, field.Required(specPath.Child("mutations"), "mutations must contain at least one item"))
	}
	for i := range p.Spec.Mutations {
		errs = append(errs, c.mutation(specPath.Child("mutations").Index(i), &p.Spec.Mutations[i])...)
	}
	return append(errs, check.Choice(specPath.Child("reinvocationPolicy"), p.Spec.ReinvocationPolicy, v1.IfNeededReinvocationPolicy, v1.NeverReinvocationPolicy)...)
}

// onlyMutable reports operations that have no object to be changed.
func onlyMutable(at *field.Path, m *v1.MatchResources) field.ErrorList {
	if m == nil {
		return nil
	}
	var errs field.ErrorList
	for _, rule := range m.ResourceRules {
		for _, o := range rule.Operations {
			errs = append(errs, check.OneOf(at.Child("resourceRules", "operations"), o, v1.OperationAll, v1.Connect, v1.Create, v1.Update)...)
		}
	}
	return errs
}

func (c *policyCheck) mutation(at *field.Path, m *v1.Mutation) field.ErrorList {
	var configuration, patch *string
	if m.ApplyConfiguration != nil {
		configuration = &m.ApplyConfiguration.Expression
	}
	if m.JSONPatch != nil {
		patch = &m.JSONPatch.Expression
	}
	switch m.PatchType {
	case v1.PatchTypeJSONPatch:
		return append(c.patch(at, "jsonPatch", patch, m.PatchType, Operations), absent(at, "applyConfiguration", configuration, m.PatchType)...)
	case v1.PatchTypeApplyConfiguration:
		return append(c.patch(at, "applyConfiguration", configuration, m.PatchType, Configuration), absent(at, "jsonPatch", patch, m.PatchType)...)
	}
	return check.Choice(at.Child("patchType"), m.PatchType, v1.PatchTypeApplyConfiguration, v1.PatchTypeJSONPatch)
}

func (c *policyCheck) patch(at *field.Path, name string, expression *string, patchType v1.PatchType, types []*cel.Type) field.ErrorList {
	at = at.Child(name)
	if expression == nil {
		return field.ErrorList{field.Required(at, fmt.Sprintf("must be specified when patchType is %s", patchType))}
	}
	at = at.Child("expression")
	text := strings.TrimSpace(*expression)
	if text == "" {
		return field.ErrorList{field.Required(at, "")}
	}
	declared := c.declared()
	declared.HasPatchTypes = true
	return checkExpression(at, c.compiler, Expression{Text: text, Types: types}, declared, c.known[*expression])
}

func absent(at *field.Path, name string, expression *string, patchType v1.PatchType) field.ErrorList {
	if expression == nil {
		return nil
	}
	return field.ErrorList{field.Invalid(at.Child(name), "{"+name+"}", fmt.Sprintf("must not be specified when patchType is %s", patchType))}
}

package resource

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/validate/content"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	apiservercel "k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/environment"
	dracel "k8s.io/dynamic-resource-allocation/cel"

	"skiff/pkg/api/check"
	"skiff/pkg/api/core"
)

// deviceClaim checks what a claim asks for.
func deviceClaim(at *field.Path, c *resourcev1.DeviceClaim) check.Errors {
	names := requestNames(c)
	requests := at.Child("requests")
	return slices.Concat(
		set(requests, c.Requests, resourcev1.DeviceRequestsMaxSize, request, func(r *resourcev1.DeviceRequest) string { return r.Name }),
		each(at.Child("constraints"), c.Constraints, resourcev1.DeviceConstraintsMaxSize, names.constraint),
		each(at.Child("config"), c.Config, resourcev1.DeviceConfigMaxSize, func(at *field.Path, c *resourcev1.DeviceClaimConfiguration) check.Errors {
			return slices.Concat(names.refs(at.Child("requests"), c.Requests), configuration(at, &c.DeviceConfiguration, false))
		}),
	)
}

func request(at *field.Path, r *resourcev1.DeviceRequest) check.Errors {
	errs := check.Label(at.Child("name"), r.Name)
	switch {
	case len(r.FirstAvailable) > 0 && r.Exactly != nil:
		errs = append(errs, field.Invalid(at, nil, "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set"))
	case len(r.FirstAvailable) > 0:
		errs = append(errs, set(at.Child("firstAvailable"), r.FirstAvailable, resourcev1.FirstAvailableDeviceRequestMaxSize, subRequest, func(s *resourcev1.DeviceSubRequest) string { return s.Name })...)
	case r.Exactly != nil:
		e := r.Exactly
		errs = append(errs, kindOfDevice(at.Child("exactly"), e.DeviceClassName, e.Selectors, e.AllocationMode, e.Count, e.Tolerations)...)
	default:
		errs = append(errs, field.Required(at, "exactly one of `exactly` or `firstAvailable` is required"))
	}
	return errs
}

func subRequest(at *field.Path, s *resourcev1.DeviceSubRequest) check.Errors {
	return slices.Concat(check.Label(at.Child("name"), s.Name), kindOfDevice(at, s.DeviceClassName, s.Selectors, s.AllocationMode, s.Count, s.Tolerations))
}

// kindOfDevice is what a request and an alternative within one have in common.
func kindOfDevice(at *field.Path, class string, list []resourcev1.DeviceSelector, mode resourcev1.DeviceAllocationMode, count int64, tolerations []resourcev1.DeviceToleration) check.Errors {
	errs := check.Required(at.Child("deviceClassName"), class)
	if class != "" {
		errs = check.Subdomain(at.Child("deviceClassName"), class)
	}
	errs = append(errs, selectors(at.Child("selectors"), list, false)...)
	switch mode {
	case resourcev1.DeviceAllocationModeAll:
		if count != 0 {
			errs = append(errs, field.Invalid(at.Child("count"), count, "must not be specified when allocationMode is 'All'"))
		}
	case resourcev1.DeviceAllocationModeExactCount:
		errs = append(errs, check.Positive(at.Child("count"), count)...)
	default:
		errs = append(errs, check.OneOf(at.Child("allocationMode"), mode, resourcev1.DeviceAllocationModeAll, resourcev1.DeviceAllocationModeExactCount)...)
	}
	for i := range tolerations {
		errs = append(errs, toleration(at.Child("tolerations").Index(i), &tolerations[i])...)
	}
	return errs
}

var effects = []resourcev1.DeviceTaintEffect{resourcev1.DeviceTaintEffectNoExecute, resourcev1.DeviceTaintEffectNoSchedule, resourcev1.DeviceTaintEffectNone}

func toleration(at *field.Path, t *resourcev1.DeviceToleration) check.Errors {
	var errs check.Errors
	if t.Key != "" {
		errs = metavalidation.ValidateLabelName(t.Key, at.Child("key"))
	}
	switch t.Operator {
	case resourcev1.DeviceTolerationOpExists:
		if t.Value != "" {
			errs = append(errs, field.Invalid(at.Child("value"), t.Value, "must be empty for operator `Exists`"))
		}
	case resourcev1.DeviceTolerationOpEqual:
		errs = append(errs, labelValue(at.Child("value"), t.Value)...)
	default:
		errs = append(errs, check.Choice(at.Child("operator"), t.Operator, resourcev1.DeviceTolerationOpEqual, resourcev1.DeviceTolerationOpExists)...)
	}
	if t.Effect != "" {
		errs = append(errs, check.OneOf(at.Child("effect"), t.Effect, effects...)...)
	}
	return errs
}

func labelValue(at *field.Path, v string) check.Errors {
	return check.Messages(at, v, utilvalidation.IsValidLabelValue(v))
}

// selectors checks expressions over a device. Those that are stored may use what only older versions had.
func selectors(at *field.Path, list []resourcev1.DeviceSelector, stored bool) check.Errors {
	return each(at, list, resourcev1.DeviceSelectorsMaxSize, func(at *field.Path, s *resourcev1.DeviceSelector) check.Errors {
		at = at.Child("cel")
		if s.CEL == nil {
			return check.Errors{field.Required(at, "")}
		}
		return expression(at.Child("expression"), s.CEL.Expression, stored)
	})
}

func expression(at *field.Path, text string, stored bool) check.Errors {
	if len(text) > resourcev1.CELSelectorExpressionMaxLength {
		return check.Errors{field.TooLong(at, "", resourcev1.CELSelectorExpressionMaxLength)}
	}
	kind := environment.NewExpressions
	if stored {
		kind = environment.StoredExpressions
	}
	result := dracel.GetCompiler(dracel.Features{EnableConsumableCapacity: true}).CompileCELExpression(text, dracel.Options{EnvType: &kind})
	switch err := result.Error; {
	case err == nil && result.MaxCost > resourcev1.CELSelectorExpressionMaxCost:
		return check.Errors{field.Forbidden(at, "too complex, exceeds cost limit")}
	case err == nil:
		return nil
	case err.Type == apiservercel.ErrorTypeInvalid:
		return check.Errors{field.Invalid(at, text, err.Detail)}
	}
	return check.Errors{field.InternalError(at, result.Error)}
}

// names are those of a claim's requests, with those of the alternatives within them.
type names map[string][]string

func requestNames(c *resourcev1.DeviceClaim) names {
	all := names{}
	for _, r := range c.Requests {
		all[r.Name] = nil
		for _, s := range r.FirstAvailable {
			all[r.Name] = append(all[r.Name], s.Name)
		}
	}
	return all
}

func (n names) constraint(at *field.Path, c *resourcev1.DeviceConstraint) check.Errors {
	errs := n.refs(at.Child("requests"), c.Requests)
	switch {
	case c.MatchAttribute != nil:
		errs = append(errs, fullyQualified(at.Child("matchAttribute"), *c.MatchAttribute)...)
	case c.DistinctAttribute != nil:
		errs = append(errs, fullyQualified(at.Child("distinctAttribute"), *c.DistinctAttribute)...)
	default: // the words are Kubernetes' own
		errs = append(errs, field.Required(at, `exactly one of "matchAttribute" or "distinctAttribute" is required, but multiple fields are set`))
	}
	return errs
}

func (n names) refs(at *field.Path, list []string) check.Errors {
	return set(at, list, resourcev1.DeviceRequestsMaxSize, n.ref, itself)
}

func (n names) ref(at *field.Path, name *string) check.Errors {
	const refusal = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'"
	request, sub, isSub := strings.Cut(*name, "/")
	if strings.Contains(sub, "/") {
		return check.Errors{field.Invalid(at, *name, refusal)}
	}
	errs := check.Label(at, request)
	if isSub {
		errs = append(errs, check.Label(at, sub)...)
	}
	subs, ok := n[request]
	if !ok || isSub && !slices.Contains(subs, sub) {
		errs = append(errs, field.Invalid(at, *name, refusal))
	}
	return errs
}

func configuration(at *field.Path, c *resourcev1.DeviceConfiguration, stored bool) check.Errors {
	at = at.Child("opaque")
	if c.Opaque == nil {
		return check.Errors{field.Required(at, "")}
	}
	return slices.Concat(core.ValidateCSIDriverName(at.Child("driver"), c.Opaque.Driver), rawObject(at.Child("parameters"), c.Opaque.Parameters, stored, resourcev1.OpaqueParametersMaxLength))
}

// rawObject is any JSON object. What is stored may be longer.
func rawObject(at *field.Path, r runtime.RawExtension, stored bool, longest int) check.Errors {
	if len(r.Raw) == 0 {
		return check.Errors{field.Required(at, "")}
	}
	if !stored && len(r.Raw) > longest {
		return check.Errors{field.TooLong(at, "", longest)}
	}
	var v any
	if err := json.Unmarshal(r.Raw, &v); err != nil {
		return check.Errors{field.Invalid(at, "<value omitted>", fmt.Sprintf("error parsing data as JSON: %v", err))}
	}
	if v == nil {
		return check.Errors{field.Required(at, "")}
	}
	if _, ok := v.(map[string]any); !ok {
		return check.Errors{field.Invalid(at, "<value omitted>", "must be a valid JSON object")}
	}
	return nil
}

func fullyQualified(at *field.Path, name resourcev1.FullyQualifiedName) check.Errors {
	errs := qualified(at, string(name))
	if !strings.Contains(string(name), "/") {
		errs = append(errs, field.Invalid(at, name, "a fully qualified name must be a domain and a name separated by a slash"))
	}
	return errs
}

// qualified is a name of an attribute or a capacity, with the driver's domain or without.
func qualified(at *field.Path, name string) check.Errors {
	domain, id, both := strings.Cut(name, "/")
	switch {
	case !both:
		return identifier(at, name)
	case strings.Contains(id, "/"):
		return nil // Kubernetes doesn't look at those
	}
	errs := check.Errors{field.Invalid(at, "", "the domain must not be empty")}
	if domain != "" {
		errs = core.ValidateCSIDriverName(at, domain)
	}
	if id == "" {
		return append(errs, field.Invalid(at, "", "the name must not be empty"))
	}
	return append(errs, identifier(at, id)...)
}

func identifier(at *field.Path, id string) check.Errors {
	var errs check.Errors
	if len(id) > resourcev1.DeviceMaxIDLength {
		errs = append(errs, field.TooLong(at, "", resourcev1.DeviceMaxIDLength))
	}
	return append(errs, check.Messages(at, id, content.IsCIdentifier(id))...)
}

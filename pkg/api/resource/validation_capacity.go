package resource

import (
	"fmt"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/pkg/api/check"
)

// maxOptions is how many sizes a capacity can be given out in.
const maxOptions = 10

// capacity checks how requests share a capacity, if several may.
func capacity(at *field.Path, c *resourcev1.DeviceCapacity, shared bool) check.Errors {
	p := c.RequestPolicy
	switch {
	case p == nil:
		return nil
	case !shared:
		return check.Errors{field.Forbidden(at, "allowMultipleAllocations must be true")}
	case len(p.ValidValues) > 0 && p.ValidRange != nil:
		return check.Errors{field.Forbidden(at, `exactly one policy can be specified, cannot specify "validValues" and "validRange" at the same time`)}
	case len(p.ValidValues) > 0 && p.Default == nil:
		return check.Errors{field.Required(at.Child("default"), "required when validValues is defined")}
	case len(p.ValidValues) > 0:
		return validValues(at.Child("validValues"), p.ValidValues, p.Default, &c.Value)
	case p.ValidRange != nil && p.Default == nil:
		return check.Errors{field.Required(at.Child("default"), "required when validRange is defined")}
	case p.ValidRange != nil:
		return validRange(at.Child("validRange"), p.ValidRange, p.Default, &c.Value)
	}
	return nil
}

func validValues(at *field.Path, values []resource.Quantity, usual, whole *resource.Quantity) check.Errors {
	var errs check.Errors
	for i := 1; i < len(values); i++ {
		if values[i-1].Cmp(values[i]) > 0 {
			errs = append(errs, field.Invalid(at.Index(i), values[i].String(), "values must be sorted in ascending order"))
		}
	}
	found := false
	errs = append(errs, set(at, values, maxOptions, func(at *field.Path, v *resource.Quantity) check.Errors {
		found = found || v.Cmp(*usual) == 0
		if v.Cmp(*whole) > 0 {
			return check.Errors{field.Invalid(at, v.String(), "option is larger than capacity value: "+whole.String())}
		}
		return nil
	}, func(v *resource.Quantity) string { return fmt.Sprint(v.Value()) })...)
	if !found {
		errs = append(errs, field.Invalid(at, usual.String(), "default value is not valid according to the requestPolicy"))
	}
	return errs
}

func validRange(at *field.Path, r *resourcev1.CapacityRequestPolicyRange, usual, whole *resource.Quantity) check.Errors {
	if r.Min == nil {
		return check.Errors{field.Required(at.Child("min"), "required when validRange is defined")}
	}
	var errs check.Errors
	bad := func(is bool, child string, v *resource.Quantity, format string, args ...any) {
		if is {
			errs = append(errs, field.Invalid(at.Child(child), v.String(), fmt.Sprintf(format, args...)))
		}
	}
	bad(r.Min.Cmp(*whole) > 0, "min", r.Min, "min is larger than capacity value: %s", whole)
	bad(usual.Cmp(*r.Min) < 0, "min", usual, "default is less than min: %s", r.Min)
	if r.Max != nil {
		bad(r.Min.Cmp(*r.Max) > 0, "max", r.Min, "min is larger than max: %s", r.Max)
		bad(r.Max.Cmp(*whole) > 0, "max", r.Max, "max is larger than capacity value: %s", whole)
		bad(usual.Cmp(*r.Max) > 0, "max", usual, "default is more than max: %s", r.Max)
	}
	if r.Step == nil {
		return errs
	}
	first := r.Min.DeepCopy()
	first.Add(*r.Step)
	bad(first.Cmp(*whole) > 0, "step", r.Step, "one step %s is larger than capacity value: %s", &first, whole)
	if r.Step.Value() == 0 { // by which Kubernetes divides
		return append(errs, field.Invalid(at.Child("step"), r.Step.String(), "must be greater than zero"))
	}
	steps := func(v *resource.Quantity) {
		bad((v.Value()-r.Min.Value())%r.Step.Value() != 0, "step", v, "value is not a multiple of a given step (%s) from (%s)", r.Step, r.Min)
	}
	steps(usual)
	if r.Max != nil {
		steps(r.Max)
	}
	return errs
}

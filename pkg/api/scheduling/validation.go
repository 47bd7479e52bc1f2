package scheduling

import (
	"fmt"
	"slices"
	"strings"

	schedulingv1 "k8s.io/api/scheduling/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/pkg/api"
	"skiff/pkg/api/check"
	"skiff/pkg/api/core"
)

const (
	highestUserPriority = 1_000_000_000
	systemPrefix        = "system-"
)

// systemPriorities are above all that users can define.
var systemPriorities = map[string]int32{
	"system-cluster-critical": 2 * highestUserPriority,
	"system-node-critical":    2*highestUserPriority + 1000,
}

func validatePriorityClass(obj api.Object) field.ErrorList {
	c := obj.(*schedulingv1.PriorityClass)
	var errs check.Errors
	if strings.HasPrefix(c.Name, systemPrefix) {
		if reason := notSystem(c); reason != "" {
			errs = append(errs, field.Forbidden(field.NewPath("metadata", "name"), "priority class names with '"+systemPrefix+"' prefix are reserved for system use only. error: "+reason))
		}
	} else if c.Value > highestUserPriority {
		errs = append(errs, field.Forbidden(field.NewPath("value"), fmt.Sprintf("maximum allowed value of a user defined priority is %v", highestUserPriority)))
	}
	if c.PreemptionPolicy != nil {
		errs = append(errs, core.PreemptionPolicy(field.NewPath("preemptionPolicy"), *c.PreemptionPolicy)...)
	}
	return errs
}

func notSystem(c *schedulingv1.PriorityClass) string {
	switch value, known := systemPriorities[c.Name]; {
	case !known:
		return c.Name + " is not a known system priority class"
	case c.Value != value:
		return fmt.Sprintf("value of %v PriorityClass must be %v", c.Name, value)
	case c.GlobalDefault:
		return fmt.Sprintf("globalDefault of %v PriorityClass must be %v", c.Name, false)
	}
	return ""
}

func validatePriorityClassUpdate(obj, old api.Object) field.ErrorList {
	c, was := obj.(*schedulingv1.PriorityClass), old.(*schedulingv1.PriorityClass)
	var errs check.Errors
	if c.Value != was.Value {
		errs = append(errs, field.Forbidden(field.NewPath("value"), "may not be changed in an update."))
	}
	return slices.Concat(errs, check.Immutable(field.NewPath("preemptionPolicy"), c.PreemptionPolicy, was.PreemptionPolicy))
}

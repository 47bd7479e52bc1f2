package resource

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/pkg/api"
	"skiff/pkg/api/check"
	"skiff/pkg/api/core"
)

func validateSlice(obj api.Object) field.ErrorList {
	return slice(&obj.(*resourcev1.ResourceSlice).Spec, nil)
}

func validateSliceUpdate(obj, old api.Object) field.ErrorList {
	return slice(&obj.(*resourcev1.ResourceSlice).Spec, &old.(*resourcev1.ResourceSlice).Spec)
}

func sliceWarnings(obj, _ api.Object) []string {
	if driver := obj.(*resourcev1.ResourceSlice).Spec.Driver; driver != strings.ToLower(driver) {
		return []string{fmt.Sprintf("spec.driver: driver names should be lowercase; %q contains uppercase characters", driver)}
	}
	return nil
}

func slice(s, old *resourcev1.ResourceSliceSpec) check.Errors {
	at := specPath
	errs := slices.Concat(core.ValidateCSIDriverName(at.Child("driver"), s.Driver), poolName(at.Child("pool", "name"), s.Pool.Name))
	if s.Pool.ResourceSliceCount <= 0 {
		errs = append(errs, field.Invalid(at.Child("pool", "resourceSliceCount"), s.Pool.ResourceSliceCount, "must be greater than zero"))
	}
	if s.Pool.Generation < 0 {
		errs = append(errs, field.Invalid(at.Child("pool", "generation"), s.Pool.Generation, "must be greater than or equal to zero"))
	}
	if old != nil {
		errs = slices.Concat(errs, check.Immutable(at.Child("pool", "name"), s.Pool.Name, old.Pool.Name),
			check.Immutable(at.Child("driver"), s.Driver, old.Driver), check.Immutable(at.Child("nodeName"), s.NodeName, old.NodeName))
	}
	where := place{at: at, ofSlice: true, required: "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required"}
	errs = append(errs, where.check(s.NodeName, s.NodeSelector, s.AllNodes, s.PerDeviceNodeSelection)...)
	if s.SharedCounters != nil && s.Devices != nil {
		errs = append(errs, field.Invalid(at, "", "only one of `sharedCounters` or `devices` is allowed"))
	}
	most := resourcev1.ResourceSliceMaxDevices
	if slices.ContainsFunc(s.Devices, func(d resourcev1.Device) bool { return len(d.Taints)+len(d.ConsumesCounters) > 0 }) {
		most = resourcev1.ResourceSliceMaxDevicesWithAdvancedFeatures
	}
	return slices.Concat(errs,
		set(at.Child("devices"), s.Devices, most, func(at *field.Path, d *resourcev1.Device) check.Errors {
			return device(at, d, deviceOf(old, d.Name), s.PerDeviceNodeSelection != nil && *s.PerDeviceNodeSelection)
		}, func(d *resourcev1.Device) string { return d.Name }),
		set(at.Child("sharedCounters"), s.SharedCounters, resourcev1.ResourceSliceMaxCounterSets, func(at *field.Path, c *resourcev1.CounterSet) check.Errors {
			return counters(at, "name", c.Name, c.Counters, resourcev1.ResourceSliceMaxCountersPerCounterSet)
		}, func(c *resourcev1.CounterSet) string { return c.Name }))
}

// poolName is one or several names of nodes.
func poolName(at *field.Path, name string) check.Errors {
	if name == "" {
		return check.Errors{field.Required(at, "")}
	}
	var errs check.Errors
	if len(name) > resourcev1.PoolNameMaxLength {
		errs = append(errs, field.TooLong(at, "", resourcev1.PoolNameMaxLength))
	}
	for part := range strings.SplitSeq(name, "/") {
		errs = append(errs, check.Subdomain(at, part)...)
	}
	return errs
}

func deviceOf(s *resourcev1.ResourceSliceSpec, name string) *resourcev1.Device {
	if s == nil {
		return nil
	}
	if i := slices.IndexFunc(s.Devices, func(d resourcev1.Device) bool { return d.Name == name }); i >= 0 {
		return &s.Devices[i]
	}
	return nil
}

// place is where devices are: said for a whole slice, or for each device in it.
type place struct {
	at       *field.Path
	ofSlice  bool
	required string
}

func (p place) check(node *string, selector *corev1.NodeSelector, all, perDevice *bool) check.Errors {
	var errs check.Errors
	var ways []string
	if node != nil && *node == "" {
		message := "must not be empty"
		if p.ofSlice {
			message = "must be either unset or set to a non-empty string"
		}
		errs = append(errs, field.Invalid(p.at.Child("nodeName"), *node, message))
	} else if node != nil {
		ways = append(ways, "`nodeName`")
		errs = append(errs, check.Messages(p.at.Child("nodeName"), *node, validation.NameIsDNSSubdomain(*node, false))...)
	}
	if selector != nil {
		ways = append(ways, "`nodeSelector`")
		errs = append(errs, core.ValidateNodeSelector(p.at.Child("nodeSelector"), selector, false)...)
		if p.ofSlice && len(selector.NodeSelectorTerms) != 1 { // for they are put together
			errs = append(errs, field.Invalid(p.at.Child("nodeSelector", "nodeSelectorTerms"), selector.NodeSelectorTerms, "must have exactly one node selector term"))
		}
	}
	yes := func(child string, v *bool) {
		if v != nil && *v {
			ways = append(ways, "`"+child+"`")
		} else if v != nil {
			errs = append(errs, field.Invalid(p.at.Child(child), *v, "must be either unset or set to true"))
		}
	}
	yes("allNodes", all)
	yes("perDeviceNodeSelection", perDevice)
	switch {
	case len(ways) == 0:
		errs = append(errs, field.Required(p.at, p.required))
	case len(ways) > 1 && p.ofSlice:
		errs = append(errs, field.Invalid(p.at, "{"+strings.Join(ways, ", ")+"}", p.required+", but multiple fields are set"))
	case len(ways) > 1:
		errs = append(errs, field.Invalid(p.at, "{"+strings.Join(ways, ", ")+"}", p.required))
	}
	return errs
}

func counters(at *field.Path, child, name string, m map[string]resourcev1.Counter, most int) check.Errors {
	errs := check.RequiredLabel(at.Child(child), name)
	if len(m) == 0 {
		return append(errs, field.Required(at.Child("counters"), ""))
	}
	return append(errs, entries(at.Child("counters"), m, most, utilvalidation.DNS1123LabelMaxLength, check.Label, func(*field.Path, resourcev1.Counter) check.Errors { return nil })...)
}

// device is one device of a slice. old is its predecessor, if there is one.
func device(at *field.Path, d, old *resourcev1.Device, placed bool) check.Errors {
	const longest = resourcev1.DeviceMaxDomainLength + 1 + resourcev1.DeviceMaxIDLength
	errs := check.Label(at.Child("name"), d.Name)
	all := len(d.Attributes) + len(d.Capacity)
	if all > resourcev1.ResourceSliceMaxAttributesAndCapacitiesPerDevice {
		errs = append(errs, field.Invalid(at, all, fmt.Sprintf("the total number of attributes and capacities must not exceed %d", resourcev1.ResourceSliceMaxAttributesAndCapacitiesPerDevice)))
	}
	errs = append(errs, entries(at.Child("attributes"), d.Attributes, len(d.Attributes), longest, qualified, attribute)...)
	shared := d.AllowMultipleAllocations != nil && *d.AllowMultipleAllocations
	errs = append(errs, entries(at.Child("capacity"), d.Capacity, len(d.Capacity), longest, qualified, func(at *field.Path, c resourcev1.DeviceCapacity) check.Errors {
		return capacity(at.Child("requestPolicy"), &c, shared)
	})...)
	if old == nil || !equality.Semantic.DeepEqual(old.Taints, d.Taints) {
		errs = append(errs, each(at.Child("taints"), d.Taints, resourcev1.DeviceTaintsMaxLength, taint)...)
	}
	errs = append(errs, set(at.Child("consumesCounters"), d.ConsumesCounters, resourcev1.ResourceSliceMaxDeviceCounterConsumptionsPerDevice, func(at *field.Path, c *resourcev1.DeviceCounterConsumption) check.Errors {
		return counters(at, "counterSet", c.CounterSet, c.Counters, resourcev1.ResourceSliceMaxCountersPerDeviceCounterConsumption)
	}, func(c *resourcev1.DeviceCounterConsumption) string { return c.CounterSet })...)
	if placed {
		where := place{at: at, required: "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true in the ResourceSlice spec"}
		errs = append(errs, where.check(d.NodeName, d.NodeSelector, d.AllNodes, nil)...)
	} else if d.NodeName != nil || d.NodeSelector != nil || d.AllNodes != nil {
		errs = append(errs, field.Invalid(at, nil, "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec"))
	}
	errs = append(errs, bindingConditions(at, d.BindingConditions, d.BindingFailureConditions)...)
	if len(d.NodeAllocatableResourceMappings) > 0 && (old == nil || len(old.NodeAllocatableResourceMappings) == 0) {
		errs = append(errs, core.Off(at.Child("nodeAllocatableResourceMappings"), "DRANodeAllocatableResources"))
	}
	return errs
}

func taint(at *field.Path, t *resourcev1.DeviceTaint) check.Errors {
	errs := metavalidation.ValidateLabelName(t.Key, at.Child("key"))
	if t.Value != "" {
		errs = append(errs, labelValue(at.Child("value"), t.Value)...)
	}
	return append(errs, check.Choice(at.Child("effect"), t.Effect, effects...)...)
}

// semantic is the grammar of versions on semver.org.
var semantic = func() *regexp.Regexp {
	const number, word = `(0|[1-9]\d*)`, `[0-9a-zA-Z-]+`
	const before = `(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)`
	return regexp.MustCompile(`^` + number + `\.` + number + `\.` + number + `(-` + before + `(\.` + before + `)*)?(\+` + word + `(\.` + word + `)*)?$`)
}()

func attribute(at *field.Path, a resourcev1.DeviceAttribute) check.Errors {
	var errs check.Errors
	values := 0
	for child, listed := range map[string]bool{"bools": a.BoolValues != nil, "ints": a.IntValues != nil, "strings": a.StringValues != nil, "versions": a.VersionValues != nil} {
		if listed {
			return check.Errors{core.Off(at.Child(child), "DRAListTypeAttributes")}
		}
	}
	for _, set := range []bool{a.BoolValue != nil, a.IntValue != nil, a.StringValue != nil, a.VersionValue != nil} {
		if set {
			values++
		}
	}
	long := func(child string, v *string) {
		if v != nil && len(*v) > resourcev1.DeviceAttributeMaxValueLength {
			errs = append(errs, field.TooLong(at.Child(child), "", resourcev1.DeviceAttributeMaxValueLength))
		}
	}
	long("string", a.StringValue)
	if v := a.VersionValue; v != nil && !semantic.MatchString(*v) {
		errs = append(errs, field.Invalid(at.Child("version"), *v, "must be a string compatible with semver.org spec 2.0.0"))
	}
	long("version", a.VersionValue)
	switch {
	case values == 0:
		errs = append(errs, field.Invalid(at, "", "exactly one value must be specified"))
	case values > 1:
		errs = append(errs, field.Invalid(at, a, "exactly one value must be specified"))
	}
	return errs
}

// bindingConditions say when a device can be used, or can't after all. There are both or none.
func bindingConditions(at *field.Path, ready, failed []string) check.Errors {
	const readyChild, failedChild = "bindingConditions", "bindingFailureConditions"
	label := func(at *field.Path, s *string) check.Errors { return metavalidation.ValidateLabelName(*s, at) }
	errs := slices.Concat(each(at.Child(readyChild), ready, resourcev1.BindingConditionsMaxSize, label), each(at.Child(failedChild), failed, resourcev1.BindingFailureConditionsMaxSize, label))
	for i, c := range ready {
		if slices.Contains(ready[:i], c) {
			errs = append(errs, field.Duplicate(at.Child(readyChild).Index(i), c))
		}
	}
	for i, c := range failed {
		if slices.Contains(failed[:i], c) {
			errs = append(errs, field.Duplicate(at.Child(failedChild).Index(i), c))
		}
		if slices.Contains(ready, c) {
			errs = append(errs, field.Invalid(at.Child(failedChild).Index(i), c, "bindingFailureConditions must not overlap with bindingConditions"))
		}
	}
	if len(ready) == 0 && len(failed) > 0 {
		errs = append(errs, field.Invalid(at.Child(readyChild), ready, "bindingConditions are required to use bindingFailureConditions"))
	}
	if len(failed) == 0 && len(ready) > 0 {
		errs = append(errs, field.Invalid(at.Child(failedChild), failed, "bindingFailureConditions are required to use bindingConditions"))
	}
	return errs
}

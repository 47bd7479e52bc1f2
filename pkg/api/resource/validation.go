package resource

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/pkg/api"
	"skiff/pkg/api/check"
	"skiff/pkg/api/core"
)

// The rules of a class and of what claims have in common with it are in validation_devices.go, those of a claim's status in
// validation_status.go, those of slices in validation_slice.go and validation_capacity.go.

var specPath = field.NewPath("spec")

func validateClass(obj api.Object) field.ErrorList { return class(obj, nil) }

func validateClassUpdate(obj, old api.Object) field.ErrorList {
	return class(obj, &old.(*resourcev1.DeviceClass).Spec)
}

// class is lenient to expressions and parameters that were there before.
func class(obj api.Object, old *resourcev1.DeviceClassSpec) check.Errors {
	s := &obj.(*resourcev1.DeviceClass).Spec
	stored := old != nil && equality.Semantic.DeepEqual(s.Selectors, old.Selectors)
	errs := selectors(specPath.Child("selectors"), s.Selectors, stored)
	stored = old != nil && equality.Semantic.DeepEqual(s.Config, old.Config)
	errs = append(errs, each(specPath.Child("config"), s.Config, resourcev1.DeviceConfigMaxSize, func(at *field.Path, c *resourcev1.DeviceClassConfiguration) check.Errors {
		return configuration(at, &c.DeviceConfiguration, stored)
	})...)
	if n := s.ExtendedResourceName; n != nil && !core.IsExtendedResource(corev1.ResourceName(*n)) {
		errs = append(errs, field.Invalid(specPath.Child("extendedResourceName"), *n, "must be a valid extended resource name"))
	}
	return errs
}

func validateClaim(obj api.Object) field.ErrorList {
	return deviceClaim(specPath.Child("devices"), &obj.(*resourcev1.ResourceClaim).Spec.Devices)
}

// What a claim asks for can't be changed any more, so nothing else is said about it.
func validateClaimUpdate(obj, old api.Object) field.ErrorList {
	return check.Immutable(specPath, obj.(*resourcev1.ResourceClaim).Spec, old.(*resourcev1.ResourceClaim).Spec)
}

func validateTemplate(obj api.Object) field.ErrorList {
	s := &obj.(*resourcev1.ResourceClaimTemplate).Spec
	return slices.Concat(core.TemplateMeta(specPath.Child("metadata"), &s.ObjectMeta), deviceClaim(specPath.Child("spec", "devices"), &s.Spec.Devices))
}

func validateTemplateUpdate(obj, old api.Object) field.ErrorList {
	return slices.Concat(validateTemplate(obj), check.Immutable(specPath, obj.(*resourcev1.ResourceClaimTemplate).Spec, old.(*resourcev1.ResourceClaimTemplate).Spec))
}

// each checks the items of a list. Of a list that is too long only that is said: a client can't have it all looked at.
func each[T any](at *field.Path, list []T, most int, item func(*field.Path, *T) check.Errors) check.Errors {
	if len(list) > most {
		return check.Errors{field.TooMany(at, len(list), most)}
	}
	var errs check.Errors
	for i := range list {
		errs = append(errs, item(at.Index(i), &list[i])...)
	}
	return errs
}

// set is each for items of which no two have the same key.
func set[T any, K comparable](at *field.Path, list []T, most int, item func(*field.Path, *T) check.Errors, key func(*T) K) check.Errors {
	errs := each(at, list, most, item)
	if len(list) > most {
		return errs
	}
	seen := map[K]bool{}
	for i := range list {
		k := key(&list[i])
		if seen[k] {
			errs = append(errs, field.Duplicate(at.Index(i), k))
		}
		seen[k] = true
	}
	return errs
}

func itself(s *string) string { return *s }

// entries checks the keys and values of a map, in the keys' order. Long keys are shortened in paths.
func entries[K ~string, T any](at *field.Path, m map[K]T, most, longest int, key func(*field.Path, string) check.Errors, value func(*field.Path, T) check.Errors) check.Errors {
	if len(m) > most {
		return check.Errors{field.TooMany(at, len(m), most)}
	}
	var errs check.Errors
	for _, k := range slices.Sorted(maps.Keys(m)) {
		errs = slices.Concat(errs, key(at, string(k)), value(at.Key(shortened(string(k), longest)), m[k]))
	}
	return errs
}

func shortened(s string, longest int) string {
	const dots = "..."
	if len(s) <= longest {
		return s
	}
	rest := longest - len(dots)
	return s[:(rest+1)/2] + dots + s[len(s)-rest/2:]
}

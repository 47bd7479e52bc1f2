package storage

import (
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/pkg/api"
	"skiff/pkg/api/check"
)

func validateClass(obj api.Object) field.ErrorList {
	c := obj.(*storagev1.StorageClass)
	errs := slices.Concat(provisioner(field.NewPath("provisioner"), c.Provisioner), parameters(field.NewPath("parameters"), c.Parameters))
	if p := c.ReclaimPolicy; p != nil && *p != "" {
		errs = append(errs, check.OneOf(field.NewPath("reclaimPolicy"), *p, corev1.PersistentVolumeReclaimDelete, corev1.PersistentVolumeReclaimRetain)...)
	}
	if m := c.VolumeBindingMode; m == nil {
		errs = append(errs, field.Required(field.NewPath("volumeBindingMode"), ""))
	} else {
		errs = append(errs, check.OneOf(field.NewPath("volumeBindingMode"), *m, storagev1.VolumeBindingImmediate, storagev1.VolumeBindingWaitForFirstConsumer)...)
	}
	return append(errs, topologies(field.NewPath("allowedTopologies"), c.AllowedTopologies)...)
}

func topologies(at *field.Path, terms []corev1.TopologySelectorTerm) check.Errors {
	var errs check.Errors
	seen := []map[string]sets.Set[string]{nil} // a term without expressions is a duplicate of nothing, as in Kubernetes
	for i, term := range terms {
		values := map[string]sets.Set[string]{}
		at := at.Index(i).Child("matchLabelExpressions")
		for j, e := range term.MatchLabelExpressions {
			at := at.Index(j)
			if len(e.Values) == 0 {
				errs = append(errs, field.Required(at.Child("values"), ""))
			}
			for k, v := range e.Values {
				if slices.Contains(e.Values[:k], v) {
					errs = append(errs, field.Duplicate(at.Child("values").Index(k), v))
				}
			}
			errs = append(errs, metavalidation.ValidateLabelName(e.Key, at.Child("key"))...)
			if values[e.Key] != nil {
				errs = append(errs, field.Duplicate(at.Child("key"), e.Key))
			}
			values[e.Key] = sets.New(e.Values...)
		}
		if slices.ContainsFunc(seen, func(other map[string]sets.Set[string]) bool {
			return maps.EqualFunc(values, other, sets.Set[string].Equal)
		}) {
			errs = append(errs, field.Duplicate(at, ""))
		}
		seen = append(seen, values)
	}
	return errs
}

func provisioner(at *field.Path, name string) check.Errors {
	if name == "" {
		return check.Errors{field.Required(at, "")}
	}
	return check.QualifiedName(at, strings.ToLower(name))
}

func parameters(at *field.Path, list map[string]string) check.Errors {
	const most, longest = 512, 256 << 10
	if len(list) > most {
		return check.Errors{field.TooLong(at, "", most)}
	}
	var errs check.Errors
	size := 0
	for key, v := range list {
		if key == "" {
			errs = append(errs, field.Invalid(at, key, "field can not be empty."))
		}
		size += len(key) + len(v)
	}
	if size > longest {
		errs = append(errs, field.TooLong(at, "", longest))
	}
	return errs
}

func validateClassUpdate(obj, old api.Object) field.ErrorList {
	c, was := obj.(*storagev1.StorageClass), old.(*storagev1.StorageClass)
	return slices.Concat(
		validateClass(obj),
		check.Immutable(field.NewPath("parameters"), c.Parameters, was.Parameters),
		check.Immutable(field.NewPath("provisioner"), c.Provisioner, was.Provisioner),
		check.Immutable(field.NewPath("reclaimPolicy"), c.ReclaimPolicy, was.ReclaimPolicy),
		check.Immutable(field.NewPath("volumeBindingMode"), c.VolumeBindingMode, was.VolumeBindingMode),
	)
}

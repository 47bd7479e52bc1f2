package core

import (
	"fmt"
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/pkg/api/check"
)

func fileMode(at *field.Path, mode *int32) check.Errors {
	if mode == nil || *mode >= 0 && *mode <= 0o777 {
		return nil
	}
	return check.Errors{field.Invalid(at, *mode, "must be a number between 0 and 0777 (octal), both inclusive")}
}

func keysToPaths(at *field.Path, items []corev1.KeyToPath) check.Errors {
	var errs check.Errors
	for i := range items {
		at, item := at.Index(i), &items[i]
		errs = slices.Concat(errs, need(at, "key", item.Key, "path", item.Path), localPath(at.Child("path"), item.Path), fileMode(at.Child("mode"), item.Mode))
	}
	return errs
}

// descendingPath is relative and never goes up.
func descendingPath(at *field.Path, p string) check.Errors {
	var errs check.Errors
	if path.IsAbs(p) {
		errs = append(errs, field.Invalid(at, p, "must be a relative path"))
	}
	return append(errs, noBacksteps(at, p)...)
}

func noBacksteps(at *field.Path, p string) check.Errors {
	if slices.Contains(strings.Split(p, "/"), "..") {
		return check.Errors{field.Invalid(at, p, "must not contain '..'")}
	}
	return nil
}

// localPath is a descending path that leaves names with two leading dots to the agent, which keeps its
// own files there (atomic updates).
func localPath(at *field.Path, p string) check.Errors {
	errs := descendingPath(at, p)
	if strings.HasPrefix(p, "..") && !strings.HasPrefix(p, "../") {
		errs = append(errs, field.Invalid(at, p, "must not start with '..'"))
	}
	return errs
}

func (c podCheck) projected(at *field.Path, p *corev1.ProjectedVolumeSource) check.Errors {
	errs := fileMode(at.Child("defaultMode"), p.DefaultMode)
	taken := map[string]bool{}
	take := func(path, value string) {
		if path != "" && taken[path] {
			errs = append(errs, field.Invalid(at, value, "conflicting duplicate paths"))
		}
		taken[path] = true
	}
	keyed := func(src *field.Path, name string, items []corev1.KeyToPath) {
		errs = slices.Concat(errs, need(src, "name", name), keysToPaths(src.Child("items"), items))
		for _, item := range items {
			take(item.Path, name)
		}
	}
	for i := range p.Sources {
		s, src, n := &p.Sources[i], at.Child("sources").Index(i), 0
		if s.Secret != nil {
			n++
			keyed(src.Child("secret"), s.Secret.Name, s.Secret.Items)
		}
		if s.ConfigMap != nil {
			n++
			keyed(src.Child("configMap"), s.ConfigMap.Name, s.ConfigMap.Items)
		}
		if s.DownwardAPI != nil {
			n++
			for j := range s.DownwardAPI.Items {
				errs = append(errs, downwardFile(src.Child("downwardAPI"), &s.DownwardAPI.Items[j])...)
				take(s.DownwardAPI.Items[j].Path, s.DownwardAPI.Items[j].Path)
			}
		}
		if s.ServiceAccountToken != nil {
			n++
			errs = append(errs, c.projectedToken(at, src.Child("serviceAccountToken"), s.ServiceAccountToken)...)
		}
		if s.ClusterTrustBundle != nil {
			n++
			errs = append(errs, c.off(src.Child("clusterTrustBundle"), "ClusterTrustBundleProjection", projects(func(s *corev1.VolumeProjection) bool { return s.ClusterTrustBundle != nil }))...)
		}
		if s.PodCertificate != nil {
			n++
			errs = append(errs, c.off(src.Child("podCertificate"), "PodCertificateRequest", projects(func(s *corev1.VolumeProjection) bool { return s.PodCertificate != nil }))...)
		}
		if n > 1 {
			errs = append(errs, field.Forbidden(src, "may not specify more than 1 volume type per source"))
		}
	}
	return errs
}

func (c podCheck) projectedToken(at, src *field.Path, t *corev1.ServiceAccountTokenProjection) check.Errors {
	var errs check.Errors
	if s := t.ExpirationSeconds; s != nil && *s < 10*60 {
		errs = append(errs, field.Invalid(src.Child("expirationSeconds"), *s, "may not specify a duration less than 10 minutes"))
	} else if s != nil && *s > 1<<32 {
		errs = append(errs, field.Invalid(src.Child("expirationSeconds"), *s, "may not specify a duration larger than 2^32 seconds"))
	}
	if t.Path == "" {
		return append(errs, field.Required(at.Child("path"), ""))
	}
	bad := projects(func(s *corev1.VolumeProjection) bool {
		return s.ServiceAccountToken != nil && len(localPath(nil, s.ServiceAccountToken.Path)) > 0
	})
	if c.had(bad) {
		return errs
	}
	return append(errs, localPath(at.Child("path"), t.Path)...)
}

// projects looks for a projected source in a pod.
func projects(match func(*corev1.VolumeProjection) bool) func(*corev1.PodSpec) bool {
	return func(s *corev1.PodSpec) bool {
		for i := range s.Volumes {
			p := s.Volumes[i].Projected
			for j := 0; p != nil && j < len(p.Sources); j++ {
				if match(&p.Sources[j]) {
					return true
				}
			}
		}
		return false
	}
}

func downwardFile(at *field.Path, f *corev1.DownwardAPIVolumeFile) check.Errors {
	errs := slices.Concat(need(at, "path", f.Path), localPath(at.Child("path"), f.Path))
	switch {
	case f.FieldRef != nil:
		errs = append(errs, fieldRef(at.Child("fieldRef"), f.FieldRef, volumeFields)...)
		if f.ResourceFieldRef != nil {
			errs = append(errs, field.Invalid(at, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously"))
		}
	case f.ResourceFieldRef != nil:
		errs = append(errs, resourceRef(at.Child("resourceFieldRef"), f.ResourceFieldRef, true)...)
	default:
		errs = append(errs, field.Required(at, "one of fieldRef and resourceFieldRef is required"))
	}
	return append(errs, fileMode(at.Child("mode"), f.Mode)...)
}

// What the downward API shows, in volumes and in the environment.
var (
	volumeFields = []string{"metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"}
	envFields    = []string{"metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName",
		"status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs"}
	// podFieldLabels can be named at all.
	podFieldLabels = append([]string{"metadata.annotations", "metadata.labels", "spec.restartPolicy", "spec.schedulerName", "status.phase"}, envFields...)
	resourceFields = []string{"limits.cpu", "limits.ephemeral-storage", "limits.memory", "requests.cpu", "requests.ephemeral-storage", "requests.memory"}
)

func fieldRef(at *field.Path, ref *corev1.ObjectFieldSelector, known []string) check.Errors {
	if ref.APIVersion == "" {
		return check.Errors{field.Required(at.Child("apiVersion"), "")}
	}
	if ref.FieldPath == "" {
		return check.Errors{field.Required(at.Child("fieldPath"), "")}
	}
	unknown := func(format, what string) check.Errors {
		return check.Errors{field.Invalid(at.Child("fieldPath"), ref.FieldPath, "error converting fieldPath: "+fmt.Sprintf(format, what))}
	}
	if ref.APIVersion != "v1" {
		return unknown("unsupported pod version: %s", ref.APIVersion)
	}
	name, key, subscripted := subscript(ref.FieldPath)
	switch {
	case subscripted && name == "metadata.annotations":
		return check.QualifiedName(at, strings.ToLower(key))
	case subscripted && name == "metadata.labels":
		return check.QualifiedName(at, key)
	case subscripted:
		return unknown("field label does not support subscript: %s", ref.FieldPath)
	case name == "spec.host":
		name = "spec.nodeName"
	case !slices.Contains(podFieldLabels, name):
		return unknown("field label not supported: %s", name)
	}
	return check.OneOf(at.Child("fieldPath"), name, known...)
}

// subscript splits "metadata.labels['key']".
func subscript(p string) (name, key string, ok bool) {
	if name, rest, found := strings.Cut(p, "['"); found && name != "" && strings.HasSuffix(rest, "']") {
		return name, strings.TrimSuffix(rest, "']"), true
	}
	return p, "", false
}

func resourceRef(at *field.Path, ref *corev1.ResourceFieldSelector, inVolume bool) check.Errors {
	_, limit := strings.CutPrefix(ref.Resource, "limits.hugepages-")
	_, request := strings.CutPrefix(ref.Resource, "requests.hugepages-")
	var errs check.Errors
	switch {
	case inVolume && ref.ContainerName == "":
		errs = check.Errors{field.Required(at.Child("containerName"), "")}
	case ref.Resource == "":
		errs = check.Errors{field.Required(at.Child("resource"), "")}
	case !limit && !request:
		errs = check.OneOf(at.Child("resource"), ref.Resource, resourceFields...)
	}
	return append(errs, divisor(at.Child("divisor"), ref.Resource, ref.Divisor)...)
}

var byteDivisors = []string{"1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"}

func divisor(at *field.Path, name string, q resource.Quantity) check.Errors {
	if q.IsZero() {
		return nil
	}
	_, what, _ := strings.Cut(name, ".")
	allowed := byteDivisors
	separator := ", "
	switch {
	case what == "cpu":
		allowed, separator = []string{"1m", "1"}, " and "
	case what == "memory":
	case what == "ephemeral-storage":
		what = "local ephemeral storage"
	case strings.HasPrefix(what, "hugepages-"):
		what = "hugepages"
	default:
		return nil
	}
	if slices.Contains(allowed, q.String()) {
		return nil
	}
	return check.Errors{field.Invalid(at, name, fmt.Sprintf("only divisor's values %s are supported with the %s resource", strings.Join(allowed, separator), what))}
}

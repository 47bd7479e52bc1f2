package core

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/pkg/api"
	"skiff/pkg/api/check"
)

// The validation of this group's smaller kinds. Pods are in validation_pod*.go and the files they
// are made of: validation_podspec.go is the place to start.

func validateNamespace(obj api.Object) field.ErrorList {
	return finalizers(obj.(*corev1.Namespace), func(at *field.Path, _ int) *field.Path { return at })
}

func validateNamespaceUpdate(obj, _ api.Object) field.ErrorList { return validateNamespace(obj) }

func validateNamespaceFinalize(obj, _ api.Object) field.ErrorList {
	return finalizers(obj.(*corev1.Namespace), (*field.Path).Index)
}

func finalizers(n *corev1.Namespace, path func(*field.Path, int) *field.Path) check.Errors {
	var errs check.Errors
	for i, f := range n.Spec.Finalizers {
		at := path(specPath.Child("finalizers"), i)
		errs = append(errs, validation.ValidateFinalizerName(string(f), at)...)
		if !strings.Contains(string(f), "/") && f != corev1.FinalizerKubernetes && f != "orphan" && f != "foregroundDeletion" {
			errs = append(errs, field.Invalid(at, f, "name is neither a standard finalizer name nor is it fully qualified"))
		}
	}
	return errs
}

func validateNamespaceStatus(obj, _ api.Object) field.ErrorList {
	n := obj.(*corev1.Namespace)
	want, when := corev1.NamespaceActive, "empty"
	if !n.DeletionTimestamp.IsZero() {
		want, when = corev1.NamespaceTerminating, "not empty"
	}
	if n.Status.Phase == want {
		return nil
	}
	return check.Errors{field.Invalid(statusPath.Child("Phase"), n.Status.Phase, fmt.Sprintf("may only be '%s' if `deletionTimestamp` is %s", want, when))}
}

func validateConfigMap(obj api.Object) field.ErrorList {
	m := obj.(*corev1.ConfigMap)
	data, binary := field.NewPath("data"), field.NewPath("binaryData")
	var errs check.Errors
	size := 0
	for _, key := range slices.Sorted(maps.Keys(m.Data)) {
		errs = append(errs, check.ConfigKey(data.Key(key), key)...)
		if _, both := m.BinaryData[key]; both {
			errs = append(errs, field.Invalid(data.Key(key), key, "duplicate of key present in binaryData"))
		}
		size += len(m.Data[key])
	}
	for _, key := range slices.Sorted(maps.Keys(m.BinaryData)) {
		errs = append(errs, check.ConfigKey(binary.Key(key), key)...)
		size += len(m.BinaryData[key])
	}
	if size > corev1.MaxSecretSize {
		errs = append(errs, field.TooLong(field.NewPath(""), "", corev1.MaxSecretSize))
	}
	return errs
}

func validateConfigMapUpdate(obj, old api.Object) field.ErrorList {
	m, was := obj.(*corev1.ConfigMap), old.(*corev1.ConfigMap)
	errs := sealed(was.Immutable, m.Immutable, m.Data, was.Data, "data")
	if isTrue(was.Immutable) && !reflect.DeepEqual(m.BinaryData, was.BinaryData) {
		errs = append(errs, field.Forbidden(field.NewPath("binaryData"), sealedMessage))
	}
	return append(errs, validateConfigMap(m)...)
}

const sealedMessage = "field is immutable when `immutable` is set"

func isTrue(b *bool) bool { return b != nil && *b }

// sealed: an immutable map stays immutable, and what it is.
func sealed(was, is *bool, now, old any, name string) check.Errors {
	if !isTrue(was) {
		return nil
	}
	var errs check.Errors
	if !isTrue(is) {
		errs = append(errs, field.Forbidden(field.NewPath("immutable"), sealedMessage))
	}
	if !reflect.DeepEqual(now, old) {
		errs = append(errs, field.Forbidden(field.NewPath(name), sealedMessage))
	}
	return errs
}

// secretKeys are the keys that a secret of a type must have.
var secretKeys = map[corev1.SecretType][]string{
	corev1.SecretTypeDockercfg:        {corev1.DockerConfigKey},
	corev1.SecretTypeDockerConfigJson: {corev1.DockerConfigJsonKey},
	corev1.SecretTypeTLS:              {corev1.TLSCertKey, corev1.TLSPrivateKeyKey},
}

func validateSecret(obj api.Object) field.ErrorList {
	s := obj.(*corev1.Secret)
	at := field.NewPath("data")
	var errs check.Errors
	size := 0
	for _, key := range slices.Sorted(maps.Keys(s.Data)) {
		errs = append(errs, check.ConfigKey(at.Key(key), key)...)
		size += len(s.Data[key])
	}
	if size > corev1.MaxSecretSize {
		errs = append(errs, field.TooLong(at, "", corev1.MaxSecretSize))
	}
	for _, key := range secretKeys[s.Type] {
		value, ok := s.Data[key]
		if !ok {
			errs = append(errs, field.Required(at.Key(key), ""))
		} else if s.Type != corev1.SecretTypeTLS {
			if err := json.Unmarshal(value, &map[string]any{}); err != nil {
				errs = append(errs, field.Invalid(at.Key(key), "<secret contents redacted>", err.Error()))
			}
		}
	}
	_, user := s.Data[corev1.BasicAuthUsernameKey]
	_, password := s.Data[corev1.BasicAuthPasswordKey]
	switch {
	case s.Type == corev1.SecretTypeServiceAccountToken && s.Annotations[corev1.ServiceAccountNameKey] == "":
		errs = append(errs, field.Required(annotationPath.Key(corev1.ServiceAccountNameKey), ""))
	case s.Type == corev1.SecretTypeBasicAuth && !user && !password:
		errs = append(errs, field.Required(at.Key(corev1.BasicAuthUsernameKey), ""), field.Required(at.Key(corev1.BasicAuthPasswordKey), ""))
	case s.Type == corev1.SecretTypeSSHAuth && len(s.Data[corev1.SSHAuthPrivateKey]) == 0:
		errs = append(errs, field.Required(at.Key(corev1.SSHAuthPrivateKey), ""))
	}
	return errs
}

func validateSecretUpdate(obj, old api.Object) field.ErrorList {
	s, was := obj.(*corev1.Secret), old.(*corev1.Secret)
	return slices.Concat(check.Immutable(field.NewPath("type"), s.Type, was.Type), sealed(was.Immutable, s.Immutable, s.Data, was.Data, "data"), validateSecret(s))
}

func validateEndpoints(obj api.Object) field.ErrorList {
	e := obj.(*corev1.Endpoints)
	var errs check.Errors
	for i := range e.Subsets {
		s, at := &e.Subsets[i], field.NewPath("subsets").Index(i)
		if len(s.Addresses)+len(s.NotReadyAddresses) == 0 {
			errs = append(errs, field.Required(at, "must specify `addresses` or `notReadyAddresses`"))
		}
		errs = slices.Concat(errs, endpointAddresses(at.Child("addresses"), s.Addresses), endpointAddresses(at.Child("notReadyAddresses"), s.NotReadyAddresses))
		for j := range s.Ports {
			p, at := &s.Ports[j], at.Child("ports").Index(j)
			if p.Name != "" || len(s.Ports) > 1 {
				errs = append(errs, check.RequiredLabel(at.Child("name"), p.Name)...)
			}
			errs = slices.Concat(errs, check.Port(at.Child("port"), p.Port), check.Choice(at.Child("protocol"), p.Protocol, protocols...))
			if p.AppProtocol != nil {
				errs = append(errs, check.QualifiedName(at.Child("appProtocol"), *p.AppProtocol)...)
			}
		}
	}
	return errs
}

func endpointAddresses(list *field.Path, addresses []corev1.EndpointAddress) check.Errors {
	var errs check.Errors
	for i := range addresses {
		a, at := &addresses[i], list.Index(i)
		errs = append(errs, check.IP(at.Child("ip"), a.IP)...)
		if a.Hostname != "" {
			errs = append(errs, check.Label(at.Child("hostname"), a.Hostname)...)
		}
		if a.NodeName != nil {
			errs = append(errs, check.Subdomain(at.Child("nodeName"), *a.NodeName)...)
		}
		errs = append(errs, check.EndpointIP(at.Child("ip"), a.IP)...)
	}
	return errs
}

// validateEndpointsUpdate: what didn't change may be what an earlier version let pass.
func validateEndpointsUpdate(obj, old api.Object) field.ErrorList {
	errs := validateEndpoints(obj)
	if len(errs) > 0 && reflect.DeepEqual(obj.(*corev1.Endpoints).Subsets, old.(*corev1.Endpoints).Subsets) {
		return nil
	}
	return errs
}

// ValidateBinding is the rule for bindings, on their own path and on that of pods.
func ValidateBinding(obj api.Object) field.ErrorList {
	target, at := &obj.(*corev1.Binding).Target, field.NewPath("target")
	var errs check.Errors
	if target.Kind != "" && target.Kind != "Node" {
		errs = append(errs, field.NotSupported(at.Child("kind"), target.Kind, []string{"Node", "<empty>"}))
	}
	return append(errs, need(at, "name", target.Name)...)
}

func validateEvent(obj api.Object) field.ErrorList {
	return ValidateEvent(obj.(*corev1.Event), "reportingComponent")
}

func validateEventUpdate(obj, _ api.Object) field.ErrorList { return validateEvent(obj) }

// ValidateEvent is the rule for events of either API. controller is what the API calls the field of the
// reporting controller.
func ValidateEvent(e *corev1.Event, controller string) field.ErrorList {
	const longest, longestNote = 128, 1024
	var errs check.Errors
	involved := field.NewPath("involvedObject", "namespace")
	mismatch := func(is bool) {
		if is {
			errs = append(errs, field.Invalid(involved, e.InvolvedObject.Namespace, "does not match event.namespace"))
		}
	}
	if e.EventTime.Time.Equal(time.Time{}) { // an event of the old kind
		mismatch(e.Namespace != e.InvolvedObject.Namespace && (e.InvolvedObject.Namespace != "" || e.Namespace != "default"))
	} else {
		mismatch(e.InvolvedObject.Namespace == "" && e.Namespace != "default" && e.Namespace != "kube-system")
		text := func(name, v string, required bool, longest int) {
			if v == "" && required {
				errs = append(errs, field.Required(field.NewPath(name), ""))
			}
			if len(v) > longest {
				errs = append(errs, field.Invalid(field.NewPath(name), "", fmt.Sprintf("can have at most %v characters", longest)))
			}
		}
		if e.ReportingController == "" {
			errs = append(errs, field.Required(field.NewPath(controller), ""))
		}
		errs = append(errs, check.QualifiedName(field.NewPath(controller), e.ReportingController)...)
		text("reportingInstance", e.ReportingInstance, true, longest)
		text("action", e.Action, true, longest)
		text("reason", e.Reason, true, longest)
		text("message", e.Message, false, longestNote)
	}
	return append(errs, check.Subdomain(field.NewPath("namespace"), e.Namespace)...)
}

func validatePodTemplate(obj api.Object) field.ErrorList {
	return ValidatePodTemplate(field.NewPath("template"), &obj.(*corev1.PodTemplate).Template, nil)
}

func validatePodTemplateUpdate(obj, old api.Object) field.ErrorList {
	return ValidatePodTemplate(field.NewPath("template"), &obj.(*corev1.PodTemplate).Template, &old.(*corev1.PodTemplate).Template)
}

func validateReplicationController(obj api.Object) field.ErrorList {
	return replicationController(obj.(*corev1.ReplicationController), &corev1.ReplicationController{})
}

func validateReplicationControllerUpdate(obj, old api.Object) field.ErrorList {
	return replicationController(obj.(*corev1.ReplicationController), old.(*corev1.ReplicationController))
}

func replicationController(rc, old *corev1.ReplicationController) check.Errors {
	s, at := &rc.Spec, specPath
	errs := check.NonNegative(at.Child("minReadySeconds"), s.MinReadySeconds)
	if len(s.Selector) == 0 {
		errs = append(errs, field.Required(at.Child("selector"), ""))
	}
	if s.Replicas == nil {
		errs = append(errs, field.Required(at.Child("replicas"), ""))
	}
	errs = append(errs, check.NonNegativeIf(at.Child("replicas"), s.Replicas)...)
	if s.Template == nil {
		return append(errs, field.Required(at.Child("template"), ""))
	}
	selector := labels.SelectorFromSet(s.Selector)
	return slices.Concat(errs, WorkloadTemplate(at.Child("template"), s.Template, old.Spec.Template, selector, "ReplicationController"))
}

// WorkloadTemplate checks the template of a workload that keeps its pods running, and that its selector selects them.
func WorkloadTemplate(at *field.Path, t, old *corev1.PodTemplateSpec, selector labels.Selector, kind string) check.Errors {
	var errs check.Errors
	if !selector.Empty() && !selector.Matches(labels.Set(t.Labels)) {
		errs = append(errs, field.Invalid(at.Child("metadata", "labels"), t.Labels, "`selector` does not match template `labels`"))
	}
	return slices.Concat(errs, ValidatePodTemplate(at, t, old), RunsForever(at.Child("spec"), &t.Spec, kind))
}

// RunsForever: the pods of most workloads are meant to be there always.
func RunsForever(at *field.Path, s *corev1.PodSpec, kind string) check.Errors {
	errs := check.OneOf(at.Child("restartPolicy"), s.RestartPolicy, corev1.RestartPolicyAlways)
	if s.ActiveDeadlineSeconds != nil {
		errs = append(errs, field.Forbidden(at.Child("activeDeadlineSeconds"), "activeDeadlineSeconds in "+kind+" is not Supported"))
	}
	return errs
}

func validateReplicationControllerStatus(obj, _ api.Object) field.ErrorList {
	s, at := &obj.(*corev1.ReplicationController).Status, statusPath
	return slices.Concat(
		ReplicaCounts(at, s.Replicas, check.NonNegative(at.Child("observedGeneration"), s.ObservedGeneration),
			[]string{"fullyLabeledReplicas", "readyReplicas", "availableReplicas"}, s.FullyLabeledReplicas, s.ReadyReplicas, s.AvailableReplicas),
		check.NotAbove(at.Child("availableReplicas"), s.AvailableReplicas, s.ReadyReplicas, "readyReplicas"),
	)
}

// ReplicaCounts checks counts of replicas, named by their fields, each of which is a part of all replicas. What else
// is wrong with single counts stands before what is wrong between them.
func ReplicaCounts(at *field.Path, all int32, others check.Errors, names []string, counts ...int32) check.Errors {
	errs := check.NonNegative(at.Child("replicas"), all)
	var above check.Errors
	for i, n := range counts {
		errs = append(errs, check.NonNegative(at.Child(names[i]), n)...)
		above = append(above, check.NotAbove(at.Child(names[i]), n, all, "status.replicas")...)
	}
	return slices.Concat(errs, others, above)
}

package core

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/pkg/api/check"
)

// surroundings are what the checks of one container need to know of its pod.
type surroundings struct {
	spec    *corev1.PodSpec
	volumes map[string]*corev1.VolumeSource // the valid ones
	claims  map[string]bool                 // the names of spec.resourceClaims
}

func (c podCheck) containers(at *field.Path, in surroundings) check.Errors {
	list := in.spec.Containers
	if len(list) == 0 {
		return check.Errors{field.Required(at, "")}
	}
	var errs check.Errors
	names := map[string]bool{}
	for i := range list {
		at, ctr := at.Index(i), &list[i]
		errs = append(errs, c.container(at, ctr, in)...)
		if names[ctr.Name] {
			errs = append(errs, field.Duplicate(at.Child("name"), ctr.Name))
		}
		names[ctr.Name] = true
		errs = slices.Concat(errs, c.whileRunning(at, ctr, in), restartRules(at, ctr))
	}
	return append(errs, hostPortsUnique(at, list)...)
}

func (c podCheck) initContainers(list *field.Path, in surroundings) check.Errors {
	var errs check.Errors
	names := map[string]bool{}
	for i := range in.spec.Containers {
		names[in.spec.Containers[i].Name] = true
	}
	for i := range in.spec.InitContainers {
		at, ctr := list.Index(i), &in.spec.InitContainers[i]
		errs = slices.Concat(errs, c.container(at, ctr, in), restartRules(at, ctr))
		if names[ctr.Name] {
			errs = append(errs, field.Duplicate(at.Child("name"), ctr.Name))
		}
		names[ctr.Name] = names[ctr.Name] || ctr.Name != ""
		// They run one by one, so their ports conflict only within each.
		errs = append(errs, hostPortsUnique(list, in.spec.InitContainers[i:i+1])...)
		if isSidecar(ctr) {
			errs = append(errs, c.whileRunning(at, ctr, in)...)
		} else {
			errs = append(errs, c.notWhileInitializing(at, ctr)...)
		}
	}
	return errs
}

func (c podCheck) notWhileInitializing(at *field.Path, ctr *corev1.Container) check.Errors {
	var errs check.Errors
	forbid := func(set bool, name string) {
		if set {
			errs = append(errs, field.Forbidden(at.Child(name), "may not be set for init containers without restartPolicy=Always"))
		}
	}
	forbid(ctr.Lifecycle != nil, "lifecycle")
	forbid(ctr.LivenessProbe != nil, "livenessProbe")
	forbid(ctr.ReadinessProbe != nil, "readinessProbe")
	forbid(ctr.StartupProbe != nil, "startupProbe")
	for i, p := range ctr.ResizePolicy {
		if p.RestartPolicy == corev1.RestartContainer && !c.had(restartsOnResize) {
			errs = append(errs, field.Invalid(at.Child("resizePolicy").Index(i).Child("restartPolicy"), p.RestartPolicy, "must not be set to 'RestartContainer' for non-sidecar initContainers"))
		}
	}
	return errs
}

func restartsOnResize(s *corev1.PodSpec) bool {
	for i := range s.InitContainers {
		if ctr := &s.InitContainers[i]; !isSidecar(ctr) && slices.ContainsFunc(ctr.ResizePolicy, func(p corev1.ContainerResizePolicy) bool { return p.RestartPolicy == corev1.RestartContainer }) {
			return true
		}
	}
	return false
}

// ephemeralFields are what an ephemeral container may set: not what a workload would rely on.
var ephemeralFields = map[string]bool{
	"Name": true, "Image": true, "Command": true, "Args": true, "WorkingDir": true, "EnvFrom": true, "Env": true,
	"VolumeMounts": true, "VolumeDevices": true, "TerminationMessagePath": true, "TerminationMessagePolicy": true,
	"ImagePullPolicy": true, "SecurityContext": true, "Stdin": true, "StdinOnce": true, "TTY": true,
}

func (c podCheck) ephemeralContainers(at *field.Path, in surroundings) check.Errors {
	var errs check.Errors
	names, targets := map[string]bool{}, map[string]bool{}
	for _, list := range [][]corev1.Container{in.spec.Containers, in.spec.InitContainers} {
		for i := range list {
			names[list[i].Name], targets[list[i].Name] = true, true
		}
	}
	for i := range in.spec.EphemeralContainers {
		at, e := at.Index(i), &in.spec.EphemeralContainers[i]
		ctr := (*corev1.Container)(&e.EphemeralContainerCommon)
		errs = slices.Concat(errs, c.container(at, ctr, in), imageTrimmed(at, ctr))
		if names[e.Name] {
			errs = append(errs, field.Duplicate(at.Child("name"), e.Name))
		}
		names[e.Name] = true
		if e.TargetContainerName != "" && !targets[e.TargetContainerName] {
			errs = append(errs, field.NotFound(at.Child("targetContainerName"), e.TargetContainerName))
		}
		const refusal = "cannot be set for an Ephemeral Container"
		errs = append(errs, onlyFields(at, reflect.ValueOf(e.EphemeralContainerCommon), ephemeralFields, refusal)...)
		for j := range e.VolumeMounts {
			m, at := &e.VolumeMounts[j], at.Child("volumeMounts").Index(j)
			if m.SubPath != "" {
				errs = append(errs, field.Forbidden(at.Child("subPath"), refusal))
			}
			if m.SubPathExpr != "" {
				errs = append(errs, field.Forbidden(at.Child("subPathExpr"), refusal))
			}
		}
	}
	return errs
}

// onlyFields reports the fields of a struct that are set and not allowed.
func onlyFields(at *field.Path, v reflect.Value, allowed map[string]bool, refusal string) check.Errors {
	var errs check.Errors
	for i := range v.NumField() {
		name := v.Type().Field(i).Name
		if allowed[name] || v.Field(i).IsZero() {
			continue
		}
		errs = append(errs, field.Forbidden(at.Child(strings.ToLower(name[:1])+name[1:]), refusal))
	}
	return errs
}

// imageTrimmed holds for pods, not for templates: those may hold a placeholder.
func imageTrimmed(at *field.Path, ctr *corev1.Container) check.Errors {
	if strings.TrimSpace(ctr.Image) == ctr.Image {
		return nil
	}
	return check.Errors{field.Invalid(at.Child("image"), ctr.Image, "must not have leading or trailing whitespace")}
}

// container checks what all containers have in common.
func (c podCheck) container(at *field.Path, ctr *corev1.Container, in surroundings) check.Errors {
	return slices.Concat(
		check.RequiredLabel(at.Child("name"), ctr.Name),
		check.Required(at.Child("image"), ctr.Image),
		check.Choice(at.Child("terminationMessagePolicy"), ctr.TerminationMessagePolicy, corev1.TerminationMessageReadFile, corev1.TerminationMessageFallbackToLogsOnError),
		containerPorts(at.Child("ports"), ctr.Ports),
		env(at.Child("env"), ctr.Env, in.spec),
		envFrom(at.Child("envFrom"), ctr.EnvFrom),
		volumeMounts(at.Child("volumeMounts"), ctr, in.volumes),
		volumeDevices(at.Child("volumeDevices"), ctr, in.volumes),
		pullPolicyKnown(at.Child("imagePullPolicy"), ctr.ImagePullPolicy),
		c.resources(at.Child("resources"), &ctr.Resources, ContainerResourceName, in.claims),
		resizePolicy(at.Child("resizePolicy"), ctr.ResizePolicy, in.spec.RestartPolicy),
		securityContext(at.Child("securityContext"), ctr.SecurityContext, hostUsers(in.spec)),
	)
}

func pullPolicyKnown(at *field.Path, p corev1.PullPolicy) check.Errors {
	return check.Choice(at, p, corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever)
}

var protocols = []corev1.Protocol{corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP}

func containerPorts(at *field.Path, ports []corev1.ContainerPort) check.Errors {
	var errs check.Errors
	names := map[string]bool{}
	for i := range ports {
		p, at := &ports[i], at.Index(i)
		if p.Name != "" {
			wrong := check.Messages(at.Child("name"), p.Name, utilvalidation.IsValidPortName(p.Name))
			errs = append(errs, wrong...)
			if len(wrong) == 0 && names[p.Name] {
				errs = append(errs, field.Duplicate(at.Child("name"), p.Name))
			}
			names[p.Name] = true
		}
		if p.ContainerPort == 0 {
			errs = append(errs, field.Required(at.Child("containerPort"), ""))
		} else {
			errs = append(errs, check.Port(at.Child("containerPort"), p.ContainerPort)...)
		}
		if p.HostPort != 0 {
			errs = append(errs, check.Port(at.Child("hostPort"), p.HostPort)...)
		}
		errs = append(errs, check.Choice(at.Child("protocol"), p.Protocol, protocols...)...)
	}
	return errs
}

func hostPortsUnique(at *field.Path, containers []corev1.Container) check.Errors {
	var errs check.Errors
	taken := map[string]bool{}
	for i := range containers {
		for j := range containers[i].Ports {
			p := &containers[i].Ports[j]
			if p.HostPort == 0 {
				continue
			}
			key := fmt.Sprintf("%s/%s/%d", p.Protocol, p.HostIP, p.HostPort)
			if taken[key] {
				errs = append(errs, field.Duplicate(at.Index(i).Child("ports").Index(j).Child("hostPort"), key))
			}
			taken[key] = true
		}
	}
	return errs
}

func env(at *field.Path, vars []corev1.EnvVar, spec *corev1.PodSpec) check.Errors {
	var errs check.Errors
	for i := range vars {
		v, at := &vars[i], at.Index(i)
		if v.Name == "" {
			errs = append(errs, field.Required(at.Child("name"), ""))
		} else {
			errs = append(errs, check.Messages(at.Child("name"), v.Name, utilvalidation.IsRelaxedEnvVarName(v.Name))...)
		}
		if v.ValueFrom != nil {
			errs = append(errs, envSource(at.Child("valueFrom"), v, spec)...)
		}
	}
	return errs
}

func envSource(at *field.Path, v *corev1.EnvVar, spec *corev1.PodSpec) check.Errors {
	var errs check.Errors
	n, from := 0, v.ValueFrom
	if from.FieldRef != nil {
		n++
		errs = append(errs, fieldRef(at.Child("fieldRef"), from.FieldRef, envFields)...)
	}
	if from.ResourceFieldRef != nil {
		n++
		errs = append(errs, resourceRef(at.Child("resourceFieldRef"), from.ResourceFieldRef, false)...)
	}
	if from.ConfigMapKeyRef != nil {
		n++
		errs = append(errs, keyRef(at.Child("configMapKeyRef"), from.ConfigMapKeyRef.Name, from.ConfigMapKeyRef.Key)...)
	}
	if from.SecretKeyRef != nil {
		n++
		errs = append(errs, keyRef(at.Child("secretKeyRef"), from.SecretKeyRef.Name, from.SecretKeyRef.Key)...)
	}
	if from.FileKeyRef != nil {
		n++
		errs = append(errs, fileKeyRef(at.Child("fileKeyRef"), from.FileKeyRef, spec)...)
	}
	switch {
	case n == 0:
		errs = append(errs, field.Invalid(at, "", "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"))
	case v.Value != "":
		errs = append(errs, field.Invalid(at, "", "may not be specified when `value` is not empty"))
	case n > 1:
		errs = append(errs, field.Invalid(at, "", "may not have more than one field specified at a time"))
	}
	return errs
}

func keyRef(at *field.Path, name, key string) check.Errors {
	errs := check.Subdomain(at.Child("name"), name)
	if key == "" {
		return append(errs, field.Required(at.Child("key"), ""))
	}
	return append(errs, check.ConfigKey(at.Child("key"), key)...)
}

// fileKeyRef: the file lies in an emptyDir, where an init container writes it (KEP-3721).
func fileKeyRef(at *field.Path, ref *corev1.FileKeySelector, spec *corev1.PodSpec) check.Errors {
	errs := need(at, "key", ref.Key)
	if ref.Key != "" {
		errs = append(errs, check.Messages(at.Child("key"), ref.Key, utilvalidation.IsRelaxedEnvVarName(ref.Key))...)
	}
	errs = slices.Concat(errs, check.RequiredLabel(at.Child("volumeName"), ref.VolumeName), need(at, "path", ref.Path), noBacksteps(at.Child("path"), ref.Path))
	i := slices.IndexFunc(spec.Volumes, func(v corev1.Volume) bool { return v.Name == ref.VolumeName })
	if i < 0 {
		return append(errs, field.NotFound(at.Child("volumeName"), ref.VolumeName))
	}
	if spec.Volumes[i].EmptyDir == nil {
		errs = append(errs, field.Invalid(at.Child("volumeName"), ref.VolumeName, "referenced volume must be of type emptyDir"))
	}
	return errs
}

func envFrom(list *field.Path, sources []corev1.EnvFromSource) check.Errors {
	var errs check.Errors
	for i := range sources {
		s, at := &sources[i], list.Index(i)
		if s.Prefix != "" {
			errs = append(errs, check.Messages(at.Child("prefix"), s.Prefix, utilvalidation.IsRelaxedEnvVarName(s.Prefix))...)
		}
		n := 0
		named := func(at *field.Path, name string) {
			n++
			if name == "" {
				errs = append(errs, field.Required(at.Child("name"), ""))
			} else { // the rule of prefixes: a trailing dash is let pass
				errs = append(errs, check.Messages(at.Child("name"), name, validation.NameIsDNSSubdomain(name, true))...)
			}
		}
		if s.ConfigMapRef != nil {
			named(at.Child("configMapRef"), s.ConfigMapRef.Name)
		}
		if s.SecretRef != nil {
			named(at.Child("secretRef"), s.SecretRef.Name)
		}
		if n == 0 {
			errs = append(errs, field.Invalid(list, "", "must specify one of: `configMapRef` or `secretRef`"))
		} else if n > 1 {
			errs = append(errs, field.Invalid(list, "", "may not have more than one field specified at a time"))
		}
	}
	return errs
}

func volumeMounts(list *field.Path, ctr *corev1.Container, volumes map[string]*corev1.VolumeSource) check.Errors {
	var errs check.Errors
	devices := map[string]string{}
	for _, d := range ctr.VolumeDevices {
		devices[d.Name] = d.DevicePath
	}
	taken := map[string]bool{}
	for i := range ctr.VolumeMounts {
		m, at := &ctr.VolumeMounts[i], list.Index(i)
		errs = append(errs, need(at, "name", m.Name)...)
		if volumes[m.Name] == nil {
			errs = append(errs, field.NotFound(at.Child("name"), m.Name))
		}
		errs = append(errs, need(at, "mountPath", m.MountPath)...)
		if taken[m.MountPath] {
			errs = append(errs, field.Invalid(at.Child("mountPath"), m.MountPath, "must be unique"))
		}
		taken[m.MountPath] = true
		if _, ok := devices[m.Name]; ok {
			errs = append(errs, field.Invalid(at.Child("name"), m.Name, "must not already exist in volumeDevices"))
		}
		if slices.Contains(slices.Collect(maps.Values(devices)), m.MountPath) {
			errs = append(errs, field.Invalid(at.Child("mountPath"), m.MountPath, "must not already exist as a path in volumeDevices"))
		}
		// Kubernetes leaves the index out of the paths below.
		errs = append(errs, descendingPath(list.Child("subPath"), m.SubPath)...)
		if m.SubPathExpr != "" && m.SubPath != "" {
			errs = append(errs, field.Invalid(at.Child("subPathExpr"), m.SubPathExpr, "subPathExpr and subPath are mutually exclusive"))
		}
		errs = slices.Concat(errs, descendingPath(list.Child("subPathExpr"), m.SubPathExpr), mountPropagation(list.Child("mountPropagation"), m, ctr), recursiveReadOnly(list.Child("recursiveReadOnly"), m))
	}
	return errs
}

func mountPropagation(at *field.Path, m *corev1.VolumeMount, ctr *corev1.Container) check.Errors {
	if m.MountPropagation == nil {
		return nil
	}
	errs := check.OneOf(at, *m.MountPropagation, corev1.MountPropagationBidirectional, corev1.MountPropagationHostToContainer, corev1.MountPropagationNone)
	if *m.MountPropagation == corev1.MountPropagationBidirectional && !isPrivileged(ctr.SecurityContext) {
		errs = append(errs, field.Forbidden(at, "Bidirectional mount propagation is available only to privileged containers"))
	}
	return errs
}

func recursiveReadOnly(at *field.Path, m *corev1.VolumeMount) check.Errors {
	if m.RecursiveReadOnly == nil || *m.RecursiveReadOnly == corev1.RecursiveReadOnlyDisabled {
		return nil
	}
	errs := check.OneOf(at, *m.RecursiveReadOnly, corev1.RecursiveReadOnlyDisabled, corev1.RecursiveReadOnlyEnabled, corev1.RecursiveReadOnlyIfPossible)
	if len(errs) > 0 {
		return errs
	}
	if !m.ReadOnly {
		errs = append(errs, field.Forbidden(at, "may only be specified when readOnly is true"))
	}
	if m.MountPropagation != nil && *m.MountPropagation != corev1.MountPropagationNone {
		errs = append(errs, field.Forbidden(at, "may only be specified when mountPropagation is None or not specified"))
	}
	return errs
}

func volumeDevices(list *field.Path, ctr *corev1.Container, volumes map[string]*corev1.VolumeSource) check.Errors {
	var errs check.Errors
	mounts, paths := map[string]bool{}, map[string]bool{}
	for _, m := range ctr.VolumeMounts {
		mounts[m.Name], paths[m.MountPath] = true, true
	}
	names, taken := map[string]bool{}, map[string]bool{}
	for i := range ctr.VolumeDevices {
		d, at := &ctr.VolumeDevices[i], list.Index(i)
		v := volumes[d.Name]
		errs = append(errs, need(at, "name", d.Name)...)
		wrong := func(is bool, child, value, message string) {
			if is {
				errs = append(errs, field.Invalid(at.Child(child), value, message))
			}
		}
		wrong(names[d.Name], "name", d.Name, "must be unique")
		wrong(v != nil && v.PersistentVolumeClaim == nil && v.Ephemeral == nil, "name", d.Name, "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode")
		if v == nil {
			errs = append(errs, field.NotFound(at.Child("name"), d.Name))
		}
		errs = append(errs, need(at, "devicePath", d.DevicePath)...)
		wrong(taken[d.DevicePath], "devicePath", d.DevicePath, "must be unique")
		up := len(noBacksteps(at, d.DevicePath)) > 0
		wrong(up, "devicePath", d.DevicePath, "can not contain backsteps ('..')")
		taken[d.DevicePath] = taken[d.DevicePath] || !up
		wrong(mounts[d.Name], "name", d.Name, "must not already exist in volumeMounts")
		wrong(paths[d.DevicePath], "devicePath", d.DevicePath, "must not already exist as a path in volumeMounts")
		names[d.Name] = d.Name != ""
	}
	return errs
}

func resizePolicy(at *field.Path, policies []corev1.ContainerResizePolicy, pod corev1.RestartPolicy) check.Errors {
	var errs check.Errors
	seen := map[corev1.ResourceName]bool{}
	for i, p := range policies {
		if seen[p.ResourceName] {
			errs = append(errs, field.Duplicate(at.Index(i), p.ResourceName))
		}
		seen[p.ResourceName] = true
		errs = slices.Concat(errs, check.Choice(at, p.ResourceName, corev1.ResourceCPU, corev1.ResourceMemory), check.Choice(at, p.RestartPolicy, corev1.NotRequired, corev1.RestartContainer))
		if pod == corev1.RestartPolicyNever && p.RestartPolicy != corev1.NotRequired {
			errs = append(errs, field.Invalid(at, p.RestartPolicy, "must be 'NotRequired' when pod `restartPolicy` is 'Never'"))
		}
	}
	return errs
}

// restartRules are a container's own restart policy and what overrides it by exit code (KEP-5307).
func restartRules(at *field.Path, ctr *corev1.Container) check.Errors {
	var errs check.Errors
	if ctr.RestartPolicy != nil {
		errs = check.OneOf(at.Child("restartPolicy"), *ctr.RestartPolicy, corev1.ContainerRestartPolicyAlways, corev1.ContainerRestartPolicyNever, corev1.ContainerRestartPolicyOnFailure)
	} else if len(ctr.RestartPolicyRules) > 0 {
		errs = append(errs, field.Required(at.Child("restartPolicy"), "must specify restartPolicy when restart rules are used"))
	}
	at = at.Child("restartPolicyRules")
	if n := len(ctr.RestartPolicyRules); n > 20 {
		errs = append(errs, field.TooMany(at, n, 20))
	}
	for i, rule := range ctr.RestartPolicyRules {
		at := at.Index(i)
		errs = append(errs, check.OneOf(at.Child("action"), rule.Action, corev1.ContainerRestartRuleActionRestart, corev1.ContainerRestartRuleActionRestartAllContainers)...)
		codes := at.Child("exitCodes")
		if rule.ExitCodes == nil {
			errs = append(errs, field.Required(codes, "must be specified"))
			continue
		}
		errs = append(errs, check.OneOf(codes.Child("operator"), rule.ExitCodes.Operator, corev1.ContainerRestartRuleOnExitCodesOpIn, corev1.ContainerRestartRuleOnExitCodesOpNotIn)...)
		if n := len(rule.ExitCodes.Values); n > 255 {
			errs = append(errs, field.TooMany(codes.Child("values"), n, 255))
		}
	}
	return errs
}

package agent

import (
	"context"
	"fmt"
	"maps"
	"math"
	"net"
	"slices"
	"sort"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation"

	"skiff/pkg/agent/volume"
)

// environment is where the variables of a container come from.
type environment struct {
	source   volume.Source
	services []*v1.Service // of the pod's namespace, and the master's
	status   podFacts
}

// podFacts are the fields of a pod that its object doesn't have yet when a
// container is started.
type podFacts struct {
	hostIPs, podIPs []string
	allocatable     v1.ResourceList
}

// variables resolves a container's environment: service links, then envFrom,
// then env, with $(NAME) expanded from what stands before. Returned in a stable
// order; the map serves to expand command, args and subPathExpr.
func (e environment) variables(ctx context.Context, pod *v1.Pod, c *v1.Container) ([]string, map[string]string, error) {
	var names []string
	values := map[string]string{}
	set := func(name, value string) {
		if _, ok := values[name]; !ok {
			names = append(names, name)
		}
		values[name] = value
	}
	for i := range c.EnvFrom {
		from, err := e.from(ctx, pod, &c.EnvFrom[i])
		if err != nil {
			return nil, nil, err
		}
		for _, name := range slices.Sorted(maps.Keys(from)) {
			set(name, from[name])
		}
	}
	links := serviceVariables(e.services, pod.Namespace, pod.Spec.EnableServiceLinks == nil || *pod.Spec.EnableServiceLinks)
	// Service links can be referred to, and are overridden by any other variable.
	lookup := func(name string) (string, bool) {
		if v, ok := values[name]; ok {
			return v, true
		}
		v, ok := links[name]
		return v, ok
	}
	for i := range c.Env {
		env := &c.Env[i]
		value, skip, err := e.value(ctx, pod, c, env, lookup)
		if err != nil {
			return nil, nil, err
		}
		if !skip {
			set(env.Name, value)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(links)) {
		if _, ok := values[name]; !ok {
			set(name, links[name])
		}
	}
	out := make([]string, 0, len(names))
	for _, name := range names {
		out = append(out, name+"="+values[name])
	}
	return out, values, nil
}

func (e environment) from(ctx context.Context, pod *v1.Pod, from *v1.EnvFromSource) (map[string]string, error) {
	out := map[string]string{}
	switch {
	case from.ConfigMapRef != nil:
		cm, err := e.source.ConfigMap(ctx, pod.Namespace, from.ConfigMapRef.Name)
		if err != nil {
			return out, unlessOptional(err, from.ConfigMapRef.Optional)
		}
		for k, v := range cm.Data {
			out[from.Prefix+k] = v
		}
	case from.SecretRef != nil:
		s, err := e.source.Secret(ctx, pod.Namespace, from.SecretRef.Name)
		if err != nil {
			return out, unlessOptional(err, from.SecretRef.Optional)
		}
		for k, v := range s.Data {
			out[from.Prefix+k] = string(v)
		}
	}
	for name := range out {
		if len(validation.IsRelaxedEnvVarName(name)) > 0 {
			delete(out, name)
		}
	}
	return out, nil
}

func unlessOptional(err error, optional *bool) error {
	if optional != nil && *optional && apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

func (e environment) value(ctx context.Context, pod *v1.Pod, c *v1.Container, env *v1.EnvVar, lookup func(string) (string, bool)) (value string, skip bool, err error) {
	from := env.ValueFrom
	if env.Value != "" || from == nil {
		return expand(env.Value, lookup), false, nil
	}
	optional := func(o *bool) bool { return o != nil && *o }
	switch {
	case from.FieldRef != nil:
		value, err = e.status.field(pod, from.FieldRef)
	case from.ResourceFieldRef != nil:
		value, err = e.status.resource(pod, c, from.ResourceFieldRef)
	case from.ConfigMapKeyRef != nil:
		ref := from.ConfigMapKeyRef
		cm, err := e.source.ConfigMap(ctx, pod.Namespace, ref.Name)
		if err != nil {
			return "", true, unlessOptional(err, ref.Optional)
		}
		v, ok := cm.Data[ref.Key]
		if !ok {
			if optional(ref.Optional) {
				return "", true, nil
			}
			return "", false, fmt.Errorf("couldn't find key %v in ConfigMap %v/%v", ref.Key, pod.Namespace, ref.Name)
		}
		value = v
	case from.SecretKeyRef != nil:
		ref := from.SecretKeyRef
		s, err := e.source.Secret(ctx, pod.Namespace, ref.Name)
		if err != nil {
			return "", true, unlessOptional(err, ref.Optional)
		}
		v, ok := s.Data[ref.Key]
		if !ok {
			if optional(ref.Optional) {
				return "", true, nil
			}
			return "", false, fmt.Errorf("couldn't find key %v in Secret %v/%v", ref.Key, pod.Namespace, ref.Name)
		}
		value = string(v)
	default:
		err = fmt.Errorf("environment variable %s: this kind of valueFrom is not supported by this node", env.Name)
	}
	return value, false, err
}

// expand replaces $(NAME) by its value; $$ is a dollar sign, and a reference to
// nothing known stays as it is.
func expand(s string, lookup func(string) (string, bool)) string {
	if !strings.ContainsRune(s, '$') {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '$' || i+1 >= len(s) {
			b.WriteByte(s[i])
			continue
		}
		switch s[i+1] {
		case '$':
			b.WriteByte('$')
			i++
		case '(':
			end := strings.IndexByte(s[i+2:], ')')
			if end < 0 {
				b.WriteString("$(")
				i++
				continue
			}
			name := s[i+2 : i+2+end]
			if v, ok := lookup(name); ok {
				b.WriteString(v)
			} else {
				b.WriteString("$(" + name + ")")
			}
			i += 2 + end
		default:
			b.WriteByte('$')
			b.WriteByte(s[i+1])
			i++
		}
	}
	return b.String()
}

func expandAll(list []string, values map[string]string) []string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = expand(s, func(name string) (string, bool) { v, ok := values[name]; return v, ok })
	}
	return out
}

// serviceVariables are the Docker-style variables of services; without links
// only those of the apiserver.
func serviceVariables(services []*v1.Service, namespace string, links bool) map[string]string {
	sorted := slices.Clone(services)
	sort.Slice(sorted, func(i, j int) bool { return sorted[i].CreationTimestamp.Before(&sorted[j].CreationTimestamp) })
	out := map[string]string{}
	for _, svc := range sorted {
		if svc.Spec.ClusterIP == "" || svc.Spec.ClusterIP == v1.ClusterIPNone || len(svc.Spec.Ports) == 0 {
			continue
		}
		master := svc.Namespace == v1.NamespaceDefault && svc.Name == "kubernetes"
		if !master && (!links || svc.Namespace != namespace) {
			continue
		}
		addServiceVariables(out, svc)
	}
	return out
}

func addServiceVariables(out map[string]string, svc *v1.Service) {
	variable := func(s string) string { return strings.ToUpper(strings.ReplaceAll(s, "-", "_")) }
	name, ip := variable(svc.Name), svc.Spec.ClusterIP
	first := svc.Spec.Ports[0]
	out[name+"_SERVICE_HOST"] = ip
	out[name+"_SERVICE_PORT"] = strconv.Itoa(int(first.Port))
	url := func(p v1.ServicePort) string {
		return strings.ToLower(protocol(p)) + "://" + net.JoinHostPort(ip, strconv.Itoa(int(p.Port)))
	}
	out[name+"_PORT"] = url(first)
	for _, p := range svc.Spec.Ports {
		if p.Name != "" {
			out[name+"_SERVICE_PORT_"+variable(p.Name)] = strconv.Itoa(int(p.Port))
		}
		prefix := fmt.Sprintf("%s_PORT_%d_%s", name, p.Port, strings.ToUpper(protocol(p)))
		out[prefix] = url(p)
		out[prefix+"_PROTO"] = strings.ToLower(protocol(p))
		out[prefix+"_PORT"] = strconv.Itoa(int(p.Port))
		out[prefix+"_ADDR"] = ip
	}
}

func protocol(p v1.ServicePort) string {
	if p.Protocol == "" {
		return "TCP"
	}
	return string(p.Protocol)
}

// field reads a field of the pod for the downward API.
func (f podFacts) field(pod *v1.Pod, ref *v1.ObjectFieldSelector) (string, error) {
	path := ref.FieldPath
	if base, key, ok := strings.Cut(path, "['"); ok && strings.HasSuffix(key, "']") {
		key = strings.TrimSuffix(key, "']")
		switch base {
		case "metadata.labels":
			return pod.Labels[key], nil
		case "metadata.annotations":
			return pod.Annotations[key], nil
		}
		return "", fmt.Errorf("fieldPath %q does not support subscript", path)
	}
	first := func(list []string) string {
		if len(list) == 0 {
			return ""
		}
		return list[0]
	}
	switch path {
	case "metadata.name":
		return pod.Name, nil
	case "metadata.namespace":
		return pod.Namespace, nil
	case "metadata.uid":
		return string(pod.UID), nil
	case "metadata.labels":
		return formatMap(pod.Labels), nil
	case "metadata.annotations":
		return formatMap(pod.Annotations), nil
	case "spec.nodeName":
		return pod.Spec.NodeName, nil
	case "spec.serviceAccountName":
		return pod.Spec.ServiceAccountName, nil
	case "status.hostIP":
		return first(f.hostIPs), nil
	case "status.hostIPs":
		return strings.Join(f.hostIPs, ","), nil
	case "status.podIP":
		return first(f.podIPs), nil
	case "status.podIPs":
		return strings.Join(f.podIPs, ","), nil
	}
	return "", fmt.Errorf("unsupported fieldPath: %v", path)
}

func formatMap(m map[string]string) string {
	var lines []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		lines = append(lines, fmt.Sprintf("%v=%q", k, m[k]))
	}
	return strings.Join(lines, "\n")
}

// resource reads a container's request or limit for the downward API; limits
// that aren't set are what the node can give.
func (f podFacts) resource(pod *v1.Pod, c *v1.Container, ref *v1.ResourceFieldSelector) (string, error) {
	if ref.ContainerName != "" && (c == nil || ref.ContainerName != c.Name) {
		c = findContainer(pod, ref.ContainerName)
	}
	if c == nil {
		return "", fmt.Errorf("container %s not found", ref.ContainerName)
	}
	divisor := ref.Divisor
	if divisor.IsZero() {
		divisor = resource.MustParse("1")
	}
	kind, name, ok := strings.Cut(ref.Resource, ".")
	if !ok {
		return "", fmt.Errorf("unsupported container resource : %v", ref.Resource)
	}
	list := c.Resources.Limits
	if kind == "requests" {
		list = c.Resources.Requests
	} else if kind != "limits" {
		return "", fmt.Errorf("unsupported container resource : %v", ref.Resource)
	}
	switch resourceName := v1.ResourceName(name); {
	case resourceName == v1.ResourceCPU, resourceName == v1.ResourceMemory, resourceName == v1.ResourceEphemeralStorage,
		strings.HasPrefix(name, v1.ResourceHugePagesPrefix):
		quantity, set := list[resourceName]
		if (!set || quantity.IsZero()) && kind == "limits" {
			quantity = f.allocatable[resourceName]
		}
		if resourceName == v1.ResourceCPU {
			return strconv.FormatInt(int64(math.Ceil(float64(quantity.MilliValue())/float64(divisor.MilliValue()))), 10), nil
		}
		return strconv.FormatInt(int64(math.Ceil(float64(quantity.Value())/float64(divisor.Value()))), 10), nil
	}
	return "", fmt.Errorf("unsupported container resource : %v", ref.Resource)
}

func findContainer(pod *v1.Pod, name string) *v1.Container {
	for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	for i := range pod.Spec.EphemeralContainers {
		if pod.Spec.EphemeralContainers[i].Name == name {
			c := v1.Container(pod.Spec.EphemeralContainers[i].EphemeralContainerCommon)
			return &c
		}
	}
	return nil
}

package core

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"skiff/pkg/api"
)

// ContainerCells are the names and the images of a template's containers.
func ContainerCells(containers []corev1.Container) (names, images string) {
	var n, i []string
	for _, c := range containers {
		n, i = append(n, c.Name), append(i, c.Image)
	}
	return strings.Join(n, ","), strings.Join(i, ",")
}

var podTemplateColumns = api.Columns("Name, Containers, Images, Pod Labels")

func podTemplateCells(obj api.Object) []any {
	t := obj.(*corev1.PodTemplate)
	names, images := ContainerCells(t.Template.Spec.Containers)
	return []any{t.Name, names, images, labels.FormatLabels(t.Template.Labels)}
}

var replicationControllerColumns = api.Columns("Name, Desired#, Current#, Ready#, Age, +Containers, +Images, +Selector")

func replicationControllerCells(obj api.Object) []any {
	rc := obj.(*corev1.ReplicationController)
	names, images := "", ""
	if rc.Spec.Template != nil {
		names, images = ContainerCells(rc.Spec.Template.Spec.Containers)
	}
	return []any{rc.Name, int64(replicas(rc.Spec.Replicas)), int64(rc.Status.Replicas), int64(rc.Status.ReadyReplicas),
		api.Age(rc), names, images, labels.FormatLabels(rc.Spec.Selector)}
}

var serviceColumns = api.Columns("Name, Type, Cluster-IP, External-IP, Port(s), Age, +Selector")

func serviceCells(obj api.Object) []any {
	s := obj.(*corev1.Service)
	ip := ""
	if len(s.Spec.ClusterIPs) > 0 {
		ip = s.Spec.ClusterIPs[0]
	}
	ports := make([]string, len(s.Spec.Ports))
	for i, p := range s.Spec.Ports {
		if p.NodePort > 0 {
			ports[i] = fmt.Sprintf("%d:%d/%s", p.Port, p.NodePort, p.Protocol)
		} else {
			ports[i] = fmt.Sprintf("%d/%s", p.Port, p.Protocol)
		}
	}
	return []any{s.Name, string(s.Spec.Type), api.OrNone(ip), externalIP(s), api.OrNone(strings.Join(ports, ",")),
		api.Age(s), labels.FormatLabels(s.Spec.Selector)}
}

func externalIP(s *corev1.Service) string {
	own := strings.Join(s.Spec.ExternalIPs, ",")
	switch s.Spec.Type {
	case corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort:
		return api.OrNone(own)
	case corev1.ServiceTypeExternalName:
		return s.Spec.ExternalName
	case corev1.ServiceTypeLoadBalancer:
		var all []string
		for _, in := range s.Status.LoadBalancer.Ingress {
			if at := api.Or(in.IP, in.Hostname); at != "" {
				all = append(all, at)
			}
		}
		slices.Sort(all)
		all = append(slices.Compact(all), s.Spec.ExternalIPs...)
		return api.Or(strings.Join(all, ","), "<pending>")
	}
	return "<unknown>"
}

var endpointsColumns = api.Columns("Name, Endpoints, Age")

func endpointsCells(obj api.Object) []any {
	e := obj.(*corev1.Endpoints)
	var all []string
	for _, subset := range e.Subsets {
		if len(subset.Ports) == 0 { // a headless service without ports
			for _, a := range subset.Addresses {
				all = append(all, a.IP)
			}
		}
		for _, port := range subset.Ports {
			for _, a := range subset.Addresses {
				all = append(all, net.JoinHostPort(a.IP, strconv.Itoa(int(port.Port))))
			}
		}
	}
	text := "<none>"
	if len(e.Subsets) > 0 {
		text = api.Some(all, 3, ",", "")
	}
	return []any{e.Name, text, api.Age(e)}
}

var nodeColumns = api.Columns("Name, Status, Roles, Age, Version, +Internal-IP, +External-IP, +OS-Image, +Kernel-Version, +Container-Runtime")

func nodeCells(obj api.Object) []any {
	n := obj.(*corev1.Node)
	info := &n.Status.NodeInfo
	kernel := api.Or(info.KernelVersion, "<unknown>")
	if info.Architecture != "" {
		kernel += " (" + info.Architecture + ")"
	}
	return []any{n.Name, nodeStatus(n), api.OrNone(strings.Join(nodeRoles(n), ",")), api.Age(n), info.KubeletVersion,
		nodeAddress(n, corev1.NodeInternalIP), nodeAddress(n, corev1.NodeExternalIP),
		api.Or(info.OSImage, "<unknown>"), kernel, api.Or(info.ContainerRuntimeVersion, "<unknown>")}
}

func nodeStatus(n *corev1.Node) string {
	status := "Unknown"
	for i := range n.Status.Conditions {
		if c := &n.Status.Conditions[i]; c.Type == corev1.NodeReady {
			status = "Ready"
			if c.Status != corev1.ConditionTrue {
				status = "NotReady"
			}
		}
	}
	if n.Spec.Unschedulable {
		status += ",SchedulingDisabled"
	}
	return status
}

func nodeRoles(n *corev1.Node) []string {
	var roles []string
	for key, value := range n.Labels {
		if role, ok := strings.CutPrefix(key, "node-role.kubernetes.io/"); ok && role != "" {
			roles = append(roles, role)
		} else if key == "kubernetes.io/role" && value != "" {
			roles = append(roles, value)
		}
	}
	slices.Sort(roles)
	return slices.Compact(roles)
}

func nodeAddress(n *corev1.Node, t corev1.NodeAddressType) string {
	for _, a := range n.Status.Addresses {
		if a.Type == t {
			return a.Address
		}
	}
	return "<none>"
}

var namespaceColumns = api.Columns("Name, Status, Age")

func namespaceCells(obj api.Object) []any {
	n := obj.(*corev1.Namespace)
	return []any{n.Name, string(n.Status.Phase), api.Age(n)}
}

var configMapColumns = api.Columns("Name, Data, Age")

func configMapCells(obj api.Object) []any {
	c := obj.(*corev1.ConfigMap)
	return []any{c.Name, int64(len(c.Data) + len(c.BinaryData)), api.Age(c)}
}

var secretColumns = api.Columns("Name, Type, Data, Age")

func secretCells(obj api.Object) []any {
	s := obj.(*corev1.Secret)
	return []any{s.Name, string(s.Type), int64(len(s.Data)), api.Age(s)}
}

var serviceAccountColumns = api.Columns("Name, Age")

func serviceAccountCells(obj api.Object) []any { return []any{obj.GetName(), api.Age(obj)} }

var resourceQuotaColumns = api.Columns("Name, Request, Limit, Age")

func resourceQuotaCells(obj api.Object) []any {
	q := obj.(*corev1.ResourceQuota)
	var names []string
	for name := range q.Status.Hard {
		names = append(names, string(name))
	}
	slices.Sort(names)
	var requests, limits []string
	for _, name := range names {
		used, hard := q.Status.Used[corev1.ResourceName(name)], q.Status.Hard[corev1.ResourceName(name)]
		text := fmt.Sprintf("%s: %s/%s", name, used.String(), hard.String())
		if strings.HasPrefix(name, "limits.") {
			limits = append(limits, text)
		} else {
			requests = append(requests, text)
		}
	}
	return []any{q.Name, strings.Join(requests, ", "), strings.Join(limits, ", "), api.Age(q)}
}

// EventColumns are the columns of events, in both groups.
var EventColumns = api.Columns("Last Seen, Type, Reason, Object, +Subobject, +Source, Message, +First Seen, +Count, +Name")

// EventCells are the cells of a stored (core/v1) event.
func EventCells(obj api.Object) []any {
	e := obj.(*corev1.Event)
	first := api.Since(e.FirstTimestamp.Time)
	if e.FirstTimestamp.IsZero() {
		first = api.Since(e.EventTime.Time)
	}
	last := first
	if !e.LastTimestamp.IsZero() {
		last = api.Since(e.LastTimestamp.Time)
	}
	count := max(1, e.Count)
	if e.Series != nil {
		last, count = api.Since(e.Series.LastObservedTime.Time), e.Series.Count
	}
	object := strings.ToLower(e.InvolvedObject.Kind)
	if e.InvolvedObject.Name != "" {
		object += "/" + e.InvolvedObject.Name
	}
	source := api.Or(e.Source.Component, e.ReportingController)
	if host := api.Or(e.Source.Host, e.ReportingInstance); host != "" {
		source += ", " + host
	}
	return []any{last, e.Type, e.Reason, object, e.InvolvedObject.FieldPath, source, strings.TrimSpace(e.Message),
		first, int64(count), e.Name}
}

var componentStatusColumns = api.Columns("Name, Status, Message, Error")

func componentStatusCells(obj api.Object) []any {
	s := obj.(*corev1.ComponentStatus)
	for _, c := range s.Conditions {
		if c.Type != corev1.ComponentHealthy {
			continue
		}
		status := "Unhealthy"
		if c.Status == corev1.ConditionTrue {
			status = "Healthy"
		}
		return []any{s.Name, status, c.Message, c.Error}
	}
	return []any{s.Name, "Unknown", "", ""}
}

package agent

import (
	"context"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff/pkg/agent/runtime"
)

func amounts(names string) v1.ResourceList {
	list := v1.ResourceList{}
	for _, name := range strings.Fields(names) {
		list[v1.ResourceName(name)] = resource.MustParse("1")
	}
	return list
}

// source holds one ConfigMap and one Secret.
type source struct{}

func (source) ConfigMap(_ context.Context, _, name string) (*v1.ConfigMap, error) {
	if name != "cm" {
		return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "configmaps"}, name)
	}
	return &v1.ConfigMap{Data: map[string]string{"k": "from-cm", "not a name=": "x", "A": "first"}}, nil
}
func (source) Secret(_ context.Context, _, name string) (*v1.Secret, error) {
	if name != "s" {
		return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "secrets"}, name)
	}
	return &v1.Secret{Data: map[string][]byte{"k": []byte("from-s")}}, nil
}
func (source) Token(context.Context, *v1.Pod, *v1.ServiceAccountTokenProjection) (string, error) {
	return "", nil
}
func (source) Field(*v1.Pod, *v1.ObjectFieldSelector) (string, error)      { return "", nil }
func (source) Resource(*v1.Pod, *v1.ResourceFieldSelector) (string, error) { return "", nil }

func TestEnvironment(t *testing.T) {
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", UID: "u", Labels: map[string]string{"app": "web"}},
		Spec: v1.PodSpec{NodeName: "n", ServiceAccountName: "sa"}}
	facts := podFacts{hostIPs: []string{"192.0.2.1"}, podIPs: []string{"10.0.0.1", "fd00::1"},
		allocatable: v1.ResourceList{v1.ResourceCPU: resource.MustParse("4"), v1.ResourceMemory: resource.MustParse("8Gi")}}
	service := &v1.Service{ObjectMeta: metav1.ObjectMeta{Name: "my-db", Namespace: "ns"},
		Spec: v1.ServiceSpec{ClusterIP: "10.96.0.5", Ports: []v1.ServicePort{{Name: "sql", Port: 5432}}}}
	ref := func(name string) v1.LocalObjectReference { return v1.LocalObjectReference{Name: name} }
	field := func(path string) *v1.EnvVarSource {
		return &v1.EnvVarSource{FieldRef: &v1.ObjectFieldSelector{FieldPath: path}}
	}
	for _, c := range []struct {
		env  []v1.EnvVar
		from []v1.EnvFromSource
		want string // or the error
	}{
		{env: []v1.EnvVar{{Name: "A", Value: "1"}, {Name: "B", Value: "$(A)$(C)$$(A)$"}, {Name: "C", Value: "2"}}, want: "A=1 B=1$(C)$(A)$ C=2"},
		{env: []v1.EnvVar{{Name: "A", Value: "$(MY_DB_SERVICE_HOST):$(MY_DB_SERVICE_PORT_SQL)"}}, want: "A=10.96.0.5:5432"},
		{from: []v1.EnvFromSource{{Prefix: "P_", ConfigMapRef: &v1.ConfigMapEnvSource{LocalObjectReference: ref("cm")}}}, want: "P_A=first P_k=from-cm"},
		{from: []v1.EnvFromSource{{ConfigMapRef: &v1.ConfigMapEnvSource{LocalObjectReference: ref("cm")}}}, env: []v1.EnvVar{{Name: "A", Value: "own"}}, want: "A=own k=from-cm"},
		{from: []v1.EnvFromSource{{SecretRef: &v1.SecretEnvSource{LocalObjectReference: ref("none"), Optional: ptr(true)}}}, want: ""},
		{from: []v1.EnvFromSource{{SecretRef: &v1.SecretEnvSource{LocalObjectReference: ref("none")}}}, want: `secrets "none" not found`},
		{env: []v1.EnvVar{{Name: "A", ValueFrom: &v1.EnvVarSource{SecretKeyRef: &v1.SecretKeySelector{LocalObjectReference: ref("s"), Key: "k"}}}}, want: "A=from-s"},
		{env: []v1.EnvVar{{Name: "A", ValueFrom: &v1.EnvVarSource{ConfigMapKeyRef: &v1.ConfigMapKeySelector{LocalObjectReference: ref("cm"), Key: "no"}}}}, want: "couldn't find key no in ConfigMap ns/cm"},
		{env: []v1.EnvVar{{Name: "A", ValueFrom: field("metadata.labels['app']")}, {Name: "B", ValueFrom: field("status.podIPs")}, {Name: "C", ValueFrom: field("status.hostIP")}}, want: "A=web B=10.0.0.1,fd00::1 C=192.0.2.1"},
		{env: []v1.EnvVar{{Name: "A", ValueFrom: field("spec.nodeName")}, {Name: "B", ValueFrom: field("metadata.uid")}}, want: "A=n B=u"},
		{env: []v1.EnvVar{{Name: "A", ValueFrom: field("status.phase")}}, want: "unsupported fieldPath: status.phase"},
		{env: []v1.EnvVar{{Name: "A", ValueFrom: &v1.EnvVarSource{ResourceFieldRef: &v1.ResourceFieldSelector{Resource: "limits.cpu"}}},
			{Name: "B", ValueFrom: &v1.EnvVarSource{ResourceFieldRef: &v1.ResourceFieldSelector{Resource: "requests.cpu", Divisor: resource.MustParse("1m")}}},
			{Name: "C", ValueFrom: &v1.EnvVarSource{ResourceFieldRef: &v1.ResourceFieldSelector{Resource: "limits.memory", Divisor: resource.MustParse("1Mi")}}}}, want: "A=4 B=250 C=8192"},
	} {
		container := &v1.Container{Name: "c", Env: c.env, EnvFrom: c.from, Resources: v1.ResourceRequirements{Requests: v1.ResourceList{v1.ResourceCPU: resource.MustParse("250m")}}}
		got, _, err := environment{source: source{}, services: []*v1.Service{service}, status: facts}.variables(context.Background(), pod, container)
		text := ""
		if err != nil {
			text = err.Error()
		} else {
			var own []string
			for _, e := range got {
				if !strings.HasPrefix(e, "MY_DB_") {
					own = append(own, e)
				}
			}
			text = strings.Join(own, " ")
		}
		if text != c.want {
			t.Errorf("got %q, want %q", text, c.want)
		}
	}
}

func TestServiceVariables(t *testing.T) {
	services := []*v1.Service{
		{ObjectMeta: metav1.ObjectMeta{Name: "my-db", Namespace: "ns"}, Spec: v1.ServiceSpec{ClusterIP: "10.96.0.5", Ports: []v1.ServicePort{{Name: "sql", Port: 5432, Protocol: v1.ProtocolTCP}}}},
		{ObjectMeta: metav1.ObjectMeta{Name: "other", Namespace: "elsewhere"}, Spec: v1.ServiceSpec{ClusterIP: "10.96.0.6", Ports: []v1.ServicePort{{Port: 80}}}},
		{ObjectMeta: metav1.ObjectMeta{Name: "headless", Namespace: "ns"}, Spec: v1.ServiceSpec{ClusterIP: "None", Ports: []v1.ServicePort{{Port: 80}}}},
		{ObjectMeta: metav1.ObjectMeta{Name: "kubernetes", Namespace: "default"}, Spec: v1.ServiceSpec{ClusterIP: "10.96.0.1", Ports: []v1.ServicePort{{Name: "https", Port: 443}}}},
	}
	got := serviceVariables(services, "ns", true)
	for name, want := range map[string]string{
		"MY_DB_SERVICE_HOST": "10.96.0.5", "MY_DB_SERVICE_PORT": "5432", "MY_DB_SERVICE_PORT_SQL": "5432", "MY_DB_PORT": "tcp://10.96.0.5:5432",
		"MY_DB_PORT_5432_TCP": "tcp://10.96.0.5:5432", "MY_DB_PORT_5432_TCP_PROTO": "tcp", "MY_DB_PORT_5432_TCP_PORT": "5432", "MY_DB_PORT_5432_TCP_ADDR": "10.96.0.5",
		"KUBERNETES_SERVICE_HOST": "10.96.0.1", "OTHER_SERVICE_HOST": "", "HEADLESS_SERVICE_HOST": "",
	} {
		if got[name] != want {
			t.Errorf("%s=%q, want %q", name, got[name], want)
		}
	}
	if got = serviceVariables(services, "ns", false); len(got) != 8 || got["KUBERNETES_SERVICE_PORT_HTTPS"] != "443" {
		t.Errorf("without links: %v", got)
	}
}

func TestResolver(t *testing.T) {
	node := parseResolver([]byte("# comment\nnameserver 192.0.2.53\nsearch example.com. corp\noptions timeout:1 rotate\n"))
	for _, c := range []struct {
		policy   v1.DNSPolicy
		host     bool
		config   *v1.PodDNSConfig
		cluster  []string
		want     string
		fallback bool
	}{
		{v1.DNSClusterFirst, false, nil, []string{"10.96.0.10"}, "search ns.svc.cluster.local svc.cluster.local cluster.local example.com corp\nnameserver 10.96.0.10\noptions ndots:5\n", false},
		{v1.DNSClusterFirst, true, nil, []string{"10.96.0.10"}, "search example.com corp\nnameserver 192.0.2.53\noptions timeout:1 rotate\n", false},
		{v1.DNSClusterFirstWithHostNet, true, nil, []string{"10.96.0.10"}, "search ns.svc.cluster.local svc.cluster.local cluster.local example.com corp\nnameserver 10.96.0.10\noptions ndots:5\n", false},
		{v1.DNSClusterFirst, false, nil, nil, "search example.com corp\nnameserver 192.0.2.53\noptions timeout:1 rotate\n", true},
		{v1.DNSDefault, false, nil, []string{"10.96.0.10"}, "search example.com corp\nnameserver 192.0.2.53\noptions timeout:1 rotate\n", false},
		{v1.DNSNone, false, &v1.PodDNSConfig{Nameservers: []string{"1.1.1.1"}, Searches: []string{"a.b"}, Options: []v1.PodDNSConfigOption{{Name: "ndots", Value: ptr("2")}, {Name: "edns0"}}}, nil,
			"search a.b\nnameserver 1.1.1.1\noptions ndots:2 edns0\n", false},
		{v1.DNSClusterFirst, false, &v1.PodDNSConfig{Options: []v1.PodDNSConfigOption{{Name: "ndots", Value: ptr("1")}}}, []string{"10.96.0.10"},
			"search ns.svc.cluster.local svc.cluster.local cluster.local example.com corp\nnameserver 10.96.0.10\noptions ndots:1\n", false},
	} {
		pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns"}, Spec: v1.PodSpec{DNSPolicy: c.policy, HostNetwork: c.host, DNSConfig: c.config}}
		r, fallback := podResolver(pod, node, c.cluster, "cluster.local")
		if r.String() != c.want || fallback != c.fallback {
			t.Errorf("%s host=%v: %q %v, want %q", c.policy, c.host, r, fallback, c.want)
		}
	}
}

func TestHostname(t *testing.T) {
	long := strings.Repeat("a", 62) + "-b"
	for _, c := range []struct {
		spec         v1.PodSpec
		host, domain string
	}{
		{v1.PodSpec{}, "p", ""},
		{v1.PodSpec{Hostname: "h", Subdomain: "s"}, "h", "s.ns.svc.cluster.local"},
		{v1.PodSpec{Hostname: long}, strings.Repeat("a", 62), ""},
		{v1.PodSpec{HostNetwork: true}, "node", ""},
		{v1.PodSpec{HostnameOverride: ptr("x.y"), Subdomain: "s"}, "x.y", ""},
	} {
		pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns"}, Spec: c.spec}
		if host, domain := hostname(pod, "node", "cluster.local"); host != c.host || domain != c.domain {
			t.Errorf("%+v: %q %q", c.spec, host, domain)
		}
	}
	pod := &v1.Pod{Spec: v1.PodSpec{HostAliases: []v1.HostAlias{{IP: "1.2.3.4", Hostnames: []string{"x", "y"}}}}}
	want := "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n" +
		"10.0.0.1\th.d\th\n\n# Entries added by HostAliases.\n1.2.3.4\tx\ty\n"
	if got := string(hosts(pod, []string{"10.0.0.1"}, "h", "d", nil)); got != want {
		t.Errorf("hosts %q", got)
	}
}

func TestLimits(t *testing.T) {
	list := func(cpu, memory string) v1.ResourceList {
		l := v1.ResourceList{}
		if cpu != "" {
			l[v1.ResourceCPU] = resource.MustParse(cpu)
		}
		if memory != "" {
			l[v1.ResourceMemory] = resource.MustParse(memory)
		}
		return l
	}
	for _, c := range []struct {
		requests, limits v1.ResourceList
		want             runtime.Limits
	}{
		{nil, nil, runtime.Limits{CPUShares: 2}},
		{list("500m", ""), nil, runtime.Limits{CPUShares: 512}},
		{nil, list("250m", "1Mi"), runtime.Limits{CPUShares: 256, CPUQuota: 25000, CPUPeriod: 100000, Memory: 1 << 20}},
		{list("1m", ""), list("1m", ""), runtime.Limits{CPUShares: 2, CPUQuota: 1000, CPUPeriod: 100000}},
		{list("1000", ""), nil, runtime.Limits{CPUShares: 262144}},
	} {
		if got := limitsOf(c.requests, c.limits); got != c.want {
			t.Errorf("%v %v: %+v, want %+v", c.requests, c.limits, got, c.want)
		}
	}
	pod := &v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{{Resources: v1.ResourceRequirements{Limits: list("1", "1Gi")}}, {Resources: v1.ResourceRequirements{Limits: list("1", "")}}}}}
	if got := podLimits(pod, 0); got.CPUQuota != 200000 || got.Memory != 0 {
		t.Errorf("a pod with one unbounded container: %+v", got)
	}
}

func TestUnsupported(t *testing.T) {
	for reason, spec := range map[string]v1.PodSpec{
		"PodOSNotSupported":          {OS: &v1.PodOS{Name: v1.Windows}},
		"UserNamespacesNotSupported": {HostUsers: ptr(false)},
		"SysctlForbidden":            {SecurityContext: &v1.PodSecurityContext{Sysctls: []v1.Sysctl{{Name: "kernel.msgmax", Value: "1"}}}},
		"AppArmor":                   {SecurityContext: &v1.PodSecurityContext{AppArmorProfile: &v1.AppArmorProfile{Type: v1.AppArmorProfileTypeLocalhost}}},
		"":                           {SecurityContext: &v1.PodSecurityContext{Sysctls: []v1.Sysctl{{Name: "net.ipv4.ip_local_port_range", Value: "1024 65535"}}}},
	} {
		got := unsupported(&v1.Pod{Spec: spec}, false)
		if got == nil && reason != "" || got != nil && got.Reason != reason {
			t.Errorf("want %q, got %+v", reason, got)
		}
	}
}

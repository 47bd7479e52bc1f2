package runtime

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	v1 "k8s.io/api/core/v1"

	"skiff/pkg/agent/image"
)

func ptr[T any](v T) *T { return &v }

var anyHost = Host{Capabilities: 1<<41 - 1, Controllers: map[string]bool{}}

func config(c v1.Container, pod v1.PodSpec) ContainerConfig {
	return ContainerConfig{ID: "id", Cgroup: "/kubepods/podu", Pod: &v1.Pod{Spec: pod}, Container: &c, Hostname: "box",
		Image:   image.Image{Config: ocispec.ImageConfig{Entrypoint: []string{"/entry"}, Cmd: []string{"arg"}, Env: []string{"A=image", "PATH=/bin"}, WorkingDir: "/work"}},
		Sandbox: Sandbox{Net: "/ns/net", IPC: "/ns/ipc", UTS: "/ns/uts", Shm: "/ns/shm"}}
}

func TestSpec(t *testing.T) {
	for _, c := range []struct {
		name string
		in   ContainerConfig
		host Host
		show func(*specs.Spec) any
		want string
	}{
		{"the image's command", config(v1.Container{}, v1.PodSpec{}), anyHost, func(s *specs.Spec) any { return s.Process.Args }, `["/entry","arg"]`},
		{"own arguments", func() ContainerConfig { c := config(v1.Container{}, v1.PodSpec{}); c.Args = []string{"x"}; return c }(), anyHost, func(s *specs.Spec) any { return s.Process.Args }, `["/entry","x"]`},
		{"own command", func() ContainerConfig {
			c := config(v1.Container{}, v1.PodSpec{})
			c.Command = []string{"x"}
			return c
		}(), anyHost, func(s *specs.Spec) any { return s.Process.Args }, `["x"]`},
		{"environment", func() ContainerConfig {
			c := config(v1.Container{TTY: true}, v1.PodSpec{})
			c.Env = []string{"A=own", "B=2"}
			return c
		}(), anyHost, func(s *specs.Spec) any { return s.Process.Env }, `["TERM=xterm","HOSTNAME=box","A=own","PATH=/bin","B=2"]`},
		{"working directory", config(v1.Container{WorkingDir: "/mine"}, v1.PodSpec{}), anyHost, func(s *specs.Spec) any { return s.Process.Cwd }, `"/mine"`},
		{"cgroup", config(v1.Container{}, v1.PodSpec{}), anyHost, func(s *specs.Spec) any { return s.Linux.CgroupsPath }, `"/kubepods/podu/id"`},
		{"namespaces", config(v1.Container{}, v1.PodSpec{}), anyHost, namespacesOf, `"mount pid network=/ns/net ipc=/ns/ipc uts=/ns/uts"`},
		{"the host's processes", config(v1.Container{}, v1.PodSpec{HostPID: true}), anyHost, namespacesOf, `"mount network=/ns/net ipc=/ns/ipc uts=/ns/uts"`},
		{"version 2 has a cgroup namespace", config(v1.Container{}, v1.PodSpec{}), Host{CgroupV2: true}, namespacesOf, `"mount pid network=/ns/net ipc=/ns/ipc uts=/ns/uts cgroup"`},
		{"default capabilities", config(v1.Container{}, v1.PodSpec{}), anyHost, func(s *specs.Spec) any { return len(s.Process.Capabilities.Bounding) }, `14`},
		{"none", config(v1.Container{SecurityContext: &v1.SecurityContext{Capabilities: &v1.Capabilities{Drop: []v1.Capability{"ALL"}, Add: []v1.Capability{"net_bind_service"}}}}, v1.PodSpec{}), anyHost,
			func(s *specs.Spec) any { return s.Process.Capabilities.Effective }, `["CAP_NET_BIND_SERVICE"]`},
		{"all but one", config(v1.Container{SecurityContext: &v1.SecurityContext{Capabilities: &v1.Capabilities{Add: []v1.Capability{"ALL"}, Drop: []v1.Capability{"CHOWN"}}}}, v1.PodSpec{}), anyHost,
			func(s *specs.Spec) any { return len(s.Process.Capabilities.Effective) }, `40`},
		{"no more than the host gives", config(v1.Container{SecurityContext: &v1.SecurityContext{Privileged: ptr(true)}}, v1.PodSpec{}), Host{Capabilities: 1<<41 - 1 - 1<<capSysResource},
			func(s *specs.Spec) any { return slices.Contains(s.Process.Capabilities.Bounding, "CAP_SYS_RESOURCE") }, `false`},
		{"privileged: nothing masked", config(v1.Container{SecurityContext: &v1.SecurityContext{Privileged: ptr(true)}}, v1.PodSpec{}), anyHost,
			func(s *specs.Spec) any {
				return fmt.Sprint(len(s.Linux.MaskedPaths), s.Linux.Resources.Devices, s.Linux.Seccomp)
			}, `"0 [{true  \u003cnil\u003e \u003cnil\u003e rwm}] \u003cnil\u003e"`},
		{"no new privileges", config(v1.Container{SecurityContext: &v1.SecurityContext{AllowPrivilegeEscalation: ptr(false), ReadOnlyRootFilesystem: ptr(true)}}, v1.PodSpec{}), anyHost,
			func(s *specs.Spec) any { return []bool{s.Process.NoNewPrivileges, s.Root.Readonly} }, `[true,true]`},
		{"seccomp of the pod", config(v1.Container{}, v1.PodSpec{SecurityContext: &v1.PodSecurityContext{SeccompProfile: &v1.SeccompProfile{Type: v1.SeccompProfileTypeRuntimeDefault}}}), anyHost,
			func(s *specs.Spec) any { return s.Linux.Seccomp.DefaultAction }, `"SCMP_ACT_ERRNO"`},
		{"seccomp of the container", config(v1.Container{SecurityContext: &v1.SecurityContext{SeccompProfile: &v1.SeccompProfile{Type: v1.SeccompProfileTypeUnconfined}}}, v1.PodSpec{SecurityContext: &v1.PodSecurityContext{SeccompProfile: &v1.SeccompProfile{Type: v1.SeccompProfileTypeRuntimeDefault}}}), anyHost,
			func(s *specs.Spec) any { return s.Linux.Seccomp == nil }, `true`},
		{"limits", func() ContainerConfig {
			c := config(v1.Container{}, v1.PodSpec{})
			c.Resources = Limits{CPUShares: 512, CPUQuota: 50000, CPUPeriod: 100000, Memory: 1 << 20}
			return c
		}(), Host{SwapLimit: true}, func(s *specs.Spec) any { return []any{s.Linux.Resources.CPU, s.Linux.Resources.Memory} },
			`[{"shares":512,"quota":50000,"period":100000},{"limit":1048576,"swap":1048576}]`},
		{"mounts by depth, with their propagation", func() ContainerConfig {
			c := config(v1.Container{}, v1.PodSpec{})
			c.Mounts = []Mount{{Source: "/h/b", Destination: "/a/b/", ReadOnly: true, Recursively: true}, {Source: "/h/a", Destination: "/a", Propagation: v1.MountPropagationHostToContainer}}
			return c
		}(), anyHost, func(s *specs.Spec) any {
			var own []string
			for _, m := range s.Mounts {
				if m.Type == "bind" {
					own = append(own, m.Source+":"+m.Destination+":"+strings.Join(m.Options, ","))
				}
			}
			return append(own, s.Linux.RootfsPropagation)
		}, `["/h/a:/a:rbind,rslave,rw","/h/b:/a/b:rbind,rprivate,ro,rro","/ns/shm:/dev/shm:rbind,rprivate,rw","rslave"]`},
	} {
		spec, err := Spec(c.in, User{}, c.host)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if got, _ := json.Marshal(c.show(spec)); string(got) != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
	if _, err := Spec(ContainerConfig{Pod: &v1.Pod{}, Container: &v1.Container{}}, User{}, anyHost); err == nil || err.Error() != "no command specified" {
		t.Errorf("without a command: %v", err)
	}
}

func namespacesOf(s *specs.Spec) any {
	var out []string
	for _, n := range s.Linux.Namespaces {
		text := string(n.Type)
		if n.Path != "" {
			text += "=" + n.Path
		}
		out = append(out, text)
	}
	return strings.Join(out, " ")
}

func TestOOMScore(t *testing.T) {
	able, unable := Host{Capabilities: 1 << capSysResource}, Host{OOMScore: 10}
	for _, c := range []struct {
		host  Host
		score int
		set   bool
	}{{able, -997, true}, {unable, -997, false}, {unable, 11, false}, {unable, 12, true}, {unable, 1000, true}} {
		if _, set := oomScore(c.score, c.host); set != c.set {
			t.Errorf("%d: %v", c.score, set)
		}
	}
}

func TestResolveUser(t *testing.T) {
	accounts := Accounts{passwd: []byte("root:x:0:0::/:\napp:x:1000:1001::/:\n"), group: []byte("wheel:x:10:root,app\nextra:x:50:app\n")}
	strict := v1.SupplementalGroupsPolicyStrict
	for _, c := range []struct {
		image string
		own   *v1.SecurityContext
		pod   *v1.PodSecurityContext
		want  string
	}{
		{"", nil, nil, "{0 0 [0 10]}"},
		{"app", nil, nil, "{1000 1001 [10 50 1001]}"},
		{"1000:7", nil, nil, "{1000 1001 [10 50 1001]}"},
		{"2000", nil, nil, "{2000 0 [0]}"},
		{"nobody-knows", nil, nil, "unable to find user nobody-knows: no matching entries in passwd file"},
		{"app", &v1.SecurityContext{RunAsUser: ptr(int64(5)), RunAsGroup: ptr(int64(6))}, nil, "{5 6 [6]}"},
		{"", nil, &v1.PodSecurityContext{RunAsUser: ptr(int64(1000)), FSGroup: ptr(int64(9)), SupplementalGroups: []int64{8}}, "{1000 1001 [8 9 10 50 1001]}"},
		{"", nil, &v1.PodSecurityContext{RunAsUser: ptr(int64(1000)), SupplementalGroups: []int64{8}, SupplementalGroupsPolicy: &strict}, "{1000 1001 [8 1001]}"},
	} {
		pod := &v1.Pod{Spec: v1.PodSpec{SecurityContext: c.pod}}
		u, err := ResolveUser(pod, &v1.Container{SecurityContext: c.own}, c.image, accounts)
		got := fmt.Sprint(u)
		if err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%q %v %v: %s, want %s", c.image, c.own, c.pod, got, c.want)
		}
	}
}

func TestVerifyNonRoot(t *testing.T) {
	pod := &v1.Pod{}
	pod.Name, pod.Namespace, pod.UID = "p", "ns", "u"
	where := ` (pod: "p_ns(u)", container: c)`
	for _, c := range []struct {
		image string
		user  *int64
		want  string
	}{
		{"", nil, "container has runAsNonRoot and image will run as root" + where},
		{"app", nil, "container has runAsNonRoot and image has non-numeric user (app), cannot verify user is non-root" + where},
		{"1000", nil, "<nil>"}, {"", ptr(int64(0)), "container's runAsUser breaks non-root policy" + where}, {"", ptr(int64(7)), "<nil>"},
	} {
		spec := &v1.Container{Name: "c", SecurityContext: &v1.SecurityContext{RunAsNonRoot: ptr(true), RunAsUser: c.user}}
		if got := fmt.Sprint(VerifyNonRoot(pod, spec, c.image)); got != c.want {
			t.Errorf("%q %v: %s, want %s", c.image, c.user, got, c.want)
		}
	}
}

func TestCgroupFiles(t *testing.T) {
	l := Limits{CPUShares: 1024, CPUQuota: 50000, CPUPeriod: 100000, Memory: 1 << 20, Pids: 5}
	if got := fmt.Sprint(v1Files("cpu", l), v1Files("memory", l), v1Files("pids", l)); got != "[{cpu.shares 1024} {cpu.cfs_period_us 100000} {cpu.cfs_quota_us 50000}] [{memory.limit_in_bytes 1048576}] [{pids.max 5}]" {
		t.Error(got)
	}
	if got := fmt.Sprint(v2Files(l)); got != "[{cpu.weight 39} {cpu.max 50000 100000} {memory.max 1048576} {pids.max 5}]" {
		t.Error(got)
	}
	for shares, weight := range map[uint64]uint64{0: 1, 2: 1, 1024: 39, 262144: 10000} {
		if got := SharesToWeight(shares); got != weight {
			t.Errorf("%d shares: weight %d", shares, got)
		}
	}
	for qos, want := range map[v1.PodQOSClass]string{v1.PodQOSGuaranteed: "/p/kubepods/podu", v1.PodQOSBurstable: "/p/kubepods/burstable/podu", v1.PodQOSBestEffort: "/p/kubepods/besteffort/podu"} {
		if got := PodCgroup("/p", "u", qos); got != want {
			t.Errorf("%s: %s", qos, got)
		}
	}
}

func TestStopSignal(t *testing.T) {
	for name, want := range map[string]int{"": 15, "SIGINT": 2, "QUIT": 3, "9": 9, "SIGRTMIN+3": 37, "SIGRTMAX-1": 63, "nonsense": 15} {
		if got := int(StopSignal(name)); got != want {
			t.Errorf("%q: %d, want %d", name, got, want)
		}
	}
}

func TestParseLimits(t *testing.T) {
	for _, c := range []struct {
		cpu, memory string
		want        Limits
	}{
		{"max 100000", "max", Limits{}},
		{"-1 100000", "9223372036854771712", Limits{}},
		{" ", "", Limits{}},
		{"150000 100000", "1073741824", Limits{CPUQuota: 150000, CPUPeriod: 100000, Memory: 1 << 30}},
	} {
		if got := parseLimits(c.cpu, c.memory); got != c.want {
			t.Errorf("parseLimits(%q, %q) = %+v, want %+v", c.cpu, c.memory, got, c.want)
		}
	}
}

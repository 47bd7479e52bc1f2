package agent_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	authenticationv1 "k8s.io/api/authentication/v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	k8stesting "k8s.io/client-go/testing"

	"skiff/pkg/agent/runtime/runtimetest"
)

func ptr[T any](v T) *T { return &v }

// output runs a pod to its end and returns what its containers have written, without timestamps.
func (c *cluster) output(pod *v1.Pod, container string) string {
	c.tb.Helper()
	var b strings.Builder
	for _, line := range strings.SplitAfter(c.log(pod, container, 0), "\n") {
		if f := strings.SplitN(line, " ", 4); len(f) == 4 {
			if f[2] == "P" {
				f[3] = strings.TrimSuffix(f[3], "\n")
			}
			b.WriteString(f[3])
		}
	}
	return b.String()
}

func (c *cluster) once(pod *v1.Pod) *v1.Pod {
	c.tb.Helper()
	if pod.Spec.RestartPolicy == "" {
		pod.Spec.RestartPolicy = v1.RestartPolicyNever
	}
	pod = c.create(pod)
	return c.wait(pod.Name, "at its end", func(p *v1.Pod) bool {
		return p != nil && (p.Status.Phase == v1.PodSucceeded || p.Status.Phase == v1.PodFailed)
	})
}

func (c *cluster) expect(got, want string) {
	c.tb.Helper()
	if got != want {
		c.tb.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

func TestVolumesAndEnvironment(t *testing.T) {
	c := start(t)
	ctx := context.Background()
	c.client.PrependReactor("create", "serviceaccounts", func(a k8stesting.Action) (bool, runtime.Object, error) {
		if a.GetSubresource() != "token" {
			return false, nil, nil
		}
		return true, &authenticationv1.TokenRequest{Status: authenticationv1.TokenRequestStatus{Token: "the-token", ExpirationTimestamp: metav1.NewTime(time.Now().Add(time.Hour))}}, nil
	})
	cm := &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "config", Namespace: "default"}, Data: map[string]string{"color": "red", "file": "one\n"}}
	secret := &v1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "secret", Namespace: "default"}, Data: map[string][]byte{"key": []byte("s3cret")}}
	if _, err := c.client.CoreV1().ConfigMaps("default").Create(ctx, cm, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.client.CoreV1().Secrets("default").Create(ctx, secret, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	main := shell("main", strings.Join([]string{
		"echo $COLOR $ALL_color $SECRET $NAME $EXPANDED $LIMIT $FROM_IMAGE $MISSING",
		"cat /config/file /config/sub; echo; cat /secret/key; echo; cat /all/token; echo; cat /all/labels; echo",
		"stat -c '%a %u %g' /secret/..data/key /empty /all/..data/token; cat /one",
		"(echo x > /config/y) 2>/dev/null || echo read-only",
		"id -u; id -g; id -G; touch /empty/f && stat -c '%g' /empty/f",
		"mount | grep -c 'on /memory type tmpfs'; cat /etc/hostname; hostname; grep -c other.example /etc/hosts; cat /etc/resolv.conf",
		"echo done > /dev/termination-log",
	}, "\n"))
	main.Env = []v1.EnvVar{
		{Name: "COLOR", ValueFrom: &v1.EnvVarSource{ConfigMapKeyRef: &v1.ConfigMapKeySelector{LocalObjectReference: v1.LocalObjectReference{Name: "config"}, Key: "color"}}},
		{Name: "SECRET", ValueFrom: &v1.EnvVarSource{SecretKeyRef: &v1.SecretKeySelector{LocalObjectReference: v1.LocalObjectReference{Name: "secret"}, Key: "key"}}},
		{Name: "NAME", ValueFrom: &v1.EnvVarSource{FieldRef: &v1.ObjectFieldSelector{FieldPath: "metadata.name"}}},
		{Name: "EXPANDED", Value: "$(COLOR)-$(NOTHING)-$$(COLOR)"},
		{Name: "LIMIT", ValueFrom: &v1.EnvVarSource{ResourceFieldRef: &v1.ResourceFieldSelector{Resource: "limits.memory", Divisor: resource.MustParse("1Mi")}}},
		{Name: "MISSING", ValueFrom: &v1.EnvVarSource{ConfigMapKeyRef: &v1.ConfigMapKeySelector{LocalObjectReference: v1.LocalObjectReference{Name: "no"}, Key: "x", Optional: ptr(true)}}},
	}
	main.EnvFrom = []v1.EnvFromSource{{Prefix: "ALL_", ConfigMapRef: &v1.ConfigMapEnvSource{LocalObjectReference: v1.LocalObjectReference{Name: "config"}}}}
	main.Resources.Limits = v1.ResourceList{v1.ResourceMemory: resource.MustParse("64Mi"), v1.ResourceCPU: resource.MustParse("500m")}
	main.VolumeMounts = []v1.VolumeMount{
		{Name: "config", MountPath: "/config"}, {Name: "secret", MountPath: "/secret"}, {Name: "all", MountPath: "/all"},
		{Name: "empty", MountPath: "/empty"}, {Name: "memory", MountPath: "/memory"}, {Name: "config", MountPath: "/one", SubPath: "file"},
	}
	main.SecurityContext = &v1.SecurityContext{RunAsUser: ptr(int64(1000)), Capabilities: &v1.Capabilities{Drop: []v1.Capability{"ALL"}},
		AllowPrivilegeEscalation: ptr(false), SeccompProfile: &v1.SeccompProfile{Type: v1.SeccompProfileTypeRuntimeDefault}}
	pod := c.once(&v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "volumes", Labels: map[string]string{"app": "web"}},
		Spec: v1.PodSpec{
			Containers: []v1.Container{main}, Hostname: "box", Subdomain: "sub", ServiceAccountName: "default",
			HostAliases:     []v1.HostAlias{{IP: "192.0.2.9", Hostnames: []string{"other.example"}}},
			SecurityContext: &v1.PodSecurityContext{FSGroup: ptr(int64(2000)), SupplementalGroups: []int64{3000}},
			Volumes: []v1.Volume{
				{Name: "config", VolumeSource: v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: v1.LocalObjectReference{Name: "config"},
					Items: []v1.KeyToPath{{Key: "file", Path: "file"}, {Key: "color", Path: "sub"}}}}},
				{Name: "secret", VolumeSource: v1.VolumeSource{Secret: &v1.SecretVolumeSource{SecretName: "secret", DefaultMode: ptr(int32(0o400))}}},
				{Name: "all", VolumeSource: v1.VolumeSource{Projected: &v1.ProjectedVolumeSource{Sources: []v1.VolumeProjection{
					{ServiceAccountToken: &v1.ServiceAccountTokenProjection{Path: "token"}},
					{DownwardAPI: &v1.DownwardAPIProjection{Items: []v1.DownwardAPIVolumeFile{{Path: "labels", FieldRef: &v1.ObjectFieldSelector{FieldPath: "metadata.labels"}}}}},
				}}}},
				{Name: "empty", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}},
				{Name: "memory", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{Medium: v1.StorageMediumMemory}}},
			},
		},
	})
	c.expect(c.output(pod, "main"), strings.Join([]string{
		"red red s3cret volumes red-$(NOTHING)-$(COLOR) 64 yes",
		"one", "red", "s3cret", "the-token", `app="web"`,
		"440 0 2000", "2777 0 2000", "640 1000 2000", "one",
		"read-only",
		"1000", "1001", "1001 2000 3000 50000", "2000",
		"1", "box", "box", "1",
		"search default.svc.cluster.local svc.cluster.local cluster.local", "nameserver 10.96.0.10", "options ndots:5", "",
	}, "\n"))
	if got := pod.Status.ContainerStatuses[0].State.Terminated; got.Message != "done\n" || got.Reason != "Completed" {
		t.Errorf("terminated %+v", got)
	}
	c.delete(pod, 1)
	left, _ := filepath.Glob(filepath.Join(c.Dir, "kubelet/pods/*"))
	ns, _ := filepath.Glob(filepath.Join(c.Dir, "run/ns/0*"))
	logs, _ := filepath.Glob(filepath.Join(c.Dir, "pods/*"))
	if len(left)+len(ns)+len(logs) > 0 {
		t.Errorf("left behind: %v %v %v", left, ns, logs)
	}
}

func TestVolumeFollowsItsConfigMap(t *testing.T) {
	c := start(t)
	ctx := context.Background()
	maps := c.client.CoreV1().ConfigMaps("default")
	main := shell("main", "while ! grep -q two /config/v; do sleep 0.05; done; cat /config/v; ls /config")
	main.VolumeMounts = []v1.VolumeMount{{Name: "config", MountPath: "/config"}}
	pod := c.create(&v1.Pod{Spec: v1.PodSpec{RestartPolicy: v1.RestartPolicyNever, Containers: []v1.Container{main},
		Volumes: []v1.Volume{{Name: "config", VolumeSource: v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: v1.LocalObjectReference{Name: "late"}}}}}}})
	// The pod waits for what it needs, and starts as soon as that exists.
	cm, err := maps.Create(ctx, &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "late", Namespace: "default"}, Data: map[string]string{"v": "one"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	c.wait(pod.Name, "running", phase(v1.PodRunning))
	cm = cm.DeepCopy()
	cm.Data, cm.ResourceVersion = map[string]string{"v": "two", "w": ""}, "2"
	if _, err := maps.Update(ctx, cm, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	pod = c.wait(pod.Name, "at its end", phase(v1.PodSucceeded))
	c.expect(c.output(pod, "main"), "twov\nw\n")
}

func TestInitContainersAndSidecars(t *testing.T) {
	c := start(t)
	shared := []v1.VolumeMount{{Name: "shared", MountPath: "/shared"}}
	add := func(ct v1.Container) v1.Container { ct.VolumeMounts = shared; return ct }
	sidecar := add(shell("sidecar", "echo sidecar up >> /shared/log; touch /shared/up; trap 'echo sidecar down >> /shared/log; cat /shared/log; exit 0' TERM; sleep 1000 & wait"))
	sidecar.RestartPolicy = ptr(v1.ContainerRestartPolicyAlways)
	sidecar.StartupProbe = &v1.Probe{ProbeHandler: v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{"test", "-e", "/shared/up"}}}, PeriodSeconds: 1, FailureThreshold: 10}
	pod := c.once(&v1.Pod{Spec: v1.PodSpec{
		InitContainers: []v1.Container{add(shell("first", "echo first >> /shared/log")), sidecar, add(shell("second", "echo second >> /shared/log"))},
		Containers:     []v1.Container{add(shell("main", "echo main >> /shared/log"))},
		Volumes:        []v1.Volume{{Name: "shared", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}}},
	}})
	if pod.Status.Phase != v1.PodSucceeded {
		t.Fatalf("status %+v", pod.Status)
	}
	c.expect(c.output(pod, "sidecar"), "first\nsidecar up\nsecond\nmain\nsidecar down\n")
	for _, cs := range pod.Status.InitContainerStatuses {
		if cs.State.Terminated == nil || cs.State.Terminated.ExitCode != 0 {
			t.Errorf("init container %+v", cs)
		}
	}
}

func TestFailedInitContainerFailsThePod(t *testing.T) {
	c := start(t)
	pod := c.once(&v1.Pod{Spec: v1.PodSpec{InitContainers: []v1.Container{shell("init", "exit 5")}, Containers: []v1.Container{shell("main", "echo never")}}})
	if pod.Status.Phase != v1.PodFailed || pod.Status.ContainerStatuses[0].State.Waiting.Reason != "PodInitializing" {
		t.Errorf("status %+v", pod.Status)
	}
}

func TestRestartsAndBackoff(t *testing.T) {
	c := start(t)
	pod := c.create(&v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{shell("main", "echo run; exit 1")}}})
	pod = c.wait(pod.Name, "in back-off", func(p *v1.Pod) bool {
		cs := p.Status.ContainerStatuses
		return len(cs) > 0 && cs[0].State.Waiting != nil && cs[0].State.Waiting.Reason == "CrashLoopBackOff"
	})
	cs := pod.Status.ContainerStatuses[0]
	if cs.RestartCount != 1 || cs.LastTerminationState.Terminated == nil || cs.LastTerminationState.Terminated.ExitCode != 1 || pod.Status.Phase != v1.PodRunning {
		t.Errorf("status %+v", pod.Status)
	}
	if want := fmt.Sprintf("back-off 10s restarting failed container=main pod=%s_default(%s)", pod.Name, pod.UID); cs.State.Waiting.Message != want {
		t.Errorf("message %q, want %q", cs.State.Waiting.Message, want)
	}
	c.delete(pod, 30)
}

func TestLivenessProbeRestarts(t *testing.T) {
	c := start(t)
	main := shell("main", "touch /ok; sleep 0.3; rm /ok; sleep 1000")
	main.LivenessProbe = &v1.Probe{ProbeHandler: v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{"cat", "/ok"}}}, PeriodSeconds: 1, FailureThreshold: 1, TerminationGracePeriodSeconds: ptr(int64(0))}
	main.ReadinessProbe = &v1.Probe{ProbeHandler: v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{"true"}}}, PeriodSeconds: 10}
	pod := c.create(&v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{main}}})
	c.wait(pod.Name, "Ready", func(p *v1.Pod) bool {
		return len(p.Status.ContainerStatuses) > 0 && p.Status.ContainerStatuses[0].Ready
	})
	pod = c.wait(pod.Name, "restarted", func(p *v1.Pod) bool {
		return len(p.Status.ContainerStatuses) > 0 && p.Status.ContainerStatuses[0].RestartCount == 1 && p.Status.ContainerStatuses[0].State.Running != nil
	})
	if code := pod.Status.ContainerStatuses[0].LastTerminationState.Terminated.ExitCode; code != 137 && code != 143 {
		t.Errorf("exit code %d", code)
	}
}

func TestImageProblems(t *testing.T) {
	c := start(t)
	never := shell("main", "true")
	never.Image, never.ImagePullPolicy = "docker.io/library/none:1", v1.PullNever
	pod := c.create(&v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{never}}})
	waiting := func(reason string) func(*v1.Pod) bool {
		return func(p *v1.Pod) bool {
			cs := p.Status.ContainerStatuses
			return len(cs) > 0 && cs[0].State.Waiting != nil && cs[0].State.Waiting.Reason == reason
		}
	}
	pod = c.wait(pod.Name, "ErrImageNeverPull", waiting("ErrImageNeverPull"))
	c.delete(pod, 1)
	bad := shell("main", "true")
	bad.Image = fmt.Sprintf("127.0.0.1:%d/none:1", freePort(t))
	pod = c.create(&v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{bad}}})
	c.wait(pod.Name, "ErrImagePull", waiting("ErrImagePull"))
	pod = c.wait(pod.Name, "ImagePullBackOff", waiting("ImagePullBackOff"))
	if m := pod.Status.ContainerStatuses[0].State.Waiting.Message; !strings.HasPrefix(m, fmt.Sprintf("Back-off pulling image %q: ErrImagePull: failed to pull and unpack image", bad.Image)) {
		t.Errorf("message %q", m)
	}
	c.delete(pod, 1)
	notFound := shell("main", "true")
	notFound.Command = []string{"/no/such/program"}
	pod = c.once(&v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{notFound}}})
	if s := pod.Status.ContainerStatuses[0].State.Terminated; s == nil || s.Reason != "StartError" || s.ExitCode != 128 || !strings.Contains(s.Message, "no such file or directory") {
		t.Errorf("state %+v", pod.Status.ContainerStatuses[0])
	}
}

func TestAgentAndContainerdRestart(t *testing.T) {
	c := start(t)
	pod := c.create(&v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{shell("main", "i=0; while true; do i=$((i+1)); echo $i; sleep 0.02; done")}}})
	pod = c.wait(pod.Name, "Running", phase(v1.PodRunning))
	short := c.create(&v1.Pod{Spec: v1.PodSpec{RestartPolicy: v1.RestartPolicyNever, Containers: []v1.Container{shell("main", "while ! [ -e /tmp/go ]; do sleep 0.01; done; echo last words; exit 9")}}})
	short = c.wait(short.Name, "Running", phase(v1.PodRunning))
	id := pod.Status.ContainerStatuses[0].ContainerID
	c.stop()
	// While the agent is away one container ends, and containerd is restarted.
	rootfs, _ := filepath.Glob(filepath.Join(c.Dir, "state/io.containerd.runtime.v2.task/k8s.io", strings.TrimPrefix(short.Status.ContainerStatuses[0].ContainerID, "containerd://"), "rootfs/tmp"))
	if len(rootfs) != 1 {
		t.Fatal("no rootfs found")
	}
	if err := os.WriteFile(rootfs[0]+"/go", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	c.StopContainerd()
	c.StartContainerd()
	before := len(c.log(pod, "main", 0))
	c.startAgent()
	short = c.wait(short.Name, "Failed", phase(v1.PodFailed))
	if s := short.Status.ContainerStatuses[0].State.Terminated; s == nil || s.ExitCode != 9 {
		t.Errorf("state %+v", short.Status.ContainerStatuses[0])
	}
	if got := c.output(short, "main"); got != "last words\n" {
		t.Errorf("output %q", got)
	}
	next := c.create(&v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{shell("main", "sleep 1000")}}})
	c.wait(next.Name, "Running", phase(v1.PodRunning))
	now := c.wait(pod.Name, "Running", phase(v1.PodRunning))
	if cs := now.Status.ContainerStatuses[0]; cs.ContainerID != id || cs.RestartCount != 0 {
		t.Errorf("the container was touched: %+v", cs)
	}
	if after := len(c.log(pod, "main", 0)); after <= before {
		t.Errorf("the log stood still: %d bytes, then %d", before, after)
	}
	// An exit after the restart is seen, too.
	kill(t, c, pod)
	now = c.wait(pod.Name, "restarted", func(p *v1.Pod) bool {
		return p.Status.ContainerStatuses[0].RestartCount == 1 && p.Status.ContainerStatuses[0].State.Running != nil
	})
	if got := now.Status.ContainerStatuses[0].LastTerminationState.Terminated; got.ExitCode != 137 {
		t.Errorf("last state %+v", got)
	}
	c.delete(now, 1)
}

// kill sends SIGKILL to a pod's first process.
func kill(t *testing.T, c *cluster, pod *v1.Pod) {
	t.Helper()
	files, _ := filepath.Glob("/sys/fs/cgroup/pids" + c.CgroupParent + "/kubepods/*/pod" + string(pod.UID) + "/*/cgroup.procs")
	more, _ := filepath.Glob("/sys/fs/cgroup" + c.CgroupParent + "/kubepods/*/pod" + string(pod.UID) + "/*/cgroup.procs")
	for _, f := range append(files, more...) {
		b, _ := os.ReadFile(f)
		for _, pid := range strings.Fields(string(b)) {
			var n int
			fmt.Sscan(pid, &n)
			if err := syscall.Kill(n, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			return
		}
	}
	t.Fatal("no process found")
}

func TestNamespaces(t *testing.T) {
	c := start(t)
	shared := c.create(&v1.Pod{Spec: v1.PodSpec{ShareProcessNamespace: ptr(true), Containers: []v1.Container{
		shell("a", "sleep 1000"), shell("b", "while ! ps | grep -v grep | grep -q 'sleep 1000'; do sleep 0.05; done; ps | grep -c '[p]ause'; exec sleep 2000")}}})
	shared = c.wait(shared.Name, "Running", phase(v1.PodRunning))
	host := c.once(&v1.Pod{Spec: v1.PodSpec{HostNetwork: true, HostPID: true, HostIPC: true, Containers: []v1.Container{
		shell("main", "readlink /proc/self/ns/net; readlink /proc/self/ns/ipc; head -1 /etc/hosts")}}})
	net, _ := os.Readlink("/proc/self/ns/net")
	ipc, _ := os.Readlink("/proc/self/ns/ipc")
	c.expect(c.output(host, "main"), net+"\n"+ipc+"\n# Kubernetes-managed hosts file (host network).\n")
	if host.Status.PodIP != "192.0.2.1" || host.Status.HostIP != "192.0.2.1" {
		t.Errorf("addresses %q %q", host.Status.PodIP, host.Status.HostIP)
	}
	c.expect(c.output(shared, "b"), "1\n")
	c.delete(shared, 0)
}

func TestLifecycle(t *testing.T) {
	c := start(t)
	main := shell("main", "sleep 1000")
	main.VolumeMounts = []v1.VolumeMount{{Name: "host", MountPath: "/host"}}
	main.Lifecycle = &v1.Lifecycle{
		PostStart: &v1.LifecycleHandler{Exec: &v1.ExecAction{Command: []string{"sh", "-c", "echo post >> /host/log"}}},
		PreStop:   &v1.LifecycleHandler{Exec: &v1.ExecAction{Command: []string{"sh", "-c", "echo pre >> /host/log"}}},
	}
	dir := filepath.Join(c.Dir, "host")
	pod := c.create(&v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{main}, Volumes: []v1.Volume{
		{Name: "host", VolumeSource: v1.VolumeSource{HostPath: &v1.HostPathVolumeSource{Path: dir, Type: ptr(v1.HostPathDirectoryOrCreate)}}}}}})
	pod = c.wait(pod.Name, "Running", phase(v1.PodRunning))
	began := time.Now()
	c.delete(pod, 1) // sleep ignores SIGTERM as PID 1
	if took := time.Since(began); took < 2*time.Second {
		t.Errorf("gone after %v, want the minimum of two seconds", took)
	}
	b, _ := os.ReadFile(dir + "/log")
	c.expect(string(b), "post\npre\n")
}

func TestDeadlineAndRefusals(t *testing.T) {
	c := start(t)
	late := c.once(&v1.Pod{Spec: v1.PodSpec{ActiveDeadlineSeconds: ptr(int64(1)), TerminationGracePeriodSeconds: ptr(int64(0)), Containers: []v1.Container{shell("main", "sleep 1000")}}})
	if late.Status.Reason != "DeadlineExceeded" || late.Status.Message != "Pod was active on the node longer than the specified deadline" {
		t.Errorf("status %+v", late.Status)
	}
	refused := c.once(&v1.Pod{Spec: v1.PodSpec{HostUsers: ptr(false), Containers: []v1.Container{shell("main", "true")}}})
	if refused.Status.Phase != v1.PodFailed || refused.Status.Reason != "UserNamespacesNotSupported" {
		t.Errorf("status %+v", refused.Status)
	}
	nonRoot := shell("main", "true")
	nonRoot.SecurityContext = &v1.SecurityContext{RunAsNonRoot: ptr(true)}
	pod := c.create(&v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{nonRoot}}})
	pod = c.wait(pod.Name, "refused", func(p *v1.Pod) bool {
		return len(p.Status.ContainerStatuses) > 0 && p.Status.ContainerStatuses[0].State.Waiting != nil && p.Status.ContainerStatuses[0].State.Waiting.Reason == "CreateContainerConfigError"
	})
	want := fmt.Sprintf(`container has runAsNonRoot and image will run as root (pod: "%s_default(%s)", container: main)`, pod.Name, pod.UID)
	if got := pod.Status.ContainerStatuses[0].State.Waiting.Message; got != want {
		t.Errorf("message %q, want %q", got, want)
	}
	c.delete(pod, 0)
	claim := shell("main", "true")
	claim.VolumeMounts = []v1.VolumeMount{{Name: "data", MountPath: "/data"}}
	pod = c.create(&v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{claim}, Volumes: []v1.Volume{{Name: "data", VolumeSource: v1.VolumeSource{
		PersistentVolumeClaim: &v1.PersistentVolumeClaimVolumeSource{ClaimName: "x"}}}}}})
	c.waitEvent(pod, "FailedMount", `MountVolume.SetUp failed for volume "data" : no volume plugin matched: persistentVolumeClaim volumes are not supported by this node`)
	c.delete(pod, 0)
}

// waitEvent waits until an event of a pod has been recorded.
func (c *cluster) waitEvent(pod *v1.Pod, reason, message string) {
	c.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	events := c.client.CoreV1().Events("default")
	w, err := events.Watch(ctx, metav1.ListOptions{})
	if err != nil {
		c.tb.Fatal(err)
	}
	defer w.Stop()
	list, err := events.List(ctx, metav1.ListOptions{})
	if err != nil {
		c.tb.Fatal(err)
	}
	match := func(e *v1.Event) bool {
		return e.InvolvedObject.UID == pod.UID && e.Reason == reason && e.Message == message
	}
	for i := range list.Items {
		if match(&list.Items[i]) {
			return
		}
	}
	for {
		select {
		case got := <-w.ResultChan():
			if e, ok := got.Object.(*v1.Event); ok && match(e) {
				return
			}
		case <-ctx.Done():
			c.tb.Fatalf("no event %s %q among %v", reason, message, list.Items)
		}
	}
}

func TestOutOfMemory(t *testing.T) {
	c := start(t)
	main := shell("main", "dd if=/dev/zero of=/dev/null bs=200M count=10")
	main.Resources.Limits = v1.ResourceList{v1.ResourceMemory: resource.MustParse("20Mi")}
	pod := c.once(&v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{main}}})
	if s := pod.Status.ContainerStatuses[0].State.Terminated; s.Reason != "OOMKilled" || s.ExitCode != 137 {
		t.Errorf("terminated %+v", s)
	}
}

func TestRestartAllContainers(t *testing.T) {
	c := start(t)
	never := ptr(v1.ContainerRestartPolicyNever)
	dir := v1.Volume{Name: "shared", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}}
	mounts := []v1.VolumeMount{{Name: "shared", MountPath: "/shared"}}
	first := shell("init", "echo init >> /shared/log")
	source := shell("source", "echo source >> /shared/log; [ $(grep -c source /shared/log) = 2 ] || exit 42; cat /shared/log")
	source.RestartPolicy = never
	source.RestartPolicyRules = []v1.ContainerRestartRule{{Action: v1.ContainerRestartRuleActionRestartAllContainers,
		ExitCodes: &v1.ContainerRestartRuleOnExitCodes{Operator: v1.ContainerRestartRuleOnExitCodesOpIn, Values: []int32{42}}}}
	other := shell("other", "trap 'exit 0' TERM; while [ $(grep -c source /shared/log) -lt 2 ]; do sleep 0.05; done")
	first.VolumeMounts, source.VolumeMounts, other.VolumeMounts = mounts, mounts, mounts
	pod := c.once(&v1.Pod{Spec: v1.PodSpec{RestartPolicy: v1.RestartPolicyNever, InitContainers: []v1.Container{first}, Containers: []v1.Container{source, other}, Volumes: []v1.Volume{dir}}})
	if pod.Status.Phase != v1.PodSucceeded {
		t.Errorf("status %+v", pod.Status)
	}
	if log := c.log(pod, "source", 1); strings.Count(log, " init\n") != 2 || strings.Count(log, " source\n") != 2 {
		t.Errorf("log %q", log)
	}
	for _, cs := range append(pod.Status.ContainerStatuses, pod.Status.InitContainerStatuses...) {
		want := "RestartingAllContainers"
		if cs.Name == "source" {
			want = "Error"
		}
		if last := cs.LastTerminationState.Terminated; cs.RestartCount != 1 || last == nil || last.Reason != want {
			t.Errorf("%s: %d restarts, before %+v", cs.Name, cs.RestartCount, last)
		}
	}
}

func TestEphemeralContainer(t *testing.T) {
	c := start(t)
	pod := c.create(&v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{shell("main", "exec sleep 1234")}}})
	pod = c.wait(pod.Name, "Running", phase(v1.PodRunning)).DeepCopy()
	debug := shell("debug", "ps | grep -c '[s]leep 1234'")
	pod.Spec.EphemeralContainers = []v1.EphemeralContainer{{TargetContainerName: "main", EphemeralContainerCommon: v1.EphemeralContainerCommon{Name: debug.Name, Image: debug.Image, Command: debug.Command}}}
	if _, err := c.client.CoreV1().Pods("default").Update(context.Background(), pod, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	pod = c.wait(pod.Name, "debugged", func(p *v1.Pod) bool {
		return len(p.Status.EphemeralContainerStatuses) == 1 && p.Status.EphemeralContainerStatuses[0].State.Terminated != nil
	})
	c.expect(c.output(pod, "debug"), "1\n")
	c.delete(pod, 0)
}

// serveRegistry is an image registry on loopback that wants a user and a password.
func (c *cluster) serveRegistry() string {
	handler := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if name, password, ok := r.BasicAuth(); !ok || name != "user" || password != "pass" {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		handler.ServeHTTP(w, r)
	}))
	c.tb.Cleanup(server.Close)
	host := strings.TrimPrefix(server.URL, "http://")
	tag, err := name.NewTag(host + "/team/busybox:1")
	if err == nil {
		err = remote.Write(tag, runtimetest.BusyboxImage(c.tb, map[string]string{"/etc/from": "registry"}), remote.WithAuth(&authn.Basic{Username: "user", Password: "pass"}))
	}
	if err != nil {
		c.tb.Fatal(err)
	}
	return host
}

func TestPullWithSecret(t *testing.T) {
	c := start(t)
	host := c.serveRegistry()
	main := shell("main", "cat /etc/from")
	main.Image = host + "/team/busybox:1"
	refused := c.create(&v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{main}}})
	c.wait(refused.Name, "refused", func(p *v1.Pod) bool {
		cs := p.Status.ContainerStatuses
		return len(cs) > 0 && cs[0].State.Waiting != nil && cs[0].State.Waiting.Reason == "ErrImagePull"
	})
	secret := &v1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "pull", Namespace: "default"}, Type: v1.SecretTypeDockerConfigJson,
		Data: map[string][]byte{v1.DockerConfigJsonKey: []byte(fmt.Sprintf(`{"auths":{%q:{"username":"user","password":"pass"}}}`, host+"/team"))}}
	if _, err := c.client.CoreV1().Secrets("default").Create(context.Background(), secret, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	pod := c.once(&v1.Pod{Spec: v1.PodSpec{ImagePullSecrets: []v1.LocalObjectReference{{Name: "pull"}}, Containers: []v1.Container{main}}})
	c.expect(c.output(pod, "main"), "registry")
	if id := pod.Status.ContainerStatuses[0].ImageID; !strings.HasPrefix(id, host+"/team/busybox@sha256:") {
		t.Errorf("image id %q", id)
	}
	c.delete(refused, 0)
}

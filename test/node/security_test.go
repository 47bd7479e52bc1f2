package node

import (
	"fmt"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
)

// TestIsolation looks at what a container may see and do from the inside: each
// row is a script, the fields of the container and of the pod, and what it prints.
func TestIsolation(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	must(t, "create", "service", "clusterip", "sub", "-n", ns, "--clusterip=None")
	for name, c := range map[string]struct{ script, container, pod, want string }{
		"limits": {
			"cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu.max /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/cpu/cpu.cfs_quota_us 2>/dev/null",
			", resources: {limits: {memory: 32Mi, cpu: 250m}}", "", "",
		},
		"user": {
			"id -u; id -g; id -G; touch /v/f && stat -c '%u %g %a' /v /v/f; touch /x 2>&1", `, volumeMounts: [{name: v, mountPath: /v}]`,
			"volumes: [{name: v, emptyDir: {}}]\nsecurityContext: {runAsUser: 1000, runAsGroup: 2000, fsGroup: 3000, supplementalGroups: [4000]}",
			"1000\n2000\n2000 3000 4000\n0 3000 2777\n1000 3000 644\ntouch: /x: Permission denied",
		},
		"token":     {"stat -L -c '%u %g %a' /var/run/secrets/kubernetes.io/serviceaccount/token; wc -l < /var/run/secrets/kubernetes.io/serviceaccount/token", "", "securityContext: {runAsUser: 1000}", "1000 0 600\n0"},
		"token-fsg": {"stat -L -c '%u %g %a' /var/run/secrets/kubernetes.io/serviceaccount/token", "", "securityContext: {runAsUser: 1000, fsGroup: 3000}", "1000 3000 640"},
		"non-root":  {"id -u", "", "securityContext: {runAsUser: 1000, runAsNonRoot: true}", "1000"},
		"hidden":    {"cat /proc/1/mountinfo | grep -c ' /v ro'; cat /v/k", ", volumeMounts: [{name: v, mountPath: /v, readOnly: true}]", "volumes: [{name: v, hostPath: {path: /etc}}]", "1\ncat: can't open '/v/k': No such file or directory"},
		"own-user":  {"id -u", ", securityContext: {runAsUser: 7}", "securityContext: {runAsUser: 1000}", "7"},
		"read-only": {"touch /x 2>&1; touch /dev/shm/x && echo shm", ", securityContext: {readOnlyRootFilesystem: true}", "", "touch: /x: Read-only file system\nshm"},
		"capabilities": {
			"grep CapEff /proc/self/status | cut -f2", ", securityContext: {capabilities: {drop: [ALL], add: [NET_BIND_SERVICE, CHOWN]}}", "", "0000000000000401",
		},
		"usual-capabilities": {"grep CapEff /proc/self/status | cut -f2", "", "", "00000000a80425fb"},
		"no-new-privileges":  {"grep NoNewPrivs /proc/self/status | cut -f2", ", securityContext: {allowPrivilegeEscalation: false}", "", "1"},
		"seccomp":            {"grep Seccomp: /proc/self/status | cut -f2", "", "securityContext: {seccompProfile: {type: RuntimeDefault}}", "2"},
		"privileged":         {"mount -t tmpfs none /tmp && echo mounted; test -e /dev/null && grep NoNewPrivs /proc/self/status | cut -f2; mount | grep -c 'sysfs.*(ro'", ", securityContext: {privileged: true}", "", "mounted\n0\n0"},
		"unprivileged":       {"mount -t tmpfs none /tmp 2>&1; mount | grep -c '/sys type sysfs (ro'", "", "", "mount: permission denied (are you root?)\n1"},
		"processes":          {"until ps -o args | grep -x 'sleep 1234'; do usleep 50000; done; cat /proc/1/comm", "}\n- {name: other, image: HELLO, command: [sh, -c, 'sleep 1234 & sleep 3']", "shareProcessNamespace: true", "sleep 1234\npause"},
		"own-processes":      {"cat /proc/1/comm; readlink /proc/self/ns/pid | grep -c pid", "", "", "sh\n1"},
		"host-processes":     {"grep -slx containerd /proc/[0-9]*/comm | grep -c .", "", "hostPID: true", "1"},
		"host-network":       {"hostname; ip link show skiff0 | grep -o -m1 'skiff0'; grep -q 10.96.0.10 /etc/resolv.conf || echo not the cluster names", "", "hostNetwork: true\nnodeName: NODE-worker-1", clusterName + "-worker-1\nskiff0\nnot the cluster names"},
		"host-ipc":           {"ls -d /dev/shm", "", "hostIPC: true", "/dev/shm"},
		"aliases":            {"grep -e foo -e aliases /etc/hosts | sed 's/^10[0-9.]*/IP/'", "", "hostAliases: [{ip: 1.2.3.4, hostnames: [foo.local, bar.local]}]", "IP\taliases\n1.2.3.4\tfoo.local\tbar.local"},
		"hostname":           {"hostname; hostname -f; sed -n 's/^10[0-9.]*/IP/p' /etc/hosts", "", "hostname: web\nsubdomain: sub", "web\nweb.sub." + ns + ".svc.cluster.local\nIP\tweb.sub." + ns + ".svc.cluster.local\tweb"},
		"dns-none":           {"cat /etc/resolv.conf", "", "dnsPolicy: None\ndnsConfig: {nameservers: [1.2.3.4], searches: [a.b, c.d], options: [{name: ndots, value: '2'}, {name: edns0}]}", "search a.b c.d\nnameserver 1.2.3.4\noptions ndots:2 edns0"},
		"dns-cluster":        {"cat /etc/resolv.conf", "", "dnsConfig: {searches: [more.local], options: [{name: ndots, value: '3'}]}", "search " + ns + ".svc.cluster.local svc.cluster.local cluster.local more.local\nnameserver 10.96.0.10\noptions ndots:3"},
		"sysctl":             {"cat /proc/sys/net/ipv4/ip_unprivileged_port_start", "", "securityContext: {sysctls: [{name: net.ipv4.ip_unprivileged_port_start, value: '80'}]}", "80"},
		"work-dir":           {"pwd", ", workingDir: /tmp/not/there", "", "/tmp/not/there"},
		"masked":             {"cat /proc/keys | wc -c; ls /sys/firmware; echo 1 > /proc/sys/kernel/panic", "", "", "0\nsh: can't create /proc/sys/kernel/panic: Read-only file system"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			script(t, ns, name, "exec 2>&1; "+c.script, c.container, c.pod)
			p := waitPod(t, ns, name, "done", func(p *v1.Pod) bool {
				for _, s := range p.Status.ContainerStatuses {
					if s.Name == "c" {
						return s.State.Terminated != nil || p.Status.Phase == v1.PodFailed
					}
				}
				return p.Status.Phase == v1.PodFailed
			})
			got := strings.TrimSpace(logOf(t, ns, name, v1.PodLogOptions{Container: "c"}))
			if name == "limits" { // of either version of cgroups
				if got != "33554432\n25000 100000" && got != "33554432\n25000" {
					t.Errorf("limits in the container: %q", got)
				}
				return
			}
			expect(t, fmt.Sprintf("%s (phase %s)", name, p.Status.Phase), got, c.want)
		})
	}
}

// TestRefused asks for what a node here can't do: it says so.
func TestRefused(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	for name, c := range map[string]struct{ pod, reason, message string }{
		"users":    {"hostUsers: false", "UserNamespacesNotSupported", "user namespaces"},
		"sysctl":   {"securityContext: {sysctls: [{name: kernel.panic, value: '1'}]}", "SysctlForbidden", `forbidden sysctl: "kernel.panic" not allowlisted`},
		"affinity": {"nodeSelector: {no: where}", "NodeAffinity", "Predicate NodeAffinity failed"},
	} {
		script(t, ns, name, "true", "", c.pod+"\nnodeName: NODE-worker-1")
		p := finished(t, ns, name)
		if p.Status.Phase != v1.PodFailed || p.Status.Reason != c.reason || !strings.Contains(p.Status.Message, c.message) {
			t.Errorf("%s: phase %s, %s: %s", name, p.Status.Phase, p.Status.Reason, p.Status.Message)
		}
		event(t, ns, name, c.reason, c.message)
	}
	script(t, ns, "huge", "true", ", resources: {requests: {cpu: '1000'}}", "nodeName: NODE-worker-1")
	if p := finished(t, ns, "huge"); p.Status.Reason != "OutOfcpu" {
		t.Errorf("huge: %s: %s", p.Status.Reason, p.Status.Message)
	}
	script(t, ns, "small", "sleep 1000", ", resources: {limits: {cpu: 100m}}", "")
	waitPod(t, ns, "small", "runs", ready)
	out, err := ctl("patch", "pod", "small", "-n", ns, "--subresource=resize", "-p", `{"spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": "200m"}, "requests": {"cpu": "200m"}}}]}}`)
	if err == nil || !strings.Contains(out, "Pod running on node without support for resize") {
		t.Errorf("resize: %v\n%s", err, out)
	}
}

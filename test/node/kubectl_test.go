package node

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Real kubectls, two releases from far apart; ctl itself is a third.
func TestKubectls(t *testing.T) {
	for name, program := range map[string]string{
		"debian": filepath.Join(root, "bin/kubectl/debian"), // 1.20
		"recent": filepath.Join(root, "bin/kubectl/recent"), // 1.32 or later
		"ctl":    filepath.Join(root, "bin/ctl"),
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := exec.LookPath(program); err != nil {
				t.Fatalf("%v: `make deps` brings it", err)
			}
			ns := newNamespace(t)
			run := func(args ...string) string {
				t.Helper()
				out, err := command("", program, append([]string{"-n", ns}, args...)...)
				if err != nil {
					t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
				}
				return out
			}
			expect := func(what, out string, wants ...string) {
				t.Helper()
				for _, want := range wants {
					if !strings.Contains(out, want) {
						t.Errorf("%s: no %q in\n%s", what, want, out)
					}
				}
			}
			expect("version", run("version"), "v1.36.0+skiff")
			if name == "ctl" {
				expect("ctl's own version", run("version", "--client"), "Client Version: v1.36.0+skiff")
			}
			expect("api-resources", run("api-resources"), "deployments", "deploy", "apps/v1", "Deployment")
			expect("explain", run("explain", "deployment.spec.strategy"), "RollingUpdate")
			expect("apply", run("apply", "-f", "manifests/pod.yaml"), "pod/hello created")
			expect("wait", run("wait", "--for=condition=Ready", "pod/hello", "--timeout=60s"), "condition met")
			expect("apply again", run("apply", "-f", "manifests/pod.yaml"), "pod/hello unchanged")
			expect("get", run("get", "pods", "-o", "wide"), "NAME", "READY", "STATUS", "RESTARTS", "NODE", "hello", "1/1", "Running", clusterName+"-worker-")
			expect("get yaml", run("get", "pod", "hello", "-o", "yaml"), "kind: Pod", "phase: Running")
			expect("describe", run("describe", "pod", "hello"), "Scheduled", "Successfully assigned "+ns+"/hello to "+clusterName+"-worker-", "Started", "QoS Class:", "BestEffort")
			expect("logs", run("logs", "hello"), "hello listens on :8080")
			expect("exec", run("exec", "hello", "--", "cat", "/etc/hostname"), "hello")
			expect("label", run("label", "pod", "hello", "tier=front"), "labeled")
			expect("get by label", run("get", "pod", "-l", "tier=front", "-o", "name"), "pod/hello")
			expect("patch", run("patch", "pod", "hello", "-p", `{"metadata":{"annotations":{"a":"b"}}}`), "patched")
			expect("get nodes", run("get", "nodes"), "Ready", "control-plane", "v1.36.0+skiff")
			expect("auth", run("auth", "can-i", "create", "pods"), "yes")

			out, err := command(badManifest, program, "-n", ns, "apply", "-f", "-")
			if err == nil {
				t.Errorf("a manifest with an unknown field was applied: %s", out)
			}
			expect("apply of an unknown field", out, "replicaz")
			expect("delete", run("delete", "-f", "manifests/pod.yaml"), `pod "hello" deleted`)
		})
	}
}

const badManifest = `apiVersion: apps/v1
kind: Deployment
metadata: {name: bad}
spec:
  replicaz: 2
  selector: {matchLabels: {app: bad}}
  template:
    metadata: {labels: {app: bad}}
    spec: {containers: [{name: c, image: i}]}
`

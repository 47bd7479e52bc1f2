package clients

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// kubectl is a release of it that somebody else has built.
type kubectl struct {
	t       *testing.T
	program string
	ns      string
}

func (k kubectl) run(stdin string, args ...string) (string, error) {
	return command(stdin, k.program, append([]string{"-n", k.ns}, args...)...)
}

// says runs a command and wants its output to hold all of the texts.
func (k kubectl) says(command string, texts ...string) string {
	k.t.Helper()
	return k.reads("", command, texts...)
}

func (k kubectl) reads(stdin, command string, texts ...string) string {
	k.t.Helper()
	out, err := k.run(stdin, strings.Fields(command)...)
	if err != nil {
		k.t.Fatalf("%s: %v\n%s", command, err, out)
	}
	for _, text := range texts {
		if !strings.Contains(out, text) {
			k.t.Errorf("%s: no %q in\n%s", command, text, out)
		}
	}
	return out
}

// follow starts a command that goes on, and returns what waits for a line of its
// output that matches an expression.
func (k kubectl) follow(args ...string) (wait func(expression string) string) {
	k.t.Helper()
	c := exec.CommandContext(k.t.Context(), filepath.Join(root, k.program), append([]string{"-n", k.ns}, args...)...)
	out, err := c.StdoutPipe()
	if err != nil {
		k.t.Fatal(err)
	}
	c.Stderr = c.Stdout
	if err := c.Start(); err != nil {
		k.t.Fatal(err)
	}
	lines := make(chan string)
	go func() {
		defer close(lines)
		for scanner := bufio.NewScanner(out); scanner.Scan(); {
			select {
			case lines <- scanner.Text():
			case <-k.t.Context().Done():
			}
		}
	}()
	k.t.Cleanup(func() {
		c.Process.Kill()
		c.Wait()
	})
	return func(expression string) string {
		k.t.Helper()
		timeout := time.After(time.Minute)
		var seen []string
		for {
			select {
			case line, ok := <-lines:
				if !ok {
					k.t.Fatalf("%v ended without a line like %q, after %q", args, expression, seen)
				}
				if regexp.MustCompile(expression).MatchString(line) {
					return line
				}
				seen = append(seen, line)
			case <-timeout:
				k.t.Fatalf("%v: no line like %q in a minute, but %q", args, expression, seen)
			}
		}
	}
}

// TestKubectl goes through a working day with separate kubectls. (test/node has
// the commands of the first hour, for these and for ctl.)
func TestKubectl(t *testing.T) {
	for _, release := range []string{"debian", "recent"} { // 1.20; 1.32 or later
		t.Run(release, func(t *testing.T) {
			k := kubectl{t: t, program: "bin/kubectl/" + release, ns: newNamespace(t)}
			if _, err := os.Stat(filepath.Join(root, k.program)); err != nil {
				t.Fatalf("%v: `make deps` brings it", err)
			}
			k.describing()
			k.writing()
			k.rollouts()
			k.streams()
			k.accounts()
			if release == "recent" {
				k.recent()
			}
		})
	}
}

const deployment = `apiVersion: apps/v1
kind: Deployment
metadata: {name: d, labels: {app: d}}
spec:
  replicas: 1
  selector: {matchLabels: {app: d}}
  template:
    metadata: {labels: {app: d}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - {name: c, image: "skiff.local/hello:1", env: [{name: STEP, value: "one"}], readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}}
`

func (k kubectl) describing() {
	k.t.Helper()
	k.says("explain deployment.spec --recursive", "progressDeadlineSeconds", "matchLabels", "topologySpreadConstraints")
	k.says("explain crd.spec.versions", "subresources")
	k.says("api-resources --namespaced=false --verbs=list -o name", "nodes\n", "customresourcedefinitions.apiextensions.k8s.io\n", "clusterroles.rbac.authorization.k8s.io\n")
	k.says("api-versions", "apps/v1\n", "rbac.authorization.k8s.io/v1\n")
	k.says("cluster-info", "is running at")
	k.says("get --raw /version", `"gitVersion": "v1.36.0+skiff"`)
}

// writing changes objects in every way that there is.
func (k kubectl) writing() {
	k.t.Helper()
	// diff ends with 1 when there is a difference.
	if out, err := k.run(deployment, "diff", "-f", "-"); err == nil || !strings.Contains(out, "+  name: d") {
		k.t.Errorf("diff against nothing: %v\n%s", err, out)
	}
	k.reads(deployment, "apply -f -", "deployment.apps/d created")
	if out, err := k.run(deployment, "diff", "-f", "-"); err != nil || out != "" {
		k.t.Errorf("diff without a difference: %v\n%s", err, out)
	}
	two := strings.Replace(deployment, "replicas: 1", "replicas: 2", 1)
	if out, err := k.run(two, "diff", "-f", "-"); err == nil || !strings.Contains(out, "-  replicas: 1") || !strings.Contains(out, "+  replicas: 2") {
		k.t.Errorf("diff: %v\n%s", err, out)
	}
	// Another manager, server-side: a conflict, then force.
	if out, err := k.run(two, "apply", "--server-side", "--field-manager=other", "-f", "-"); err == nil || !strings.Contains(out, "conflict") || !strings.Contains(out, ".spec.replicas") {
		k.t.Errorf("a conflict was not: %v\n%s", err, out)
	}
	k.reads(two, "apply --server-side --field-manager=other --force-conflicts -f -", "deployment.apps/d serverside-applied")
	k.says("get deployment d -o jsonpath={.spec.replicas}", "2")

	k.says("annotate deployment d a=b", "annotated")
	k.says("annotate deployment d a-", "annotated")
	k.says("label deployment d tier=front", "labeled")
	if out, err := k.run("", "label", "deployment", "d", "tier=back"); err == nil || !strings.Contains(out, "overwrite") {
		k.t.Errorf("a label was overwritten: %v\n%s", err, out)
	}
	k.says("patch deployment d --type=json -p=[{\"op\":\"replace\",\"path\":\"/spec/replicas\",\"value\":1}]", "patched")
	k.says("patch deployment d --type=merge -p={\"metadata\":{\"annotations\":{\"m\":\"n\"}}}", "patched")
	editor := filepath.Join(k.t.TempDir(), "editor")
	if err := os.WriteFile(editor, []byte("#!/bin/sh\nexec sed -i 's/m: \"*n\"*$/m: edited/' \"$1\"\n"), 0o700); err != nil {
		k.t.Fatal(err)
	}
	k.t.Setenv("KUBE_EDITOR", editor)
	k.says("edit deployment d", "deployment.apps/d edited")
	k.says("get deployment d -o jsonpath={.metadata.annotations.m},{.metadata.labels.tier}", "edited,front")
	k.says("get deployment -o custom-columns=N:.metadata.name,R:.spec.replicas --sort-by=.metadata.name", "d     1\n")
	k.says("create configmap dry --from-literal=a=b --dry-run=server -o name", "configmap/dry")
	if out, err := k.run("", "get", "configmap", "dry"); err == nil || !strings.Contains(out, `configmaps "dry" not found`) {
		k.t.Errorf("after a dry run: %v\n%s", err, out)
	}
	k.says("create configmap c --from-literal=a=b", "created")
	k.reads(strings.Replace(k.says("get configmap c -o yaml"), "a: b", "a: c", 1), "replace -f -", "configmap/c replaced")
	k.says("get configmap c -o jsonpath={.data.a}", "c")
	k.says("delete configmap c", `configmap "c" deleted`)
}

func (k kubectl) rollouts() {
	k.t.Helper()
	k.says("rollout status deployment/d --timeout=60s", "successfully rolled out")
	k.says("set env deployment/d STEP=two", "env updated")
	k.says("rollout status deployment/d --timeout=60s", "successfully rolled out")
	// Until the old pod is gone, kubectl 1.20 may choose it.
	eventually(k.t, time.Minute, "one pod is left", func() error {
		if pods := k.says("get pods -l app=d -o name"); strings.Count(pods, "\n") != 1 {
			return errors.New(pods)
		}
		return nil
	})
	k.says("exec deployment/d -- sh -c echo$IFS$STEP", "two")
	k.says("rollout history deployment/d", "REVISION", "\n1 ", "\n2 ")
	k.says("rollout undo deployment/d", "rolled back")
	k.says("rollout status deployment/d --timeout=60s", "successfully rolled out")
	k.says("get deployment d -o jsonpath={.spec.template.spec.containers[0].env[0].value}", "one")
	k.says("rollout restart deployment/d", "restarted")
	k.says("rollout status deployment/d --timeout=60s", "successfully rolled out")
	k.says("scale deployment/d --replicas=2 --current-replicas=1", "scaled")
	k.says("wait deployment/d --for=condition=Available --timeout=60s", "condition met")
	if out, err := k.run("", "scale", "deployment/d", "--replicas=3", "--current-replicas=1"); err == nil || !strings.Contains(out, "replicas") {
		k.t.Errorf("scaled against the condition: %v\n%s", err, out)
	}
	k.says("expose deployment d --port=80 --target-port=8080", "service/d exposed")
	k.says("get endpoints d -o name", "endpoints/d")
}

func (k kubectl) streams() {
	k.t.Helper()
	seen := k.follow("get", "configmaps", "-w", "--output-watch-events")
	seen("kube-root-ca.crt")
	k.says("create configmap watched --from-literal=a=b", "created")
	seen(`^ADDED +watched +1 `)
	k.says("patch configmap watched -p={\"data\":{\"b\":\"c\"}}", "patched")
	seen(`^MODIFIED +watched +2 `)
	k.says("delete configmap watched", "deleted")
	seen(`^DELETED +watched +2 `)

	k.says("run p --image="+helloImage+" --restart=Never", "pod/p created")
	k.says("wait pod/p --for=condition=Ready --timeout=60s", "condition met")
	logs := k.follow("logs", "p", "-f", "--timestamps")
	logs(`^20\d\d-.*Z p listens on :8080$`)
	there, back := filepath.Join(k.t.TempDir(), "there"), filepath.Join(k.t.TempDir(), "back")
	if err := os.WriteFile(there, []byte(strings.Repeat("0123456789abcdef", 1<<16)), 0o600); err != nil {
		k.t.Fatal(err)
	}
	k.says("cp " + there + " p:/tmp/there")
	k.says("cp p:/tmp/there " + back)
	if a, err := os.ReadFile(back); err != nil || len(a) != 16<<16 {
		k.t.Errorf("%d bytes came back: %v", len(a), err)
	}
	k.reads("through stdin", "exec -i p -- cat", "through stdin")
	if out, err := k.run("", "exec", "p", "--", "sh", "-c", "exit 7"); err == nil || !strings.Contains(out, "exit code 7") {
		k.t.Errorf("an exit code: %v\n%s", err, out)
	}
	forward := k.follow("port-forward", "service/d", ":80")
	port := regexp.MustCompile(`127\.0\.0\.1:(\d+)`).FindStringSubmatch(forward(`^Forwarding from 127`))[1]
	for range 2 {
		answer, err := http.Get(fmt.Sprintf("http://127.0.0.1:%s/env?STEP", port))
		if err != nil {
			k.t.Fatal(err)
		}
		text, _ := io.ReadAll(answer.Body)
		answer.Body.Close()
		if string(text) != "one" {
			k.t.Errorf("through the forwarded port came %q", text)
		}
	}
	k.says("delete pod p --grace-period=1", "deleted")
	logs("^.*bye$")
}

func (k kubectl) accounts() {
	k.t.Helper()
	k.says("auth can-i --list", "*.*", "[*]")
	k.says("create serviceaccount reader", "created")
	k.says("create role reader --verb=get,list --resource=configmaps,deployments.apps", "created")
	k.says("create rolebinding reader --role=reader --serviceaccount="+k.ns+":reader", "created")
	as := "--as=system:serviceaccount:" + k.ns + ":reader"
	k.says("auth can-i --list "+as, "configmaps", "deployments.apps", "[get list]", "selfsubjectaccessreviews.authorization.k8s.io")
	k.says("auth can-i list deployments.apps "+as, "yes")
	if out, err := k.run("", "auth", "can-i", "delete", "configmaps", as); err == nil || !strings.Contains(out, "no") {
		k.t.Errorf("may the reader delete? %v %s", err, out)
	}
	if out, err := k.run("", "get", "secrets", as); err == nil || !strings.Contains(out, `cannot list resource "secrets" in API group "" in the namespace "`+k.ns+`"`) {
		k.t.Errorf("the reader's secrets: %v\n%s", err, out)
	}
	k.says("get configmaps "+as, "kube-root-ca.crt")
}

// recent has what 1.20 had not.
func (k kubectl) recent() {
	k.t.Helper()
	authority := filepath.Join(k.t.TempDir(), "ca.crt")
	if err := os.WriteFile(authority, restConfig.CAData, 0o600); err != nil {
		k.t.Fatal(err)
	}
	token := strings.TrimSpace(k.says("create token reader --duration=10m"))
	k.says("auth whoami --kubeconfig=/dev/null --server="+restConfig.Host+" --certificate-authority="+authority+" --token="+token,
		"system:serviceaccount:"+k.ns+":reader", "system:authenticated")
	k.says("events --for deployment/d", "ScalingReplicaSet")
	k.says("wait deployment/d --for=jsonpath={.status.availableReplicas}=2 --timeout=60s", "condition met")
	pod := k.says("get pods -l app=d -o jsonpath={.items[0].metadata.name}")
	if out, err := k.run("", "debug", pod, "--image="+helloImage, "--target=c", "-c", "debugger", "--attach=false", "--", "sh", "-c", "echo debugging; sleep 1000"); err != nil {
		k.t.Fatalf("debug: %v\n%s", err, out)
	}
	k.says("wait pod/"+pod+" --for=jsonpath={.status.ephemeralContainerStatuses[0].state.running.startedAt} --timeout=60s", "condition met")
	k.says("logs "+pod+" -c debugger", "debugging")
	k.says("get deployment d --subresource=scale -o jsonpath={.kind}", "Scale")
	k.says("patch deployment d --subresource=scale --type=merge -p={\"spec\":{\"replicas\":1}}", "patched")
	k.says("explain deployment.spec --output=plaintext-openapiv2", "progressDeadlineSeconds")
}

package node

import (
	"os"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// readFile reads a file of the first worker.
func readFile(t *testing.T, path string) string {
	t.Helper()
	return must(t, "cluster", "exec", clusterName, clusterName+"-worker-1", "--", "cat", path)
}

const configuration = `
apiVersion: v1
kind: ConfigMap
metadata: {name: config}
data: {color: blue, shape: round, "not-a.name": x}
---
apiVersion: v1
kind: Secret
metadata: {name: secret}
stringData: {password: hunter2, key: k}
---
apiVersion: v1
kind: Service
metadata: {name: front-end}
spec: {ports: [{name: web, port: 80}]}
`

func TestEnvironment(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	apply(t, ns, configuration)
	service, err := client.CoreV1().Services(ns).Get(t.Context(), "front-end", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	labelled(t, ns, "env", map[string]string{"tier": "front"}, `
restartPolicy: Never
nodeName: NODE-worker-1
containers:
- name: c
  image: HELLO
  command: [sh, -c, "env | grep -v -e KUBERNETES -e PATH -e HOME -e SHLVL -e PWD | sort; echo '$(GREETING) $$(GREETING) $(NOBODY)'"]
  resources: {requests: {cpu: 100m, memory: 8Mi}, limits: {cpu: 1500m, memory: 32Mi}}
  envFrom:
  - {prefix: CM_, configMapRef: {name: config}}
  - {secretRef: {name: secret}}
  - {configMapRef: {name: nowhere, optional: true}}
  env:
  - {name: WHO, value: world}
  - {name: GREETING, value: "hello $(WHO)"}
  - {name: TOO_EARLY, value: "$(LATER)"}
  - {name: LATER, value: later}
  - {name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
  - {name: TIER, valueFrom: {fieldRef: {fieldPath: "metadata.labels['tier']"}}}
  - {name: AT, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
  - {name: CPU, valueFrom: {resourceFieldRef: {resource: limits.cpu}}}
  - {name: MEMORY, valueFrom: {resourceFieldRef: {resource: limits.memory, divisor: 1Mi}}}
  - {name: ASKED, valueFrom: {resourceFieldRef: {resource: requests.cpu, divisor: 1m}}}
  - {name: COLOR, valueFrom: {configMapKeyRef: {name: config, key: color}}}
  - {name: SECRET, valueFrom: {secretKeyRef: {name: secret, key: password}}}
  - {name: MISSING, valueFrom: {secretKeyRef: {name: secret, key: nope, optional: true}}}
  - {name: WEB, value: "$(FRONT_END_SERVICE_HOST)"}
`)
	script(t, ns, "no-links", "env | grep -c FRONT_END; echo $KUBERNETES_SERVICE_HOST:$KUBERNETES_SERVICE_PORT", "", "enableServiceLinks: false")
	script(t, ns, "missing-key", "true", `, env: [{name: X, valueFrom: {configMapKeyRef: {name: config, key: nope}}}]`, "")
	script(t, ns, "missing-map", "true", `, envFrom: [{configMapRef: {name: comes-later}}]`, "")

	finished(t, ns, "env")
	vip := service.Spec.ClusterIP
	expect(t, "environment", logOf(t, ns, "env", v1.PodLogOptions{}), `ASKED=100
AT=`+clusterName+`-worker-1
CM_color=blue
CM_shape=round
COLOR=blue
CPU=2
FRONT_END_PORT=tcp://`+vip+`:80
FRONT_END_PORT_80_TCP=tcp://`+vip+`:80
FRONT_END_PORT_80_TCP_ADDR=`+vip+`
FRONT_END_PORT_80_TCP_PORT=80
FRONT_END_PORT_80_TCP_PROTO=tcp
FRONT_END_SERVICE_HOST=`+vip+`
FRONT_END_SERVICE_PORT=80
FRONT_END_SERVICE_PORT_WEB=80
GREETING=hello world
HOSTNAME=env
LATER=later
MEMORY=32
POD=env
SECRET=hunter2
TIER=front
TOO_EARLY=$(LATER)
WEB=`+vip+`
WHO=world
key=k
password=hunter2
hello world $(GREETING) $(NOBODY)`)
	finished(t, ns, "no-links")
	expect(t, "without links", logOf(t, ns, "no-links", v1.PodLogOptions{}), "0\n10.96.0.1:443")

	for name, message := range map[string]string{
		"missing-key": "couldn't find key nope in ConfigMap " + ns + "/config",
		"missing-map": `configmap "comes-later" not found`,
	} {
		waitPod(t, ns, name, "CreateContainerConfigError: "+message, func(p *v1.Pod) bool {
			s := p.Status.ContainerStatuses
			return len(s) == 1 && s[0].State.Waiting != nil && s[0].State.Waiting.Reason == "CreateContainerConfigError" && s[0].State.Waiting.Message == message
		})
	}
	must(t, "create", "configmap", "comes-later", "-n", ns)
	finished(t, ns, "missing-map")
}

func TestVolumes(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	apply(t, ns, configuration)
	dir := "/tmp/" + ns // of the node, which has a /tmp of its own

	labelled(t, ns, "all", map[string]string{"tier": "front"}, strings.ReplaceAll(`
restartPolicy: Never
nodeName: NODE-worker-1
volumes:
- {name: whole, configMap: {name: config}}
- {name: items, configMap: {name: config, defaultMode: 0400, items: [{key: color, path: deep/down/c, mode: 0444}, {key: shape, path: s}]}}
- {name: none, configMap: {name: nowhere, optional: true}}
- {name: secret, secret: {secretName: secret, defaultMode: 0440}}
- {name: memory, emptyDir: {medium: Memory, sizeLimit: 2Mi}}
- {name: disk, emptyDir: {}}
- {name: host, hostPath: {path: DIR/made, type: DirectoryOrCreate}}
- {name: file, hostPath: {path: DIR/file, type: FileOrCreate}}
- name: down
  downwardAPI:
    items:
    - {path: labels, fieldRef: {fieldPath: metadata.labels}}
    - {path: cpu, resourceFieldRef: {containerName: c, resource: limits.cpu, divisor: 1m}}
- name: both
  projected:
    sources:
    - {configMap: {name: config, items: [{key: color, path: color}]}}
    - {secret: {name: secret, items: [{key: password, path: p/password}]}}
    - {downwardAPI: {items: [{path: name, fieldRef: {fieldPath: metadata.name}}]}}
    - {serviceAccountToken: {path: token, audience: somebody, expirationSeconds: 600}}
initContainers:
- {name: i, image: HELLO, volumeMounts: [{name: disk, mountPath: /d}], command: [sh, -c, "mkdir /d/sub && echo from init > /d/sub/f"]}
containers:
- name: c
  image: HELLO
  resources: {limits: {cpu: 200m}}
  env: [{name: WHERE, value: sub}]
  volumeMounts:
  - {name: whole, mountPath: /whole}
  - {name: items, mountPath: /items}
  - {name: none, mountPath: /none}
  - {name: secret, mountPath: /secret}
  - {name: memory, mountPath: /memory}
  - {name: disk, mountPath: /sub, subPathExpr: $(WHERE), readOnly: true}
  - {name: whole, mountPath: /etc/one, subPath: color}
  - {name: host, mountPath: /host}
  - {name: file, mountPath: /file}
  - {name: down, mountPath: /down}
  - {name: both, mountPath: /both}
  command:
  - sh
  - -c
  - |
    cd /whole; for f in *; do echo $f=$(cat $f); done
    touch /whole/x 2>&1
    cd /items; for f in s deep/down/c; do stat -L -c '%n %a' $f; done
    echo none: $(ls /none)
    stat -L -c '%n %a %s' /secret/password
    mount | grep ' on /secret ' | cut -d' ' -f5
    df -k /memory | tail -1 | tr -s ' ' | cut -d' ' -f2
    dd if=/dev/zero of=/memory/big bs=1M count=3 2>&1 | grep -o 'No space left on device'
    cat /sub/f; touch /sub/x 2>&1
    cat /etc/one; echo
    echo written > /host/f; echo more > /file
    cat /down/labels /down/cpu; echo
    cat /both/color /both/p/password /both/name; echo
    cut -d. -f2 /both/token | wc -l
`, "DIR", dir))
	// hostPath types that don't match are refused, and say why.
	for name, kind := range map[string]string{"directory": "Directory", "file": "File", "socket": "Socket", "chardev": "CharDevice", "blockdev": "BlockDevice"} {
		script(t, ns, name, "true", ", volumeMounts: [{name: v, mountPath: /v}]", "volumes: [{name: v, hostPath: {path: "+dir+"/absent, type: "+kind+"}}]")
	}
	script(t, ns, "nfs", "true", ", volumeMounts: [{name: v, mountPath: /v}]", "volumes: [{name: v, nfs: {server: there, path: /}}]")
	script(t, ns, "claim", "true", ", volumeMounts: [{name: v, mountPath: /v}]", "volumes: [{name: v, persistentVolumeClaim: {claimName: mine}}]")
	script(t, ns, "late", "cat /v/k", ", volumeMounts: [{name: v, mountPath: /v}]", "volumes: [{name: v, secret: {secretName: late}}]")

	p, err := client.CoreV1().Pods(ns).Get(t.Context(), "all", metav1.GetOptions{})
	if err != nil || p.Status.Phase == v1.PodFailed {
		t.Fatal(p.Status, err)
	}
	finished(t, ns, "all")
	expect(t, "volumes", logOf(t, ns, "all", v1.PodLogOptions{Container: "c"}), `color=blue
not-a.name=x
shape=round
touch: /whole/x: Read-only file system
s 400
deep/down/c 444
none:
/secret/password 440 7
tmpfs
2048
No space left on device
from init
touch: /sub/x: Read-only file system
blue
tier="front"200
bluehunter2all
1`)
	for name, message := range map[string]string{
		"directory": "is not a directory", "file": "is not a file", "socket": "is not a socket file",
		"chardev": "is not a character device", "blockdev": "is not a block device",
	} {
		event(t, ns, name, "FailedMount", `MountVolume.SetUp failed for volume "v" : hostPath type check failed: `+dir+"/absent "+message)
	}
	expect(t, "a hostPath", readFile(t, dir+"/made/f")+readFile(t, dir+"/file"), "written\nmore")
	event(t, ns, "nfs", "FailedMount", "nfs volumes are not supported by this node")
	event(t, ns, "claim", "FailedScheduling", `persistentvolumeclaim "mine" not found`)
	event(t, ns, "late", "FailedMount", `secret "late" not found`)
	must(t, "create", "secret", "generic", "late", "-n", ns, "--from-literal=k=v")
	finished(t, ns, "late")
	expect(t, "late", logOf(t, ns, "late", v1.PodLogOptions{}), "v")
}

// TestVolumesFollow changes what volumes show while the pod runs.
func TestVolumesFollow(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	must(t, "create", "configmap", "cm", "-n", ns, "--from-literal=k=old")
	must(t, "create", "secret", "generic", "s", "-n", ns, "--from-literal=k=old")
	labelled(t, ns, "p", map[string]string{"l": "old"}, `
volumes:
- {name: cm, configMap: {name: cm}}
- {name: s, secret: {secretName: s}}
- {name: d, downwardAPI: {items: [{path: k, fieldRef: {fieldPath: "metadata.labels['l']"}}]}}
containers:
- name: c
  image: HELLO
  command: [sleep, "1000"]
  volumeMounts: [{name: cm, mountPath: /cm}, {name: s, mountPath: /s}, {name: d, mountPath: /d}, {name: cm, mountPath: /fixed, subPath: k}]
`)
	waitPod(t, ns, "p", "ready", ready)
	must(t, "patch", "configmap", "cm", "-n", ns, "-p", `{"data":{"k":"new"}}`)
	must(t, "patch", "secret", "s", "-n", ns, "-p", `{"stringData":{"k":"new"}}`)
	must(t, "label", "pod", "p", "-n", ns, "l=new", "--overwrite")
	eventually(t, 20*time.Second, "the volumes show what is new", func() error {
		out, err := ctl("exec", "-n", ns, "p", "--", "sh", "-c", "cat /cm/k /s/k /d/k /fixed")
		if err == nil && out != "newnewnewold" {
			t.Log(out)
			err = os.ErrDeadlineExceeded
		}
		return err
	})
}

// TestServiceAccount talks to the API from inside a pod, with no more rights
// than it was given.
func TestServiceAccount(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	must(t, "create", "serviceaccount", "reader", "-n", ns)
	must(t, "create", "role", "reader", "-n", ns, "--verb=get,list", "--resource=pods")
	must(t, "create", "rolebinding", "reader", "-n", ns, "--role=reader", "--serviceaccount="+ns+":reader")
	const in = `cd /var/run/secrets/kubernetes.io/serviceaccount; ls
get() { /hello get -token token -ca ca.crt https://kubernetes.default.svc$1 | grep -o -e '"kind": *"[A-Za-z]*"' -e '[45][0-9][0-9] [A-Z][a-z]*' | head -1; }
get /api; get /api/v1/namespaces/$(cat namespace)/pods; get /api/v1/namespaces/$(cat namespace)/secrets; get /api/v1/nodes`
	script(t, ns, "reader", in, "", "serviceAccountName: reader")
	script(t, ns, "nobody", in, "", "")
	script(t, ns, "without", "ls /var/run/secrets 2>&1", "", "automountServiceAccountToken: false")
	finished(t, ns, "reader")
	expect(t, "a reader", strings.ReplaceAll(logOf(t, ns, "reader", v1.PodLogOptions{}), `": "`, `":"`), `ca.crt
namespace
token
"kind":"APIVersions"
"kind":"PodList"
403 Forbidden
403 Forbidden`)
	finished(t, ns, "nobody")
	expect(t, "nobody", strings.ReplaceAll(logOf(t, ns, "nobody", v1.PodLogOptions{}), `": "`, `":"`), `ca.crt
namespace
token
"kind":"APIVersions"
403 Forbidden
403 Forbidden
403 Forbidden`)
	finished(t, ns, "without")
	expect(t, "without a token", logOf(t, ns, "without", v1.PodLogOptions{}), "ls: /var/run/secrets: No such file or directory")
}

package node

import (
	"fmt"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestKindsOfServices(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	apply(t, ns, `
{apiVersion: v1, kind: Service, metadata: {name: headless}, spec: {clusterIP: None, selector: {app: w}, ports: [{name: web, port: 8080}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: outside}, spec: {type: ExternalName, externalName: headless.`+ns+`.svc.cluster.local}}
---
{apiVersion: v1, kind: Service, metadata: {name: sticky}, spec: {sessionAffinity: ClientIP, selector: {app: w}, ports: [{port: 80, targetPort: 8080}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: mixed}, spec: {selector: {app: w}, ports: [{name: u, protocol: UDP, port: 53, targetPort: 8080}, {name: t, port: 53, targetPort: 8080}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: local}, spec: {type: NodePort, externalTrafficPolicy: Local, selector: {only: one}, ports: [{port: 80, targetPort: 8080}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: last}, spec: {selector: {app: last}, ports: [{port: 80, targetPort: web}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: unready}, spec: {publishNotReadyAddresses: true, selector: {app: unready}, ports: [{port: 80, targetPort: 8080}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: by-hand}, spec: {ports: [{port: 80, targetPort: 8080}]}}
`)
	const spec = "\nsubdomain: headless\ncontainers: [{name: c, image: HELLO}]"
	labelled(t, ns, "w1", map[string]string{"app": "w", "only": "one"}, "hostname: first\nnodeName: NODE-worker-1"+spec)
	labelled(t, ns, "w2", map[string]string{"app": "w"}, "nodeName: NODE-worker-2"+spec)
	labelled(t, ns, "last", map[string]string{"app": "last"}, "nodeName: NODE-worker-2\nterminationGracePeriodSeconds: 60\ncontainers: [{name: c, image: HELLO, ports: [{name: web, containerPort: 8080, hostPort: 4711}], lifecycle: {preStop: {sleep: {seconds: 50}}}}]")
	labelled(t, ns, "unready", map[string]string{"app": "unready"}, "containers: [{name: c, image: HELLO, readinessProbe: {exec: {command: ['false']}}}]")
	in := shell(t, ns, clusterName+"-worker-1")
	one, two := waitPod(t, ns, "w1", "ready", ready), waitPod(t, ns, "w2", "ready", ready)
	apply(t, ns, `
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: by-hand-1, labels: {kubernetes.io/service-name: by-hand}}
addressType: IPv4
ports: [{port: 8080}]
endpoints: [{addresses: [`+two.Status.PodIP+`]}]
`)
	answers := func(what, script string, check func(string) bool) {
		t.Helper()
		eventually(t, 20*time.Second, what, func() error {
			out, err := in(script)
			if err == nil && !check(out) {
				err = fmt.Errorf("wrong answer")
			}
			if err != nil {
				return fmt.Errorf("%q %v", out, err)
			}
			return nil
		})
	}
	is := func(want string) func(string) bool { return func(got string) bool { return got == want } }
	both := func(out string) bool {
		return strings.Contains(out, one.Status.PodIP) && strings.Contains(out, two.Status.PodIP) && len(strings.Fields(out)) == 2
	}
	answers("the headless service's name", "/hello lookup headless", both)
	answers("a pod's name of its own", "/hello lookup first.headless", is(one.Status.PodIP))
	answers("ExternalName", "/hello lookup outside", both)
	answers("session affinity", "/hello get -n 20 http://sticky/ | sort -u | wc -l", is("1"))
	answers("UDP, both pods", "/hello udp -n 30 mixed:53 | sort -u", is("hello from first\nhello from w2"))
	answers("TCP on the same port, both pods", "/hello get -n 30 http://mixed:53/ | sort -u", is("hello from first\nhello from w2"))
	answers("endpoints written by hand", "/hello get http://by-hand/", is("hello from w2"))

	answers("a pod that isn't ready, if that is wanted", "/hello get http://unready/", is("hello from unready"))
	answers("a port of the node", "/hello get http://"+two.Status.HostIP+":4711/", is("hello from last"))
	// The only endpoint of a service goes on serving while it terminates.
	answers("a service", "/hello get http://last/", is("hello from last"))
	must(t, "delete", "pod", "last", "-n", ns, "--wait=false")
	eventually(t, 20*time.Second, "the endpoint is terminating", func() error {
		out, err := ctl("get", "endpointslices", "-n", ns, "-l", "kubernetes.io/service-name=last", "-o", "jsonpath={.items[*].endpoints[*].conditions}")
		if err == nil && !strings.Contains(out, `"ready":false,"serving":true,"terminating":true`) {
			err = fmt.Errorf("%s", out)
		}
		return err
	})
	if out, err := in("/hello get -n 20 -every 20ms http://last/ | sort -u"); out != "hello from last" {
		t.Errorf("a terminating endpoint: %q %v", out, err)
	}

	service, err := client.CoreV1().Services(ns).Get(t.Context(), "local", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	port := service.Spec.Ports[0].NodePort
	eventually(t, 20*time.Second, "the node with an endpoint answers", func() error {
		out, err := httpGet(fmt.Sprintf("http://%s:%d/", one.Status.HostIP, port))
		if err == nil && out != "hello from first" {
			err = fmt.Errorf("%q", out)
		}
		return err
	})
	if out, err := httpGet(fmt.Sprintf("http://%s:%d/", two.Status.HostIP, port)); err == nil {
		t.Errorf("the node without an endpoint answers: %q", out)
	}
}

// TestNoRequestIsLost rolls a deployment over again and again, under constant
// load from another pod, by the service's name.
func TestNoRequestIsLost(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	deployHello(t, ns, 2)
	for _, node := range []string{"1", "2"} {
		pod(t, ns, "load"+node, "nodeName: NODE-worker-"+node+"\ncontainers: [{name: c, image: HELLO, command: [/hello, get, -n, '0', -every, 5ms, 'http://hello/']}]")
		waitPod(t, ns, "load"+node, "ready", ready)
	}
	eventually(t, 20*time.Second, "the load is on", func() error {
		if out := logOf(t, ns, "load1", v1.PodLogOptions{}); !strings.Contains(out, "hello from") {
			return fmt.Errorf("%q", out)
		}
		return nil
	})
	before := strings.Count(logOf(t, ns, "load1", v1.PodLogOptions{}), "FAILED") // until the names and ports were known
	// What is under way when a pod is stopped is answered to its end.
	slow := shell(t, ns, "")
	answered := make(chan error, 1)
	go func() {
		out, err := slow("for i in 1 2 3 4 5 6; do /hello get http://hello/slow?1500ms & done; wait")
		if err == nil && strings.Count(out, "slow hello from") != 6 {
			err = fmt.Errorf("%q", out)
		}
		answered <- err
	}()
	for i := range 2 {
		must(t, "set", "env", "-n", ns, "deployment/hello", fmt.Sprintf("ROUND=%d", i))
		must(t, "rollout", "status", "-n", ns, "deployment/hello", "--timeout=90s")
	}
	if err := <-answered; err != nil {
		t.Errorf("slow requests: %v", err)
	}
	eventually(t, 30*time.Second, "the old pods are gone", func() error {
		list, err := client.CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{LabelSelector: "app=hello"})
		if err == nil && len(list.Items) != 2 {
			err = fmt.Errorf("%d pods", len(list.Items))
		}
		return err
	})
	for _, name := range []string{"load1", "load2"} {
		out := logOf(t, ns, name, v1.PodLogOptions{})
		if failed := strings.Count(out, "FAILED"); failed != before || len(out) < 1000 {
			i := strings.Index(out, "FAILED")
			t.Errorf("%s: %d of %d requests failed, the first: %.200s", name, failed, strings.Count(out, "\n"), out[max(i, 0):])
		}
	}
}

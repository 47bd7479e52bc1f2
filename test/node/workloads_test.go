package node

import (
	"fmt"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// deployment applies one whose spec has more fields than these.
func deployment(t *testing.T, ns, name, image, fields string) {
	t.Helper()
	apply(t, ns, strings.NewReplacer("NAME", name, "IMAGE", image, "FIELDS", fields).Replace(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: NAME}
spec:
  FIELDS
  selector: {matchLabels: {app: NAME}}
  template:
    metadata: {labels: {app: NAME}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: c, image: IMAGE, readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}}]
`))
}

func sets(t *testing.T, ns, name string) []appsv1.ReplicaSet {
	t.Helper()
	list, err := client.AppsV1().ReplicaSets(ns).List(t.Context(), metav1.ListOptions{LabelSelector: "app=" + name})
	if err != nil {
		t.Fatal(err)
	}
	return list.Items
}

func TestDeployments(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	const other = "skiff.local/hello:2"
	rolled := func(t *testing.T, name string) {
		t.Helper()
		must(t, "rollout", "status", "-n", ns, "deployment/"+name, "--timeout=60s")
	}
	condition := func(t *testing.T, name, want string) {
		t.Helper()
		eventually(t, 30*time.Second, name+" has "+want, func() error {
			out, err := ctl("get", "deployment", name, "-n", ns, "-o", `jsonpath={range .status.conditions[*]}{.type}={.status}:{.reason}: {.message}{"\n"}{end}`)
			if err == nil && !strings.Contains(out, want) {
				err = fmt.Errorf("%s", out)
			}
			return err
		})
	}
	deployment(t, ns, "recreate", helloImage, "replicas: 2\n  strategy: {type: Recreate}")
	deployment(t, ns, "stuck", helloImage, "replicas: 1\n  progressDeadlineSeconds: 3")
	deployment(t, ns, "short", helloImage, "replicas: 1\n  revisionHistoryLimit: 1")
	deployment(t, ns, "paused", helloImage, "replicas: 1")

	t.Run("Recreate", func(t *testing.T) {
		t.Parallel()
		rolled(t, "recreate")
		w, err := client.CoreV1().Pods(ns).Watch(t.Context(), metav1.ListOptions{LabelSelector: "app=recreate"})
		if err != nil {
			t.Fatal(err)
		}
		must(t, "set", "image", "-n", ns, "deployment/recreate", "c="+other)
		rolled(t, "recreate")
		w.Stop()
		running := map[string]string{} // what ran at each moment, by pod
		for e := range w.ResultChan() {
			p, ok := e.Object.(*v1.Pod)
			if !ok {
				break
			}
			if e.Type == "DELETED" || p.Status.Phase == v1.PodSucceeded || p.Status.Phase == v1.PodFailed {
				delete(running, p.Name)
			} else {
				running[p.Name] = p.Spec.Containers[0].Image
			}
			images := map[string]bool{}
			for _, image := range running {
				images[image] = true
			}
			if len(images) > 1 {
				t.Fatalf("old and new at the same time: %v", running)
			}
		}
	})
	t.Run("progressDeadlineSeconds", func(t *testing.T) {
		t.Parallel()
		rolled(t, "stuck")
		must(t, "set", "image", "-n", ns, "deployment/stuck", "c=skiff.local/nothing:1")
		out, err := ctl("rollout", "status", "-n", ns, "deployment/stuck", "--timeout=60s")
		if err == nil || !strings.Contains(out, `deployment "stuck" exceeded its progress deadline`) {
			t.Errorf("rollout status: %q %v", out, err)
		}
		condition(t, "stuck", "Progressing=False:ProgressDeadlineExceeded: ReplicaSet \"stuck-")
		must(t, "rollout", "undo", "-n", ns, "deployment/stuck")
		// `rollout status` would fail: until the old pods are back the condition still
		// says that the deadline is over, as with Kubernetes.
		condition(t, "stuck", "Progressing=True:NewReplicaSetAvailable: ")
		condition(t, "stuck", "Available=True:MinimumReplicasAvailable: Deployment has minimum availability.")
	})
	t.Run("revisionHistoryLimit", func(t *testing.T) {
		t.Parallel()
		rolled(t, "short")
		for i := range 3 {
			must(t, "set", "env", "-n", ns, "deployment/short", fmt.Sprintf("N=%d", i))
			rolled(t, "short")
		}
		eventually(t, 20*time.Second, "one old replica set is kept", func() error {
			if n := len(sets(t, ns, "short")); n != 2 {
				return fmt.Errorf("%d replica sets", n)
			}
			return nil
		})
		if out := must(t, "rollout", "history", "-n", ns, "deployment/short"); !strings.Contains(out, "\n3 ") || !strings.Contains(out, "\n4 ") || strings.Contains(out, "\n2 ") {
			t.Errorf("history: %q", out)
		}
	})
	t.Run("paused", func(t *testing.T) {
		t.Parallel()
		rolled(t, "paused")
		must(t, "rollout", "pause", "-n", ns, "deployment/paused")
		condition(t, "paused", "Progressing=Unknown:DeploymentPaused: Deployment is paused")
		must(t, "set", "image", "-n", ns, "deployment/paused", "c="+other)
		must(t, "scale", "-n", ns, "deployment/paused", "--replicas=2")
		eventually(t, 20*time.Second, "it is scaled all the same", func() error {
			s := sets(t, ns, "paused")
			if len(s) != 1 {
				t.Fatalf("%d replica sets", len(s))
			}
			if s[0].Status.ReadyReplicas != 2 {
				return fmt.Errorf("%d ready", s[0].Status.ReadyReplicas)
			}
			return nil
		})
		must(t, "rollout", "resume", "-n", ns, "deployment/paused")
		rolled(t, "paused")
		if s := sets(t, ns, "paused"); len(s) != 2 {
			t.Errorf("%d replica sets", len(s))
		}
		must(t, "rollout", "restart", "-n", ns, "deployment/paused")
		rolled(t, "paused")
	})
}

func TestCascades(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	for _, name := range []string{"background", "foreground", "orphan"} {
		deployment(t, ns, name, helloImage, "replicas: 1")
	}
	for _, how := range []string{"background", "foreground", "orphan"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			must(t, "rollout", "status", "-n", ns, "deployment/"+how, "--timeout=60s")
			must(t, "delete", "deployment", how, "-n", ns, "--cascade="+how)
			if how == "foreground" {
				if s := sets(t, ns, how); len(s) != 0 {
					t.Errorf("%d replica sets outlived their owner", len(s))
				}
			}
			if how == "orphan" {
				s := sets(t, ns, how)
				if len(s) != 1 || len(s[0].OwnerReferences) != 0 || s[0].DeletionTimestamp != nil {
					t.Fatalf("replica sets: %+v", s)
				}
				if out := must(t, "get", "pods", "-n", ns, "-l", "app=orphan", "--no-headers"); !strings.Contains(out, "1/1") {
					t.Errorf("pods: %q", out)
				}
				// A new deployment takes it in again.
				deployment(t, ns, how, helloImage, "replicas: 1")
				must(t, "rollout", "status", "-n", ns, "deployment/"+how, "--timeout=60s")
				if again := sets(t, ns, how); len(again) != 1 || again[0].UID != s[0].UID {
					t.Errorf("the new deployment has made a replica set of its own")
				}
				return
			}
			eventually(t, 20*time.Second, "its pods are gone", func() error {
				out, err := ctl("get", "replicasets,pods", "-n", ns, "-l", "app="+how, "-o", "name")
				if err == nil && strings.HasPrefix(out, "pod/") || strings.HasPrefix(out, "replicaset") {
					err = fmt.Errorf("%q", out)
				}
				return err
			})
		})
	}
}

func TestNamespaceDeletion(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	deployHello(t, ns, 2)
	must(t, "create", "configmap", "held", "-n", ns)
	must(t, "patch", "configmap", "held", "-n", ns, "-p", `{"metadata":{"finalizers":["example.com/hold"]}}`)
	must(t, "delete", "namespace", ns, "--wait=false")
	eventually(t, 30*time.Second, "the namespace says what holds it", func() error {
		n, err := client.CoreV1().Namespaces().Get(t.Context(), ns, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range n.Status.Conditions {
			if c.Type == v1.NamespaceFinalizersRemaining && c.Status == v1.ConditionTrue && strings.Contains(c.Message, "example.com/hold in 1 resource instances") {
				return nil
			}
		}
		return fmt.Errorf("%s: %+v", n.Status.Phase, n.Status.Conditions)
	})
	if out, err := ctl("create", "configmap", "late", "-n", ns); err == nil || !strings.Contains(out, "because it is being terminated") {
		t.Errorf("creation in a namespace that goes: %q %v", out, err)
	}
	must(t, "patch", "configmap", "held", "-n", ns, "--type=json", `-p=[{"op":"remove","path":"/metadata/finalizers"}]`)
	eventually(t, 40*time.Second, "the namespace is gone", func() error {
		n, err := client.CoreV1().Namespaces().Get(t.Context(), ns, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("%+v %v", n.Status, err)
	})
}

package clients

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"helm.sh/helm/v4/pkg/action"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/kube"
	releases "helm.sh/helm/v4/pkg/release"
	release "helm.sh/helm/v4/pkg/release/v1"
	v1 "k8s.io/api/core/v1"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/cli-runtime/pkg/genericclioptions"
)

var orders = schema.GroupVersionResource{Group: "shop.clients.test", Version: "v1", Resource: "orders"}

// TestHelm lives through a release of testdata/shop: by server-side apply, as Helm
// 4 does, and by three-way patches, as Helm 3 did. Jobs are no hooks here: nothing
// in the cluster would run them; pods are.
func TestHelm(t *testing.T) {
	t.Cleanup(func() { // Helm leaves it
		apiextensions.NewForConfigOrDie(restConfig).ApiextensionsV1().CustomResourceDefinitions().
			Delete(context.Background(), orders.GroupResource().String(), metav1.DeleteOptions{})
	})
	t.Run("server-side", func(t *testing.T) { helmLifecycle(t, true, kube.StatusWatcherStrategy) })
	t.Run("client-side", func(t *testing.T) { helmLifecycle(t, false, kube.LegacyStrategy) })
}

// helmRelease is a release of the chart and how Helm works on it.
type helmRelease struct {
	t          *testing.T
	config     *action.Configuration
	ns         string
	serverSide bool
	strategy   kube.WaitStrategy
}

const releaseName = "shop"

func helmLifecycle(t *testing.T, serverSide bool, strategy kube.WaitStrategy) {
	h := &helmRelease{t: t, ns: newNamespace(t), serverSide: serverSide, strategy: strategy, config: action.NewConfiguration()}
	flags := genericclioptions.NewConfigFlags(false)
	flags.KubeConfig, flags.Namespace = &kubeconfig, &h.ns
	if err := h.config.Init(flags, h.ns, "secret"); err != nil {
		t.Fatal(err)
	}

	h.install()
	h.is("first", 1)
	h.test()

	var refused []string
	if serverSide { // a three-way patch of a field that nobody knows is a warning
		refused = []string{"failed"}
		if _, err := h.upgrade(false, map[string]any{"unknown": map[string]any{"replicaz": 1}}); err == nil || !strings.Contains(err.Error(), "replicaz") {
			t.Errorf("an unknown field was applied: %v", err)
		}
	}
	upgraded, err := h.upgrade(false, map[string]any{"replicas": 2, "message": "second"})
	if err != nil {
		t.Fatal(err)
	}
	h.is("second", 2)
	h.hook(upgraded, "shop-after")
	if _, err := client.CoreV1().Pods(h.ns).Get(t.Context(), "shop-after", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the hook's pod should be gone: %v", err)
	}

	// An image that can't be had: the deployment says so by its deadline, and Helm goes back. (With another
	// size too, it would read the old rollout's failure once more, from Kubernetes' controller as from ours.)
	_, err = h.upgrade(true, map[string]any{"replicas": 2, "image": "skiff.local/none:1", "message": "third", "progressDeadlineSeconds": 3})
	if err == nil || !strings.Contains(err.Error(), "rolled back due to rollback-on-failure") {
		t.Fatalf("an upgrade to an image that isn't there: %v", err)
	}
	h.is("second", 2)
	h.history(slices.Concat([]string{"superseded"}, refused, []string{"superseded", "failed", "deployed"})...)

	back := action.NewRollback(h.config)
	back.Version, back.WaitStrategy, back.Timeout = 1, h.strategy, 2*time.Minute
	if err := back.Run(releaseName); err != nil {
		t.Fatal(err)
	}
	h.is("first", 1)
	h.history(slices.Concat([]string{"superseded"}, refused, []string{"superseded", "failed", "superseded", "deployed"})...)
	h.test()
	h.uninstall()
}

func (h *helmRelease) install() {
	h.t.Helper()
	install := action.NewInstall(h.config)
	install.ReleaseName, install.Namespace = releaseName, h.ns
	install.ServerSideApply, install.WaitStrategy, install.Timeout = h.serverSide, h.strategy, 2*time.Minute
	chart, err := loader.Load("testdata/shop")
	if err != nil {
		h.t.Fatal(err)
	}
	if _, err := install.RunWithContext(h.t.Context(), chart, map[string]any{"replicas": -1}); err == nil || !strings.Contains(err.Error(), "minimum") {
		h.t.Errorf("a value against the chart's schema was taken: %v", err)
	}
	made, err := install.RunWithContext(h.t.Context(), chart, nil)
	if err != nil {
		h.t.Fatal(err)
	}
	rel := made.(*release.Release)
	if rel.Info.Notes != "shop says first.\n" {
		h.t.Errorf("notes %q", rel.Info.Notes)
	}
	h.hook(rel, "shop-before")
	if log := h.log("shop-before"); log != "before: first\n" {
		h.t.Errorf("the hook before the installation said %q", log)
	}
	c, err := client.CoreV1().ConfigMaps(h.ns).Get(h.t.Context(), releaseName, metav1.GetOptions{})
	if err != nil {
		h.t.Fatal(err)
	}
	for key, want := range map[string]string{"SERVED": "true false", "FOUND": "kube-root-ca.crt"} {
		if c.Data[key] != want {
			h.t.Errorf("the chart saw %s %q, want %q", key, c.Data[key], want)
		}
	}
	if !strings.HasPrefix(c.Data["VERSION"], "v1.36.") {
		h.t.Errorf("the chart saw version %q", c.Data["VERSION"])
	}
}

func (h *helmRelease) upgrade(rollback bool, values map[string]any) (*release.Release, error) {
	h.t.Helper()
	upgrade := action.NewUpgrade(h.config)
	upgrade.Namespace, upgrade.WaitStrategy, upgrade.Timeout = h.ns, h.strategy, 2*time.Minute
	upgrade.RollbackOnFailure, upgrade.CleanupOnFail = rollback, rollback
	if h.strategy == kube.LegacyStrategy && rollback {
		upgrade.Timeout = 20 * time.Second // it polls, and knows no failure but that
	}
	chart, err := loader.Load("testdata/shop")
	if err != nil {
		h.t.Fatal(err)
	}
	made, err := upgrade.RunWithContext(h.t.Context(), releaseName, chart, values)
	rel, _ := made.(*release.Release)
	return rel, err
}

// is wants the release to be there in a version: Helm has waited for all of it.
func (h *helmRelease) is(message string, replicas int32) {
	h.t.Helper()
	d, err := client.AppsV1().Deployments(h.ns).Get(h.t.Context(), releaseName, metav1.GetOptions{})
	if err != nil {
		h.t.Fatal(err)
	}
	s := d.Status
	if s.ObservedGeneration != d.Generation || *d.Spec.Replicas != replicas || s.UpdatedReplicas != replicas || s.AvailableReplicas != replicas {
		h.t.Errorf("%s: the deployment is of generation %d and wants %d replicas, its status is %+v", message, d.Generation, *d.Spec.Replicas, s)
	}
	order, err := dynamicClient.Resource(orders).Namespace(h.ns).Get(h.t.Context(), releaseName, metav1.GetOptions{})
	if err != nil {
		h.t.Fatal(err)
	}
	text, _, _ := unstructured.NestedString(order.Object, "spec", "text")
	lines, _, _ := unstructured.NestedSlice(order.Object, "spec", "lines")
	if got, want := fmt.Sprint(text, lines), fmt.Sprint(message, []any{map[string]any{"name": "a", "count": replicas}, map[string]any{"name": "b", "count": 1}}); got != want {
		h.t.Errorf("the order is %s, want %s", got, want)
	}
	rel, err := h.config.Releases.Deployed(releaseName)
	if err != nil {
		h.t.Fatal(err)
	}
	if r := rel.(*release.Release); r.Namespace != h.ns || (r.ApplyMethod == "ssa") != h.serverSide {
		h.t.Errorf("the release is of %s by %q", r.Namespace, r.ApplyMethod)
	}
}

// hook wants a hook to have ended well.
func (h *helmRelease) hook(rel *release.Release, name string) {
	h.t.Helper()
	i := slices.IndexFunc(rel.Hooks, func(hook *release.Hook) bool { return hook.Name == name })
	if i < 0 || rel.Hooks[i].LastRun.Phase != release.HookPhaseSucceeded {
		h.t.Errorf("hook %s: %+v", name, rel.Hooks)
	}
}

func (h *helmRelease) log(pod string) string {
	h.t.Helper()
	text, err := client.CoreV1().Pods(h.ns).GetLogs(pod, &v1.PodLogOptions{}).DoRaw(h.t.Context())
	if err != nil {
		h.t.Error(err)
	}
	return string(text)
}

// test runs the chart's test, a pod that asks the service.
func (h *helmRelease) test() {
	h.t.Helper()
	testing := action.NewReleaseTesting(h.config)
	testing.Namespace, testing.Timeout = h.ns, 2*time.Minute
	tested, shutdown, err := testing.Run(releaseName)
	if err != nil {
		h.t.Fatal(err)
	}
	defer shutdown()
	rel := tested.(*release.Release)
	h.hook(rel, "shop-answers")
	var log bytes.Buffer
	if err := testing.GetPodLogs(&log, rel); err != nil || !strings.Contains(log.String(), "first\n") {
		h.t.Errorf("the test said %q: %v", log.String(), err)
	}
}

func (h *helmRelease) history(want ...string) {
	h.t.Helper()
	all, err := action.NewHistory(h.config).Run(releaseName)
	if err != nil {
		h.t.Fatal(err)
	}
	slices.SortFunc(all, func(a, b releases.Releaser) int { return a.(*release.Release).Version - b.(*release.Release).Version })
	var got []string
	for _, r := range all {
		got = append(got, r.(*release.Release).Info.Status.String())
	}
	if !slices.Equal(got, want) {
		h.t.Errorf("the history is %v, want %v", got, want)
	}
}

func (h *helmRelease) uninstall() {
	h.t.Helper()
	uninstall := action.NewUninstall(h.config)
	// Not by its watcher, which takes a resource that it has not yet seen for one that is gone.
	uninstall.WaitStrategy, uninstall.Timeout, uninstall.DeletionPropagation = kube.LegacyStrategy, 2*time.Minute, "foreground"
	if _, err := uninstall.Run(releaseName); err != nil {
		h.t.Fatal(err)
	}
	// Foreground: what the deployment owned went before it.
	left, err := client.CoreV1().Pods(h.ns).List(h.t.Context(), metav1.ListOptions{LabelSelector: "app.kubernetes.io/instance=" + releaseName})
	if err != nil || len(left.Items) != 0 {
		h.t.Errorf("%d pods are left: %v", len(left.Items), err)
	}
	if list, err := dynamicClient.Resource(orders).Namespace(h.ns).List(h.t.Context(), metav1.ListOptions{}); err != nil || len(list.Items) != 0 {
		h.t.Errorf("the orders: %v, %v", list, err)
	}
	secrets, err := client.CoreV1().Secrets(h.ns).List(h.t.Context(), metav1.ListOptions{LabelSelector: "owner=helm"})
	if err != nil || len(secrets.Items) != 0 {
		h.t.Errorf("%d secrets of the history are left: %v", len(secrets.Items), err)
	}
	list := action.NewList(h.config)
	list.All, list.StateMask = true, action.ListAll
	if found, err := list.Run(); err != nil || len(found) != 0 {
		h.t.Errorf("releases are listed: %v, %v", found, err)
	}
}

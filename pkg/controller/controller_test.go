package controller

import (
	"context"
	"fmt"
	"testing"

	apps "k8s.io/api/apps/v1"
	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/retry"

	"skiff/pkg/controller/controllertest"
	"skiff/pkg/controller/deployment"
	"skiff/pkg/controller/endpoints"
	"skiff/pkg/controller/endpointslice"
	"skiff/pkg/controller/replicaset"
	"skiff/pkg/controller/rootca"
	"skiff/pkg/controller/serviceaccount"
)

func webDeployment(replicas int32) *apps.Deployment {
	labels := map[string]string{"app": "web"}
	quarter := intstr.FromString("25%")
	return &apps.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "shop", Labels: labels},
		Spec: apps.DeploymentSpec{
			Replicas:                &replicas,
			Selector:                &metav1.LabelSelector{MatchLabels: labels},
			RevisionHistoryLimit:    new(int32(10)),
			ProgressDeadlineSeconds: new(int32(600)),
			Strategy: apps.DeploymentStrategy{
				Type:          apps.RollingUpdateDeploymentStrategyType,
				RollingUpdate: &apps.RollingUpdateDeployment{MaxSurge: &quarter, MaxUnavailable: &quarter},
			},
			Template: v1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       v1.PodSpec{Containers: []v1.Container{{Name: "c", Image: "one", Ports: []v1.ContainerPort{{Name: "http", ContainerPort: 8080, Protocol: v1.ProtocolTCP}}}}},
			},
		},
	}
}

// TestDeploymentBehindService runs deployment, replica set and endpoint reconcilers
// together: pods come, serve, are replaced by an update, and the old set is kept for a rollback.
func TestDeploymentBehindService(t *testing.T) {
	ctx := t.Context()
	client := controllertest.NewClient(
		&v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-1", Labels: map[string]string{v1.LabelTopologyZone: "a"}}},
		&v1.Service{
			ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "shop"},
			Spec: v1.ServiceSpec{
				ClusterIP: "10.96.0.5", IPFamilies: []v1.IPFamily{v1.IPv4Protocol}, Selector: map[string]string{"app": "web"},
				Ports: []v1.ServicePort{{Name: "http", Port: 80, Protocol: v1.ProtocolTCP, TargetPort: intstr.FromString("http")}},
			},
		})
	c := controllertest.Config(t, client)
	controllertest.Kubelet(t, c, "node-1", nil)
	controllertest.Run(t, c, deployment.New(c).Run, replicaset.New(c).Run, endpoints.New(c).Run, endpointslice.New(c, 3).Run)

	deployments := client.AppsV1().Deployments("shop")
	if _, err := deployments.Create(ctx, webDeployment(7), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	controllertest.Eventually(t, func() error { return rolledOut(ctx, client, "one", "1", 7) })
	controllertest.Eventually(t, func() error { return serving(ctx, client, 7) })

	d, err := deployments.Get(ctx, "web", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	d.Spec.Template.Spec.Containers[0].Image = "two"
	d.Spec.Replicas = new(int32(5))
	if _, err := deployments.Update(ctx, d, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	controllertest.Eventually(t, func() error { return rolledOut(ctx, client, "two", "2", 5) })
	controllertest.Eventually(t, func() error { return serving(ctx, client, 5) })

	sets, err := client.AppsV1().ReplicaSets("shop").List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(sets.Items) != 2 {
		t.Errorf("%d replica sets, want the old one kept beside the new", len(sets.Items))
	}
}

func rolledOut(ctx context.Context, client kubernetes.Interface, image, revision string, replicas int32) error {
	d, err := client.AppsV1().Deployments("shop").Get(ctx, "web", metav1.GetOptions{})
	if err != nil {
		return err
	}
	s := d.Status
	if s.ObservedGeneration != d.Generation || s.UpdatedReplicas != replicas || s.Replicas != replicas || s.AvailableReplicas != replicas {
		return fmt.Errorf("status %+v", s)
	}
	if d.Annotations[deployment.RevisionAnnotation] != revision {
		return fmt.Errorf("annotations %v", d.Annotations)
	}
	pods, err := client.CoreV1().Pods("shop").List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	if len(pods.Items) != int(replicas) {
		return fmt.Errorf("%d pods", len(pods.Items))
	}
	for _, pod := range pods.Items {
		if pod.Spec.Containers[0].Image != image {
			return fmt.Errorf("pod %s has image %s", pod.Name, pod.Spec.Containers[0].Image)
		}
	}
	return nil
}

func serving(ctx context.Context, client kubernetes.Interface, want int) error {
	slices, err := client.DiscoveryV1().EndpointSlices("shop").List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	count := 0
	for _, slice := range slices.Items {
		for _, endpoint := range slice.Endpoints {
			if *endpoint.Conditions.Ready && *endpoint.Zone == "a" && *slice.Ports[0].Port == 8080 {
				count++
			}
		}
		if len(slice.Endpoints) > 3 {
			return fmt.Errorf("slice %s has %d endpoints", slice.Name, len(slice.Endpoints))
		}
		if slice.Labels[discovery.LabelServiceName] != "web" {
			return fmt.Errorf("slice labels %v", slice.Labels)
		}
	}
	if count != want {
		return fmt.Errorf("%d of %d ready in slices", count, want)
	}
	e, err := client.CoreV1().Endpoints("shop").Get(ctx, "web", metav1.GetOptions{})
	if err != nil {
		return err
	}
	if len(e.Subsets) != 1 || len(e.Subsets[0].Addresses) != want {
		return fmt.Errorf("endpoints %+v", e.Subsets)
	}
	return nil
}

// TestNamespaceBasics gives a namespace what pods need before the first of them: a service account and
// the authority of the API; and again when somebody takes it away.
func TestNamespaceBasics(t *testing.T) {
	ctx := t.Context()
	client := controllertest.NewClient(
		&v1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}, Status: v1.NamespaceStatus{Phase: v1.NamespaceActive}},
		&v1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "going"}, Status: v1.NamespaceStatus{Phase: v1.NamespaceTerminating}})
	c := controllertest.Config(t, client)
	controllertest.Run(t, c, serviceaccount.New(c).Run, rootca.New(c, []byte("bundle")).Run)
	has := func() error {
		if _, err := client.CoreV1().ServiceAccounts("shop").Get(ctx, "default", metav1.GetOptions{}); err != nil {
			return err
		}
		m, err := client.CoreV1().ConfigMaps("shop").Get(ctx, "kube-root-ca.crt", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if m.Data["ca.crt"] != "bundle" || len(m.Data) != 1 || m.Annotations["kubernetes.io/description"] == "" {
			return fmt.Errorf("%+v", m)
		}
		return nil
	}
	controllertest.Eventually(t, has)
	if err := client.CoreV1().ServiceAccounts("shop").Delete(ctx, "default", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	m, err := client.CoreV1().ConfigMaps("shop").Get(ctx, "kube-root-ca.crt", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	m.Data["ca.crt"], m.Data["more"] = "forged", "x"
	if _, err := client.CoreV1().ConfigMaps("shop").Update(ctx, m, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	controllertest.Eventually(t, has)
	if accounts, err := client.CoreV1().ServiceAccounts("going").List(ctx, metav1.ListOptions{}); err != nil || len(accounts.Items) > 0 {
		t.Errorf("a namespace that is going got %v, %v", accounts, err)
	}
}

// TestReplicationController runs the older kind through the adapter: it adopts what it selects, lets go of what it no
// longer does, and reports in its own terms.
func TestReplicationController(t *testing.T) {
	ctx := t.Context()
	labels := map[string]string{"app": "old"}
	client := controllertest.NewClient(
		&v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "orphan", Namespace: "shop", Labels: labels}},
		&v1.ReplicationController{
			ObjectMeta: metav1.ObjectMeta{Name: "old", Namespace: "shop"},
			Spec: v1.ReplicationControllerSpec{Replicas: new(int32(3)), Selector: labels,
				Template: &v1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}}},
		})
	c := controllertest.Config(t, client)
	controllertest.Kubelet(t, c, "node-1", nil)
	controllertest.Run(t, c, replicaset.NewReplication(c).Run)
	pods := client.CoreV1().Pods("shop")
	counts := func(owned, all int) error {
		list, err := pods.List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		rc, err := client.CoreV1().ReplicationControllers("shop").Get(ctx, "old", metav1.GetOptions{})
		if err != nil {
			return err
		}
		mine := 0
		for _, pod := range list.Items {
			if metav1.IsControlledBy(&pod, rc) {
				mine++
			}
		}
		if s := rc.Status; mine != owned || len(list.Items) != all || s.ReadyReplicas != 3 || s.Replicas != 3 || s.ObservedGeneration != rc.Generation {
			return fmt.Errorf("%d owned of %d, status %+v", mine, len(list.Items), s)
		}
		return nil
	}
	controllertest.Eventually(t, func() error { return counts(3, 3) })
	orphan, err := pods.Get(ctx, "orphan", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if ref := metav1.GetControllerOf(orphan); ref == nil || ref.Kind != "ReplicationController" || ref.APIVersion != "v1" {
		t.Fatalf("not adopted: %+v", orphan.OwnerReferences)
	}
	orphan.Labels = map[string]string{"app": "debugged"}
	if _, err := pods.Update(ctx, orphan, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	controllertest.Eventually(t, func() error { return counts(3, 4) })
}

// TestNoPodTooMany scales up and down as fast as it can while the caches follow at their own pace: at no time are there
// more pods than the largest size asked for, which a turn on a stale cache would make.
func TestNoPodTooMany(t *testing.T) {
	ctx := t.Context()
	labels := map[string]string{"app": "web"}
	set := &apps.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "shop"},
		Spec: apps.ReplicaSetSpec{Replicas: new(int32), Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: v1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}}},
	}
	client := controllertest.NewClient(set)
	c := controllertest.Config(t, client)
	controllertest.Run(t, c, replicaset.New(c).Run)
	sets := client.AppsV1().ReplicaSets("shop")
	const largest = 20
	for _, size := range []int32{largest, 3, 15, 0, largest, 7} {
		err := retry.RetryOnConflict(retry.DefaultBackoff, func() error {
			rs, err := sets.Get(ctx, "web", metav1.GetOptions{})
			if err != nil {
				return err
			}
			rs.Spec.Replicas = &size
			_, err = sets.Update(ctx, rs, metav1.UpdateOptions{})
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		controllertest.Eventually(t, func() error {
			pods, err := client.CoreV1().Pods("shop").List(ctx, metav1.ListOptions{})
			if err != nil {
				return err
			}
			if len(pods.Items) > largest {
				t.Fatalf("%d pods, never more than %d were asked for", len(pods.Items), largest)
			}
			if len(pods.Items) != int(size) {
				return fmt.Errorf("%d pods of %d", len(pods.Items), size)
			}
			return nil
		})
	}
}

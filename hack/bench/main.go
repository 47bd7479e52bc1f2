// Command bench measures what a cluster costs on this machine: how long it
// takes to start, to run a pod, to run a hundred, how much memory it holds
// when idle, what each request costs its apiserver, and how long a highly available one takes to go on when something in it
// breaks. It makes clusters of its own and takes them away again.
//
// The machine may be shared and noisy: the figures are for comparing two builds
// side by side, and no test depends on them.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"skiff/pkg/cluster"
)

const (
	name  = "bench"
	image = "skiff.local/hello:1"
)

func main() {
	starts := flag.Int("starts", 3, "clusters to start; 0 leaves out what is measured of one node")
	pods := flag.Int("pods", 10, "single pods to start")
	replicas := flag.Int("replicas", 100, "replicas of the deployment")
	trials := flag.Int("failover", 10, "how often to break each thing of a highly available cluster; 0 leaves that out")
	api := flag.Int("api", 5000, "requests of each kind to an apiserver; 0 leaves that out")
	kubernetes := flag.String("kubernetes", "", "URL,KUBECONFIG,PID[,PID]: a kube-apiserver that runs on this machine, and its etcd, to measure beside ours")
	flag.Parse()
	if err := run(*starts, *pods, *replicas, *api, *trials, *kubernetes); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(starts, pods, replicas, api, trials int, kubernetes string) error {
	dir, err := os.MkdirTemp("", "skiff-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	os.Setenv("KUBECONFIG", filepath.Join(dir, "kubeconfig"))
	bin, err := filepath.Abs("bin")
	if err != nil {
		return err
	}
	defer cluster.Delete(name, nil)
	ctx := context.Background()
	if starts > 0 {
		if err := oneNode(ctx, bin, starts, pods, replicas); err != nil {
			return err
		}
	}
	if api > 0 {
		if err := benchAPI(ctx, bin, api, kubernetes); err != nil {
			return err
		}
	}
	if trials > 0 {
		return failover(ctx, bin, max(1, starts), trials)
	}
	return nil
}

// oneNode measures a cluster of one node.
func oneNode(ctx context.Context, bin string, starts, pods, replicas int) error {
	var ready, first []time.Duration
	var client kubernetes.Interface
	for i := range starts {
		if err := cluster.Delete(name, nil); err != nil {
			return err
		}
		begin := time.Now()
		_, err := cluster.Create(ctx, cluster.CreateOptions{
			Options: cluster.Options{Name: name, Masters: 1, Isolated: true, Bin: bin}, Wait: time.Minute})
		if err != nil {
			return err
		}
		ready = append(ready, time.Since(begin))
		loading := time.Now()
		if _, err := cluster.Load(ctx, name, []string{"bin/images/hello.tar"}, nil); err != nil {
			return err
		}
		load := time.Since(loading)
		if client, err = connect(); err != nil {
			return err
		}
		if _, err := startPod(ctx, client, fmt.Sprintf("first-%d", i)); err != nil {
			return err
		}
		first = append(first, time.Since(begin)-load)
	}
	report("start to node Ready", ready, "goal 1.0 s")
	report("start to first pod Running", first, "goal 1.5 s, the image's import not counted")

	idle, err := memory()
	if err != nil {
		return err
	}
	defer func() { fmt.Print(idle) }()

	var single []time.Duration
	for i := range pods {
		took, err := startPod(ctx, client, fmt.Sprintf("single-%d", i))
		if err != nil {
			return err
		}
		single = append(single, took)
	}
	report("pod created to Running", single, "goal 150 ms")

	// A node takes 110 pods.
	if err := client.CoreV1().Pods("default").DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
		return err
	}
	took, err := deploy(ctx, client, replicas)
	if err != nil {
		return err
	}
	report(fmt.Sprintf("deployment of %d to all Ready", replicas), []time.Duration{took}, "goal 4 s for 100")
	return nil
}

func report(what string, took []time.Duration, goal string) {
	slices.Sort(took)
	if len(took) == 1 {
		fmt.Printf("%-40s %8s               (%s)\n", what, round(took[0]), goal)
		return
	}
	fmt.Printf("%-40s %8s  worst %8s of %d  (%s)\n", what, round(took[len(took)/2]), round(took[len(took)-1]), len(took), goal)
}

func round(d time.Duration) string { return d.Round(time.Millisecond).String() }

func connect() (kubernetes.Interface, error) {
	config, err := clientcmd.BuildConfigFromFlags("", cluster.AdminKubeconfig(name))
	if err != nil {
		return nil, err
	}
	config.QPS = -1
	config.ContentType = runtime.ContentTypeProtobuf
	return kubernetes.NewForConfig(config)
}

func spec() v1.PodSpec {
	return v1.PodSpec{TerminationGracePeriodSeconds: new(int64), Containers: []v1.Container{{Name: "hello", Image: image}}}
}

// startPod returns the time from the request to the event that says Running.
func startPod(ctx context.Context, client kubernetes.Interface, pod string) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	pods := client.CoreV1().Pods("default")
	w, err := pods.Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + pod})
	if err != nil {
		return 0, err
	}
	defer w.Stop()
	begin := time.Now()
	for {
		// A new cluster has no default service account for a moment.
		_, err := pods.Create(ctx, &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: pod}, Spec: spec()}, metav1.CreateOptions{})
		if err == nil {
			break
		}
		if !strings.Contains(err.Error(), "serviceaccount") {
			return 0, err
		}
		time.Sleep(5 * time.Millisecond)
	}
	for event := range w.ResultChan() {
		if p, ok := event.Object.(*v1.Pod); ok && p.Status.Phase == v1.PodRunning {
			return time.Since(begin), nil
		}
	}
	return 0, fmt.Errorf("pod %s isn't Running after a minute", pod)
}

func deploy(ctx context.Context, client kubernetes.Interface, replicas int) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	deployments := client.AppsV1().Deployments("default")
	w, err := deployments.Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=bench"})
	if err != nil {
		return 0, err
	}
	defer w.Stop()
	labels := map[string]string{"app": "bench"}
	count := int32(replicas)
	begin := time.Now()
	_, err = deployments.Create(ctx, &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "bench"},
		Spec: appsv1.DeploymentSpec{Replicas: &count, Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: v1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: spec()}},
	}, metav1.CreateOptions{})
	if err != nil {
		return 0, err
	}
	ready := int32(0)
	for event := range w.ResultChan() {
		if d, ok := event.Object.(*appsv1.Deployment); ok {
			if ready = d.Status.ReadyReplicas; ready == count {
				return time.Since(begin), nil
			}
		}
	}
	return 0, fmt.Errorf("%d of %d replicas are Ready after three minutes", ready, count)
}

package fault

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	appsv1 "k8s.io/api/apps/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/pkg/cluster"
)

const (
	steadyName     = "steady"
	steadyReplicas = 4
)

// deploySteady starts the pods that no fault of the control plane may touch.
func deploySteady() error {
	ctx, cancel := context.WithTimeout(context.Background(), comeBack)
	defer cancel()
	// They stay on their nodes, whatever becomes of these.
	d := deployment(steadyName, steadyReplicas, v1.Toleration{Operator: v1.TolerationOpExists, Effect: v1.TaintEffectNoExecute})
	if _, err := client.AppsV1().Deployments("default").Create(ctx, d, metav1.CreateOptions{}); err != nil {
		return err
	}
	for {
		now, err := client.AppsV1().Deployments("default").Get(ctx, steadyName, metav1.GetOptions{})
		if err == nil && now.Status.ReadyReplicas == steadyReplicas {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("deployment %s is not ready: %v", steadyName, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func deployment(name string, replicas int32, tolerations ...v1.Toleration) *appsv1.Deployment {
	labels := map[string]string{"app": name}
	return &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: appsv1.DeploymentSpec{
		Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: v1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: v1.PodSpec{
			TerminationGracePeriodSeconds: new(int64), Tolerations: tolerations,
			Containers: []v1.Container{{Name: "hello", Image: helloImage}},
		}},
	}}
}

// container is what the API and containerd say about one that runs.
type container struct {
	pod      string
	restarts int32
	started  time.Time
	pid      uint32
	born     string // when the process was started, in the kernel's ticks
}

// containers are those of the steady pods, by their ids.
func (s *scenario) containers() map[string]container {
	s.Helper()
	found := map[string]container{}
	s.eventually("the steady pods are ready", func() error {
		list, err := client.CoreV1().Pods("default").List(s.Context(), metav1.ListOptions{LabelSelector: "app=" + steadyName})
		if err != nil {
			return err
		}
		clear(found)
		for _, p := range list.Items {
			if !ready(&p) {
				return fmt.Errorf("pod %s is %s and not ready", p.Name, p.Status.Phase)
			}
			c := p.Status.ContainerStatuses[0]
			_, id, _ := strings.Cut(c.ContainerID, "://")
			pid, born, err := s.task(p.Spec.NodeName, id)
			if err != nil {
				return fmt.Errorf("container of pod %s: %w", p.Name, err)
			}
			found[id] = container{p.Name, c.RestartCount, c.State.Running.StartedAt.Time, pid, born}
		}
		if len(found) != steadyReplicas {
			return fmt.Errorf("%d of %d", len(found), steadyReplicas)
		}
		return nil
	})
	return found
}

// task asks a node's containerd for a container's process, and the kernel for its beginning.
func (s *scenario) task(node, id string) (pid uint32, born string, err error) {
	socket := fmt.Sprintf("/proc/%d/root/run/containerd/containerd.sock", cluster.InitPid(name, node))
	c, err := containerd.New(socket, containerd.WithTimeout(5*time.Second))
	if err != nil {
		return 0, "", err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(namespaces.WithNamespace(s.Context(), "k8s.io"), 5*time.Second)
	defer cancel()
	loaded, err := c.LoadContainer(ctx, id)
	if err != nil {
		return 0, "", err
	}
	task, err := loaded.Task(ctx, nil)
	if err != nil {
		return 0, "", err
	}
	// The shim knows the pid as the node's namespace counts.
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/root/proc/%d/stat", cluster.InitPid(name, node), task.Pid()))
	if err != nil {
		return 0, "", err
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(rest) // from the third on; the 22nd is the start time (proc_pid_stat(5))
	if len(fields) < 20 || fields[0] == "Z" {
		return 0, "", errors.New("its process has ended")
	}
	return task.Pid(), fields[19], nil
}

// untouched wants the steady pods' containers to be the ones that there were, never restarted.
func (s *scenario) untouched() {
	s.Helper()
	now := s.containers()
	if s.restarted {
		return
	}
	for id, before := range s.steady {
		if now[id] != before {
			s.Errorf("container %s of pod %s: was %+v, is %+v", id, before.pod, before, now[id])
		}
	}
}

func ready(pod *v1.Pod) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == v1.PodReady {
			return c.Status == v1.ConditionTrue && len(pod.Status.ContainerStatuses) > 0 && pod.Status.ContainerStatuses[0].State.Running != nil
		}
	}
	return false
}

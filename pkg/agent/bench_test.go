package agent_test

import (
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
)

// BenchmarkHundredPods measures from the first pod's creation until all run.
func BenchmarkHundredPods(b *testing.B) {
	c := start(b)
	for b.Loop() {
		var pods []*v1.Pod
		began := time.Now()
		for range 100 {
			pods = append(pods, c.create(&v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{shell("main", "exec sleep 1000")}}}))
		}
		for _, pod := range pods {
			c.wait(pod.Name, "Running", phase(v1.PodRunning))
		}
		b.ReportMetric(time.Since(began).Seconds(), "s/100-pods")
		b.StopTimer()
		for _, pod := range pods {
			go c.delete(pod, 0)
		}
		for _, pod := range pods {
			c.wait(pod.Name, "gone", func(p *v1.Pod) bool { return p == nil })
		}
		b.StartTimer()
	}
}

// BenchmarkPod measures one pod at a time, created to Running.
func BenchmarkPod(b *testing.B) {
	c := start(b)
	for b.Loop() {
		pod := c.create(&v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{shell("main", "exec sleep 1000")}}})
		c.wait(pod.Name, "Running", phase(v1.PodRunning))
		b.StopTimer()
		c.delete(pod, 0)
		b.StartTimer()
	}
}

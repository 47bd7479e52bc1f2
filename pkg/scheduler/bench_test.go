package scheduler

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// What deciding costs, for 5,000 pods of 50 templates on 5,000 nodes of three zones.
func BenchmarkDecide(b *testing.B) {
	const nodes, pods, templates = 5000, 5000, 50
	for name, options := range map[string][]podOption{
		"plain":  nil,
		"spread": {spread(corev1.LabelTopologyZone, 1, corev1.DoNotSchedule, "app", "web")},
		"apart":  {apartFrom(corev1.LabelHostname, "app", "web")},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for range b.N {
				b.StopTimer()
				c := newCluster()
				for i := range nodes {
					c.setNode(testNode(fmt.Sprintf("node%d", i), zone(fmt.Sprintf("z%d", i%3))))
				}
				var all []*pod
				for i := range pods {
					t := i / (pods / templates) // as deployments come
					all = append(all, newPod(testPod(fmt.Sprintf("pod%d", i), append([]podOption{cpu("100m"), owned(fmt.Sprintf("rs%d", t)), labelled("app", "web", "t", fmt.Sprint(t))}, options...)...)))
				}
				b.StartTimer()
				for _, p := range all {
					d := c.decide(p, p.signature())
					if d.Node == "" {
						b.Fatal(d.Message)
					}
					c.addPod(p, d.Node)
				}
			}
			b.ReportMetric(float64(pods*b.N)/b.Elapsed().Seconds(), "pods/s")
		})
	}
}

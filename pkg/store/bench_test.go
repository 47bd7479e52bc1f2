package store_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"

	"skiff/pkg/api"
	"skiff/pkg/store"
	"skiff/pkg/store/storetest"
)

// typical is a pod of about the size that real ones have.
func typical(namespace, name string) *corev1.Pod {
	p := storetest.Pod(namespace, name, storetest.Labelled("app", "web", "pod-template-hash", "5d59d67564"), storetest.OnNode("node-1"))
	p.UID = "0b1d5ae3-6f0b-4d8e-a6d3-b2ff1f2f6b6a"
	p.Annotations = map[string]string{"note": strings.Repeat("x", 600)}
	p.Spec.Containers = []corev1.Container{{Name: "web", Image: "registry.example.com/web:1.2.3",
		Env: []corev1.EnvVar{{Name: "A", Value: "1"}, {Name: "B", Value: "2"}}, Ports: []corev1.ContainerPort{{ContainerPort: 80, Protocol: "TCP"}}}}
	for _, c := range []corev1.PodConditionType{"PodScheduled", "Initialized", "ContainersReady", "Ready"} {
		p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: c, Status: "True", LastTransitionTime: metav1.Now()})
	}
	return p
}

func benchmarkStore(b *testing.B) *store.Store {
	s, _ := run(b, newMember(b).etcd.Client(), func(c *store.Config) { c.History = 10_000 })
	if _, err := s.List(b.Context(), storetest.Pods, store.Query{}); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	return s
}

func fill(b *testing.B, s *store.Store, n int) {
	for i := range n {
		name := fmt.Sprintf("p%05d", i)
		if _, err := s.Create(b.Context(), storetest.Pods, storetest.PodKey("a", name), typical("a", name), store.Write{}); err != nil {
			b.Fatal(err)
		}
	}
	if _, err := s.List(b.Context(), storetest.Pods, store.Query{}); err != nil {
		b.Fatal(err)
	}
}

func BenchmarkCreate(b *testing.B) {
	s := benchmarkStore(b)
	i := 0
	for b.Loop() {
		i++
		name := fmt.Sprintf("p%08d", i)
		if _, err := s.Create(b.Context(), storetest.Pods, storetest.PodKey("a", name), typical("a", name), store.Write{}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkUpdate(b *testing.B) {
	s := benchmarkStore(b)
	fill(b, s, 1)
	i := 0
	for b.Loop() {
		i++
		_, err := s.Update(b.Context(), storetest.Pods, storetest.PodKey("a", "p00000"), store.Write{}, func(current api.Object) (api.Object, error) {
			current.(*corev1.Pod).Status.Message = fmt.Sprint(i)
			return current, nil
		})
		if err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkGet(b *testing.B) {
	s := benchmarkStore(b)
	fill(b, s, 100)
	for name, revision := range map[string]int64{"Consistent": 0, "Any": -1} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.Get(b.Context(), storetest.Pods, storetest.PodKey("a", "p00050"), revision); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// A read right after a write waits for the write's event.
func BenchmarkUpdateThenGet(b *testing.B) {
	s := benchmarkStore(b)
	fill(b, s, 1)
	i := 0
	for b.Loop() {
		i++
		_, err := s.Update(b.Context(), storetest.Pods, storetest.PodKey("a", "p00000"), store.Write{}, func(current api.Object) (api.Object, error) {
			current.(*corev1.Pod).Status.Message = fmt.Sprint(i)
			return current, nil
		})
		if err == nil {
			_, err = s.Get(b.Context(), storetest.Pods, storetest.PodKey("a", "p00000"), 0)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkList5000(b *testing.B) {
	s := benchmarkStore(b)
	fill(b, s, 5000)
	for name, q := range map[string]store.Query{
		"Consistent": {}, "Any": {ResourceVersion: "0"}, "Page500": {Limit: 500},
		"ByNode": {Fields: fields.OneTermEqualSelector("spec.nodeName", "node-2")},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.List(b.Context(), storetest.Pods, q); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("Protobuf", func(b *testing.B) {
		b.ReportAllocs()
		var body []byte
		for b.Loop() {
			page, err := s.List(b.Context(), storetest.Pods, store.Query{ResourceVersion: "0"})
			if err != nil {
				b.Fatal(err)
			}
			body = body[:0]
			for _, e := range page.Entries {
				message, _ := e.Protobuf()
				body = store.AppendRevision(append(body, message...), e.Revision)
			}
		}
		b.SetBytes(int64(len(body)))
	})
}

// One update, seen by everyone who watches.
func BenchmarkFanOut(b *testing.B) {
	for _, c := range []struct {
		name            string
		watchers, sleep int // sleep of them watch other nodes
	}{{"500", 500, 0}, {"500of5000", 500, 4500}} {
		b.Run(c.name, func(b *testing.B) {
			s := benchmarkStore(b)
			fill(b, s, 1)
			ctx, cancel := context.WithCancel(b.Context())
			var group, seen sync.WaitGroup
			for i := range c.watchers + c.sleep {
				node := "node-1"
				if i >= c.watchers {
					node = fmt.Sprint("other-", i)
				}
				w, err := s.Watch(ctx, storetest.Pods, store.WatchQuery{ResourceVersion: "0", Fields: fields.OneTermEqualSelector("spec.nodeName", node)})
				if err != nil {
					b.Fatal(err)
				}
				group.Go(func() {
					buf := make([]store.Event, 0, 16)
					for {
						events, err := w.Next(buf[:0])
						if err != nil {
							return
						}
						for _, e := range events {
							e.Entry.Encoding("json", func() ([]byte, error) { return make([]byte, 4096), nil })
							if e.Type == store.Modified {
								seen.Done()
							}
						}
					}
				})
			}
			i := 0
			for b.Loop() {
				i++
				seen.Add(c.watchers)
				_, err := s.Update(b.Context(), storetest.Pods, storetest.PodKey("a", "p00000"), store.Write{}, func(current api.Object) (api.Object, error) {
					current.(*corev1.Pod).Status.Message = fmt.Sprint(i)
					return current, nil
				})
				if err != nil {
					b.Fatal(err)
				}
				seen.Wait()
			}
			cancel()
			group.Wait()
		})
	}
}

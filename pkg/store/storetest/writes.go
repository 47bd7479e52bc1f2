package storetest

import (
	"fmt"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"skiff/pkg/api"
	"skiff/pkg/store"
)

func init() {
	cases = append(cases,
		testCase{"CreateGetDelete", createGetDelete},
		testCase{"CreateTwice", createTwice},
		testCase{"UpdateSeesTheNewest", updateSeesTheNewest},
		testCase{"UpdateWithoutChange", updateWithoutChange},
		testCase{"UpdateMissing", updateMissing},
		testCase{"Preconditions", preconditions},
		testCase{"ConcurrentIncrements", concurrentIncrements},
		testCase{"TooLargeObject", tooLargeObject},
		testCase{"NamesThatClimb", namesThatClimb},
	)
}

func createGetDelete(s *suite) {
	created := s.create(Pod("a", "x", Labelled("k", "v"), OnNode("n")))
	if created.Labels["k"] != "v" || created.Fields["spec.nodeName"] != "n" || created.Fields["metadata.name"] != "x" || created.Fields["metadata.namespace"] != "a" {
		s.Errorf("labels %v, fields %v", created.Labels, created.Fields)
	}
	got, err := s.Get(s.ctx, Pods, PodKey("a", "x"), 0)
	s.must(err)
	obj, err := got.Object()
	s.must(err)
	if p := obj.(*corev1.Pod); p.Spec.NodeName != "n" || p.ResourceVersion != fmt.Sprint(created.Revision) || p.Kind != "Pod" {
		s.Errorf("got %v", p)
	}
	gone := s.delete("a", "x")
	if gone.Revision <= created.Revision {
		s.Errorf("deleted at revision %d, created at %d", gone.Revision, created.Revision)
	}
	_, err = s.Get(s.ctx, Pods, PodKey("a", "x"), 0)
	s.reason(err, metav1.StatusReasonNotFound)
	_, err = s.Delete(s.ctx, Pods, PodKey("a", "x"), store.Write{}, nil)
	s.reason(err, metav1.StatusReasonNotFound)
	if want := `pods "x" not found`; err.Error() != want {
		s.Errorf("message %q, want %q", err, want)
	}
}

func createTwice(s *suite) {
	s.create(Pod("a", "x"))
	_, err := s.Create(s.ctx, Pods, PodKey("a", "x"), Pod("a", "x"), store.Write{})
	s.reason(err, metav1.StatusReasonAlreadyExists)
	if want := `pods "x" already exists`; err.Error() != want {
		s.Errorf("message %q, want %q", err, want)
	}
	versioned := Pod("a", "y")
	versioned.ResourceVersion = "7"
	_, err = s.Create(s.ctx, Pods, PodKey("a", "y"), versioned, store.Write{})
	s.reason(err, metav1.StatusReasonBadRequest)
}

// An update right after a write by somebody else works on what that wrote, even when a cache lags.
func updateSeesTheNewest(s *suite) {
	s.create(Pod("a", "x"))
	other := s.Another()
	for i := range 20 {
		mine, theirs := fmt.Sprint("mine", i), fmt.Sprint("theirs", i)
		s.update("a", "x", func(p *corev1.Pod) { metav1.SetMetaDataAnnotation(&p.ObjectMeta, mine, "") })
		_, err := other.Update(s.ctx, Pods, PodKey("a", "x"), store.Write{}, func(current api.Object) (api.Object, error) {
			p := current.(*corev1.Pod)
			if _, ok := p.Annotations[mine]; !ok {
				return nil, errRefused // rests on an old state: must not be final
			}
			metav1.SetMetaDataAnnotation(&p.ObjectMeta, theirs, "")
			return p, nil
		})
		s.must(err)
		got, err := s.Get(s.ctx, Pods, PodKey("a", "x"), 0)
		s.must(err)
		obj, err := got.Object()
		s.must(err)
		if n := len(obj.GetAnnotations()); n != 2*(i+1) {
			s.Fatalf("%d annotations after %d updates", n, 2*(i+1))
		}
	}
	_, err := s.Update(s.ctx, Pods, PodKey("a", "x"), store.Write{}, func(api.Object) (api.Object, error) { return nil, errRefused })
	if err != errRefused {
		s.Errorf("got %v, want the error of change", err)
	}
}

func updateWithoutChange(s *suite) {
	created := s.create(Pod("a", "x"))
	same := s.update("a", "x", func(*corev1.Pod) {})
	if same.Revision != created.Revision {
		s.Errorf("an update that changes nothing moved the revision from %d to %d", created.Revision, same.Revision)
	}
}

func updateMissing(s *suite) {
	change := func(current api.Object) (api.Object, error) {
		if current != nil {
			return nil, fmt.Errorf("change was called with %v", current)
		}
		return Pod("a", "x"), nil
	}
	_, err := s.Update(s.ctx, Pods, PodKey("a", "x"), store.Write{}, change)
	s.reason(err, metav1.StatusReasonNotFound)
	_, err = s.Update(s.ctx, Pods, PodKey("a", "x"), store.Write{CreateMissing: true}, change)
	s.must(err)
	_, err = s.Get(s.ctx, Pods, PodKey("a", "x"), 0)
	s.must(err)
}

func preconditions(s *suite) {
	first := s.create(Pod("a", "x", func(p *corev1.Pod) { p.UID = "1" }))
	s.update("a", "x", func(p *corev1.Pod) { p.Spec.NodeName = "n" })
	stale := fmt.Sprint(first.Revision)
	_, err := s.Update(s.ctx, Pods, PodKey("a", "x"), store.Write{ResourceVersion: stale}, func(o api.Object) (api.Object, error) { return o, nil })
	s.reason(err, metav1.StatusReasonConflict)
	if want := `Operation cannot be fulfilled on pods "x": the object has been modified; please apply your changes to the latest version and try again`; err.Error() != want {
		s.Errorf("message %q, want %q", err, want)
	}
	wrong, right := types.UID("2"), types.UID("1")
	_, err = s.Delete(s.ctx, Pods, PodKey("a", "x"), store.Write{UID: &wrong}, nil)
	s.reason(err, metav1.StatusReasonConflict)
	if want := `Precondition failed: UID in precondition: 2, UID in object meta: 1`; !strings.Contains(err.Error(), want) {
		s.Errorf("message %q lacks %q", err, want)
	}
	_, err = s.Delete(s.ctx, Pods, PodKey("a", "x"), store.Write{ResourceVersion: stale}, nil)
	s.reason(err, metav1.StatusReasonConflict)
	_, err = s.Delete(s.ctx, Pods, PodKey("a", "x"), store.Write{UID: &right}, func(api.Object) error { return errRefused })
	if err != errRefused {
		s.Errorf("got %v, want the error of check", err)
	}
	_, err = s.Delete(s.ctx, Pods, PodKey("a", "x"), store.Write{UID: &right}, nil)
	s.must(err)
}

func concurrentIncrements(s *suite) {
	s.create(Pod("a", "x"))
	const writers, each = 8, 20
	var group sync.WaitGroup
	for w := range writers {
		in := s.Interface
		if w%2 == 1 {
			in = s.Another()
		}
		group.Go(func() {
			for range each {
				_, err := in.Update(s.ctx, Pods, PodKey("a", "x"), store.Write{}, func(current api.Object) (api.Object, error) {
					current.SetGeneration(current.GetGeneration() + 1)
					return current, nil
				})
				if err != nil {
					s.Error(err)
				}
			}
		})
	}
	group.Wait()
	got, err := s.Get(s.ctx, Pods, PodKey("a", "x"), 0)
	s.must(err)
	obj, err := got.Object()
	s.must(err)
	if n := obj.GetGeneration(); n != writers*each {
		s.Errorf("%d increments survived of %d", n, writers*each)
	}
}

func tooLargeObject(s *suite) {
	huge := Pod("a", "x", func(p *corev1.Pod) {
		metav1.SetMetaDataAnnotation(&p.ObjectMeta, "a", strings.Repeat("x", 3<<20))
	})
	_, err := s.Create(s.ctx, Pods, PodKey("a", "x"), huge, store.Write{})
	s.reason(err, metav1.StatusReasonRequestEntityTooLarge)
}

func namesThatClimb(s *suite) {
	for _, key := range []store.Key{PodKey("a", "../b"), PodKey("..", "b"), PodKey("a", ""), PodKey("", "b"), PodKey("a/b", "c")} {
		if _, err := s.Create(s.ctx, Pods, key, Pod(key.Namespace, key.Name), store.Write{}); err == nil {
			s.Errorf("created %q", key)
		}
		_, err := s.Get(s.ctx, Pods, key, 0)
		s.reason(err, metav1.StatusReasonNotFound)
	}
}

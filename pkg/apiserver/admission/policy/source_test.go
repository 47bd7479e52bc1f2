package policy

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	v1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/pkg/api"
	"skiff/pkg/apiserver/lookup"
)

func validating(name string, generation int64) *v1.ValidatingAdmissionPolicy {
	return &v1.ValidatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: name, UID: "u", Generation: generation}}
}

func bound(name, policy string) *v1.ValidatingAdmissionPolicyBinding {
	return &v1.ValidatingAdmissionPolicyBinding{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1.ValidatingAdmissionPolicyBindingSpec{PolicyName: policy}}
}

// A policy is compiled when it is bound and when it changes, and the snapshot has all that are bound, by name.
func TestSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		feed := lookup.NewFake(validating("b", 1), validating("unbound", 1))
		var compiled []string
		s := newSource(func(obj api.Object) *hook {
			compiled = append(compiled, fmt.Sprintf("%s:%d", obj.GetName(), obj.GetGeneration()))
			return readValidating(obj)
		}, readValidatingBinding)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() {
			done <- s.follow(ctx, feed, "validatingadmissionpolicies", "validatingadmissionpolicybindings")
		}()
		expect := func(what, hooks, compilations string) {
			t.Helper()
			synctest.Wait()
			found, err := s.hooks(ctx)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, h := range found {
				names := h.name
				for _, b := range h.bindings {
					names += "/" + b.name
				}
				got = append(got, names)
			}
			if strings.Join(got, " ") != hooks || strings.Join(compiled, " ") != compilations {
				t.Errorf("%s: %q after compiling %q, want %q after %q", what, got, compiled, hooks, compilations)
			}
			if s.idle() != (hooks == "") {
				t.Errorf("%s: idle is %v", what, s.idle())
			}
			compiled = nil
		}
		expect("nothing is bound", "", "")
		feed.Put(bound("y", "b"))
		feed.Put(bound("x", "b"))
		feed.Put(bound("z", "a"))
		expect("bound", "b/x/y", "b:1")
		feed.Put(validating("a", 1))
		expect("a policy for a binding", "a/z b/x/y", "a:1")
		feed.Put(validating("a", 1))
		expect("a new status", "a/z b/x/y", "")
		feed.Put(validating("a", 2))
		expect("a new spec", "a/z b/x/y", "a:2")
		again := validating("a", 2)
		again.UID = "another"
		feed.Put(again)
		expect("made anew", "a/z b/x/y", "a:2")
		feed.Put(bound("y", "a"))
		expect("a binding of another policy", "a/y/z b/x", "")
		feed.Remove(bound("x", "b"))
		feed.Remove(again)
		expect("nothing is bound any more", "", "")
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

// A server that doesn't know the policies yet makes requests wait, but not for ever.
func TestNotReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New(Config{Catalogue: catalogue(t), Authorizer: nil})
		if p.Ready() == nil || !p.Active() {
			t.Error("ready")
		}
		err := p.Validate(t.Context(), writing(t, nil, nil))
		if err == nil || err.Error() != `configmaps "c" is forbidden: not yet ready to handle request` {
			t.Error(err)
		}
	})
}

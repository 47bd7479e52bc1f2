package catalogue

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff/pkg/api"
)

// Each row must agree with its Go type and with the other rows.
func TestRowsAreConsistent(t *testing.T) {
	paths := map[string]*api.Kind{}
	view := Default().View()
	for _, k := range view.Kinds() {
		t.Run(k.GroupVersionResource().String(), func(t *testing.T) {
			checkTypes(t, k)
			checkStatus(t, k)
			checkSubresources(t, k)
			checkFields(t, k)
			if k.Namespaced && k.NameValidation == nil && !k.Virtual {
				t.Error("no rule for names")
			}
			if k.Virtual {
				if k.StoragePath != "" {
					t.Error("a virtual kind is stored")
				}
				return
			}
			if stored := view.Stored(k); stored == nil {
				t.Errorf("stored as %s, which has no row", k.Stored)
			} else if stored != k && (k.ToStored == nil || k.FromStored == nil || stored.StoragePath != k.StoragePath) {
				t.Error("stored under another version without conversions, or elsewhere than that one")
			}
			if k.Stored.Empty() {
				if other := paths[k.StoragePath]; other != nil {
					t.Errorf("storage path %q is also %s's", k.StoragePath, other.GroupVersionResource())
				}
				paths[k.StoragePath] = k
			}
		})
	}
}

func checkTypes(t *testing.T, k *api.Kind) {
	gvks, _, err := api.Scheme.ObjectKinds(k.New())
	if err != nil || !slices.Contains(gvks, k.GroupVersionKind) {
		t.Errorf("New makes %v (%v), the row says %s", gvks, err, k.GroupVersionKind)
	}
	if k.NewList == nil {
		return
	}
	gvks, _, err = api.Scheme.ObjectKinds(k.NewList())
	list := k.GroupVersion().WithKind(k.Kind + "List")
	if err != nil || !slices.Contains(gvks, list) {
		t.Errorf("NewList makes %v (%v), want %s", gvks, err, list)
	}
	if k.Resource != strings.ToLower(k.Resource) || k.Singular != strings.ToLower(k.Kind) {
		t.Errorf("names %q, %q", k.Resource, k.Singular)
	}
}

// A status subresource goes with a Status field, and only with one. The exception
// is Kubernetes' own: mutating policies' bindings and webhooks have none of both.
func checkStatus(t *testing.T, k *api.Kind) {
	_, has := reflect.TypeOf(k.New()).Elem().FieldByName("Status")
	if k.Virtual {
		return
	}
	if (k.Subresources["status"] != nil) != has {
		t.Errorf("status field: %v, status subresource: %v", has, k.Subresources["status"] != nil)
	}
}

func checkSubresources(t *testing.T, k *api.Kind) {
	for name, sub := range k.Subresources {
		if len(sub.Verbs) == 0 || sub.GroupVersionKind.Empty() {
			t.Errorf("%s: incomplete", name)
		}
		if !slices.IsSorted(sub.Verbs) {
			t.Errorf("%s: verbs %v are not in discovery's order", name, sub.Verbs)
		}
		if !api.Scheme.Recognizes(sub.GroupVersionKind) {
			t.Errorf("%s: %s is not in the scheme", name, sub.GroupVersionKind)
		}
		if sub.Scale != nil {
			obj := k.New()
			sub.Scale.Set(obj, 7)
			if n, _, _ := sub.Scale.Get(obj); n != 7 {
				t.Errorf("%s: set 7, got %d", name, n)
			}
		}
	}
}

func checkFields(t *testing.T, k *api.Kind) {
	if k.SelectableFields == nil {
		return
	}
	names := k.SelectableFields(k.New())
	for alias, field := range k.FieldAliases {
		if _, ok := names[field]; !ok {
			t.Errorf("%s is an alias of %s, which is not selectable", alias, field)
		}
	}
}

func TestGroupsHaveKubernetesOrder(t *testing.T) {
	var got []string
	for _, g := range Default().View().Groups() {
		got = append(got, g.Name+"="+strings.Join(g.Versions, ","))
	}
	want := []string{"=v1", "apiregistration.k8s.io=v1", "apps=v1", "events.k8s.io=v1", "authentication.k8s.io=v1", "authorization.k8s.io=v1",
		"autoscaling=v2,v1", "batch=v1", "certificates.k8s.io=v1", "networking.k8s.io=v1", "policy=v1",
		"rbac.authorization.k8s.io=v1", "storage.k8s.io=v1", "admissionregistration.k8s.io=v1", "apiextensions.k8s.io=v1", "scheduling.k8s.io=v1",
		"coordination.k8s.io=v1", "node.k8s.io=v1", "discovery.k8s.io=v1", "resource.k8s.io=v1",
		"flowcontrol.apiserver.k8s.io=v1"}
	if !slices.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

// The historic exceptions of Kubernetes' storage layout.
func TestStoragePaths(t *testing.T) {
	view := Default().View()
	for resource, want := range map[schema.GroupVersionResource]string{
		{Version: "v1", Resource: "services"}:                                                         "services/specs",
		{Version: "v1", Resource: "endpoints"}:                                                        "services/endpoints",
		{Version: "v1", Resource: "nodes"}:                                                            "minions",
		{Version: "v1", Resource: "replicationcontrollers"}:                                           "controllers",
		{Group: "networking.k8s.io", Version: "v1", Resource: "ingresses"}:                            "ingress",
		{Group: "events.k8s.io", Version: "v1", Resource: "events"}:                                   "events",
		{Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "clusterroles"}:                 "clusterroles",
		{Group: "apps", Version: "v1", Resource: "deployments"}:                                       "deployments",
		{Group: "flowcontrol.apiserver.k8s.io", Version: "v1", Resource: "flowschemas"}:               "flowschemas",
		{Group: "storage.k8s.io", Version: "v1", Resource: "csinodes"}:                                "csinodes",
		{Group: "admissionregistration.k8s.io", Version: "v1", Resource: "mutatingadmissionpolicies"}: "mutatingadmissionpolicies",
	} {
		if got := view.ByResource(resource).StoragePath; got != want {
			t.Errorf("%s: %q, want %q", resource, got, want)
		}
	}
}

package aggregate

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	crdv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/utils/ptr"

	"skiff/pkg/api"
	"skiff/pkg/api/catalogue"
	"skiff/pkg/pki"
)

// TestDecide is the table of Kubernetes' autoregister controller.
func TestDecide(t *testing.T) {
	object := func(managed string, version int32) *v1.APIService {
		return &v1.APIService{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{automanaged: managed}}, Spec: v1.APIServiceSpec{VersionPriority: version}}
	}
	start, keep, other := object(onStart, 1), object(always, 1), object("", 1)
	for _, c := range []struct {
		name           string
		have, want     *v1.APIService
		first, atStart bool
		step           step
	}{
		{"nothing to do", nil, nil, true, false, nothing},
		{"missing at the start", nil, start, true, false, create},
		{"deleted since", nil, start, false, true, nothing},
		{"missing, of a definition", nil, keep, false, false, create},
		{"somebody else's", other, keep, true, true, nothing},
		{"somebody else's, of nothing", other, nil, true, true, nothing},
		{"left by an older server", start, nil, true, true, remove},
		{"another server's, which came later", start, nil, true, false, nothing},
		{"of another server, seen before", start, nil, false, true, nothing},
		{"as it should be", start, start, true, true, nothing},
		{"changed before the start", object(onStart, 2), start, true, true, update},
		{"changed since", object(onStart, 2), start, false, true, nothing},
		{"of a definition that has gone", keep, nil, false, false, remove},
		{"of a definition, changed", object(always, 2), keep, false, false, update},
		{"of a definition, as it should be", keep, keep, false, false, nothing},
	} {
		if got := decide(c.have, c.want, c.first, c.atStart); got != c.step {
			t.Errorf("%s: %s, want %s", c.name, got, c.step)
		}
	}
}

func TestWanted(t *testing.T) {
	served := []crdv1.CustomResourceDefinitionVersion{{Name: "v1", Served: true}, {Name: "v1beta1"}}
	wanted := Wanted(catalogue.Default().View(), []*crdv1.CustomResourceDefinition{
		{Spec: crdv1.CustomResourceDefinitionSpec{Group: "boats.example.com", Versions: served}},
		{Spec: crdv1.CustomResourceDefinitionSpec{Group: "apps", Versions: served}}, // a kind of its own in Kubernetes' group
	})
	for name, want := range map[string]string{
		"v1.": "onstart 18000 1", "v1.apps": "onstart 17800 15", "v2.autoscaling": "onstart 17500 30", "v1.boats.example.com": "true 1000 100",
		"v1beta1.boats.example.com": "", "v1.apiregistration.k8s.io": "",
	} {
		got := ""
		if s := wanted[name]; s != nil {
			got = fmt.Sprint(s.Labels[automanaged], " ", s.Spec.GroupPriorityMinimum, " ", s.Spec.VersionPriority)
		}
		if got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

func TestGroups(t *testing.T) {
	row := func(group, version string) *api.Kind {
		return api.DefineCustom(schema.GroupVersionKind{Group: group, Version: version, Kind: "K"}, "ks", api.Kind{})
	}
	rows, err := api.NewCatalogue(row("", "v1"), row("apps", "v1"), row("b.example.com", "v1"), row("a.example.com", "v2"), row("a.example.com", "v10beta1"), row("apiregistration.k8s.io", "v1"))
	if err != nil {
		t.Fatal(err)
	}
	s := &State{objects: map[string]*v1.APIService{}, remotes: map[schema.GroupVersion]*Remote{}}
	service := func(group, version string, groupPriority, versionPriority int32, remote bool) {
		object := &v1.APIService{Spec: v1.APIServiceSpec{Group: group, Version: version, GroupPriorityMinimum: groupPriority, VersionPriority: versionPriority}}
		s.objects[Name(versionOf(object))] = object
		if remote {
			s.remotes[versionOf(object)] = &Remote{object: object}
		}
	}
	expect := func(want string) {
		t.Helper()
		var got []string
		for _, g := range s.Groups(rows.View()) {
			var versions []string
			for _, v := range g.Versions {
				text := v.GroupVersion.Version
				if v.Remote != nil {
					text += "*"
				}
				versions = append(versions, text)
			}
			got = append(got, g.Name+"="+strings.Join(versions, ","))
		}
		if text := strings.Join(got, " "); text != want {
			t.Errorf("got  %s\nwant %s", text, want)
		}
	}
	// Of equals, the first is the one with the lesser version.
	expect("apiregistration.k8s.io=v1 =v1 apps=v1 b.example.com=v1 a.example.com=v2,v10beta1")
	service("metrics.k8s.io", "v1beta1", 100, 100, true)
	expect("apiregistration.k8s.io=v1 =v1 apps=v1 b.example.com=v1 a.example.com=v2,v10beta1 metrics.k8s.io=v1beta1*")
	service("metrics.k8s.io", "v1", 18500, 50, true)
	expect("apiregistration.k8s.io=v1 metrics.k8s.io=v1beta1*,v1* =v1 apps=v1 b.example.com=v1 a.example.com=v2,v10beta1")
	service("a.example.com", "v10beta1", 1001, 101, false)
	service("b.example.com", "v1", 1000, 100, true) // another server has taken a custom resource over
	expect("apiregistration.k8s.io=v1 metrics.k8s.io=v1beta1*,v1* =v1 apps=v1 a.example.com=v10beta1,v2 b.example.com=v1*")
}

func TestJudge(t *testing.T) {
	s := &v1.APIService{Spec: v1.APIServiceSpec{Service: &v1.ServiceReference{Namespace: "ns", Name: "api", Port: ptr.To[int32](8443)}}}
	service := func(kind corev1.ServiceType, port int32) *corev1.Service {
		return &corev1.Service{Spec: corev1.ServiceSpec{Type: kind, Ports: []corev1.ServicePort{{Name: "other", Port: 1}, {Name: "https", Port: port}}}}
	}
	slice := func(port string, conditions ...*bool) *discoveryv1.EndpointSlice {
		e := &discoveryv1.EndpointSlice{Ports: []discoveryv1.EndpointPort{{Name: &port, Port: ptr.To[int32](9)}}}
		for _, c := range conditions {
			e.Endpoints = append(e.Endpoints, discoveryv1.Endpoint{Addresses: []string{"10.0.0.1"}, Conditions: discoveryv1.EndpointConditions{Ready: c}})
		}
		return e
	}
	good := service(corev1.ServiceTypeClusterIP, 8443)
	for _, c := range []struct {
		name      string
		service   *corev1.Service
		endpoints []*discoveryv1.EndpointSlice
		want      string
	}{
		{"no service", nil, nil, `False ServiceNotFound service/api in "ns" is not present`},
		{"another port", service(corev1.ServiceTypeClusterIP, 443), nil, `False ServicePortError service/api in "ns" is not listening on port 8443`},
		{"no slices", good, nil, `False EndpointsNotFound cannot find endpointslices for service/api in "ns"`},
		{"nobody ready", good, []*discoveryv1.EndpointSlice{slice("https", ptr.To(false))}, `False MissingEndpoints endpointslices for service/api in "ns" have no addresses with port name "https"`},
		{"ready at another port", good, []*discoveryv1.EndpointSlice{slice("other", nil)}, `False MissingEndpoints endpointslices for service/api in "ns" have no addresses with port name "https"`},
		{"one of several ready", good, []*discoveryv1.EndpointSlice{slice("https"), slice("https", ptr.To(false), nil)}, ""},
		{"outside of the cluster", service(corev1.ServiceTypeExternalName, 443), nil, ""},
	} {
		got := ""
		if condition := judge(s, c.service, c.endpoints); condition != nil {
			got = fmt.Sprint(condition.Status, " ", condition.Reason, " ", condition.Message)
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestResources(t *testing.T) {
	list := &metav1.APIResourceList{}
	if err := json.Unmarshal([]byte(`{"resources":[
		{"name":"pods/log","namespaced":true,"kind":"Pod","verbs":["get"]},
		{"name":"pods","singularName":"pod","namespaced":true,"kind":"Pod","verbs":["get","list"],"shortNames":["po"],"categories":["all"]},
		{"name":"pods/scale","namespaced":true,"group":"autoscaling","version":"v1","kind":"Scale","verbs":["get"]},
		{"name":"nodes","kind":"Node","verbs":["list"]}]}`), list); err != nil {
		t.Fatal(err)
	}
	got, err := json.Marshal(resourcesOf(list, schema.GroupVersion{Group: "g", Version: "v"}))
	want := `[{"resource":"pods","responseKind":{"group":"g","version":"v","kind":"Pod"},"scope":"Namespaced","singularResource":"pod","verbs":["get","list"],"shortNames":["po"],"categories":["all"],` +
		`"subresources":[{"subresource":"log","responseKind":{"group":"g","version":"v","kind":"Pod"},"verbs":["get"]},{"subresource":"scale","responseKind":{"group":"autoscaling","version":"v1","kind":"Scale"},"verbs":["get"]}]},` +
		`{"resource":"nodes","responseKind":{"group":"g","version":"v","kind":"Node"},"scope":"Cluster","singularResource":"","verbs":["list"]}]`
	if err != nil || string(got) != want {
		t.Errorf("%v\ngot  %s\nwant %s", err, got, want)
	}
}

func TestTrustMerges(t *testing.T) {
	now := time.Now()
	one, two := authority(t), authority(t)
	own := Trust{ClientCA: one, ProxyCA: two, Names: []string{"front"}, UserHeaders: []string{"X-Remote-User"}, GroupHeaders: []string{"X-Remote-Group"}}
	fresh, err := own.Merge(nil, now)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"client-ca-file": string(one), "requestheader-client-ca-file": string(two), "requestheader-allowed-names": `["front"]`,
		"requestheader-username-headers": `["X-Remote-User"]`, "requestheader-group-headers": `["X-Remote-Group"]`, "requestheader-extra-headers-prefix": `[]`}
	if fmt.Sprint(fresh) != fmt.Sprint(want) {
		t.Errorf("got  %v\nwant %v", fresh, want)
	}
	if again, err := own.Merge(fresh, now); err != nil || fmt.Sprint(again) != fmt.Sprint(fresh) {
		t.Errorf("merging again: %v %v", again, err)
	}
	// Another server's part stays.
	other := Trust{ClientCA: two, ProxyCA: one, Names: []string{"edge"}, UserHeaders: []string{"X-User"}, UIDHeaders: []string{"X-Uid"}}
	both, err := other.Merge(fresh, now)
	if err != nil || both["client-ca-file"] != string(one)+string(two) || both["requestheader-allowed-names"] != `["front","edge"]` || both["requestheader-uid-headers"] != `["X-Uid"]` {
		t.Errorf("%v %v", both, err)
	}
	if late, err := (Trust{}).Merge(fresh, now.AddDate(30, 0, 0)); err != nil || len(late) != 0 {
		t.Errorf("after the end of all: %v %v", late, err)
	}
	if _, err := own.Merge(map[string]string{"requestheader-allowed-names": "x"}, now); err == nil {
		t.Error("nonsense was merged")
	}
}

func authority(t *testing.T) []byte {
	t.Helper()
	a, err := pki.NewAuthority("ca")
	if err != nil {
		t.Fatal(err)
	}
	return a.Pair().Cert
}

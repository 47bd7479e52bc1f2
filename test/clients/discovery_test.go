package clients

import (
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	openapi_v3 "github.com/google/gnostic-models/openapiv3"
	"google.golang.org/protobuf/proto"
	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/resource"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/openapi"
	"k8s.io/client-go/openapi3"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/kube-openapi/pkg/spec3"
)

// TestDiscovery reads all that is served in two requests, and the same, group by
// group, as clients before 1.26 did.
func TestDiscovery(t *testing.T) {
	var asked []string
	config := rest.CopyConfig(restConfig)
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			asked = append(asked, r.URL.Path)
			return next.RoundTrip(r)
		})
	})
	aggregated := discovery.NewDiscoveryClientForConfigOrDie(config)
	everything := func(d discovery.DiscoveryInterface) map[string]metav1.APIResource {
		t.Helper()
		_, lists, err := d.ServerGroupsAndResources()
		if err != nil {
			t.Fatal(err)
		}
		all := map[string]metav1.APIResource{}
		for _, list := range lists {
			if strings.Contains(list.GroupVersion, ".clients.test/") {
				continue // of a test before this one, and perhaps on its way out
			}
			for _, r := range list.APIResources {
				all[list.GroupVersion+" "+r.Name] = r
			}
		}
		return all
	}
	modern := everything(aggregated)
	if got := strings.Join(asked, " "); got != "/api /apis" {
		t.Errorf("discovery asked %q", got)
	}
	old := everything(aggregated.WithLegacy())
	if len(modern) < 100 {
		t.Errorf("only %d resources", len(modern))
	}
	for _, name := range slices.Sorted(maps.Keys(old)) {
		a, b := modern[name], old[name]
		slices.Sort(a.Verbs)
		slices.Sort(b.Verbs)
		if a.Kind != b.Kind || a.Namespaced != b.Namespaced || !slices.Equal(a.Verbs, b.Verbs) || !slices.Equal(a.ShortNames, b.ShortNames) {
			t.Errorf("%s is %+v in aggregated discovery and %+v by group", name, a, b)
		}
	}
	if len(modern) != len(old) {
		t.Errorf("%d resources in aggregated discovery, %d by group", len(modern), len(old))
	}
	preferred, err := aggregated.ServerPreferredNamespacedResources()
	if err != nil {
		t.Fatal(err)
	}
	deletable := discovery.FilteredBy(discovery.SupportsAllVerbs{Verbs: []string{"list", "watch", "delete", "deletecollection"}}, preferred)
	gvrs, err := discovery.GroupVersionResources(deletable)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"apps/v1 deployments", "/v1 configmaps", "batch/v1 jobs"} {
		gv, name, _ := strings.Cut(want, " ")
		group, version, _ := strings.Cut(gv, "/")
		if _, ok := gvrs[schema.GroupVersionResource{Group: group, Version: version, Resource: name}]; !ok {
			t.Errorf("no %s among what can be deleted", want)
		}
	}
	version, err := aggregated.ServerVersion()
	if err != nil || version.Major != "1" || version.Minor != "36" {
		t.Errorf("version %v: %v", version, err)
	}
}

// TestRESTMapper finds kinds by short name and category, also those that come later.
func TestRESTMapper(t *testing.T) {
	cached := memory.NewMemCacheClient(discovery.NewDiscoveryClientForConfigOrDie(restConfig))
	deferred := restmapper.NewDeferredDiscoveryRESTMapper(cached)
	mapper := restmapper.NewShortcutExpander(deferred, cached, nil)
	kind := func(name string) string {
		gvk, err := mapper.KindFor(schema.ParseGroupResource(name).WithVersion(""))
		if err != nil {
			return err.Error()
		}
		return gvk.String()
	}
	for name, want := range map[string]string{
		"deploy": "apps/v1, Kind=Deployment", "po": "/v1, Kind=Pod", "netpol": "networking.k8s.io/v1, Kind=NetworkPolicy",
		"events": "/v1, Kind=Event", "hpa": "autoscaling/v2, Kind=HorizontalPodAutoscaler", "crds": "apiextensions.k8s.io/v1, Kind=CustomResourceDefinition",
	} {
		if got := kind(name); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
	const group = "mapper.clients.test"
	if _, err := deferred.RESTMapping(schema.GroupKind{Group: group, Kind: "Sledge"}); !meta.IsNoMatchError(err) {
		t.Errorf("a kind that isn't there: %v", err)
	}
	newCRD(t, group, "sledges", "Sledge")
	eventually(t, 20*time.Second, "the new kind is found", func() error {
		deferred.Reset()
		_, err := deferred.RESTMapping(schema.GroupKind{Group: group, Kind: "Sledge"})
		return err
	})
	if got, want := kind("sle"), group+"/v1, Kind=Sledge"; got != want {
		t.Errorf("by its short name it is %s, want %s", got, want)
	}
	categories := restmapper.NewDiscoveryCategoryExpander(cached)
	for want, category := range map[schema.GroupResource]string{
		{Resource: "pods"}: "all", {Group: "apps", Resource: "deployments"}: "all", {Group: group, Resource: "sledges"}: "clienttests",
	} {
		if all, _ := categories.Expand(category); !slices.Contains(all, want) {
			t.Errorf("%v is not in the category %s: %v", want, category, all)
		}
	}
}

// TestOpenAPI reads the schemas as kubectl's explain and apply do, and as the
// type converters of server-side apply's clients.
func TestOpenAPI(t *testing.T) {
	const group = "openapi.clients.test"
	newCRD(t, group, "tents", "Tent")
	d := discovery.NewDiscoveryClientForConfigOrDie(restConfig)
	root := openapi3.NewRoot(d.OpenAPIV3())
	custom := schema.GroupVersion{Group: group, Version: "v1"}
	var spec *spec3.OpenAPI
	eventually(t, 20*time.Second, "the new group has a schema", func() (err error) {
		spec, err = root.GVSpec(custom)
		return err
	})
	tent := spec.Components.Schemas["test.clients.openapi.v1.Tent"]
	if tent == nil {
		t.Fatalf("the schemas are %v", slices.Sorted(maps.Keys(spec.Components.Schemas)))
	}
	if size := tent.Properties["spec"].Properties["size"]; size.Maximum == nil || *size.Maximum != 9 {
		t.Errorf("the size's schema is %+v", size)
	}
	versions, err := root.GroupVersions()
	if err != nil || !slices.Contains(versions, appsv1.SchemeGroupVersion) || !slices.Contains(versions, custom) {
		t.Errorf("group versions %v: %v", versions, err)
	}
	if spec, err = root.GVSpec(appsv1.SchemeGroupVersion); err != nil {
		t.Fatal(err)
	}
	patch := spec.Paths.Paths["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"].Patch
	if patch == nil || !slices.ContainsFunc(patch.Parameters, func(p *spec3.Parameter) bool { return p.Name == "fieldValidation" }) {
		t.Error("a deployment's patch lists no fieldValidation")
	}

	paths, err := d.OpenAPIV3().Paths()
	if err != nil {
		t.Fatal(err)
	}
	if url := paths["apis/apps/v1"].ServerRelativeURL(); !strings.Contains(url, "?hash=") {
		t.Errorf("the address %q has no hash to cache by", url)
	}
	binary, err := paths["apis/apps/v1"].Schema("application/com.github.proto-openapi.spec.v3@v1.0+protobuf")
	if err != nil {
		t.Fatal(err)
	}
	var document openapi_v3.Document
	if err := proto.Unmarshal(binary, &document); err != nil || document.GetComponents().GetSchemas() == nil {
		t.Errorf("the protobuf schema: %v", err)
	}
	v2, err := d.OpenAPISchema()
	if err != nil || len(v2.GetDefinitions().GetAdditionalProperties()) < 100 {
		t.Errorf("version 2 has %d definitions: %v", len(v2.GetDefinitions().GetAdditionalProperties()), err)
	}

	converter, err := openapi.NewTypeConverter(d.OpenAPIV3(), false)
	if err != nil {
		t.Fatal(err)
	}
	typed, err := converter.ObjectToTyped(&appsv1.Deployment{TypeMeta: metav1.TypeMeta{APIVersion: "apps/v1", Kind: "Deployment"}, Spec: appsv1.DeploymentSpec{Paused: true}})
	if err != nil || typed.Validate() != nil {
		t.Errorf("a deployment's type: %v", err)
	}
}

// TestResourceBuilder makes and reads objects as kubectl's commands do.
func TestResourceBuilder(t *testing.T) {
	ns := newNamespace(t)
	flags := genericclioptions.NewConfigFlags(false)
	flags.KubeConfig, flags.Namespace = &kubeconfig, &ns
	build := func() *resource.Builder {
		return resource.NewBuilder(flags).Unstructured().NamespaceParam(ns).DefaultNamespace().Flatten().ContinueOnError()
	}
	const documents = `apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: ConfigMap, metadata: {name: a, labels: {built: "yes"}}}
- {apiVersion: v1, kind: ConfigMap, metadata: {name: b}}
---
apiVersion: v1
kind: Service
metadata: {name: s, labels: {built: "yes"}}
spec: {ports: [{port: 80}], selector: {app: s}}
`
	made := 0
	err := build().Stream(strings.NewReader(documents), "here").Do().Visit(func(info *resource.Info, err error) error {
		if err != nil {
			return err
		}
		made++
		obj, err := resource.NewHelper(info.Client, info.Mapping).WithFieldManager("builder").Create(info.Namespace, true, info.Object)
		if err != nil {
			return err
		}
		return info.Refresh(obj, true)
	})
	if err != nil || made != 3 {
		t.Fatalf("made %d of 3: %v", made, err)
	}
	names := func(r *resource.Result) (found []string) {
		t.Helper()
		infos, err := r.Infos()
		if err != nil {
			t.Fatal(err)
		}
		for _, info := range infos {
			found = append(found, info.ObjectName())
		}
		slices.Sort(found)
		return found
	}
	for _, c := range []struct {
		result *resource.Result
		want   string
	}{
		{build().ResourceTypeOrNameArgs(false, "cm/a", "svc/s").Do(), "configmaps/a services/s"},
		{build().ResourceTypeOrNameArgs(true, "cm,svc").LabelSelector("built=yes").RequestChunksOf(1).Do(), "configmaps/a services/s"},
		{build().ResourceTypeOrNameArgs(true, "cm").FieldSelectorParam("metadata.name=b").Latest().Do(), "configmaps/b"},
		{build().ResourceTypeOrNameArgs(true, "all").Do(), "services/s"},
	} {
		if got := strings.Join(names(c.result), " "); got != c.want {
			t.Errorf("found %q, want %q", got, c.want)
		}
	}
	if _, err := build().ResourceTypeOrNameArgs(true, "nothings").Do().Infos(); err == nil || !strings.Contains(err.Error(), `the server doesn't have a resource type "nothings"`) {
		t.Errorf("a resource that isn't there: %v", err)
	}
}

package apiserver

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"

	discoveryv2 "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff/pkg/api"
	"skiff/pkg/apiserver/aggregate"
	"skiff/pkg/component"
)

// discovery tells clients what is served: group by group as since ever, and all at once
// ("aggregated", KEP-3352).
type discovery struct {
	server *server

	mu    sync.Mutex
	view  *api.View        // what aggregated was made of
	state *aggregate.State // and that
	cores map[string]aggregated
}

// groups are all that are served, here and by others.
func (d *discovery) groups(view *api.View) []aggregate.Group {
	return d.server.aggregator.State().Groups(view)
}

// aggregated is a ready document for /api or /apis, without the opening apiVersion.
type aggregated struct {
	document []byte
	etag     string
}

// serve answers the paths /api, /apis and those below that name no resource.
func (d *discovery) serve(w http.ResponseWriter, r *http.Request) error {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return methodNotAllowed()
	}
	view := d.server.cfg.Catalogue.View()
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	switch {
	case len(parts) == 1:
		if as := aggregatedVersion(d.server.codec.accept(r, aggregatedAllowed)); as != "" {
			return d.serveAggregated(w, r, view, parts[0], as)
		}
		if parts[0] == "api" {
			return d.write(w, r, &metav1.APIVersions{
				TypeMeta: metav1.TypeMeta{Kind: "APIVersions"}, Versions: []string{"v1"},
				ServerAddressByClientCIDRs: []metav1.ServerAddressByClientCIDR{{ClientCIDR: "0.0.0.0/0", ServerAddress: d.address()}},
			})
		}
		return d.write(w, r, groupList(d.groups(view)))
	case parts[0] == "api" && len(parts) == 2:
		return d.resources(w, r, view, schema.GroupVersion{Version: parts[1]})
	case parts[0] == "apis" && len(parts) == 2:
		for _, group := range groupList(d.groups(view)).Groups {
			if group.Name == parts[1] {
				group.TypeMeta = metav1.TypeMeta{Kind: "APIGroup", APIVersion: "v1"}
				return d.write(w, r, &group)
			}
		}
	case parts[0] == "apis" && len(parts) == 3:
		return d.resources(w, r, view, schema.GroupVersion{Group: parts[1], Version: parts[2]})
	}
	return d.server.notFoundIn(parts[1])
}

func (d *discovery) address() string {
	return net.JoinHostPort(d.server.cfg.AdvertiseAddress.String(), strconv.Itoa(d.server.cfg.AdvertisePort))
}

func (d *discovery) write(w http.ResponseWriter, r *http.Request, obj runtime.Object) error {
	a := d.server.codec.accept(r, nil)
	if a == nil {
		return d.server.codec.notAcceptable(false)
	}
	d.server.writeObject(w, r, http.StatusOK, a, obj)
	return nil
}

func groupList(groups []aggregate.Group) *metav1.APIGroupList {
	list := &metav1.APIGroupList{TypeMeta: metav1.TypeMeta{Kind: "APIGroupList", APIVersion: "v1"}, Groups: []metav1.APIGroup{}}
	for _, g := range groups {
		if g.Name == "" {
			continue // the core group is under /api
		}
		group := metav1.APIGroup{Name: g.Name}
		for _, gv := range g.Versions {
			group.Versions = append(group.Versions, metav1.GroupVersionForDiscovery{GroupVersion: gv.String(), Version: gv.GroupVersion.Version})
		}
		group.PreferredVersion = group.Versions[0]
		list.Groups = append(list.Groups, group)
	}
	return list
}

// resources answers /api/v1 and /apis/<group>/<version>.
func (d *discovery) resources(w http.ResponseWriter, r *http.Request, view *api.View, gv schema.GroupVersion) error {
	kinds := view.In(gv)
	if len(kinds) == 0 {
		return d.server.notFoundIn(gv.Group)
	}
	list := &metav1.APIResourceList{TypeMeta: metav1.TypeMeta{Kind: "APIResourceList"}, GroupVersion: gv.String()}
	if gv.Group != "" {
		list.APIVersion = "v1"
	}
	for _, k := range kinds {
		main := metav1.APIResource{
			Name: k.Resource, SingularName: k.Singular, Namespaced: k.Namespaced, Kind: k.Kind,
			Verbs: k.ListedVerbs(), ShortNames: k.ShortNames, Categories: k.Categories,
		}
		if !k.Virtual {
			main.StorageVersionHash = storageHash(k)
		}
		list.APIResources = append(list.APIResources, main)
		for _, name := range subresourceNames(k) {
			sub := k.Subresources[name]
			one := metav1.APIResource{Name: k.Resource + "/" + name, Namespaced: k.Namespaced, Kind: sub.Kind, Verbs: slices.Sorted(slices.Values(sub.Verbs))}
			if sub.GroupVersion() != gv {
				one.Group, one.Version = sub.Group, sub.Version
			}
			list.APIResources = append(list.APIResources, one)
		}
	}
	return d.write(w, r, list)
}

func subresourceNames(k *api.Kind) []string {
	var names []string
	for name := range k.Subresources {
		names = append(names, name)
	}
	slices.Sort(names)
	if k.Custom != nil {
		slices.Reverse(names) // Kubernetes has status before scale there, and scale before status of its own kinds
	}
	return names
}

// storageHash lets clients see that two resources are one in storage.
func storageHash(k *api.Kind) string {
	gvk := k.StoredKind()
	sum := sha256.Sum256([]byte(gvk.Group + "/" + cmp.Or(k.StorageVersion, gvk.Version) + "/" + gvk.Kind))
	return base64.StdEncoding.EncodeToString(sum[:8])
}

func aggregatedAllowed(info *runtime.SerializerInfo, as *schema.GroupVersionKind) bool {
	if as == nil {
		return true
	}
	return info.MediaType == runtime.ContentTypeJSON && as.Group == discoveryv2.GroupName && as.Kind == "APIGroupDiscoveryList" &&
		(as.Version == "v2" || as.Version == "v2beta1")
}

func aggregatedVersion(a *accept) string {
	if a == nil || a.as == nil {
		return ""
	}
	return a.as.Version
}

// serveAggregated sends all groups of /api or /apis at once; v2 and v2beta1 differ in name only.
func (d *discovery) serveAggregated(w http.ResponseWriter, r *http.Request, view *api.View, root, version string) error {
	doc, err := d.aggregate(view, root)
	if err != nil {
		return err
	}
	header := w.Header()
	header.Set("Vary", "Accept")
	etag := strconv.Quote(doc.etag)
	header.Set("ETag", etag)
	header.Set("Cache-Control", "public")
	if r.Header.Get("If-None-Match") == etag {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	head := fmt.Sprintf(`{"kind":"APIGroupDiscoveryList","apiVersion":"%s/%s",`, discoveryv2.GroupName, version)
	contentType := fmt.Sprintf("application/json;g=%s;v=%s;as=APIGroupDiscoveryList", discoveryv2.GroupName, version)
	return d.server.writeBody(w, r, http.StatusOK, contentType, []byte(head), doc.document[1:], newline)
}

func (d *discovery) aggregate(view *api.View, root string) (aggregated, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if state := d.server.aggregator.State(); d.view != view || d.state != state {
		d.view, d.state, d.cores = view, state, map[string]aggregated{}
	}
	if doc, ok := d.cores[root]; ok {
		return doc, nil
	}
	list := discoveryv2.APIGroupDiscoveryList{Items: []discoveryv2.APIGroupDiscovery{}}
	for _, g := range d.state.Groups(view) {
		if (g.Name == "") != (root == "api") {
			continue
		}
		group := discoveryv2.APIGroupDiscovery{ObjectMeta: metav1.ObjectMeta{Name: g.Name}}
		for _, gv := range g.Versions {
			if gv.Remote != nil {
				group.Versions = append(group.Versions, gv.Remote.Discovery())
				continue
			}
			group.Versions = append(group.Versions, discoveryv2.APIVersionDiscovery{
				Version: gv.GroupVersion.Version, Freshness: discoveryv2.DiscoveryFreshnessCurrent,
				Resources: aggregatedResources(view.In(gv.GroupVersion)),
			})
		}
		list.Items = append(list.Items, group)
	}
	document, err := json.Marshal(&list)
	if err != nil {
		return aggregated{}, err
	}
	sum := sha512.Sum512(document)
	doc := aggregated{document: bytes.TrimSpace(document), etag: fmt.Sprintf("%X", sum[:])}
	d.cores[root] = doc
	return doc, nil
}

func aggregatedResources(kinds []*api.Kind) []discoveryv2.APIResourceDiscovery {
	var resources []discoveryv2.APIResourceDiscovery
	for _, k := range kinds {
		scope := discoveryv2.ScopeCluster
		if k.Namespaced {
			scope = discoveryv2.ScopeNamespace
		}
		one := discoveryv2.APIResourceDiscovery{
			Resource: k.Resource, ResponseKind: responseKind(k, k.GroupVersionKind), Scope: scope,
			SingularResource: k.Singular, Verbs: k.ListedVerbs(), ShortNames: k.ShortNames, Categories: k.Categories,
		}
		for _, name := range subresourceNames(k) {
			sub := k.Subresources[name]
			one.Subresources = append(one.Subresources, discoveryv2.APISubresourceDiscovery{
				Subresource: name, ResponseKind: responseKind(k, sub.GroupVersionKind), Verbs: slices.Sorted(slices.Values(sub.Verbs)),
			})
		}
		resources = append(resources, one)
	}
	return resources
}

// responseKind leaves out the group and version if they are those of k, as clients know it; not so for custom resources.
func responseKind(k *api.Kind, gvk schema.GroupVersionKind) *metav1.GroupVersionKind {
	if gvk.GroupVersion() == k.GroupVersion() && k.Custom == nil {
		return &metav1.GroupVersionKind{Kind: gvk.Kind}
	}
	return &metav1.GroupVersionKind{Group: gvk.Group, Version: gvk.Version, Kind: gvk.Kind}
}

// version answers /version.
func (d *discovery) version(w http.ResponseWriter, r *http.Request) error {
	document, err := json.MarshalIndent(component.Version(), "", "  ")
	if err != nil {
		return err
	}
	return d.server.writeBody(w, r, http.StatusOK, runtime.ContentTypeJSON, document)
}

// root answers / with what there is.
func (d *discovery) root(w http.ResponseWriter, r *http.Request) error {
	view := d.server.cfg.Catalogue.View()
	paths := []string{"/api", "/api/v1", "/apis", "/apis/"}
	for _, g := range d.groups(view) {
		if g.Name == "" {
			continue
		}
		paths = append(paths, "/apis/"+g.Name)
		for _, gv := range g.Versions {
			paths = append(paths, "/apis/"+gv.String())
		}
	}
	for path := range d.server.cfg.More {
		paths = append(paths, path)
	}
	paths = append(paths, "/healthz", "/livez", "/metrics", "/openapi/v2", "/openapi/v3", "/readyz", "/version")
	slices.Sort(paths)
	document, err := json.MarshalIndent(metav1.RootPaths{Paths: paths}, "", "  ")
	if err != nil {
		return err
	}
	return d.server.writeBody(w, r, http.StatusOK, runtime.ContentTypeJSON, document)
}

package request

import (
	"net/http/httptest"
	"testing"
)

func TestParse(t *testing.T) {
	for _, c := range []struct {
		method, url string
		want        Info
	}{
		{"GET", "/", Info{Path: "/", Verb: "get"}},
		{"POST", "/healthz", Info{Path: "/healthz", Verb: "post"}},
		{"GET", "/api/v1", Info{Path: "/api/v1", Verb: "get"}},
		{"GET", "/apis/apps/v1", Info{Path: "/apis/apps/v1", Verb: "get"}},
		{"GET", "/api/v1/nodes", Info{Verb: "list", APIPrefix: "api", APIVersion: "v1", Resource: "nodes"}},
		{"HEAD", "/api/v1/nodes/n", Info{Verb: "get", APIPrefix: "api", APIVersion: "v1", Resource: "nodes", Name: "n"}},
		{"GET", "/api/v1/namespaces", Info{Verb: "list", APIPrefix: "api", APIVersion: "v1", Resource: "namespaces"}},
		{"GET", "/api/v1/namespaces/a", Info{Verb: "get", APIPrefix: "api", APIVersion: "v1", Resource: "namespaces", Namespace: "a", Name: "a"}},
		{"PUT", "/api/v1/namespaces/a/finalize", Info{Verb: "update", APIPrefix: "api", APIVersion: "v1", Resource: "namespaces", Namespace: "a", Name: "a", Subresource: "finalize"}},
		{"GET", "/api/v1/namespaces/a/pods?watch=true", Info{Verb: "watch", APIPrefix: "api", APIVersion: "v1", Resource: "pods", Namespace: "a"}},
		{"GET", "/api/v1/namespaces/a/pods?watch=false", Info{Verb: "list", APIPrefix: "api", APIVersion: "v1", Resource: "pods", Namespace: "a"}},
		{"GET", "/api/v1/namespaces/a/pods?fieldSelector=metadata.name%3Dp", Info{Verb: "list", APIPrefix: "api", APIVersion: "v1", Resource: "pods", Namespace: "a", Name: "p", FieldsRaw: "metadata.name=p"}},
		{"GET", "/api/v1/watch/namespaces/a/pods/p", Info{Verb: "watch", APIPrefix: "api", APIVersion: "v1", Resource: "pods", Namespace: "a", Name: "p", WatchPrefix: true}},
		{"POST", "/apis/apps/v1/namespaces/a/deployments", Info{Verb: "create", APIPrefix: "apis", APIGroup: "apps", APIVersion: "v1", Resource: "deployments", Namespace: "a"}},
		{"PATCH", "/apis/apps/v1/namespaces/a/deployments/d/status", Info{Verb: "patch", APIPrefix: "apis", APIGroup: "apps", APIVersion: "v1", Resource: "deployments", Namespace: "a", Name: "d", Subresource: "status"}},
		{"DELETE", "/apis/apps/v1/namespaces/a/deployments/d", Info{Verb: "delete", APIPrefix: "apis", APIGroup: "apps", APIVersion: "v1", Resource: "deployments", Namespace: "a", Name: "d"}},
		{"DELETE", "/apis/apps/v1/namespaces/a/deployments", Info{Verb: "deletecollection", APIPrefix: "apis", APIGroup: "apps", APIVersion: "v1", Resource: "deployments", Namespace: "a"}},
		{"GET", "/api/v1/namespaces/a/services/https:s:443/proxy/x%2Fy/z/", Info{Verb: "get", APIPrefix: "api", APIVersion: "v1", Resource: "services", Namespace: "a", Name: "https:s:443", Subresource: "proxy", Rest: "/x%2Fy/z/"}},
		{"GET", "/api/v1/namespaces/a/pods/p/proxy/", Info{Verb: "get", APIPrefix: "api", APIVersion: "v1", Resource: "pods", Namespace: "a", Name: "p", Subresource: "proxy", Rest: "/"}},
		{"GET", "/api/v1/namespaces/a/pods/p/proxy", Info{Verb: "get", APIPrefix: "api", APIVersion: "v1", Resource: "pods", Namespace: "a", Name: "p", Subresource: "proxy"}},
		// An escaped slash belongs to the name; it doesn't make another path.
		{"GET", "/api/v1/namespaces/a/pods/..%2F..%2Fsecrets", Info{Verb: "get", APIPrefix: "api", APIVersion: "v1", Resource: "pods", Namespace: "a", Name: "../../secrets"}},
	} {
		got, err := Parse(httptest.NewRequest(c.method, c.url, nil))
		if err != nil {
			t.Errorf("%s %s: %v", c.method, c.url, err)
			continue
		}
		c.want.IsResourceRequest = c.want.APIPrefix != ""
		if c.want.Path == "" {
			c.want.Path = got.Path
		}
		got.Fields, got.Labels = nil, nil
		if *got != c.want {
			t.Errorf("%s %s:\ngot  %+v\nwant %+v", c.method, c.url, *got, c.want)
		}
	}
	if _, err := Parse(httptest.NewRequest("GET", "/api/v1/watch", nil)); err == nil {
		t.Error("a watch of nothing was parsed")
	}
}

func TestLongRunning(t *testing.T) {
	for url, want := range map[string]bool{
		"/api/v1/pods": false, "/api/v1/pods?watch=1": true, "/api/v1/namespaces/a/pods/p/log": true,
		"/api/v1/namespaces/a/pods/p/exec": true, "/api/v1/namespaces/a/pods/p/status": false, "/healthz": false,
	} {
		info, err := Parse(httptest.NewRequest("GET", url, nil))
		if err != nil || info.LongRunning() != want {
			t.Errorf("%s: %v, %v", url, info.LongRunning(), err)
		}
	}
}

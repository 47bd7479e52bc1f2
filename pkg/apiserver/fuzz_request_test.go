package apiserver_test

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"skiff/pkg/api"
	"skiff/pkg/api/catalogue"
)

// bomb is YAML whose last line would be 2^30 strings, if somebody wrote them out.
func bomb() string {
	var b strings.Builder
	b.WriteString("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\na0: &a0 [x, x]\n")
	for i := range 30 {
		fmt.Fprintf(&b, "a%d: &a%d [*a%d, *a%d]\n", i+1, i+1, i, i)
	}
	return b.String()
}

func nested(open, end string, depth int) string {
	return strings.Repeat(open, depth) + strings.Repeat(end, depth)
}

// rubbish are bodies that are wrong from the first byte on.
var rubbish = []string{
	"", "null", "[]", "{}", "0", `"x"`, "\x00", "\xff\xfe", "k8s\x00", "k8s\x00\x0a\xff\xff\xff\xff\x0f", "k8s\x00\x12\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01", "---\n---\n", "{\x7f", "a: *a\n", "&a [*a]",
	"<<: {a: 1}\n", "? {a: b}\n: c\n", "!!binary x", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"}}{}`, `{"apiVersion":1,"kind":[]}`, `{"kind":"ConfigMap"}`, `{"apiVersion":"a/b/c/d","kind":"x"}`,
	`{"apiVersion":"v1","kind":"List","items":[{}]}`, `{"apiVersion":"v1","kind":"Status"}`, `{"apiVersion":"v1","kind":"ConfigMapList"}`, `{"apiVersion":"meta.k8s.io/v1","kind":"Table"}`, "{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{\"name\":\"x\",\"labels\":{\"\\ud800\":\"\\u0000\"}}}",
	bomb(), nested("[", "]", 20000), nested(`{"a":`, "}", 20000), `{"metadata":` + nested(`{"a":`, "}", 20000) + "}", strings.Repeat("- ", 20000), strings.Repeat("a:\n ", 20000),
}

// FuzzBody sends bodies that need not be any object at all.
func FuzzBody(f *testing.F) {
	p := startProber(f)
	kinds := catalogue.Default().View().Kinds()
	for i, text := range rubbish {
		for format := range bodyFormats {
			f.Add(uint16(i), uint8(format), []byte(text))
		}
	}
	for i, k := range kinds {
		asJSON, asProtobuf := golden(f, k)
		f.Add(uint16(i), uint8(2), asProtobuf)
		f.Add(uint16(i), uint8(2), asProtobuf[:len(asProtobuf)*2/3])
		f.Add(uint16(i), uint8(0), asJSON[:len(asJSON)/2])
		f.Add(uint16(i+1), uint8(i), asJSON) // another kind's
	}
	f.Fuzz(func(t *testing.T, index uint16, format uint8, body []byte) {
		k := kinds[int(index)%len(kinds)]
		contentType := bodyFormats[int(format)%len(bodyFormats)]
		all := collection(k)
		p.expect(t, probe{method: "POST", target: all + "?dryRun=All", contentType: contentType, accept: contentType, body: body})
		if !k.Virtual {
			p.expect(t, probe{method: "PUT", target: all + "/x?dryRun=All", contentType: contentType, body: body})
			p.expect(t, probe{method: "DELETE", target: all + "/x?dryRun=All", contentType: contentType, body: body})
		}
		for name, sub := range k.Subresources {
			if sub.Action {
				p.expect(t, probe{method: "POST", target: all + "/x/" + name + "?dryRun=All", contentType: contentType, body: body})
			}
		}
	})
}

var patchFormats = []string{"application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json", "application/apply-patch+yaml"}

// FuzzPatch patches objects that exist.
func FuzzPatch(f *testing.F) {
	p := startProber(f)
	pod := corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i", Ports: []corev1.ContainerPort{{ContainerPort: 1}}}}}
	var targets []string
	for _, obj := range []api.Object{
		&corev1.ConfigMap{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}, Data: map[string]string{"a": "b"}},
		&corev1.Pod{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}, Spec: pod},
		&corev1.Service{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Service"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}},
		&corev1.ReplicationController{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ReplicationController"}, Spec: corev1.ReplicationControllerSpec{
			Selector: map[string]string{"a": "b"}, Template: &corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}}, Spec: pod}}},
	} {
		obj.SetName("here")
		body, err := runtime.Encode(api.JSON, obj)
		if err != nil {
			f.Fatal(err)
		}
		kind := catalogue.Default().View().ByKind(obj.GetObjectKind().GroupVersionKind())
		if code := p.expect(f, probe{method: "POST", target: collection(kind), contentType: asJSON, body: body}); code != 201 {
			f.Fatalf("%s: %d", kind.Kind, code)
		}
		for _, sub := range []string{"", "/status", "/scale", "/ephemeralcontainers", "/resize"} {
			if name := strings.TrimPrefix(sub, "/"); name == "" || kind.Subresources[name] != nil {
				targets = append(targets, collection(kind)+"/here"+sub)
			}
		}
	}
	object := func(kind, rest string) string {
		return fmt.Sprintf(`{"apiVersion":"v1","kind":%q,"metadata":{"name":"here"%s}`, kind, rest)
	}
	var copies strings.Builder
	for i := range 40 {
		fmt.Fprintf(&copies, `{"op":"copy","from":"/metadata","path":"/metadata/x%d"},`, i)
	}
	for _, text := range append([]string{
		`[{"op":"add","path":"/metadata/labels","value":{"a":"b"}}]`, `[{"op":"remove","path":""}]`, `[{"op":"replace","path":"","value":null}]`, `[{"op":"test","path":"/x/y/z","value":null}]`,
		`[{"op":"move","from":"/metadata","path":"/metadata/x"}]`, `[{"op":"add","path":"/spec/containers/-1","value":{}}]`, `[{"op":"add","path":"/spec/containers/99999999999","value":{}}]`, `[{"op":"copy","from":"/spec","path":"/spec/containers/-"}]`,
		`[{}]`, `[null]`, `[{"op":"replace","path":""}]`, `[{"op":1}]`, `[{"op":"add"}]`, `[{"op":"nonsense","path":"/a"}]`, `[{"op":"add","path":"no/slash","value":1}]`, `[{"op":"add","path":"/~2","value":1}]`, `[{"op":"remove","path":"/spec/containers/0/image/x"}]`,
		"[" + strings.TrimSuffix(copies.String(), ",") + "]", "[" + strings.TrimSuffix(strings.Repeat(`{"op":"test","path":"/kind"},`, 10001), ",") + "]",
		`{"metadata":null}`, `{"metadata":{"name":null}}`, `{"spec":null}`, `{"kind":null}`, `{"kind":"Secret"}`, `{"apiVersion":"apps/v1"}`, `{"data":{"a":null,"b":1}}`, `{"metadata":{"managedFields":[{}]}}`, `{"metadata":{"managedFields":[{"fieldsV1":{"x":{}}}]}}`,
		`{"metadata":{"managedFields":[{"manager":"m","operation":"Apply","apiVersion":"v1","fieldsType":"FieldsV1","fieldsV1":{"f:spec":` + nested(`{"f:a":`, "}", 5000) + `}}]}}`, `{"metadata":{"ownerReferences":[{"uid":""}]}}`,
		`{"$patch":"delete"}`, `{"$patch":"nonsense"}`, `{"$retainKeys":1}`, `{"spec":{"$retainKeys":["containers"],"containers":[]}}`, `{"spec":{"$setElementOrder/containers":[{"name":"x"}],"containers":[{"name":"c"}]}}`, `{"spec":{"$setElementOrder/containers":1}}`, `{"spec":{"$deleteFromPrimitiveList/finalizers":[1]}}`,
		`{"metadata":{"$deleteFromPrimitiveList/finalizers":"x"}}`, `{"spec":{"containers":[{}]}}`, `{"spec":{"containers":[1]}}`, `{"spec":{"containers":{"a":1}}}`, `{"spec":{"containers":[{"name":"c","ports":[{"$patch":"replace"},{"containerPort":"x"}]}]}}`, `{"spec":{"ports":[{"port":null}]}}`, `{"spec":{"replicas":1e30}}`,
		object("ConfigMap", "") + `,"data":{"a":"c"}}`, object("Pod", "") + `,"spec":{"containers":[{"name":"c"},{"name":"c"}]}}`, object("Pod", "") + `,"spec":{"containers":[{}]}}`, object("Service", `,"managedFields":[]`) + "}", object("ConfigMap", `,"managedFields":null`) + "}", object("ConfigMap", `,"labels":[]`) + "}",
		object("Pod", "") + `,"spec":{"containers":[{"name":"c","ports":[{"containerPort":1},{"containerPort":1,"protocol":"TCP"}]}]}}`, object("Pod", "") + `,"spec":{"containers":[{"name":{"x":1}}]}}`,
	}, rubbish...) {
		for format := range patchFormats {
			for target := range targets {
				if len(text) < 1000 || target == format { // a large one need not go everywhere
					f.Add(uint8(target), uint8(format), []byte(text))
				}
			}
		}
	}
	f.Fuzz(func(t *testing.T, target, format uint8, body []byte) {
		at, contentType := targets[int(target)%len(targets)], patchFormats[int(format)%len(patchFormats)]
		for _, query := range []string{"?dryRun=All", "?dryRun=All&fieldValidation=Strict"} {
			if contentType == "application/apply-patch+yaml" {
				query += "&fieldManager=fuzz&force=true"
			}
			p.expect(t, probe{method: "PATCH", target: at + query, contentType: contentType, body: body})
		}
	})
}

// FuzzTarget asks for anything in any way.
func FuzzTarget(f *testing.F) {
	p := startProber(f)
	const table = "application/json;as=Table;g=meta.k8s.io;v=v1"
	for _, path := range []string{
		"/", "//", "///api", "/api", "/api/", "/api//v1", "/api/v1", "/api/v1/", "/api/v1//pods", "/api/v1/pods/", "/apis", "/apis/", "/apis//", "/apis/apps", "/apis/apps/", "/apis/apps/v1", "/apis/apps/v9", "/apis/apps/v1/deployments", "/apis//v1/pods",
		"/api/v1/../v1/pods", "/api/v1/namespaces/../pods", "/api/v1/namespaces/%2e%2e/pods", "/api/v1/namespaces/default%2fpods", "/api/v1/namespaces/default/pods/%2e%2e%2f%2e%2e", "/api/v1/namespaces/default/configmaps/%00", "/api/v1/namespaces/%00/configmaps/x", "/api/v1/namespaces/default/configmaps/a%2Fb",
		"/api/v1/namespaces/default/configmaps/%ff%fe", "/api/v1/namespaces/default/configmaps/..", "/api/v1/namespaces/default/configmaps/.", "/api/v1/namespaces/default/configmaps//x", "/api/v1/namespaces/default/configmaps/x//status", "/api/v1/namespaces/default/configmaps/x/y/z", "/api/v1/namespaces//configmaps", "/api/v1/namespaces/default/",
		"/api/v1/namespaces/default/status", "/api/v1/namespaces/default/finalize", "/api/v1/watch", "/api/v1/watch/", "/api/v1/watch/pods?timeoutSeconds=1", "/api/v1/watch/namespaces/default/configmaps/x/y", "/api/v1/proxy", "/api/v1/proxy/nodes/x", "/api/v1/proxy/namespaces/default/pods/x/y", "/api/v1/nodes/x/proxy/..%2f..%2f", "/api/v1/nodes/:x:/proxy",
		"/api/v1/namespaces/default/pods/https:x:%2f/proxy/", "/api/v1/namespaces/default/pods/x:y:z:a/proxy", "/api/v1/namespaces/default/services/a:b:c/proxy/%2e%2e/x", "/api/v1/namespaces/default/services/x%2fy/proxy", "/api/v1/namespaces/default/pods/x/log?tailLines=-1&limitBytes=x&sinceTime=never", "/api/v1/namespaces/default/pods/x/exec?command=%00&stdin=maybe",
		"/api/v1/namespaces/default/pods/x/attach", "/api/v1/namespaces/default/pods/x/portforward?ports=99999999,x,-1", "/api/v1/namespaces/default/pods/x/eviction", "/api/v1/namespaces/default/pods/x/binding", "/api/v1/namespaces/default/serviceaccounts/default/token", "/api/v1/namespaces/default/replicationcontrollers/x/scale", "/api/v1/componentstatuses", "/api/v1/bindings",
		"/openapi/v2", "/openapi/v3", "/openapi/v3/api/v1", "/openapi/v3/apis/apps/v1?hash=x", "/openapi/v3/..", "/openapi/v3/%00", "/openapi/v4", "/version", "/version/x", "/healthz/%00", "/livez?exclude=x&verbose", "/readyz/etcd", "/metrics", "/metrics/x", "/debug/pprof/", "/debug/pprof/profile?seconds=x", "/logs", "/.well-known/openid-configuration", "/..", "/%2e%2e/%2e%2e/etc/passwd",
		"/api/v1/pods?limit=-1", "/api/v1/pods?limit=99999999999999999999", "/api/v1/pods?timeoutSeconds=-1&watch=x", "/api/v1/pods?timeout=x", "/api/v1/pods?timeout=-1s", "/api/v1/pods?pretty=x&nonsense=%zz", "/api/v1/pods?resourceVersion=-1", "/api/v1/pods?resourceVersion=0&resourceVersionMatch=Exact", "/api/v1/pods?resourceVersionMatch=Near", "/api/v1/pods?%00=%00&=&&&;",
		"/api/v1/namespaces/default/configmaps?dryRun=x&dryRun=All&fieldManager=" + strings.Repeat("x", 200), "/api/v1/namespaces/default/configmaps/x?gracePeriodSeconds=x", "/api/v1/namespaces/default/configmaps/x?propagationPolicy=x", "/api/v1/namespaces/default/configmaps/x?orphanDependents=true&propagationPolicy=Orphan", "/" + strings.Repeat("a/", 5000), "/api/v1/" + strings.Repeat("x", 10000),
	} {
		for method := range methods {
			f.Add(uint8(method), path, table)
		}
	}
	for _, accept := range []string{
		"*", "*/*", "/", ";", ",", "application/", "application/*;q=x", "application/json;q=NaN", "application/json;q=-1", "text/html", "text/html,*/*;q=0", "application/json;as=Table", "application/json;as=Table;g=x;v=y", "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1", "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1beta1",
		"application/json;as=;g=;v=", "application/vnd.kubernetes.protobuf;as=Table;g=meta.k8s.io;v=v1", "application/yaml;as=Table;g=meta.k8s.io;v=v1", "application/json;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch", "application/yaml;stream=watch", "application/json;as=Secret;g=;v=v1", "application/cbor", "application/json;pretty=1;pretty=0", "application/json;profile=nodrift", strings.Repeat("a/b;c=d,", 1000),
	} {
		for _, path := range []string{"/api/v1/namespaces/default/configmaps/kube-root-ca.crt", "/api/v1/namespaces", "/api/v1/services?watch=1&timeoutSeconds=1", "/api/v1/services?watch=1&timeoutSeconds=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true", "/apis", "/api", "/apis/apps/v1", "/api/v1/none", "/openapi/v2", "/openapi/v3/api/v1", "/version", "/healthz"} {
			f.Add(uint8(0), path, accept)
		}
	}
	f.Fuzz(func(t *testing.T, method uint8, path, accept string) {
		r := probe{method: methods[int(method)%len(methods)], target: target(path), accept: accept}
		answer, body := p.ask(t, r, 0) // a watch has no end
		p.judge(t, r, answer, body)
	})
}

var methods = []string{"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "CONNECT", "get", "PROPFIND", "X"}

// FuzzQuery lists, watches and deletes what any selectors select, from any place on.
func FuzzQuery(f *testing.F) {
	p := startProber(f)
	for _, name := range []string{"a", "b", "c"} {
		p.direct(f)(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", Labels: map[string]string{"a": "b"}}})
		p.direct(f)(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "elsewhere"}, Data: map[string][]byte{"kept": nil}})
	}
	for _, selector := range []string{
		"", "a", "!a", "a=b", "a==b", "a!=b", "a in (b,c)", "a notin ()", "a in (", "a in b", "a>1", "a<x", "a,", ",a", "a=,b=", "a=b=c", "=", "==", "(", "x y", "a/b/c=d", strings.Repeat("a,", 1000), strings.Repeat("x", 300) + "=y", "é=ü", "\x00", "a=\\,b", "a\\=b=c",
		"metadata.name=a", "metadata.name!=a", "metadata.namespace=elsewhere", "metadata.name=a,metadata.name=b", "metadata.name=../../secrets/elsewhere/a", "metadata.name=a/b", "metadata.name=", "spec.nodeName=x", "type=Opaque", "status.phase!=Running", "involvedObject.name=x", "metadata.name=\\",
	} {
		f.Add(uint8(0), selector, "", "", "")
		f.Add(uint8(1), "", selector, "", "")
		f.Add(uint8(2), selector, selector, "", "1")
	}
	token := func(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }
	for _, text := range []string{
		"x", "!", strings.Repeat("A", 100000), token(""), token("{}"), token("null"), token(`{"v":"meta.k8s.io/v1","rv":1,"start":"a"}`), token(`{"v":"meta.k8s.io/v1","rv":-1,"start":"a"}`), token(`{"v":"meta.k8s.io/v1","rv":-9223372036854775808,"start":"a"}`), token(`{"v":"meta.k8s.io/v1","rv":1e99,"start":"a"}`),
		token(`{"v":"meta.k8s.io/v1","rv":-1,"start":"../../secrets/elsewhere/a"}`), token(`{"v":"meta.k8s.io/v1","rv":-1,"start":"../elsewhere/a"}`), token(`{"v":"meta.k8s.io/v1","rv":-1,"start":"/"}`), token(`{"v":"meta.k8s.io/v1","rv":-1,"start":"\u0000"}`), token(`{"v":"meta.k8s.io/v1","rv":-1,"start":"\uffff"}`), token(`{"v":"v1","rv":-1,"start":"a"}`), token(`{"v":"meta.k8s.io/v1","rv":3,"start":"a\u0000"}`), token(`{"v":"meta.k8s.io/v1","rv":3,"start":""}`), token(`{"v":"meta.k8s.io/v1","rv":0,"start":"a"}`),
	} {
		for where := range queried {
			f.Add(uint8(where), "", "", text, "")
		}
	}
	for _, version := range []string{"0", "1", "-1", "x", "9223372036854775808", "1.5", " 1", "0x1"} {
		for where := range queried {
			f.Add(uint8(where), "", "", "", version)
		}
	}
	// What may come to be is waited for.
	f.Add(uint8(0), "", "", token(`{"v":"meta.k8s.io/v1","rv":9223372036854775807,"start":"a"}`), "")
	f.Add(uint8(0), "", "", "", "9223372036854775807")
	f.Fuzz(func(t *testing.T, where uint8, labels, fields, token, version string) {
		query := url.Values{"limit": {"2"}}
		for name, value := range map[string]string{"labelSelector": labels, "fieldSelector": fields, "continue": token, "resourceVersion": version} {
			if value != "" {
				query.Set(name, value)
			}
		}
		all := queried[int(where)%len(queried)] + "?" + query.Encode()
		list := probe{method: "GET", target: all}
		answer, body := p.ask(t, list, 64<<20)
		p.judge(t, list, answer, body)
		if strings.Contains(string(body), `"kept"`) {
			t.Fatalf("%s shows what is elsewhere: %s", all, body)
		}
		if version == "" { // one of the future is waited for
			p.expect(t, probe{method: "DELETE", target: all + "&dryRun=All"})
		}
		watch := probe{method: "GET", target: all + "&watch=1&timeoutSeconds=1&allowWatchBookmarks=true"}
		answer, body = p.ask(t, watch, 0)
		p.judge(t, watch, answer, body)
	})
}

var queried = []string{"/api/v1/namespaces/default/configmaps", "/api/v1/namespaces/default/secrets", "/api/v1/namespaces/default/pods", "/apis/events.k8s.io/v1/namespaces/default/events"}

// FuzzUpgrade upgrades connections, and goes on with garbage.
func FuzzUpgrade(f *testing.F) {
	p := startProber(f)
	p.direct(f)(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "x", Namespace: "default"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}})
	for where := range upgraded {
		for _, protocol := range []string{"websocket", "SPDY/3.1", "h2c", "x"} {
			for _, rest := range []string{"", "\x00", "\x81\x05hello", "\x88\x80\x00\x00\x00\x00", "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", "\x80\x03\x00\x01\x00\x00\xff\xff", "GET / HTTP/1.1\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"} {
				f.Add(uint8(where), protocol, "v5.channel.k8s.io", "dGhlIHNhbXBsZSBub25jZQ==", []byte(rest))
			}
		}
		f.Add(uint8(where), "websocket", "nonsense, ,,base64url.bearer.authorization.k8s.io.%%", "x", []byte{})
	}
	f.Fuzz(func(t *testing.T, where uint8, upgrade, protocol, key string, rest []byte) {
		r := probe{method: "GET", target: upgraded[int(where)%len(upgraded)], headers: []string{
			"Connection", "Upgrade", "Upgrade", upgrade, "Sec-WebSocket-Version", "13", "Sec-WebSocket-Key", key, "Sec-WebSocket-Protocol", protocol, "X-Stream-Protocol-Version", protocol}}
		r.tail = rest
		answer, body := p.ask(t, r, 0)
		if answer.StatusCode != http.StatusBadRequest || answer.Header.Get("Sec-Websocket-Version") == "" { // the WebSocket library's own refusal
			p.judge(t, r, answer, body)
		}
	})
}

var upgraded = []string{
	"/api/v1/pods?watch=1&timeoutSeconds=1", "/api/v1/watch/pods?timeoutSeconds=1", "/api/v1/namespaces/default/pods/x/exec?command=sh&stdin=1", "/api/v1/namespaces/default/pods/x/attach?stdin=1", "/api/v1/namespaces/default/pods/x/portforward?ports=80", "/api/v1/namespaces/default/pods/x/log?follow=1",
	"/api/v1/namespaces/default/pods/x/proxy/", "/api/v1/namespaces/default/pods", "/version",
}

package differential

import (
	"fmt"
	"net/http"
	"strings"
)

// pods are bound, evicted, asked for logs.
func pods(s *side, run string) {
	path := "/api/v1/namespaces/" + run + "/pods"
	pod := func(name string, spec map[string]any) map[string]any {
		full := map[string]any{"containers": []any{map[string]any{"name": "c", "image": "i"}}}
		for key, value := range spec {
			full[key] = value
		}
		return map[string]any{"metadata": map[string]any{"name": name, "labels": map[string]any{"pods": "y"}}, "spec": full}
	}
	create := func(what string, object map[string]any) {
		s.do(call{name: "create " + what, method: http.MethodPost, path: path, body: object})
	}
	create("a small one", pod("small", nil))
	create("one on a node that isn't there", pod("bound", map[string]any{"nodeName": "absent"}))
	create("one with a class that isn't there", pod("p1", map[string]any{"priorityClassName": "absent"}))
	create("one with a runtime class that isn't there", pod("p2", map[string]any{"runtimeClassName": "absent"}))
	create("one with an account that isn't there", pod("p3", map[string]any{"serviceAccountName": "absent"}))
	create("a critical one", pod("critical", map[string]any{"priorityClassName": "system-node-critical"}))
	create("one with gates", pod("gated", map[string]any{"schedulingGates": []any{map[string]any{"name": "example.com/g"}}}))
	create("one that is windows", pod("windows", map[string]any{"os": map[string]any{"name": "windows"}}))
	create("a privileged one", pod("privileged", map[string]any{"hostPID": true, "hostNetwork": true}))
	action := func(name, below string, body any) {
		s.do(call{name: name, method: http.MethodPost, path: path + "/" + below, body: body})
	}
	target := map[string]any{"target": map[string]any{"kind": "Node", "name": "somewhere"}}
	action("bind to nothing", "small/binding", map[string]any{})
	action("bind a gated one", "gated/binding", target)
	action("bind", "small/binding", target)
	action("bind again", "small/binding", target)
	action("bind what isn't there", "absent/binding", target)
	action("evict what isn't there", "absent/eviction", map[string]any{"metadata": map[string]any{"name": "absent"}})
	action("evict for nothing", "small/eviction?dryRun=All", map[string]any{"metadata": map[string]any{"name": "small"}})
	action("evict by another name", "small/eviction", map[string]any{"metadata": map[string]any{"name": "other"}})
	for _, below := range []string{"small/log", "gated/log", "absent/log", "gated/log?container=nonsense", "gated/log?tailLines=-1", "gated/log?limitBytes=0", "gated/exec?command=a", "gated/attach", "gated/portforward", "absent/exec?command=a", "gated/proxy/"} {
		get(s, path+"/"+below)
	}
	patch := func(name, below, contentType, body string) {
		s.do(call{name: name, method: http.MethodPatch, path: path + "/" + below, contentType: contentType, body: body})
	}
	patch("change an image", "gated", strategicType, `{"spec":{"containers":[{"name":"c","image":"j"}]}}`)
	patch("change a command", "gated", strategicType, `{"spec":{"containers":[{"name":"c","command":["x"]}]}}`)
	patch("add a gate", "gated", strategicType, `{"spec":{"schedulingGates":[{"name":"example.com/h"}]}}`)
	patch("take the gates away", "gated", mergeType, `{"spec":{"schedulingGates":null}}`)
	patch("tolerate more", "small", mergeType, `{"spec":{"tolerations":[{"key":"x","operator":"Exists"}]}}`)
	patch("an ephemeral container", "small/ephemeralcontainers", strategicType, `{"spec":{"ephemeralContainers":[{"name":"e","image":"i"}]}}`)
	patch("the ephemeral container changed", "small/ephemeralcontainers", strategicType, `{"spec":{"ephemeralContainers":[{"name":"e","image":"j"}]}}`)
	patch("resize", "small/resize", strategicType, `{"spec":{"containers":[{"name":"c","resources":{"requests":{"cpu":"1"}}}]}}`)
	patch("status", "small/status", strategicType, `{"status":{"phase":"Running","podIP":"192.0.2.8","podIPs":[{"ip":"192.0.2.8"}],"conditions":[{"type":"Ready","status":"True"}],"containerStatuses":[{"name":"c","ready":true,"restartCount":2,"image":"i","imageID":"","state":{"running":{"startedAt":"2024-01-01T00:00:00Z"}}}]}}`)
	patch("a status of a container that isn't there", "small/status", strategicType, `{"status":{"containerStatuses":[{"name":"nonsense","image":"i","imageID":""}]}}`)
	s.do(call{name: "table", method: http.MethodGet, path: path + "?labelSelector=pods%3Dy", accept: tableAccept})
	s.do(call{name: "by phase", method: http.MethodGet, path: path + "?fieldSelector=status.phase%3DRunning"})
	s.do(call{name: "delete a bound one", method: http.MethodDelete, path: path + "/small"})
	s.do(call{name: "delete it again, sooner", method: http.MethodDelete, path: path + "/small?gracePeriodSeconds=1"})
	s.do(call{name: "delete all", method: http.MethodDelete, path: path + "?gracePeriodSeconds=0&labelSelector=pods%3Dy"})
}

// services get addresses and ports, keep and lose them.
func services(s *side, run string) {
	path := "/api/v1/namespaces/" + run + "/services"
	service := func(name string, spec map[string]any) map[string]any {
		if spec["ports"] == nil {
			spec["ports"] = []any{map[string]any{"port": 80}}
		}
		return map[string]any{"metadata": map[string]any{"name": name}, "spec": spec}
	}
	create := func(what string, spec map[string]any) {
		s.do(call{name: "create " + what, method: http.MethodPost, path: path, body: service(strings.ReplaceAll(what, " ", "-"), spec)})
	}
	patch := func(what, name, body string) {
		s.do(call{name: what, method: http.MethodPatch, path: path + "/" + name, contentType: mergeType, body: body})
	}
	create("plain", map[string]any{})
	create("headless", map[string]any{"clusterIP": "None"})
	create("with an address", map[string]any{"clusterIP": "10.96.200.200"})
	create("with the same address", map[string]any{"clusterIP": "10.96.200.200"})
	create("outside", map[string]any{"clusterIP": "192.0.2.1"})
	create("with a bad address", map[string]any{"clusterIP": "nonsense"})
	create("with six", map[string]any{"ipFamilies": []any{"IPv6"}})
	create("with both", map[string]any{"ipFamilyPolicy": "RequireDualStack"})
	create("with either", map[string]any{"ipFamilyPolicy": "PreferDualStack"})
	create("external", map[string]any{"type": "ExternalName", "externalName": "a.example.com"})
	create("external with a bad name", map[string]any{"type": "ExternalName", "externalName": "a b"})
	create("node port", map[string]any{"type": "NodePort", "ports": []any{map[string]any{"port": 80, "nodePort": 30123}}})
	create("same node port", map[string]any{"type": "NodePort", "ports": []any{map[string]any{"port": 80, "nodePort": 30123}}})
	create("bad node port", map[string]any{"type": "NodePort", "ports": []any{map[string]any{"port": 80, "nodePort": 80}}})
	create("balanced", map[string]any{"type": "LoadBalancer", "externalTrafficPolicy": "Local", "allocateLoadBalancerNodePorts": false})
	create("of a strange type", map[string]any{"type": "Strange"})
	patch("to a node port", "plain", `{"spec":{"type":"NodePort"}}`)
	patch("to a cluster address", "plain", `{"spec":{"type":"ClusterIP"}}`)
	patch("to an external name", "plain", `{"spec":{"type":"ExternalName","externalName":"a.example.com"}}`)
	patch("back", "plain", `{"spec":{"type":"ClusterIP","externalName":null}}`)
	patch("another address", "with-an-address", `{"spec":{"clusterIP":"10.96.200.201"}}`)
	patch("no ports", "with-an-address", `{"spec":{"ports":[]}}`)
	s.do(call{name: "table", method: http.MethodGet, path: path, accept: tableAccept})
	s.do(call{name: "addresses", method: http.MethodGet, path: "/apis/networking.k8s.io/v1/ipaddresses/10.96.200.200"})
	for _, name := range []string{"plain", "headless", "with-an-address", "with-either", "external", "node-port", "balanced"} {
		s.do(call{name: "delete " + name, method: http.MethodDelete, path: path + "/" + name})
	}
}

// custom resources have two versions, defaults, rules, and lists with keys.
func custom(s *side, run string) {
	s.do(call{name: "create the definition", method: http.MethodPost, path: "/apis/apiextensions.k8s.io/v1/customresourcedefinitions?fieldManager=d", body: s.definition(run)})
	group := "/apis/" + run + ".example.com"
	path := group + "/v1/namespaces/" + run + "/widgets"
	s.eventually(call{name: "served", method: http.MethodGet, path: path}, func(e exchange) bool { return e.Status == http.StatusOK })
	widget := func(spec string) string {
		return fmt.Sprintf(`{"apiVersion":"%s.example.com/v1","kind":"Widget","metadata":{"name":"w"},"spec":%s}`, run, spec)
	}
	post := func(name, spec string) {
		s.do(call{name: name, method: http.MethodPost, path: path, body: widget(spec)})
	}
	post("too small", `{"size":0}`)
	post("too large", `{"size":100}`)
	post("of the wrong type", `{"size":"x"}`)
	post("several faults", `{"size":0,"name":"ABCDEFG","mode":"c"}`)
	post("no object", `5`)
	post("twice in a list", `{"size":3,"list":[{"k":"a"},{"k":"a"}]}`)
	post("without its key", `{"size":3,"list":[{"v":1}]}`)
	post("pruned and defaulted", `{"gone":1}`)
	patch := func(name, options, contentType, body string) {
		s.do(call{name: name, method: http.MethodPatch, path: path + "/w" + options, contentType: contentType, body: body})
	}
	patch("shrink", "", mergeType, `{"spec":{"size":2}}`)
	patch("grow", "", mergeType, `{"spec":{"size":9,"replicas":3}}`)
	patch("strategic", "", strategicType, `{}`)
	patch("apply a list", "?fieldManager=a", applyType, widget(`{"list":[{"k":"a","v":1}]}`))
	patch("apply another item", "?fieldManager=b", applyType, widget(`{"list":[{"k":"b","v":1}]}`))
	patch("apply a conflict", "?fieldManager=b", applyType, widget(`{"list":[{"k":"a","v":2}]}`))
	get(s, path+"/w/scale")
	s.do(call{name: "scale", method: http.MethodPatch, path: path + "/w/scale", contentType: mergeType, body: `{"spec":{"replicas":5}}`})
	s.do(call{name: "status", method: http.MethodPatch, path: path + "/w/status", contentType: mergeType, body: `{"status":{"phase":"x","gone":1},"spec":{"size":1}}`})
	get(s, group+"/v2/namespaces/"+run+"/widgets/w")
	get(s, group+"/v3/namespaces/"+run+"/widgets/w")
	get(s, group)
	get(s, group+"/v1")
	get(s, group+"/v2")
	s.do(call{name: "table", method: http.MethodGet, path: path, accept: tableAccept})
	s.do(call{name: "table of v2", method: http.MethodGet, path: group + "/v2/namespaces/" + run + "/widgets", accept: tableAccept})
	get(s, "/openapi/v3/apis/"+run+".example.com/v1")
	s.do(call{name: "delete", method: http.MethodDelete, path: path + "/w"})
	s.undefine(run)
}

// definition is that of the test data.
func (s *side) definition(run string) map[string]any {
	for _, sub := range subjects(s.t, run) {
		if sub.object["kind"] == "CustomResourceDefinition" {
			return sub.object
		}
	}
	return nil
}

func (s *side) undefine(run string) {
	path := "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/widgets." + run + ".example.com"
	s.send(call{method: http.MethodDelete, path: path})
	s.eventually(call{name: "undefined", method: http.MethodGet, path: path}, func(e exchange) bool { return e.Status == http.StatusNotFound })
	s.eventually(call{name: "undescribed", method: http.MethodGet, path: "/openapi/v3"}, func(e exchange) bool {
		return !strings.Contains(fmt.Sprint(e.Body), "/"+run+".example.com/")
	})
}

// bounds are what limit ranges and quotas set.
func bounds(s *side, run string) {
	core := "/api/v1/namespaces/" + run
	s.do(call{name: "limits", method: http.MethodPost, path: core + "/limitranges", body: map[string]any{"metadata": map[string]any{"name": "bounds"}, "spec": map[string]any{"limits": []any{
		map[string]any{"type": "Container", "max": map[string]any{"cpu": "1"}, "min": map[string]any{"cpu": "100m"}, "default": map[string]any{"cpu": "500m"}, "defaultRequest": map[string]any{"cpu": "200m"}},
		map[string]any{"type": "Pod", "max": map[string]any{"cpu": "1500m"}}}}}})
	s.eventually(call{name: "limited", method: http.MethodPost, path: core + "/pods?dryRun=All", body: limited(map[string]any{"limits": map[string]any{"cpu": "3"}})}, func(e exchange) bool { return e.Status == http.StatusForbidden })
	for _, resources := range []map[string]any{nil, {"limits": map[string]any{"cpu": "2"}}, {"requests": map[string]any{"cpu": "10m"}}, {"requests": map[string]any{"cpu": "900m"}}} {
		s.do(call{name: "a pod with " + short(resources), method: http.MethodPost, path: core + "/pods?dryRun=All", body: limited(resources)})
	}
	s.do(call{name: "delete the limits", method: http.MethodDelete, path: core + "/limitranges/bounds"})
}

func limited(resources map[string]any) map[string]any {
	return map[string]any{"metadata": map[string]any{"name": "bounds"}, "spec": map[string]any{"containers": []any{map[string]any{"name": "c", "image": "i", "resources": resources}}}}
}

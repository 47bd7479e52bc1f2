package differential

import (
	"fmt"
	"net/http"
	"strings"
)

// devices are offered, asked for, and given.
func devices(s *side, run string) {
	const group = "/apis/resource.k8s.io/v1"
	claims := group + "/namespaces/" + run + "/resourceclaims"
	create := func(path, spec string) {
		s.do(call{name: "create " + spec, method: http.MethodPost, path: path + "?dryRun=All", body: `{"metadata":{"name":"devices"},"spec":` + spec + `}`})
	}
	slice := func(more string) {
		create(group+"/resourceslices", `{"driver":"d.example.com","pool":{"name":"p","generation":1,"resourceSliceCount":1},`+more+`}`)
	}
	many := func(n int, item string) string {
		var all []string
		for i := range n {
			all = append(all, strings.ReplaceAll(item, "#", fmt.Sprint(i)))
		}
		return strings.Join(all, ",")
	}
	for _, where := range []string{
		`"nodeName":""`, `"allNodes":false`, `"perDeviceNodeSelection":false`, `"nodeName":"n","allNodes":true`, `"nodeName":"Bad!"`, `"nodeSelector":{"nodeSelectorTerms":[]}`,
		`"nodeSelector":{"nodeSelectorTerms":[{},{}]}`, `"nodeSelector":{"nodeSelectorTerms":[{"matchExpressions":[{"key":"!","operator":"Odd"}]}]}`, `"allNodes":true,"sharedCounters":[],"devices":[]`,
		`"allNodes":true,"sharedCounters":[{"name":"a","counters":{"m":{"value":"1"}}},{"name":"a","counters":{"M!":{"value":"1"}}},{"name":"","counters":{}}]`,
		`"allNodes":true,"sharedCounters":[` + many(9, `{"name":"c#","counters":{"m":{"value":"1"}}}`) + `]`, `"allNodes":true,"sharedCounters":[{"name":"a","counters":{` + many(33, `"c#":{"value":"1"}`) + `}}]`,
		`"allNodes":true,"devices":[` + many(129, `{"name":"d#"}`) + `]`, `"allNodes":true,"devices":[` + many(65, `{"name":"d#","taints":[{"key":"k","effect":"NoSchedule"}]}`) + `]`,
		`"perDeviceNodeSelection":true,"devices":[{"name":"a","nodeName":"n"},{"name":"b"},{"name":"c","allNodes":true,"nodeName":"n"},{"name":"d","allNodes":false},{"name":"e","nodeName":""},{"name":"f","nodeSelector":{"nodeSelectorTerms":[]}}]`,
	} {
		slice(where)
	}
	for _, device := range []string{
		`"name":"D!"`, `"name":"d","nodeName":"n"`, `"name":"d","attributes":{"a":{}}`, `"name":"d","attributes":{"a":{"int":1,"bool":true}}`, `"name":"d","attributes":{"a":{"version":"1.2"}}`,
		`"name":"d","attributes":{"a":{"version":"1.2.3-x.01+b"}}`, `"name":"d","attributes":{"a":{"version":"1.2.3-rc.1+build.5"}}`, `"name":"d","attributes":{"a":{"string":"` + strings.Repeat("a", 65) + `"}}`,
		`"name":"d","attributes":{"/a":{"int":1}}`, `"name":"d","attributes":{"x/":{"int":1}}`, `"name":"d","attributes":{"x/y/z":{"int":1}}`, `"name":"d","attributes":{"1a":{"int":1}}`, `"name":"d","attributes":{"Bad!/a":{"int":1}}`,
		`"name":"d","attributes":{"` + strings.Repeat("a", 120) + `":{"string":"` + strings.Repeat("b", 70) + `"}}`, `"name":"d","attributes":{` + many(33, `"a#":{"int":1}`) + `}`,
		`"name":"d","taints":[{"key":"","effect":""}]`, `"name":"d","taints":[{"key":"k","value":"!","effect":"Odd"}]`, `"name":"d","taints":[` + many(17, `{"key":"k#","effect":"NoExecute"}`) + `]`,
		`"name":"d","consumesCounters":[{"counterSet":"","counters":{}}]`, `"name":"d","consumesCounters":[{"counterSet":"a","counters":{"m":{"value":"1"}}},{"counterSet":"a","counters":{"m":{"value":"1"}}}]`,
		`"name":"d","consumesCounters":[` + many(3, `{"counterSet":"a#","counters":{"m":{"value":"1"}}}`) + `]`, `"name":"d","bindingConditions":["a"]`, `"name":"d","bindingFailureConditions":["a"]`,
		`"name":"d","bindingConditions":["a","a","!"],"bindingFailureConditions":["a","b","b"]`, `"name":"d","bindingConditions":["a","b","c","d","e"],"bindingFailureConditions":["f"]`,
		`"name":"d","bindsToNode":true,"bindingConditions":["a"],"bindingFailureConditions":["b"]`, `"name":"d","capacity":{"m":{"value":"1Gi","requestPolicy":{"default":"1"}}}`,
	} {
		slice(`"allNodes":true,"devices":[{` + device + `}]`)
	}
	for _, policy := range []string{
		`"default":"1"`, `"validValues":["1","2"]`, `"default":"1","validValues":["2","1"]`, `"default":"3","validValues":["1","2","2","20"]`, `"default":"1","validValues":[` + many(11, `"#"`) + `]`,
		`"validRange":{"min":"1"}`, `"default":"1","validRange":{}`, `"default":"1","validValues":["1"],"validRange":{"min":"1"}`, `"default":"1","validRange":{"min":"2","max":"1"}`, `"default":"5","validRange":{"min":"11","max":"12"}`,
		`"default":"4","validRange":{"min":"1","max":"3","step":"2"}`, `"default":"3","validRange":{"min":"1","max":"9","step":"2"}`, `"default":"1","validRange":{"min":"1","max":"9","step":"20"}`,
	} {
		slice(`"allNodes":true,"devices":[{"name":"d","allowMultipleAllocations":true,"capacity":{"m":{"value":"10","requestPolicy":{` + policy + `}}}}]`)
	}
	for _, request := range []string{
		`{"name":"r"}`, `{"name":"R!","exactly":{"deviceClassName":"c"},"firstAvailable":[{"name":"s","deviceClassName":"c"}]}`, `{"name":"r","exactly":{"deviceClassName":"","allocationMode":"Odd"}}`,
		`{"name":"r","exactly":{"deviceClassName":"C!","allocationMode":"All","count":2}}`, `{"name":"r","exactly":{"deviceClassName":"c","count":-1}}`, `{"name":"r","firstAvailable":[{"name":"s","deviceClassName":"c"},{"name":"s","deviceClassName":"c"},{"name":"","deviceClassName":""}]}`,
		`{"name":"r","firstAvailable":[` + many(9, `{"name":"s#","deviceClassName":"c"}`) + `]}`, `{"name":"r","exactly":{"deviceClassName":"c","tolerations":[{"key":"!","operator":"Odd","effect":"Odd"},{"operator":"Exists","value":"x"},{"key":"k","value":"!"}]}}`,
		`{"name":"r","exactly":{"deviceClassName":"c","selectors":[{},{"cel":{"expression":"1"}},{"cel":{"expression":"device.driver"}},{"cel":{"expression":"device.attributes['x'].a"}},{"cel":{"expression":"device.nonsense"}},{"cel":{"expression":"` + strings.Repeat("a", 10241) + `"}}]}}`,
		`{"name":"r","exactly":{"deviceClassName":"c","selectors":[{"cel":{"expression":"device.attributes['x'].all(a, device.attributes['x'].all(b, device.attributes['x'].all(c, device.attributes['x'].all(d, a+b+c+d == 'x'))))"}}]}}`,
		`{"name":"r","exactly":{"deviceClassName":"c","selectors":[{"cel":{"expression":"device.allowMultipleAllocations && device.capacity['x'].m.compareTo(quantity('1Gi')) > 0 && semver('1.2.3').major() == 1"}}]}}`,
		`{"name":"r","exactly":{"deviceClassName":"c","adminAccess":true}}`, `{"name":"r","exactly":{"deviceClassName":"c"}},{"name":"r","exactly":{"deviceClassName":"c"}}`, many(33, `{"name":"r#","exactly":{"deviceClassName":"c"}}`),
	} {
		create(claims, `{"devices":{"requests":[`+request+`]}}`)
	}
	for _, more := range []string{
		`"constraints":[{},{"requests":["r","r","x","r/s","r/t","a/b/c","!"],"matchAttribute":"a"},{"matchAttribute":"x/a"},{"distinctAttribute":"x/a"},{"distinctAttribute":"/"}]`,
		`"config":[{},{"requests":["x"],"opaque":{"driver":"","parameters":null}},{"opaque":{"driver":"D!","parameters":[]}},{"opaque":{"driver":"d","parameters":{"a":"` + strings.Repeat("a", 10240) + `"}}}]`,
	} {
		create(claims, `{"devices":{"requests":[{"name":"r","firstAvailable":[{"name":"s","deviceClassName":"c"}]}],`+more+`}}`)
	}
	create(group+"/namespaces/"+run+"/resourceclaimtemplates", `{"metadata":{"name":"x","labels":{"!":"!"},"annotations":{"!":"x"}},"spec":{"devices":{"requests":[{"name":"r"}]}}}`)
	for _, spec := range []string{`{"extendedResourceName":"cpu"}`, `{"extendedResourceName":"example.com/a/b"}`, `{"selectors":[{"cel":{"expression":"device"}}]}`, `{"config":[{}]}`, `{"selectors":[` + many(33, `{"cel":{"expression":"true"}}`) + `]}`} {
		create(group+"/deviceclasses", spec)
	}
	s.do(call{name: "create a claim", method: http.MethodPost, path: claims, body: `{"metadata":{"name":"devices"},"spec":{"devices":{"requests":[{"name":"r","exactly":{"deviceClassName":"c"}}]}}}`})
	s.deviceRights(run)
	s.deviceStatus(claims + "/devices")
	s.do(call{name: "delete the claim", method: http.MethodDelete, path: claims + "/devices"})
}

// deviceStatus gives a claim its device, after everything that isn't allowed.
func (s *side) deviceStatus(path string) {
	patch := func(options, status string) {
		s.do(call{name: "status " + status, method: http.MethodPatch, path: path + "/status" + options, contentType: mergeType, body: `{"metadata":{"labels":{"gone":"y"}},"status":` + status + `}`})
	}
	wrong := func(status string) { patch("?dryRun=All", status) }
	const result = `{"request":"r","driver":"d.example.com","pool":"p","device":"d"}`
	allocated := func(results, more string) string {
		return `{"allocation":{"devices":{"results":[` + results + `]}}` + more + `}`
	}
	const user = `{"resource":"pods","name":"p","uid":"u"}`
	wrong(`{"reservedFor":[` + user + `]}`)
	wrong(`{"reservedFor":[{"resource":"","name":"","uid":""}]}`)
	wrong(`{"devices":[{"driver":"d.example.com","pool":"p","device":"d"}]}`)
	wrong(allocated(`{"request":"x","driver":"","pool":"","device":""}`, ""))
	wrong(allocated(`{"request":"r/s","driver":"D!","pool":"a/B","device":"D!","shareID":"x","bindingConditions":["a"]}`, ""))
	wrong(allocated(`{"request":"r","driver":"d.example.com","pool":"p","device":"d","adminAccess":true}`, ""))
	wrong(`{"allocation":{"devices":{"results":[` + result + `],"config":[{"source":"Odd","requests":["x"]},{"source":"","opaque":{"driver":"d","parameters":{}}}]},"nodeSelector":{"nodeSelectorTerms":[]}}}`)
	wrong(allocated(result, `,"reservedFor":[`+user+`,`+user+`]`))
	patch("", allocated(result, `,"reservedFor":[`+user+`]`))
	wrong(allocated(`{"request":"r","driver":"d.example.com","pool":"p","device":"e"}`, ""))
	wrong(`{"devices":[{"driver":"d.example.com","pool":"p","device":"e"}]}`)
	wrong(`{"devices":[{"driver":"d.example.com","pool":"p","device":"d","data":[],"conditions":[{"type":"","status":"Odd","reason":"","message":""}],"networkData":{"interfaceName":"` + strings.Repeat("a", 300) + `","hardwareAddress":"` + strings.Repeat("a", 300) + `","ips":["x","10.0.0.1/8","10.0.0.0/8"]}}]}`)
	patch("", `{"devices":[{"driver":"d.example.com","pool":"p","device":"d","data":{"a":1},"networkData":{"interfaceName":"eth0","ips":["10.0.0.1/8"]}}]}`)
	patch("", `{"allocation":null,"reservedFor":null}`)
}

// deviceRights are those that a claim's status asks for beyond the right to change it.
func (s *side) deviceRights(run string) {
	dora := map[string]string{"Impersonate-User": "dora"}
	roles, claim := "/apis/rbac.authorization.k8s.io/v1/namespaces/"+run, "/apis/resource.k8s.io/v1/namespaces/"+run+"/resourceclaims/devices/status"
	s.do(call{name: "make a role", method: http.MethodPost, path: roles + "/roles", body: map[string]any{"metadata": map[string]any{"name": "devices"}, "rules": []any{
		map[string]any{"apiGroups": []any{"resource.k8s.io"}, "resources": []any{"resourceclaims/status"}, "verbs": []any{"get", "patch"}},
		map[string]any{"apiGroups": []any{"resource.k8s.io"}, "resources": []any{"resourceclaims/driver"}, "verbs": []any{"arbitrary-node:patch"}, "resourceNames": []any{"d.example.com"}}}}})
	s.do(call{name: "bind it", method: http.MethodPost, path: roles + "/rolebindings", body: map[string]any{"metadata": map[string]any{"name": "devices"}, "roleRef": map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "devices"}, "subjects": []any{map[string]any{"kind": "User", "name": "dora"}}}})
	s.eventually(call{name: "allowed", method: http.MethodGet, path: claim, header: dora}, func(e exchange) bool { return e.Status == http.StatusOK })
	patch := func(options, status string, header map[string]string) {
		s.do(call{name: fmt.Sprint("by right ", header["Impersonate-User"], status), method: http.MethodPatch, path: claim + options, contentType: mergeType, header: header, body: `{"status":` + status + `}`})
	}
	const allocation = `"allocation":{"devices":{"results":[{"request":"r","driver":"d.example.com","pool":"p","device":"d"},{"request":"r","driver":"e.example.com","pool":"p","device":"e"}]}}`
	patch("", `{`+allocation+`}`, dora)
	patch("", `{`+allocation+`}`, nil)
	patch("", `{"reservedFor":[{"resource":"pods","name":"p","uid":"u"}]}`, dora)
	patch("", `{"devices":[{"driver":"d.example.com","pool":"p","device":"d"},{"driver":"e.example.com","pool":"p","device":"e"}]}`, dora)
	patch("", `{"devices":[{"driver":"d.example.com","pool":"p","device":"d"}]}`, dora)
	patch("", `{"allocation":null}`, dora)
	patch("", `{"allocation":null}`, nil)
	s.do(call{name: "unbind", method: http.MethodDelete, path: roles + "/rolebindings/devices"})
	s.do(call{name: "delete the role", method: http.MethodDelete, path: roles + "/roles/devices"})
}

package differential

import (
	"fmt"
	"net/http"
)

// jobs are changed while they are suspended and while they run, and their status goes where it may and where it may not.
func jobs(s *side, run string) {
	path := "/apis/batch/v1/namespaces/" + run + "/jobs"
	job := func(name, spec string) string {
		return fmt.Sprintf(`{"metadata":{"name":%q},"spec":{"template":{"spec":{"restartPolicy":"Never","containers":[{"name":"c","image":"i"}]}},%s}}`, name, spec)
	}
	create := func(name, spec string) {
		s.do(call{name: "create " + name, method: http.MethodPost, path: path, body: job(name, spec)})
	}
	patch := func(below, body string) {
		s.do(call{name: "patch " + below + " with " + body, method: http.MethodPatch, path: path + "/" + below, contentType: strategicType, body: body})
	}
	create("plain", `"completions":2`)
	create("suspended", `"suspend":true,"completions":2`)
	create("indexed", `"completionMode":"Indexed","completions":4,"parallelism":4,"backoffLimitPerIndex":1`)
	create("strict", `"completionMode":"Indexed","completions":4,"parallelism":2,"successPolicy":{"rules":[{"succeededIndexes":"0,2-3","succeededCount":2}]}`)
	create("manual", `"manualSelector":true`)
	create("manual-with-selector", `"manualSelector":true,"selector":{"matchLabels":{"a":"b"}}`)
	create("selected", `"selector":{"matchLabels":{"a":"b"}}`)
	create("managed", `"managedBy":"example.com/other"`)
	create("badly-managed", `"managedBy":"other"`)
	create("with.dots", `"completionMode":"Indexed","completions":4`)
	create("wide", `"completionMode":"Indexed","completions":200000,"parallelism":20000`)
	create("wider", `"completionMode":"Indexed","completions":200000,"parallelism":20000,"backoffLimitPerIndex":1,"maxFailedIndexes":20000`)
	create("widest", `"completionMode":"Indexed","completions":200000,"parallelism":200000,"maxFailedIndexes":200001`)
	for i, indexes := range []string{"", "0", "3-1", "1-1", "1,1", "2,1", "0-3,4", "a", "1-2-3", "-1", "1-", "0,2-3"} {
		create(fmt.Sprint("rule-", i), fmt.Sprintf(`"completionMode":"Indexed","completions":4,"successPolicy":{"rules":[{"succeededIndexes":%q,"succeededCount":3}]}`, indexes))
	}
	for i, rule := range []string{
		`{"action":"Ignore","onPodConditions":[{"type":"DisruptionTarget"}]}`, `{"action":"Ignore","onPodConditions":[{"type":"DisruptionTarget","status":"Perhaps"}]}`,
		`{"action":"FailJob","onExitCodes":{"operator":"In","values":[0,3,3,2]}}`, `{"action":"FailJob","onExitCodes":{"operator":"NotIn","values":[0],"containerName":"d"}}`,
		`{"action":"FailIndex","onExitCodes":{"operator":"In","values":[1]}}`, `{"onExitCodes":{"values":[]},"onPodConditions":[{"type":"!"}]}`,
	} {
		create(fmt.Sprint("policy-", i), `"podFailurePolicy":{"rules":[`+rule+`]}`)
	}
	create("replaced", `"podReplacementPolicy":"TerminatingOrFailed","podFailurePolicy":{"rules":[]}`)
	for _, name := range []string{"plain", "suspended", "indexed", "strict"} {
		for _, spec := range []string{
			`{"completions":3}`, `{"completions":3,"parallelism":3}`, `{"parallelism":5}`, `{"suspend":false}`, `{"suspend":true}`, `{"completionMode":"NonIndexed"}`, `{"selector":{"matchLabels":{"a":"b"}}}`,
			`{"template":{"metadata":{"labels":{"x":"y"}}}}`, `{"template":{"metadata":{"labels":{"job-name":null}}}}`, `{"template":{"spec":{"nodeSelector":{"x":"y"}}}}`, `{"template":{"spec":{"restartPolicy":"OnFailure"}}}`,
			`{"template":{"spec":{"containers":[{"name":"c","resources":{"requests":{"cpu":"1"}}}]}}}`, `{"template":{"spec":{"containers":[{"name":"c","image":"j"}]}}}`,
			`{"template":{"spec":{"affinity":{"nodeAffinity":{"preferredDuringSchedulingIgnoredDuringExecution":[]}}}}}`, `{"template":{"spec":{"affinity":{"podAffinity":{}}}}}`,
			`{"template":{"spec":{"tolerations":[{"key":"x","operator":"Exists"}],"schedulingGates":[{"name":"g"}]}}}`,
			`{"successPolicy":{"rules":[{"succeededCount":1}]}}`, `{"backoffLimitPerIndex":2}`, `{"managedBy":"example.com/x"}`, `{"ttlSecondsAfterFinished":5,"activeDeadlineSeconds":7,"backoffLimit":1}`,
		} {
			patch(name+"?dryRun=All", `{"spec":`+spec+`}`)
		}
	}
	for _, name := range []string{"plain", "suspended", "indexed", "strict"} {
		jobStatus(patch, name+"/status")
	}
	for _, policy := range []string{"", "?propagationPolicy=Background", "?orphanDependents=false", "?propagationPolicy=Orphan"} {
		s.do(call{name: "delete" + policy, method: http.MethodDelete, path: path + "/plain" + policy})
	}
	s.do(call{name: "delete the collection", method: http.MethodDelete, path: path + "?propagationPolicy=Background"})
}

// jobStatus is a status that goes from a start to an end, after everything that isn't allowed.
func jobStatus(patch func(below, body string), below string) {
	condition := func(types ...string) string {
		text := ""
		for _, t := range types {
			text += fmt.Sprintf(`,{"type":%q,"status":"True"}`, t)
		}
		return `"conditions":[` + text[1:] + `]`
	}
	const start, end = `"startTime":"2024-01-01T00:00:00Z"`, `"completionTime":"2024-01-02T00:00:00Z"`
	status := func(options, fields string) { patch(below+options, `{"status":{`+fields+`}}`) }
	wrong := func(fields string) { status("?dryRun=All", fields) }
	wrong(condition("Complete"))
	wrong(condition("Complete", "Failed"))
	wrong(condition("Complete", "FailureTarget"))
	wrong(condition("Complete", "SuccessCriteriaMet"))
	wrong(condition("Complete", "SuccessCriteriaMet") + "," + start)
	wrong(condition("Complete", "SuccessCriteriaMet") + "," + start + "," + end)
	wrong(condition("Failed") + "," + start)
	wrong(condition("Failed", "FailureTarget") + "," + start)
	wrong(condition("Failed", "FailureTarget", "SuccessCriteriaMet") + "," + start)
	wrong(end)
	wrong(start + `,"completionTime":"2023-01-01T00:00:00Z",` + condition("Complete", "SuccessCriteriaMet"))
	wrong(`"active":-1,"succeeded":-1,"failed":-1,"ready":-1,"terminating":-1`)
	wrong(`"active":1,"ready":2`)
	wrong(`"active":1,"terminating":1,"uncountedTerminatedPods":{"succeeded":["a"]},` + start + "," + condition("Failed", "FailureTarget"))
	wrong(`"uncountedTerminatedPods":{"succeeded":["a","a",""],"failed":["a"]}`)
	wrong(`"completedIndexes":"0-2"`)
	wrong(`"completedIndexes":"0-9,x"`)
	wrong(`"failedIndexes":"0"`)
	wrong(`"failedIndexes":"2,1"`)
	wrong(`"completedIndexes":"0,2-3","failedIndexes":"1-2"`)
	status("", start+`,"active":2,"ready":1,"succeeded":1,"failed":1`)
	wrong(`"startTime":"2024-02-01T00:00:00Z"`)
	wrong(`"startTime":null`)
	wrong(`"succeeded":0,"failed":0`)
	status("", condition("SuccessCriteriaMet"))
	wrong(`"conditions":[{"type":"SuccessCriteriaMet","status":"False"}]`)
	wrong(condition("FailureTarget"))
	status("", condition("SuccessCriteriaMet", "Complete")+`,"active":0,"ready":0,`+end)
	wrong(`"conditions":[{"type":"Complete","status":"False"}]`)
	wrong(`"conditions":[{"type":"Complete","status":"False"}],"completionTime":null`)
	wrong(`"completionTime":"2024-01-03T00:00:00Z"`)
	wrong(`"active":1`)
}

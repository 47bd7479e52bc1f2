package resource

import (
	"fmt"
	"strings"
	"testing"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/yaml"
)

func spec[T any](t *testing.T, text string) *T {
	t.Helper()
	v := new(T)
	if err := yaml.UnmarshalStrict([]byte(text), v); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return v
}

func TestClaims(t *testing.T) {
	for text, want := range map[string]string{
		`{requests: [{name: r, exactly: {deviceClassName: c, allocationMode: All}}], constraints: [{requests: [r], matchAttribute: d/a}]}`:                                      "[]",
		`{requests: [{name: r, exactly: {deviceClassName: c, allocationMode: All, selectors: [{cel: {expression: "device.driver == 'd' && device.attributes['d'].a > 3"}}]}}]}`: "[]",
		`{requests: [{name: r, exactly: {deviceClassName: c, allocationMode: All, selectors: [{cel: {expression: "device.driver"}}]}}]}`:                                        `[d.requests[0].exactly.selectors[0].cel.expression: Invalid value: "device.driver": must evaluate to bool or the unknown type, not string]`,
		`{requests: [{name: r}]}`: "[d.requests[0]: Required value: exactly one of `exactly` or `firstAvailable` is required]",
		`{requests: [{name: r, firstAvailable: [{name: s, deviceClassName: c, allocationMode: All}]}], constraints: [{requests: [r/s], matchAttribute: d/a}]}`:            "[]",
		`{requests: [{name: r, firstAvailable: [{name: s, deviceClassName: c, allocationMode: All}]}], config: [{requests: [r/t], opaque: {driver: d, parameters: {}}}]}`: "[d.config[0].requests[0]: Invalid value: \"r/t\": must be the name of a request in the claim or the name of a request and a subrequest separated by '/']",
		`{requests: [{name: r, exactly: {deviceClassName: c, allocationMode: All}}, {name: r, exactly: {deviceClassName: c, allocationMode: All}}]}`:                      `[d.requests[1]: Duplicate value: "r"]`,
		`{requests: [{name: r, exactly: {deviceClassName: c, allocationMode: ExactCount, tolerations: [{operator: Exists, value: x}]}}]}`:                                 "[d.requests[0].exactly.count: Invalid value: 0: must be greater than zero d.requests[0].exactly.tolerations[0].value: Invalid value: \"x\": must be empty for operator `Exists`]",
		`{requests: [{name: r, exactly: {deviceClassName: c, allocationMode: All}}], constraints: [{distinctAttribute: a}]}`:                                              `[d.constraints[0].distinctAttribute: Invalid value: "a": a fully qualified name must be a domain and a name separated by a slash]`,
		`{requests: [{name: r, exactly: {deviceClassName: c, allocationMode: All}}], config: [{opaque: {driver: d, parameters: []}}]}`:                                    `[d.config[0].opaque.parameters: Invalid value: "<value omitted>": must be a valid JSON object]`,
	} {
		got := fmt.Sprint(deviceClaim(specPath, spec[resourcev1.DeviceClaim](t, text)))
		if got = strings.ReplaceAll(got, "spec.", "d."); got != want {
			t.Errorf("%s:\n%s\nwant %s", text, got, want)
		}
	}
}

// What Kubernetes divides by, and what it has switched off, is refused.
func TestCapacities(t *testing.T) {
	for text, want := range map[string]string{
		`{value: 10, requestPolicy: {default: 3, validRange: {min: 1, max: 9, step: 2}}}`: "[]",
		`{value: 10, requestPolicy: {default: 4, validRange: {min: 1, step: 2}}}`:         `[p.validRange.step: Invalid value: "4": value is not a multiple of a given step (2) from (1)]`,
		`{value: 10, requestPolicy: {default: 1, validRange: {min: 1, step: 0}}}`:         `[p.validRange.step: Invalid value: "0": must be greater than zero]`,
		`{value: 10, requestPolicy: {default: 1, validValues: [1, 5]}}`:                   "[]",
		`{value: 10, requestPolicy: {default: 2, validValues: [1, 50]}}`:                  `[p.validValues[1]: Invalid value: "50": option is larger than capacity value: 10 p.validValues: Invalid value: "2": default value is not valid according to the requestPolicy]`,
	} {
		got := fmt.Sprint(capacity(specPath.Child("p"), spec[resourcev1.DeviceCapacity](t, text), true))
		if got = strings.ReplaceAll(got, "spec.p", "p"); got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
	off := resourcev1.DeviceAttribute{IntValues: []int64{1}}
	if errs := attribute(specPath, off); len(errs) != 1 || !strings.Contains(errs[0].Error(), "DRAListTypeAttributes") {
		t.Error(errs)
	}
}

// What is stored may go on to be so.
func TestUpdatesOfSlices(t *testing.T) {
	const text = `{driver: d, nodeName: n, pool: {name: p, resourceSliceCount: 1}, devices: [{name: a, taints: [{key: k, effect: Odd}]}]}`
	old, now := spec[resourcev1.ResourceSliceSpec](t, text), spec[resourcev1.ResourceSliceSpec](t, text)
	if errs := slice(now, old); len(errs) > 0 {
		t.Error(errs)
	}
	now.NodeName = ptr.To("m")
	now.Devices[0].Taints[0].Key = "l"
	const want = `[spec.nodeName: Invalid value: "m": field is immutable spec.devices[0].taints[0].effect: Unsupported value: "Odd": supported values: "NoExecute", "NoSchedule", "None"]`
	if got := fmt.Sprint(slice(now, old)); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

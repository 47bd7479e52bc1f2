package admission

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/utils/ptr"

	"skiff/pkg/api"
	"skiff/pkg/apiserver/lookup"
	"skiff/pkg/apiserver/request"
)

func TestDevices(t *testing.T) {
	marked := &corev1.Namespace{ObjectMeta: meta("", "marked")}
	marked.Labels = map[string]string{"resource.kubernetes.io/admin-access": "true"}
	objects := lookup.NewFake(marked, &corev1.Namespace{ObjectMeta: meta("", "ns")})
	claim := func(namespace string, change func(*resourcev1.ResourceClaim)) *resourcev1.ResourceClaim {
		c := &resourcev1.ResourceClaim{ObjectMeta: meta(namespace, "c")}
		if change != nil {
			change(c)
		}
		return c
	}
	asAdmin := func(c *resourcev1.ResourceClaim) {
		c.Spec.Devices.Requests = []resourcev1.DeviceRequest{{Name: "r", Exactly: &resourcev1.ExactDeviceRequest{AdminAccess: ptr.To(true)}}}
	}
	given := func(c *resourcev1.ResourceClaim) {
		c.Status.Allocation = &resourcev1.AllocationResult{NodeSelector: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchFields: []corev1.NodeSelectorRequirement{
			{Key: "metadata.name", Operator: corev1.NodeSelectorOpIn, Values: []string{"n"}}}}}}}
	}
	givenToAdmin := func(c *resourcev1.ResourceClaim) {
		c.Status.Allocation = &resourcev1.AllocationResult{Devices: resourcev1.DeviceAllocationResult{Results: []resourcev1.DeviceRequestAllocationResult{{AdminAccess: ptr.To(true)}}}}
	}
	described := func(c *resourcev1.ResourceClaim) {
		given(c)
		c.Status.Devices = []resourcev1.AllocatedDeviceStatus{{Driver: "d", Device: "x"}, {Driver: "e"}}
	}
	template := func(namespace string) api.Object {
		whole := &resourcev1.ResourceClaimTemplate{ObjectMeta: meta(namespace, "t")}
		whole.Spec.Spec = claim(namespace, asAdmin).Spec
		return whole
	}
	for name, c := range map[string]struct {
		rights rights
		attrs  *request.Attributes
		want   string
	}{
		"nothing special":       {nil, write(claim("ns", nil), nil), ""},
		"administrator":         {nil, write(claim("ns", asAdmin), nil), "spec.devices.requests[0].adminAccess: Forbidden: admin access to devices requires the `resource.kubernetes.io/admin-access: true` label on the containing namespace"},
		"administrator, marked": {nil, write(claim("marked", asAdmin), nil), ""},
		"administrator, later":  {nil, write(template("ns"), nil), "adminAccess: Forbidden"},
		"marked, later":         {nil, write(template("marked"), nil), ""},
		"giving":                {nil, subresource(write(claim("ns", given), claim("ns", nil)), "status"), `status.allocation: Forbidden: changing status.allocation or status.reservedFor requires resource="resourceclaims/binding", verb="update" permission: resourceclaims.resource.k8s.io is forbidden: User "alice" cannot update resource "resourceclaims/binding" in API group "resource.k8s.io" at the cluster scope`},
		"giving, allowed":       {rights{"update resourceclaims="}, subresource(write(claim("ns", given), claim("ns", nil)), "status"), ""},
		"giving admin access":   {rights{"update resourceclaims="}, subresource(write(claim("ns", givenToAdmin), claim("ns", nil)), "status"), "status.allocation.devices.results[0].adminAccess: Forbidden"},
		"unchanged":             {nil, subresource(write(claim("ns", described), claim("ns", described)), "status"), ""},
		"one driver of two":     {rights{"arbitrary-node:update resourceclaims=d"}, subresource(write(claim("ns", described), claim("ns", given)), "status"), `cannot arbitrary-node:update resource "resourceclaims/driver" in API group "resource.k8s.io" in the namespace "ns"`},
		"both drivers":          {rights{"arbitrary-node:update resourceclaims=d", "arbitrary-node:update resourceclaims=e"}, subresource(write(claim("ns", described), claim("ns", given)), "status"), ""},
		"giving it back":        {rights{"update resourceclaims="}, subresource(write(claim("ns", nil), claim("ns", described)), "status"), ""},
	} {
		check(t, name, (&devicesPlugin{objects, c.rights}).validate(t.Context(), c.attrs), c.want)
	}
	local := rights{"associated-node:update resourceclaims=d", "associated-node:update resourceclaims=e"}
	for node, want := range map[string]string{"n": "", "other": "arbitrary-node:update"} {
		attrs := subresource(write(claim("ns", described), claim("ns", given)), "status")
		attrs.User = &request.User{Name: "system:serviceaccount:ns:driver", Extra: map[string][]string{"authentication.kubernetes.io/node-name": {node}}}
		check(t, "on "+node, (&devicesPlugin{objects, local}).validate(t.Context(), attrs), want)
	}
}

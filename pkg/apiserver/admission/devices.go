package admission

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"skiff/pkg/api"
	"skiff/pkg/apiserver/authz"
	"skiff/pkg/apiserver/lookup"
	"skiff/pkg/apiserver/request"
)

// devicesPlugin guards what is beyond a claim's own rules: administrators' access to devices is for namespaces that are
// marked for it, devices are given by who may bind claims, and a driver speaks for itself alone.
type devicesPlugin struct {
	objects    lookup.Reader
	authorizer Authorizer
}

func (p *devicesPlugin) validate(ctx context.Context, attrs *request.Attributes) error {
	if attrs.Kind.Group != resourcev1.GroupName {
		return nil
	}
	var errs field.ErrorList
	spec := field.NewPath("spec", "devices", "requests")
	switch obj := attrs.Object.(type) {
	case *resourcev1.ResourceClaim:
		old, isUpdate := attrs.Old.(*resourcev1.ResourceClaim)
		switch {
		case attrs.Operation == request.Create && attrs.Subresource == "":
			errs = p.asAdministrator(ctx, attrs.Namespace, spec, wanted(obj.Spec.Devices.Requests))
		case isUpdate && attrs.Subresource == "status":
			errs = p.status(ctx, attrs, &obj.Status, &old.Status)
		}
	case *resourcev1.ResourceClaimTemplate:
		if attrs.Operation == request.Create {
			errs = p.asAdministrator(ctx, attrs.Namespace, spec, wanted(obj.Spec.Spec.Devices.Requests))
		}
	}
	if len(errs) == 0 {
		return nil
	}
	return apierrors.NewInvalid(attrs.Kind.GroupVersionKind.GroupKind(), attrs.Object.(api.Object).GetName(), errs)
}

// wanted and given are the first request or result with administrators' access, or -1.
func wanted(requests []resourcev1.DeviceRequest) int {
	return slices.IndexFunc(requests, func(r resourcev1.DeviceRequest) bool {
		return r.Exactly != nil && ptr.Deref(r.Exactly.AdminAccess, false)
	})
}

func given(s *resourcev1.ResourceClaimStatus) int {
	if s.Allocation == nil {
		return -1
	}
	return slices.IndexFunc(s.Allocation.Devices.Results, func(r resourcev1.DeviceRequestAllocationResult) bool { return ptr.Deref(r.AdminAccess, false) })
}

func (p *devicesPlugin) asAdministrator(ctx context.Context, namespace string, list *field.Path, i int) field.ErrorList {
	if i < 0 {
		return nil
	}
	at := list.Index(i).Child("adminAccess")
	ns, err := lookup.Get[*corev1.Namespace](ctx, p.objects, core("namespaces"), "", namespace)
	if err != nil {
		return field.ErrorList{field.InternalError(at, fmt.Errorf("could not retrieve namespace to verify admin access: %w", err))}
	}
	if ns.Labels[resourcev1.DRAAdminNamespaceLabelKey] != "true" {
		return field.ErrorList{field.Forbidden(at, fmt.Sprintf("admin access to devices requires the `%s: true` label on the containing namespace", resourcev1.DRAAdminNamespaceLabelKey))}
	}
	return nil
}

func (p *devicesPlugin) status(ctx context.Context, attrs *request.Attributes, now, was *resourcev1.ResourceClaimStatus) field.ErrorList {
	at := field.NewPath("status")
	var errs field.ErrorList
	if given(was) < 0 {
		errs = p.asAdministrator(ctx, attrs.Namespace, at.Child("allocation", "devices", "results"), given(now))
	}
	verb := "update"
	if info := request.InfoFrom(ctx); info != nil {
		verb = info.Verb
	}
	if !equality.Semantic.DeepEqual(now.Allocation, was.Allocation) || !equality.Semantic.DeepEqual(now.ReservedFor, was.ReservedFor) {
		right := request.Info{Verb: verb, Subresource: resourcev1.SubresourceBinding} // for all claims there are
		if err := p.may(ctx, attrs.User, right); err != nil {
			errs = append(errs, field.Forbidden(at.Child("allocation"), fmt.Sprintf(`changing status.allocation or status.reservedFor requires resource="resourceclaims/binding", verb="%s" permission: %s`, verb, err)))
		}
	}
	if now.Allocation == nil {
		return errs // what drivers said goes with it
	}
	verbs := []string{resourcev1.VerbPrefixArbitraryNode + verb}
	if node := nodeOf(now.Allocation); node != "" && node == nodeOfAccount(attrs.User) {
		verbs = append([]string{resourcev1.VerbPrefixAssociatedNode + verb}, verbs...)
	}
	for _, driver := range changedDrivers(now.Devices, was.Devices) {
		var first error
		for _, verb := range verbs {
			err := p.may(ctx, attrs.User, request.Info{Verb: verb, Subresource: resourcev1.SubresourceDriver, Namespace: attrs.Namespace, Name: driver})
			if err == nil {
				first = nil
				break
			}
			if first == nil {
				first = err
			}
		}
		if first != nil {
			errs = append(errs, field.Forbidden(at.Child("devices"), fmt.Sprintf(`changing status.devices requires resource="resourceclaims/driver", verb="%s" permission: %s`, verbs, first)))
		}
	}
	return errs
}

// may asks for a right to a part of claims that no path leads to.
func (p *devicesPlugin) may(ctx context.Context, user *request.User, right request.Info) error {
	right.IsResourceRequest, right.APIGroup, right.APIVersion, right.Resource = true, resourcev1.GroupName, "v1", "resourceclaims"
	verdict := p.authorizer.Authorize(ctx, user, &right)
	if verdict.Allowed {
		return nil
	}
	return authz.Forbidden(user, &right, verdict.Reason())
}

// changedDrivers are those whose devices' status came, went or changed, by name.
func changedDrivers(now, was []resourcev1.AllocatedDeviceStatus) []string {
	drivers := map[string]bool{}
	differing := func(a, b []resourcev1.AllocatedDeviceStatus) {
		for _, d := range a {
			if !slices.ContainsFunc(b, func(other resourcev1.AllocatedDeviceStatus) bool { return equality.Semantic.DeepEqual(d, other) }) {
				drivers[d.Driver] = true
			}
		}
	}
	differing(now, was)
	differing(was, now)
	return slices.Sorted(maps.Keys(drivers))
}

// nodeOf is the one node that an allocation is for, if it is for one.
func nodeOf(a *resourcev1.AllocationResult) string {
	if a.NodeSelector == nil || len(a.NodeSelector.NodeSelectorTerms) != 1 {
		return ""
	}
	term := a.NodeSelector.NodeSelectorTerms[0]
	if len(term.MatchExpressions) != 0 || len(term.MatchFields) != 1 {
		return ""
	}
	f := term.MatchFields[0]
	if f.Key != "metadata.name" || f.Operator != corev1.NodeSelectorOpIn || len(f.Values) != 1 {
		return ""
	}
	return f.Values[0]
}

// nodeOfAccount is the node whose pod a service account's token was made for.
func nodeOfAccount(user *request.User) string {
	names := user.Extra["authentication.kubernetes.io/node-name"]
	if !strings.HasPrefix(user.Name, "system:serviceaccount:") || len(names) != 1 {
		return ""
	}
	return names[0]
}

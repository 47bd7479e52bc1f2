package resource

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/google/uuid"
	resourcev1 "k8s.io/api/resource/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/types"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/pkg/api"
	"skiff/pkg/api/check"
	"skiff/pkg/api/core"
)

// validateClaimStatus checks who uses a claim, what it was given, and what drivers say about that.
func validateClaimStatus(obj, old api.Object) field.ErrorList {
	c, s, was, at := obj.(*resourcev1.ResourceClaim), &obj.(*resourcev1.ResourceClaim).Status, &old.(*resourcev1.ResourceClaim).Status, field.NewPath("status")
	errs := set(at.Child("reservedFor"), s.ReservedFor, resourcev1.ResourceClaimReservedForMaxSize, consumer, func(r *resourcev1.ResourceClaimConsumerReference) types.UID { return r.UID })
	given := allocated(c)
	errs = append(errs, set(at.Child("devices"), s.Devices, math.MaxInt, func(at *field.Path, d *resourcev1.AllocatedDeviceStatus) check.Errors {
		return deviceStatus(at, d, given)
	}, identify)...)
	if len(s.ReservedFor) > 0 && s.Allocation == nil {
		errs = append(errs, field.Forbidden(at.Child("reservedFor"), "may not be specified when `allocated` is not set"))
	} else if c.DeletionTimestamp != nil && slices.ContainsFunc(s.ReservedFor, func(r resourcev1.ResourceClaimConsumerReference) bool { return !slices.Contains(was.ReservedFor, r) }) {
		errs = append(errs, field.Forbidden(at.Child("reservedFor"), "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set"))
	}
	switch at := at.Child("allocation"); {
	case s.Allocation == nil:
	case was.Allocation == nil:
		errs = append(errs, allocation(at, s.Allocation, requestNames(&c.Spec.Devices))...)
	default:
		errs = append(errs, check.Immutable(at, s.Allocation, was.Allocation)...)
	}
	return errs
}

func consumer(at *field.Path, r *resourcev1.ResourceClaimConsumerReference) check.Errors {
	return slices.Concat(check.Required(at.Child("resource"), r.Resource), check.Required(at.Child("name"), r.Name), check.Required(at.Child("uid"), string(r.UID)))
}

func allocation(at *field.Path, a *resourcev1.AllocationResult, names names) check.Errors {
	devices := at.Child("devices")
	errs := slices.Concat(
		each(devices.Child("results"), a.Devices.Results, resourcev1.AllocationResultsMaxSize, func(at *field.Path, r *resourcev1.DeviceRequestAllocationResult) check.Errors {
			errs := slices.Concat(names.ref(at.Child("request"), &r.Request), core.ValidateCSIDriverName(at.Child("driver"), r.Driver), poolName(at.Child("pool"), r.Pool),
				check.Label(at.Child("device"), r.Device), bindingConditions(at, r.BindingConditions, r.BindingFailureConditions))
			if r.ShareID != nil {
				errs = append(errs, uid(at.Child("shareID"), string(*r.ShareID))...)
			}
			return errs
		}),
		each(devices.Child("config"), a.Devices.Config, 2*resourcev1.DeviceConfigMaxSize, func(at *field.Path, c *resourcev1.DeviceAllocationConfiguration) check.Errors {
			return slices.Concat(check.Choice(at.Child("source"), c.Source, resourcev1.AllocationConfigSourceClaim, resourcev1.AllocationConfigSourceClass),
				names.refs(at.Child("requests"), c.Requests), configuration(at, &c.DeviceConfiguration, false))
		}))
	if a.NodeSelector != nil {
		errs = append(errs, core.ValidateNodeSelector(at.Child("nodeSelector"), a.NodeSelector, false)...)
	}
	return errs
}

func deviceStatus(at *field.Path, d *resourcev1.AllocatedDeviceStatus, given map[deviceID]bool) check.Errors {
	errs := slices.Concat(core.ValidateCSIDriverName(at.Child("driver"), d.Driver), poolName(at.Child("pool"), d.Pool), check.Label(at.Child("device"), d.Device))
	if d.ShareID != nil {
		errs = append(errs, uid(at.Child("shareID"), *d.ShareID)...)
	}
	if id := identify(d); !given[id] {
		errs = append(errs, field.Invalid(at, id, "must be an allocated device in the claim"))
	}
	conditions := at.Child("conditions")
	if len(d.Conditions) > resourcev1.AllocatedDeviceStatusMaxConditions {
		errs = append(errs, field.TooMany(conditions, len(d.Conditions), resourcev1.AllocatedDeviceStatusMaxConditions))
	}
	errs = append(errs, metavalidation.ValidateConditions(d.Conditions, conditions)...)
	if d.Data != nil && len(d.Data.Raw) > 0 {
		errs = append(errs, rawObject(at.Child("data"), *d.Data, false, resourcev1.AllocatedDeviceStatusDataMaxLength)...)
	}
	if n := d.NetworkData; n != nil {
		errs = append(errs, networkData(at.Child("networkData"), n)...)
	}
	return errs
}

func networkData(at *field.Path, n *resourcev1.NetworkDeviceData) check.Errors {
	var errs check.Errors
	if len(n.InterfaceName) > resourcev1.NetworkDeviceDataInterfaceNameMaxLength {
		errs = append(errs, field.TooLong(at.Child("interfaceName"), "", resourcev1.NetworkDeviceDataInterfaceNameMaxLength))
	}
	if len(n.HardwareAddress) > resourcev1.NetworkDeviceDataHardwareAddressMaxLength {
		errs = append(errs, field.TooLong(at.Child("hardwareAddress"), "", resourcev1.NetworkDeviceDataHardwareAddressMaxLength))
	}
	return append(errs, set(at.Child("ips"), n.IPs, resourcev1.NetworkDeviceDataMaxIPs, func(at *field.Path, ip *string) check.Errors {
		return utilvalidation.IsValidInterfaceAddress(at, *ip)
	}, itself)...)
}

func uid(at *field.Path, id string) check.Errors {
	if err := uuid.Validate(id); err != nil {
		return check.Errors{field.Invalid(at, id, fmt.Sprintf("error validating uid: %v", err))}
	}
	if len(id) != 36 || id != strings.ToLower(id) {
		return check.Errors{field.Invalid(at, id, "uid must be in RFC 4122 normalized form, `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` with lowercase hexadecimal characters")}
	}
	return nil
}

package resource

import (
	"context"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/utils/ptr"

	"skiff/pkg/api"
)

// prepareClaimStatus drops the status of devices that this write gives back.
func prepareClaimStatus(_ context.Context, obj, old api.Object) {
	c, was := obj.(*resourcev1.ResourceClaim), old.(*resourcev1.ResourceClaim)
	before, now := allocated(was), allocated(c)
	var kept []resourcev1.AllocatedDeviceStatus
	for _, d := range c.Status.Devices {
		if id := identify(&d); !before[id] || now[id] {
			kept = append(kept, d)
		}
	}
	c.Status.Devices = kept
}

// deviceID is a device, or a share of one, in the names that a claim has for it.
type deviceID struct{ driver, pool, name, share string }

func (d deviceID) String() string {
	name := d.driver + "/" + d.pool + "/" + d.name
	if d.share != "" {
		name += "/" + d.share
	}
	return name
}

func identify(d *resourcev1.AllocatedDeviceStatus) deviceID {
	return deviceID{d.Driver, d.Pool, d.Device, ptr.Deref(d.ShareID, "")}
}

func allocated(c *resourcev1.ResourceClaim) map[deviceID]bool {
	set := map[deviceID]bool{}
	if c.Status.Allocation == nil {
		return set
	}
	for _, r := range c.Status.Allocation.Devices.Results {
		set[deviceID{r.Driver, r.Pool, r.Device, string(ptr.Deref(r.ShareID, ""))}] = true
	}
	return set
}

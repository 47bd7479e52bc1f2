package resource

import (
	"context"

	resourcev1 "k8s.io/api/resource/v1"

	"skiff/pkg/api"
)

// prepareClaimStatus drops the status of devices that this write gives back.
func prepareClaimStatus(ctx context.Context, obj, old api.Object) {
	api.KeepMeta(ctx, obj, old)
	c, was := obj.(*resourcev1.ResourceClaim), old.(*resourcev1.ResourceClaim)
	before, now := allocated(was), allocated(c)
	var kept []resourcev1.AllocatedDeviceStatus
	for _, d := range c.Status.Devices {
		id := device{d.Driver, d.Pool, d.Device, ""}
		if d.ShareID != nil {
			id.share = *d.ShareID
		}
		if !before[id] || now[id] {
			kept = append(kept, d)
		}
	}
	c.Status.Devices = kept
}

type device struct{ driver, pool, name, share string }

func allocated(c *resourcev1.ResourceClaim) map[device]bool {
	set := map[device]bool{}
	if c.Status.Allocation == nil {
		return set
	}
	for _, r := range c.Status.Allocation.Devices.Results {
		id := device{r.Driver, r.Pool, r.Device, ""}
		if r.ShareID != nil {
			id.share = string(*r.ShareID)
		}
		set[id] = true
	}
	return set
}

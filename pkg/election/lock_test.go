package election

import (
	"testing"
	"testing/synctest"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Two renewals within a second are two signs of life: after the second the lease lasts for its whole duration.
func TestRenewalsWithinASecondCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		holder, seconds := "a", int32(3)
		renewed := func() *coordinationv1.Lease {
			now := metav1.NowMicro()
			return &coordinationv1.Lease{Spec: coordinationv1.LeaseSpec{HolderIdentity: &holder, LeaseDurationSeconds: &seconds, RenewTime: &now}}
		}
		l := &lock{identity: "b", leaseNow: renewed()}
		l.notice()
		time.Sleep(750 * time.Millisecond)
		l.leaseNow = renewed()
		if !l.notice() || l.expiry() != 3*time.Second {
			t.Errorf("%v are left after a renewal", l.expiry())
		}
	})
}

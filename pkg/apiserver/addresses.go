package apiserver

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"skiff/pkg/store"
)

// address checks the address that a service asks for, or finds a free one.
func (a *allocator) address(ctx context.Context, s, old *corev1.Service) error {
	spec := &s.Spec
	if spec.ClusterIP == corev1.ClusterIPNone || len(spec.ClusterIPs) > 0 && spec.ClusterIPs[0] == corev1.ClusterIPNone {
		return nil
	}
	if old != nil && old.Spec.Type != corev1.ServiceTypeExternalName {
		return nil // it has one, and validation keeps it
	}
	ranges, err := a.ranges(ctx)
	if err != nil {
		return err
	}
	if wanted := spec.ClusterIP; wanted != "" {
		ip, err := netip.ParseAddr(wanted)
		if err != nil || !ip.Is4() {
			return nil // validation says so better
		}
		why := "the provided network does not match the current range"
		for _, r := range ranges {
			if r.Contains(ip) && ip != r.Addr() && ip != last(r) {
				return nil
			}
			if r.Contains(ip) {
				why = fmt.Sprintf("the provided IP (%s) is not in the valid range. The range of valid IPs is %s", wanted, r)
			}
		}
		return refuseAddress(s, wanted, why)
	}
	for _, r := range ranges {
		ip, err := a.free(ctx, r)
		if err != nil {
			return err
		}
		if ip.IsValid() {
			spec.ClusterIP, spec.ClusterIPs = ip.String(), []string{ip.String()}
			return nil
		}
	}
	return apierrors.NewInternalError(fmt.Errorf("failed to allocate a serviceIP for Service %q: range is full", s.Name))
}

// ranges are the server's own range and those that ServiceCIDR objects add.
func (a *allocator) ranges(ctx context.Context) ([]netip.Prefix, error) {
	own := a.server.cfg.ServiceRange
	all := []netip.Prefix{own}
	kind := a.server.kind(networkingv1.SchemeGroupVersion.WithKind("ServiceCIDR"))
	if kind == nil {
		return all, nil
	}
	page, err := a.server.store.List(ctx, kind, store.Query{ResourceVersion: "0"})
	if err != nil {
		return nil, fmt.Errorf("list service ranges: %w", err)
	}
	for _, entry := range page.Entries {
		obj, err := entry.Shared()
		if err != nil {
			return nil, err
		}
		cidr := obj.(*networkingv1.ServiceCIDR)
		if cidr.DeletionTimestamp != nil {
			continue
		}
		for _, text := range cidr.Spec.CIDRs {
			if r, err := netip.ParsePrefix(text); err == nil && r.Addr().Is4() && r.Masked() != own {
				all = append(all, r.Masked())
			}
		}
	}
	return all, nil
}

// free picks an address that isn't taken as far as is known: by chance from the upper band of the range,
// which leaves the lower one to those who choose for themselves (KEP-3070), then any.
// It returns the zero address when the range is full.
func (a *allocator) free(ctx context.Context, r netip.Prefix) (netip.Addr, error) {
	kind := a.server.kind(networkingv1.SchemeGroupVersion.WithKind("IPAddress"))
	size := hosts(r)
	band := reserved(size)
	for range allocationTries {
		if size == band {
			break
		}
		ip := nth(r, 1+band+rand.IntN(size-band))
		_, err := a.server.store.Get(ctx, kind, store.Key{Path: kind.StoragePath, Name: ip.String()}, -1)
		if apierrors.IsNotFound(err) {
			return ip, nil
		}
		if err != nil {
			return ip, err
		}
	}
	page, err := a.server.store.List(ctx, kind, store.Query{})
	if err != nil {
		return netip.Addr{}, err
	}
	used := make(map[string]bool, len(page.Entries))
	for _, e := range page.Entries {
		used[e.Key.Name] = true
	}
	for i := range size {
		ip := nth(r, 1+(band+i)%size)
		if !used[ip.String()] {
			return ip, nil
		}
	}
	return netip.Addr{}, nil
}

// hosts is how many addresses a range has to give, without its first and last.
func hosts(r netip.Prefix) int {
	bits := min(32-r.Bits(), 24) // more than anybody has services
	return max(1<<bits-2, 0)
}

// reserved is the size of the lower band.
func reserved(size int) int {
	if size <= 16 {
		return 0
	}
	return min(max(size/16, 16), 256)
}

func nth(r netip.Prefix, n int) netip.Addr {
	b := r.Addr().As4()
	v := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
	v += uint32(n)
	return netip.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)})
}

func last(r netip.Prefix) netip.Addr { return nth(r, 1<<(32-r.Bits())-1) }

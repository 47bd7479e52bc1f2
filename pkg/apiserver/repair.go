package apiserver

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"skiff/pkg/store"
)

// repairEvery is how often allocations are compared with the services. It matters where other
// apiservers share the etcd, and when a cluster comes from one.
const repairEvery = 10 * time.Minute

// repair adds the records of what services have, and removes those whose service is gone.
// Records are read before services: whoever made a record made its service in the same
// transaction, so that a service that can't be seen then has gone.
func (a *allocator) repair(ctx context.Context) error {
	ports, err := a.server.cfg.Etcd.Get(ctx, nodePortPrefix, clientv3.WithPrefix())
	if err != nil {
		return fmt.Errorf("list node ports: %w", err)
	}
	addresses, err := a.server.store.List(ctx, a.server.kind(networkingv1.SchemeGroupVersion.WithKind("IPAddress")), store.Query{})
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	services, err := a.server.store.List(ctx, a.server.kind(corev1.SchemeGroupVersion.WithKind("Service")), store.Query{})
	if err != nil {
		return fmt.Errorf("list services: %w", err)
	}
	usedPorts, usedAddresses := map[string]bool{}, map[string]bool{}
	knownPorts, knownAddresses := map[string]bool{}, map[string]bool{}
	for _, kv := range ports.Kvs {
		knownPorts[string(kv.Key)] = true
	}
	for _, e := range addresses.Entries {
		knownAddresses[e.Key.Name] = true
	}
	for _, entry := range services.Entries {
		obj, err := entry.Shared()
		if err != nil {
			return err
		}
		service := obj.(*corev1.Service)
		for _, port := range portsOf(service) {
			usedPorts[nodePortKey(port)] = true
			if !knownPorts[nodePortKey(port)] {
				if err := a.record(ctx, entry, nodePortKey(port), service.Namespace+"/"+service.Name); err != nil {
					return err
				}
			}
		}
		for _, ip := range addressesOf(service) {
			usedAddresses[ip] = true
			if knownAddresses[ip] {
				continue
			}
			key, value, err := a.ipAddress(service, ip)
			if err != nil {
				return err
			}
			if err := a.record(ctx, entry, key, string(value)); err != nil {
				return err
			}
		}
	}
	for _, kv := range ports.Kvs {
		if !usedPorts[string(kv.Key)] {
			if err := a.forget(ctx, string(kv.Key), kv.ModRevision); err != nil {
				return err
			}
		}
	}
	return a.forgetAddresses(ctx, addresses.Entries, usedAddresses)
}

// record adds a record for a service that still is what was read.
func (a *allocator) record(ctx context.Context, service *store.Entry, key, value string) error {
	_, err := a.server.cfg.Etcd.Txn(ctx).If(
		clientv3.Compare(clientv3.ModRevision("/registry/"+service.Key.String()), "=", service.Revision),
		clientv3.Compare(clientv3.CreateRevision(key), "=", 0),
	).Then(clientv3.OpPut(key, value)).Commit()
	if err != nil {
		return fmt.Errorf("record %s: %w", key, err)
	}
	return nil
}

func (a *allocator) forget(ctx context.Context, key string, revision int64) error {
	_, err := a.server.cfg.Etcd.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", revision)).Then(clientv3.OpDelete(key)).Commit()
	if err != nil {
		return fmt.Errorf("forget %s: %w", key, err)
	}
	return nil
}

// forgetAddresses leaves alone the addresses that other things than services own.
func (a *allocator) forgetAddresses(ctx context.Context, entries []*store.Entry, used map[string]bool) error {
	for _, e := range slices.Clone(entries) {
		obj, err := e.Shared()
		if err != nil {
			return err
		}
		ip := obj.(*networkingv1.IPAddress)
		ref := ip.Spec.ParentRef
		ours := ref != nil && ref.Resource == "services" && ref.Group == "" && strings.HasPrefix(ip.Labels[networkingv1.LabelManagedBy], "ipallocator")
		if !ours || used[e.Key.Name] {
			continue
		}
		if err := a.forget(ctx, a.ipKey(e.Key.Name), e.Revision); err != nil {
			return err
		}
	}
	return nil
}

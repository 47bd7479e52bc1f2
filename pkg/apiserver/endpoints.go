package apiserver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/pkg/api"
)

// Every apiserver has a key below /registry/masterleases that lives as long as an etcd
// lease which it keeps alive, as Kubernetes' have. The endpoints of the kubernetes service are those
// keys' addresses; whoever sees a key come or go writes them.
const (
	masterLeases = "/registry/masterleases/"
	// masterLeaseTTL is in seconds: how long a server that died stays among the endpoints.
	masterLeaseTTL = 10
)

const (
	// goodbye is how long leaving the endpoints may take.
	goodbye = 2 * time.Second
	// etcdTime is how long etcd may take to answer.
	etcdTime = 5 * time.Second
)

// endpoints keeps this server's key, and the endpoints, until ctx ends; then it takes both away.
func (s *server) endpoints(ctx context.Context) error {
	defer close(s.left)
	var lease clientv3.LeaseID // kept through failures, so that the key stays
	err := s.again(ctx, time.Second, "keep the kubernetes service's endpoints", func(ctx context.Context) error {
		return s.followLeases(ctx, &lease)
	})
	// Clients shall stop coming here before the listener closes. The lease takes the key along, but not one that
	// a successor under the same address has put there: that hangs on another lease.
	after, cancel := context.WithTimeout(context.WithoutCancel(ctx), goodbye)
	defer cancel()
	if _, gone := s.cfg.Etcd.Revoke(after, lease); gone == nil {
		_ = s.writeEndpoints(after) // the others see the key go, and do it too
	}
	return err
}

// errLeaseLost says that the key has gone, or will.
var errLeaseLost = errors.New("the master lease was lost")

// followLeases holds this server's lease and writes the endpoints at each change, until something fails. lease is 0
// when there is none.
func (s *server) followLeases(ctx context.Context, lease *clientv3.LeaseID) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer func() {
		if errors.Is(err, errLeaseLost) || errors.Is(err, rpctypes.ErrLeaseNotFound) {
			*lease = 0
		}
	}()
	if *lease == 0 {
		granting, cancel := context.WithTimeout(ctx, etcdTime)
		granted, err := s.cfg.Etcd.Grant(granting, masterLeaseTTL)
		cancel()
		if err != nil {
			return fmt.Errorf("grant a master lease: %w", err)
		}
		*lease = granted.ID
	}
	alive, err := s.cfg.Etcd.KeepAlive(ctx, *lease)
	if err != nil {
		return fmt.Errorf("keep the master lease alive: %w", err)
	}
	ip := s.cfg.AdvertiseAddress.String()
	value, err := api.EncodeStored(s.kind(corev1.SchemeGroupVersion.WithKind("Endpoints")), &corev1.Endpoints{
		Subsets: []corev1.EndpointSubset{{Addresses: []corev1.EndpointAddress{{IP: ip}}}},
	})
	if err != nil {
		return err
	}
	putting, done := context.WithTimeout(ctx, etcdTime)
	put, err := s.cfg.Etcd.Put(putting, masterLeases+ip, string(value), clientv3.WithLease(*lease))
	done()
	if err != nil {
		return fmt.Errorf("write the master lease: %w", err)
	}
	changes := s.cfg.Etcd.Watch(clientv3.WithRequireLeader(ctx), masterLeases, clientv3.WithPrefix(), clientv3.WithRev(put.Header.Revision+1))
	for {
		if err := s.writeEndpoints(ctx); err != nil {
			return err
		}
		if err := nextChange(ctx, alive, changes); err != nil {
			return err
		}
	}
}

// nextChange waits until the keys have changed, or a while has passed.
func nextChange(ctx context.Context, alive <-chan *clientv3.LeaseKeepAliveResponse, changes clientv3.WatchChan) error {
	look := time.After(10 * time.Second) // somebody may have changed the endpoints themselves
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-look:
			return nil
		case _, ok := <-alive:
			if !ok {
				return errLeaseLost
			}
		case change, ok := <-changes:
			if !ok {
				return errors.New("the watch of master leases ended")
			}
			return change.Err()
		}
	}
}

// writeEndpoints makes the service's endpoints what the keys say.
func (s *server) writeEndpoints(ctx context.Context) error {
	reading, cancel := context.WithTimeout(ctx, etcdTime)
	answer, err := s.cfg.Etcd.Get(reading, masterLeases, clientv3.WithPrefix(), clientv3.WithKeysOnly())
	cancel()
	if err != nil {
		return fmt.Errorf("read master leases: %w", err)
	}
	var addresses []netip.Addr
	for _, kv := range answer.Kvs {
		if ip, err := netip.ParseAddr(strings.TrimPrefix(string(kv.Key), masterLeases)); err == nil {
			addresses = append(addresses, ip)
		}
	}
	slices.SortFunc(addresses, netip.Addr.Compare)
	port := int32(s.cfg.AdvertisePort)
	err = s.ensure(ctx, corev1.SchemeGroupVersion.WithKind("Endpoints"), metav1.NamespaceDefault, "kubernetes", func(current api.Object) (api.Object, error) {
		endpoints, ok := current.(*corev1.Endpoints)
		if !ok {
			endpoints = &corev1.Endpoints{}
		}
		if endpoints.Labels == nil {
			endpoints.Labels = map[string]string{}
		}
		endpoints.Labels[discoveryv1.LabelSkipMirror] = "true" // the slice below is its mirror
		endpoints.Subsets = nil
		if len(addresses) > 0 {
			subset := corev1.EndpointSubset{Ports: []corev1.EndpointPort{{Name: "https", Port: port, Protocol: corev1.ProtocolTCP}}}
			for _, ip := range addresses {
				subset.Addresses = append(subset.Addresses, corev1.EndpointAddress{IP: ip.String()})
			}
			endpoints.Subsets = []corev1.EndpointSubset{subset}
		}
		return endpoints, nil
	})
	if err != nil {
		return err
	}
	return s.ensure(ctx, discoveryv1.SchemeGroupVersion.WithKind("EndpointSlice"), metav1.NamespaceDefault, "kubernetes", func(current api.Object) (api.Object, error) {
		slice, ok := current.(*discoveryv1.EndpointSlice)
		if !ok {
			slice = &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Generation: 1}}
		}
		fillSlice(slice, addresses, port)
		return slice, nil
	})
}

func fillSlice(slice *discoveryv1.EndpointSlice, addresses []netip.Addr, port int32) {
	before := slice.DeepCopy()
	if slice.Labels == nil {
		slice.Labels = map[string]string{}
	}
	slice.Labels[discoveryv1.LabelServiceName] = "kubernetes"
	slice.AddressType = discoveryv1.AddressTypeIPv4
	name, protocol, ready := "https", corev1.ProtocolTCP, true
	slice.Ports = []discoveryv1.EndpointPort{{Name: &name, Port: &port, Protocol: &protocol}}
	slice.Endpoints = nil
	for _, ip := range addresses {
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{ip.String()}, Conditions: discoveryv1.EndpointConditions{Ready: &ready},
		})
	}
	if before.ResourceVersion != "" && !sameEndpoints(before, slice) {
		slice.Generation++
	}
}

func sameEndpoints(a, b *discoveryv1.EndpointSlice) bool {
	return slices.EqualFunc(a.Endpoints, b.Endpoints, func(x, y discoveryv1.Endpoint) bool { return slices.Equal(x.Addresses, y.Addresses) }) &&
		len(a.Ports) == 1 && cmp.Compare(*a.Ports[0].Port, *b.Ports[0].Port) == 0
}

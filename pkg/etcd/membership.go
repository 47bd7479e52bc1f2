package etcd

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Join adds the member that config describes to the cluster behind client, and returns the config to [Start]
// it with. It has no vote yet, so that the cluster doesn't wait for it: Start gives it one when it has
// caught up. A member with these peer URLs that was added before is taken over, so that a
// failed Join can be repeated. While another member is joining, Join waits for its turn.
func Join(ctx context.Context, client *clientv3.Client, config Config) (Config, error) {
	config = config.withDefaults()
	urls := config.Peers.Advertise
	if len(urls) == 0 {
		urls = config.Peers.Listen
	}
	if len(urls) == 0 {
		return config, fmt.Errorf("joining as %s: a member among others needs a peer URL", config.Name)
	}
	members, err := addLearner(ctx, client, urls)
	if err != nil {
		return config, fmt.Errorf("joining as %s: %w", config.Name, err)
	}
	config.Existing = true
	config.InitialCluster = map[string][]string{}
	for _, m := range members {
		name := m.Name
		if slices.Equal(m.PeerURLs, urls) {
			name = config.Name
		}
		config.InitialCluster[name] = m.PeerURLs
	}
	return config, nil
}

// addLearner makes sure that a member with these URLs is known, and returns all members.
func addLearner(ctx context.Context, client *clientv3.Client, urls []string) ([]*etcdserverpb.Member, error) {
	for {
		list, err := client.MemberList(ctx)
		if err != nil {
			return nil, fmt.Errorf("listing members: %w", err)
		}
		if slices.ContainsFunc(list.Members, func(m *etcdserverpb.Member) bool { return slices.Equal(m.PeerURLs, urls) }) {
			return list.Members, nil
		}
		_, err = client.MemberAddAsLearner(ctx, urls)
		if err != nil && !errors.Is(err, rpctypes.ErrTooManyLearners) && !errors.Is(err, rpctypes.ErrUnhealthy) {
			return nil, err
		}
		if err == nil {
			continue
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), err)
		case <-time.After(250 * time.Millisecond):
		}
	}
}

// Leave takes a member out of the cluster behind client, which then needs one vote less.
func Leave(ctx context.Context, client *clientv3.Client, id uint64) error {
	if _, err := client.MemberRemove(ctx, id); err != nil {
		return fmt.Errorf("removing etcd member %x: %w", id, err)
	}
	return nil
}

// initialCluster is the flag's form: name=url,name=url.
func (c Config) initialCluster(own []url.URL) string {
	cluster := c.InitialCluster
	if len(cluster) == 0 {
		cluster = map[string][]string{}
		for _, u := range own {
			cluster[c.Name] = append(cluster[c.Name], u.String())
		}
	}
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(cluster)) {
		for _, u := range cluster[name] {
			parts = append(parts, name+"="+u)
		}
	}
	return strings.Join(parts, ",")
}

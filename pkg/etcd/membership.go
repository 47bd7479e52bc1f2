package etcd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// changeTimeout is how long the cluster may take over a change of its members: without a quorum
// it would try for ever.
const changeTimeout = 5 * time.Second

// Join adds the member that config describes to the cluster behind client, and returns the config
// to [Start] it with on an empty directory. It has no vote yet, so that the cluster doesn't wait for it:
// Start gives it one when it has caught up. While another member is joining, Join waits for its turn.
//
// The cluster may list a member with these peer URLs: one that was killed while it joined, or that
// has lost its data. It is taken out first, unless it answers: a member must not come back with
// less than it has promised to keep. The cluster only lets it go when it has a quorum without it.
func Join(ctx context.Context, client *clientv3.Client, config Config) (Config, error) {
	config = config.withDefaults()
	urls := config.Peers.Advertise
	if len(urls) == 0 {
		urls = config.Peers.Listen
	}
	if len(urls) == 0 {
		return config, fmt.Errorf("joining as %s: a member among others needs a peer URL", config.Name)
	}
	urls = slices.Sorted(slices.Values(urls)) // as etcd keeps them
	members, err := enter(ctx, client, config.Name, urls, config.Log)
	if err != nil {
		return config, fmt.Errorf("joining as %s: %w", config.Name, err)
	}
	config.Existing = true
	config.InitialCluster = map[string][]string{}
	for _, m := range members {
		name := strconv.FormatUint(m.ID, 16) // names of others don't matter, and need not be unique
		if slices.Equal(m.PeerURLs, urls) {
			name = config.Name
		}
		config.InitialCluster[name] = m.PeerURLs
	}
	return config, nil
}

// join is Join for a member that knows only where its cluster is.
func (c Config) join(ctx context.Context) (Config, error) {
	if c.Join.Log == nil {
		c.Join.Log = c.Log
	}
	client, err := Dial(c.Join)
	if err != nil {
		return c, err
	}
	defer client.Close()
	return Join(ctx, client, c)
}

// enter adds a member with these URLs, and returns all members.
func enter(ctx context.Context, client *clientv3.Client, name string, urls []string, log *slog.Logger) ([]*etcdserverpb.Member, error) {
	members, err := listForChange(ctx, client)
	if err != nil {
		return nil, err
	}
	for _, m := range members {
		switch own := slices.Equal(m.PeerURLs, urls); {
		case !own && m.Name == name:
			return nil, fmt.Errorf("there is a member of that name, at %s: choose another name, or remove it", strings.Join(m.PeerURLs, ","))
		case !own:
		case m.Name == "" && !m.IsLearner: // added by hand, and its vote counts already: the cluster may need it to let it go
			return members, nil
		default:
			if err := expel(ctx, client, m, log); err != nil {
				return nil, err
			}
		}
	}
	for {
		limited, cancel := context.WithTimeout(ctx, changeTimeout)
		added, err := client.MemberAddAsLearner(limited, urls)
		cancel()
		if err == nil {
			return added.Members, nil
		}
		// IDs are made of URLs and the second: after a removal the next one has to be waited for ("not found").
		if !errors.Is(err, rpctypes.ErrTooManyLearners) && !errors.Is(err, rpctypes.ErrUnhealthy) && !errors.Is(err, rpctypes.ErrMemberNotFound) {
			return nil, plain(err)
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), err)
		case <-time.After(250 * time.Millisecond):
		}
	}
}

// listForChange lists the members as a quorum knows them; without one the error says what is wrong.
func listForChange(ctx context.Context, client *clientv3.Client) ([]*etcdserverpb.Member, error) {
	limited, cancel := context.WithTimeout(ctx, changeTimeout)
	defer cancel()
	list, err := client.MemberList(limited)
	if err != nil {
		return nil, explained(ctx, client, "listing members", err)
	}
	return list.Members, nil
}

// expel removes a member that stands where a new one begins, if nobody is there.
func expel(ctx context.Context, client *clientv3.Client, m *etcdserverpb.Member, log *slog.Logger) error {
	for _, raw := range m.PeerURLs {
		u, err := url.Parse(raw)
		if err != nil {
			return err
		}
		dialer := net.Dialer{Timeout: time.Second}
		if connection, err := dialer.DialContext(ctx, "tcp", u.Host); err == nil {
			connection.Close()
			return fmt.Errorf("a member (%s, %x) is running at %s", m.Name, m.ID, raw)
		}
	}
	if m.Name != "" {
		log.Warn("replacing an etcd member that has lost its data", "name", m.Name, "id", strconv.FormatUint(m.ID, 16))
	}
	return Leave(ctx, client, m.ID)
}

// Leave takes a member out of the cluster behind client, which then needs one vote less. It is refused
// where those that are left would have no quorum. One that is gone already is no error.
func Leave(ctx context.Context, client *clientv3.Client, id uint64) error {
	limited, cancel := context.WithTimeout(ctx, changeTimeout)
	defer cancel()
	_, err := client.MemberRemove(limited, id)
	switch {
	case err == nil || errors.Is(err, rpctypes.ErrMemberNotFound):
		return nil
	case errors.Is(err, rpctypes.ErrUnhealthy), errors.Is(err, rpctypes.ErrMemberNotEnoughStarted):
		return fmt.Errorf("removing etcd member %x: too few of the others are well, and the quorum would be lost with it (%w)", id, plain(err))
	}
	return explained(ctx, client, fmt.Sprintf("removing etcd member %x", id), err)
}

// explained adds what is wrong with the cluster to the error of a call that needs a quorum.
func explained(ctx context.Context, client *clientv3.Client, what string, err error) error {
	if cause := Diagnose(ctx, client); cause != nil {
		return fmt.Errorf("%s: %w (%w)", what, cause, plain(err))
	}
	return fmt.Errorf("%s: %w", what, plain(err))
}

// Find returns the member of a name or, in hexadecimal, an ID.
func Find(members []MemberStatus, nameOrID string) (MemberStatus, error) {
	var found []MemberStatus
	for _, m := range members {
		if m.Name == nameOrID || strconv.FormatUint(m.ID, 16) == nameOrID {
			found = append(found, m)
		}
	}
	switch len(found) {
	case 0:
		return MemberStatus{}, fmt.Errorf("no etcd member %q among %v", nameOrID, members)
	case 1:
		return found[0], nil
	}
	return MemberStatus{}, fmt.Errorf("%d etcd members are named %q: use the ID", len(found), nameOrID)
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

package etcd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Compact forgets all revisions before the present one, which it returns, and waits until that
// is done. Watches and lists that go on from older revisions must begin anew.
func Compact(ctx context.Context, client *clientv3.Client) (int64, error) {
	answer, err := client.Get(ctx, "health", clientv3.WithCountOnly())
	if err != nil {
		return 0, fmt.Errorf("compacting etcd: %w", plain(err))
	}
	revision := answer.Header.Revision
	_, err = client.Compact(ctx, revision, clientv3.WithCompactPhysical())
	if err != nil && !errors.Is(err, rpctypes.ErrCompacted) {
		return 0, fmt.Errorf("compacting etcd at revision %d: %w", revision, plain(err))
	}
	return revision, nil
}

// Defragment gives the space that compaction freed back to the file system, member by member. A
// member doesn't serve meanwhile: the others must all be well before one is touched, and
// the leader comes last, after it has handed over. Repeat it when it fails.
func Defragment(ctx context.Context, client *clientv3.Client) error {
	members, err := settled(ctx, client)
	if err != nil {
		return fmt.Errorf("defragmenting etcd: %w", err)
	}
	slices.SortStableFunc(members, func(a, b MemberStatus) int {
		switch {
		case a.Leader == b.Leader:
			return 0
		case a.Leader:
			return 1
		}
		return -1
	})
	for _, m := range members {
		if err := defragment(ctx, client, m.ID); err != nil {
			return fmt.Errorf("defragmenting etcd member %v: %w", m, err)
		}
	}
	return nil
}

func defragment(ctx context.Context, client *clientv3.Client, id uint64) error {
	members, err := settled(ctx, client)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(members, func(m MemberStatus) bool { return m.ID == id })
	if i < 0 {
		return errors.New("it was removed")
	}
	url := members[i].ClientURLs[0]
	heir := slices.IndexFunc(members, func(m MemberStatus) bool { return m.ID != id && !m.Learner })
	return at(client, url, func(member etcdserverpb.MaintenanceClient) error {
		if members[i].Leader && heir >= 0 {
			if _, err := member.MoveLeader(ctx, &etcdserverpb.MoveLeaderRequest{TargetID: members[heir].ID}); err != nil {
				return fmt.Errorf("handing over to %v: %w", members[heir], plain(err))
			}
		}
		if _, err := member.Defragment(ctx, &etcdserverpb.DefragmentRequest{}); err != nil {
			return plain(err)
		}
		return nil
	})
}

// lag is how many entries a member may be behind and still count as caught up: some are always under way.
const lag = 1000

// settled returns all members once there is a leader and nobody lags; a member that doesn't answer is an error.
func settled(ctx context.Context, client *clientv3.Client) ([]MemberStatus, error) {
	if inProcess(client) {
		return nil, errors.New("a client that dials the members is needed")
	}
	for {
		members, err := Members(ctx, client)
		if err != nil {
			return nil, err
		}
		var led bool
		var newest, slowest uint64 = 0, 1<<64 - 1
		for _, m := range members {
			if m.Err != nil {
				return nil, fmt.Errorf("member %v doesn't answer (%w): bring it back or remove it first", m, m.Err)
			}
			led = led || m.Leader
			newest, slowest = max(newest, m.Index), min(slowest, m.Applied)
		}
		if led && slowest+lag >= newest {
			return members, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for a leader and for all members to catch up: %w", ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// Disarm takes all alarms back whose cause is gone, and refuses where one is not: a database
// still at its quota would raise NOSPACE with the next write, and a member with CORRUPT data must
// be removed before the others can be trusted again.
func Disarm(ctx context.Context, client *clientv3.Client) error {
	members, err := Members(ctx, client)
	if err != nil {
		return err
	}
	for _, m := range members {
		switch {
		case slices.Contains(m.Alarms, "CORRUPT"):
			return fmt.Errorf("member %v is CORRUPT: remove it first", m)
		case m.Quota > 0 && m.DBSize >= m.Quota:
			return fmt.Errorf("member %v still fills its quota (%d of %d MiB): compact and defragment first, or raise it", m, m.DBSize>>20, m.Quota>>20)
		}
	}
	if _, err := client.AlarmDisarm(ctx, &clientv3.AlarmMember{}); err != nil {
		return fmt.Errorf("disarming etcd's alarms: %w", plain(err))
	}
	return nil
}

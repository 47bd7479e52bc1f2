package store

import (
	"context"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Compactor lets tests take turns without waiting for them.
type Compactor struct{ compactor }

func (c *Compactor) Turn(ctx context.Context, client *clientv3.Client) error {
	return c.turn(ctx, client)
}

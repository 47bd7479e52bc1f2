package etcd

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
)

// terms gives writes up that were lost with a leader. A member hands a write on to the leader; if that
// one dies, the member goes on waiting for 5 s and more, although another leads long since. Answers
// carry raft's term: a write that began in an older one than the present is not waited for.
type terms struct{ newest atomic.Uint64 }

// A write is looked after when it takes this long, and from then on this often.
const (
	slowWrite  = 500 * time.Millisecond
	checkWrite = 250 * time.Millisecond
)

func (t *terms) intercept(ctx context.Context, method string, request, reply any, connection *grpc.ClientConn, invoke grpc.UnaryInvoker, options ...grpc.CallOption) error {
	if !strings.HasPrefix(method, "/etcdserverpb.KV/") {
		return invoke(ctx, method, request, reply, connection, options...)
	}
	began := t.newest.Load()
	callCtx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	timer := time.AfterFunc(slowWrite, func() {
		if t.passed(callCtx, began, etcdserverpb.NewMaintenanceClient(connection)) {
			cancel(rpctypes.ErrGRPCLeaderChanged)
		}
	})
	defer timer.Stop()
	err := invoke(callCtx, method, request, reply, connection, options...)
	if err != nil && errors.Is(context.Cause(callCtx), rpctypes.ErrGRPCLeaderChanged) {
		return rpctypes.ErrGRPCLeaderChanged
	}
	if r, ok := reply.(interface {
		GetHeader() *etcdserverpb.ResponseHeader
	}); ok && err == nil {
		t.saw(r.GetHeader().GetRaftTerm())
	}
	return err
}

// passed waits until another term than the one given has a leader for a while (what it committed first may still be
// on its way), or the call ends.
func (t *terms) passed(ctx context.Context, term uint64, members etcdserverpb.MaintenanceClient) bool {
	for seen := 0; ; {
		askCtx, cancel := context.WithTimeout(ctx, 2*checkWrite)
		answer, err := members.Status(askCtx, &etcdserverpb.StatusRequest{})
		cancel()
		if err == nil {
			t.saw(answer.RaftTerm)
			if term == 0 { // this client's first call
				term = answer.RaftTerm
			}
			if answer.RaftTerm > term && answer.Leader != 0 {
				seen++
			}
		}
		if seen == 2 {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(checkWrite):
		}
	}
}

func (t *terms) saw(term uint64) {
	for old := t.newest.Load(); term > old && !t.newest.CompareAndSwap(old, term); old = t.newest.Load() {
	}
}

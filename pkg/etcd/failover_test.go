package etcd

import (
	"context"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
)

// listen hands every connection to serve, with its number.
func listen(t *testing.T, serve func(int, net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for i := 0; ; i++ {
			c, err := l.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { c.Close() })
			serve(i, c)
		}
	}()
	return l.Addr().String()
}

// A process that is stopped still has a kernel that takes bytes.
func TestSilentMemberIsLeft(t *testing.T) {
	t.Parallel()
	c, err := prober{}.dial(t.Context(), listen(t, func(int, net.Conn) {}))
	if err != nil {
		t.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(time.Minute))
	if _, err := c.Write([]byte("?")); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); err == nil || err.(net.Error).Timeout() {
		t.Errorf("the connection didn't end: %v", err)
	}
}

func TestSlowMemberIsKept(t *testing.T) {
	t.Parallel()
	answer := make(chan struct{})
	address := listen(t, func(i int, c net.Conn) {
		switch i {
		case 0:
			go func() {
				<-answer
				c.Write([]byte("!"))
			}()
		default:
			c.Write([]byte("!")) // whom a suspicious client asks for a sign of life
			if i == 2 {
				close(answer)
			}
		}
	})
	c, err := prober{}.dial(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("?")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Errorf("the connection to a slow member ended: %v", err)
	}
}

// fakeStatus answers with one status after another, and then with the last for ever.
type fakeStatus struct {
	etcdserverpb.MaintenanceClient
	answers []*etcdserverpb.StatusResponse
}

func (f *fakeStatus) Status(context.Context, *etcdserverpb.StatusRequest, ...grpc.CallOption) (*etcdserverpb.StatusResponse, error) {
	a := f.answers[0]
	if len(f.answers) > 1 {
		f.answers = f.answers[1:]
	}
	return a, nil
}

func TestWriteIsGivenUpInANewTerm(t *testing.T) {
	old, without, led := &etcdserverpb.StatusResponse{RaftTerm: 4, Leader: 1}, &etcdserverpb.StatusResponse{RaftTerm: 5}, &etcdserverpb.StatusResponse{RaftTerm: 5, Leader: 2}
	for name, test := range map[string]struct {
		began   uint64
		answers []*etcdserverpb.StatusResponse
		passed  bool
	}{
		"the same leader is slow":                     {4, []*etcdserverpb.StatusResponse{old}, false},
		"nobody leads yet":                            {4, []*etcdserverpb.StatusResponse{old, without}, false},
		"another leads":                               {4, []*etcdserverpb.StatusResponse{old, without, led}, true},
		"nothing was known before":                    {0, []*etcdserverpb.StatusResponse{old}, false},
		"another leads, and nothing was known before": {0, []*etcdserverpb.StatusResponse{old, led}, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				var terms terms
				if got := terms.passed(ctx, test.began, &fakeStatus{answers: test.answers}); got != test.passed {
					t.Errorf("passed: %v, want %v", got, test.passed)
				}
			})
		})
	}
}

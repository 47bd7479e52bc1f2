package etcd

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
)

// DialConfig says which etcd to talk to.
type DialConfig struct {
	Endpoints []string // https://host:port, unix:///path
	// TLS holds the roots to trust and the certificate to show; nil for plain connections.
	TLS *tls.Config
	Log *slog.Logger // nil is slog.Default()
}

// Dial makes a client for members in other processes; each call goes to the one that is expected to answer first.
// It doesn't connect yet: calls do, and wait for it.
//
// A member that is gone without a word (power, network, a stopped process) is left within
// about 2.5 s, and the calls that it had fail; a write that got lost with the leader fails when
// there is another one. Either may have been done or not.
func Dial(config DialConfig) (*clientv3.Client, error) {
	if config.Log == nil {
		config.Log = slog.Default()
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints: config.Endpoints,
		TLS:       config.TLS,
		Logger:    zap.New(slogCore{log: config.Log}),
		// For connections on which nobody waits for an answer; gRPC pings no more often than that.
		DialKeepAliveTime:    10 * time.Second,
		DialKeepAliveTimeout: silence,
		DialOptions: []grpc.DialOption{
			grpc.WithConnectParams(grpc.ConnectParams{
				// A member that was restarted is found again within a second.
				Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: .2, MaxDelay: time.Second},
				MinConnectTimeout: 3 * time.Second,
			}),
			grpc.WithContextDialer(prober{config.TLS}.dial),
			grpc.WithDisableServiceConfig(), // etcd's, which says round robin
			grpc.WithDefaultServiceConfig(`{"loadBalancingConfig": [{"` + quickest + `": {}}]}`),
			grpc.WithChainUnaryInterceptor((&terms{}).intercept),
		},
		MaxCallRecvMsgSize: 1 << 30, // lists and watch batches; the server bounds requests
		MaxCallSendMsgSize: 16 << 20,
	})
	if err != nil {
		return nil, fmt.Errorf("connecting to etcd at %v: %w", config.Endpoints, err)
	}
	return client, nil
}

package etcd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.uber.org/zap"
)

// Config describes one member.
type Config struct {
	// Name of the member, unique in its cluster. Empty: "skiff".
	Name string
	// DataDir holds the log and the database; made when missing, its mode is set to 0700.
	DataDir string

	// Peers is where the other members reach this one. No URLs: the member stays alone
	// and listens for nobody.
	Peers Endpoint
	// Clients is where clients of other processes reach it (https://host:port,
	// or unix:///path, which needs no certificates). No URLs: nobody but this process.
	Clients Endpoint

	// InitialCluster names all members of a new cluster with their peer URLs, this one
	// included; empty: this one alone. It matters only for a fresh DataDir.
	InitialCluster map[string][]string
	// Existing says that the cluster runs already and this member was added to it: [Join]
	// sets it.
	Existing bool
	// Join names a running cluster by its clients' URLs: a fresh DataDir joins it (see [Join]).
	// With a member in DataDir it does nothing, so that it may stay for ever.
	Join DialConfig
	// Token keeps clusters apart that share a network. Empty: "skiff".
	Token string

	// Heartbeat and Election are raft's intervals; 0 is 50 and 500 ms, and 20 and 100 ms for a member
	// alone, which only keeps its clock by them; with Heartbeat given, Election is ten of them.
	Heartbeat, Election time.Duration
	// Quota is the size in bytes above which writes are refused; 0 is 8 GiB.
	Quota int64
	// Log takes etcd's warnings and errors; nil is slog.Default().
	Log *slog.Logger
	// NoSync gives up durability for speed: for tests and benchmarks alone.
	NoSync bool

	forceNew bool // take the others out of the cluster: for Recover
}

// Endpoint is one side of a member: where it listens, what it tells others, and
// how both sides prove who they are.
type Endpoint struct {
	Listen    []string // URLs; empty is nowhere
	Advertise []string // empty: same as Listen
	TLS       Files
}

// Files name PEM files. With CA set, callers must show a certificate that it signed.
type Files struct{ Cert, Key, CA string }

// Member is a running member.
type Member struct {
	server *embed.Etcd
	client *clientv3.Client

	close   sync.Once
	closing atomic.Bool
}

// Start starts a member and waits until it takes part in its cluster (a leader is
// known, and it has a vote); a cancelled ctx gives up and stops it. The caller owes [Member.Run] or [Member.Close].
func Start(ctx context.Context, config Config) (*Member, error) {
	config = config.withDefaults()
	if len(config.Join.Endpoints) > 0 && !hasMember(config.DataDir) {
		var err error
		if config, err = config.join(ctx); err != nil {
			return nil, err
		}
	}
	m := &Member{}
	ec, err := config.embed(&m.closing)
	if err != nil {
		return nil, fmt.Errorf("etcd member %s: %w", config.Name, err)
	}
	if err := makePrivate(ec.Dir); err != nil {
		return nil, fmt.Errorf("etcd member %s: %w", config.Name, err)
	}
	server, err := embed.StartEtcd(ec)
	if err != nil && strings.Contains(err.Error(), "already been bootstrapped") {
		err = fmt.Errorf("%w: it has lost its data, and must join the others in place of its former self (--join)", err)
	}
	if err != nil {
		return nil, fmt.Errorf("starting etcd member %s in %s: %w", config.Name, config.DataDir, err)
	}
	m.server = server
	select {
	case <-server.Server.ReadyNotify():
	case err := <-server.Err():
		server.Close()
		return nil, fmt.Errorf("starting etcd member %s: %w", config.Name, err)
	case <-server.Server.StopNotify():
		server.Close()
		return nil, fmt.Errorf("etcd member %s stopped while starting: %w", config.Name, errStopped)
	case <-ctx.Done():
		server.Close()
		return nil, fmt.Errorf("waiting for etcd member %s to find its cluster: %w", config.Name, ctx.Err())
	}
	m.client = v3client.New(server.Server)
	if err := m.promote(ctx); err != nil {
		m.Close()
		return nil, fmt.Errorf("etcd member %s: %w", config.Name, err)
	}
	if len(config.Peers.Listen) > 0 {
		go m.watchDisk(config.Log, syncs, lookEvery)
	}
	return m, nil
}

// promote makes a member that joined without a vote (see [Join]) a full one, as soon as it has caught up.
func (m *Member) promote(ctx context.Context) error {
	for m.server.Server.IsLearner() {
		_, err := m.client.MemberPromote(ctx, m.ID())
		if errors.Is(err, rpctypes.ErrMemberNotLearner) {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("waiting for a vote: %w", ctx.Err()), err)
		case <-time.After(20 * time.Millisecond): // applied here a moment after it was granted
		}
	}
	return nil
}

var errStopped = errors.New("was it removed from its cluster? Then it can join anew only after its data directory is emptied")

// Run waits for ctx to end, or the member to fail, and stops it. It returns nil when ctx ended.
func (m *Member) Run(ctx context.Context) error {
	defer m.Close()
	select {
	case <-ctx.Done():
		return nil
	case <-m.server.Server.StopNotify():
		return fmt.Errorf("etcd member: %w", errStopped)
	case err := <-m.server.Err():
		return fmt.Errorf("etcd member: %w", err)
	}
}

// Close stops the member: its leadership is handed over, if it has it and others are there. It may be called again.
func (m *Member) Close() {
	m.close.Do(func() {
		m.closing.Store(true)
		if m.client != nil {
			m.client.Close()
		}
		m.server.Close()
	})
}

// Client calls into this member. Its calls stay in the process. It is closed with the member.
func (m *Member) Client() *clientv3.Client { return m.client }

// ID is the member's own, as membership calls use it.
func (m *Member) ID() uint64 { return uint64(m.server.Server.MemberID()) }

// makePrivate makes dir readable for its owner alone: it holds every secret.
func makePrivate(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return os.Chmod(dir, 0o700)
}

func (c Config) withDefaults() Config {
	if c.Name == "" {
		c.Name = "skiff"
	}
	if c.Token == "" {
		c.Token = "skiff"
	}
	switch {
	case c.Heartbeat == 0 && len(c.Peers.Listen) == 0:
		c.Heartbeat = 20 * time.Millisecond
		c.Election = cmp.Or(c.Election, 5*c.Heartbeat)
	default:
		c.Heartbeat = cmp.Or(c.Heartbeat, 50*time.Millisecond)
		c.Election = cmp.Or(c.Election, 10*c.Heartbeat)
	}
	if c.Quota == 0 {
		c.Quota = 8 << 30
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	return c
}

// embed is the configuration in etcd's own terms.
func (c Config) embed(quiet *atomic.Bool) (*embed.Config, error) {
	ec := embed.NewConfig()
	ec.Name = c.Name
	dir, err := filepath.Abs(c.DataDir)
	if err != nil || c.DataDir == "" {
		return nil, errors.Join(errors.New("no data directory"), err)
	}
	ec.Dir = dir
	ec.TickMs = uint(c.Heartbeat.Milliseconds())
	ec.ElectionMs = uint(c.Election.Milliseconds())
	ec.QuotaBackendBytes = c.Quota
	ec.BackendFreelistType = "map"
	ec.UnsafeNoFsync = c.NoSync
	ec.EnableGRPCGateway = false
	ec.InitialClusterToken = c.Token
	// The store asks for progress when it needs it; this is for watchers that don't.
	ec.WatchProgressNotifyInterval = 5 * time.Second
	ec.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.New(slogCore{log: c.Log, quiet: quiet}))

	if ec.ListenPeerUrls, ec.AdvertisePeerUrls, err = c.Peers.urls(); err != nil {
		return nil, fmt.Errorf("peers: %w", err)
	}
	if ec.ListenClientUrls, ec.AdvertiseClientUrls, err = c.Clients.urls(); err != nil {
		return nil, fmt.Errorf("clients: %w", err)
	}
	ec.PeerTLSInfo, ec.ClientTLSInfo = c.Peers.TLS.info(), c.Clients.TLS.info()
	if len(ec.AdvertisePeerUrls) == 0 { // etcd wants an address even where nobody calls
		ec.AdvertisePeerUrls = []url.URL{{Scheme: "http", Host: "localhost:2380"}}
	}
	ec.InitialCluster = c.initialCluster(ec.AdvertisePeerUrls)
	ec.ForceNewCluster = c.forceNew
	if c.Existing {
		ec.ClusterState = embed.ClusterStateFlagExisting
	}
	return ec, nil
}

func (e Endpoint) urls() (listen, advertise []url.URL, err error) {
	if listen, err = parseURLs(e.Listen); err != nil {
		return nil, nil, err
	}
	if len(e.Advertise) == 0 {
		return listen, listen, nil
	}
	advertise, err = parseURLs(e.Advertise)
	return listen, advertise, err
}

func parseURLs(raw []string) ([]url.URL, error) {
	var urls []url.URL
	for _, s := range raw {
		u, err := url.Parse(s)
		if err != nil {
			return nil, err
		}
		urls = append(urls, *u)
	}
	return urls, nil
}

func (f Files) info() transport.TLSInfo {
	return transport.TLSInfo{CertFile: f.Cert, KeyFile: f.Key, TrustedCAFile: f.CA, ClientCertAuth: f.CA != ""}
}

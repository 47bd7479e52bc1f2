// Package runtime runs containers through containerd's Go client, without CRI.
//
// What a CRI runtime hides behind "sandbox" and "container" is in the open
// here, in four small parts:
//
//   - namespaces.go: the network, IPC and UTS namespaces of a pod, made by the
//     agent itself, pinned by bind mounts below RunDir and taken ready-made from
//     a small pool. There is no pause container; only a pod that shares its
//     process namespace gets a process of cmd/init;
//   - cgroup.go: the cgroup of a pod, versions 1 and 2;
//   - spec.go: a pure function from what the agent has resolved to an OCI spec;
//   - container.go, exec.go, attach.go: containers and processes in them.
//
// State lives in containerd and below RunDir, never in the agent: containers
// carry labels (pod, name, attempt, hash, exit) from which a restarted agent
// knows everything again, and the output of a container goes to a logger
// process of its own.
//
// Daemons from containerd 1.6 on are served. Windows, user namespaces and
// runtimes other than runc's are not.
package runtime

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	goruntime "runtime"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	containerdlog "github.com/containerd/log"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
)

// ErrNotFound says that the container (or its process) is gone.
var ErrNotFound = errors.New("container not found")

// Namespace is the containerd namespace that holds pods and their images, the
// one that the kubelet's CRI plugin uses too.
const Namespace = "k8s.io"

// Config says where things are. All fields but Log are required.
type Config struct {
	Address      string // containerd's unix socket
	RunDir       string // namespaces, sockets, pipes; need not survive a reboot
	InitPath     string // the cmd/init binary: loggers and pod inits
	CgroupParent string // absolute; pods go to <CgroupParent>/kubepods…
	Snapshotter  string // "overlayfs" if empty
	PoolSize     int    // how many namespaces are kept ready-made; 0 none
	Log          *slog.Logger
}

// Runtime is one containerd and the pods' namespaces and cgroups. Its methods
// may be called concurrently, for one container only one at a time.
type Runtime struct {
	config Config
	host   Host
	client *containerd.Client
	conn   *grpc.ClientConn
	log    *slog.Logger

	pool   chan string // names of ready-made namespace directories
	refill chan struct{}
	users  userCache
	// slots bounds how many containers are started or taken down at once: each is a
	// handful of short processes, and more of them than cores only get in each
	// other's way.
	slots chan struct{}
}

// New prepares a Runtime; Open makes it usable.
func New(config Config) *Runtime {
	if config.Snapshotter == "" {
		config.Snapshotter = "overlayfs"
	}
	if config.Log == nil {
		config.Log = slog.Default()
	}
	return &Runtime{
		config: config,
		log:    config.Log,
		pool:   make(chan string, max(config.PoolSize, 1)),
		refill: make(chan struct{}, 1),
		slots:  make(chan struct{}, max(4, goruntime.NumCPU())),
	}
}

// Open connects to containerd (waiting for it as long as ctx lives), looks at
// what the host can do, and makes the directory for namespaces private.
func (r *Runtime) Open(ctx context.Context) error {
	// The client libraries log what they also return as errors, in their own format.
	containerdlog.L.Logger.SetOutput(io.Discard)
	host, err := probeHost()
	if err != nil {
		return fmt.Errorf("look at the host: %w", err)
	}
	r.host = host
	for _, dir := range []string{r.nsDir(), r.ioDir(), filepath.Join(r.config.RunDir, "rootfs")} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return err
		}
	}
	if err := makePrivate(r.nsDir()); err != nil {
		return fmt.Errorf("private mount %s: %w", r.nsDir(), err)
	}
	if err := r.connect(ctx); err != nil {
		return fmt.Errorf("containerd at %s: %w", r.config.Address, err)
	}
	return r.adoptPool()
}

// connect dials with a short back-off, so that a restarted daemon is found again at once.
func (r *Runtime) connect(ctx context.Context) error {
	conn, err := grpc.NewClient("unix://"+r.config.Address,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.6, MaxDelay: 500 * time.Millisecond},
			MinConnectTimeout: time.Second,
		}),
		grpc.WithUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			return invoke(inNamespace(ctx), method, req, reply, cc, opts...)
		}),
		grpc.WithStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, stream grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			return stream(inNamespace(ctx), desc, cc, method, opts...)
		}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)),
	)
	if err != nil {
		return err
	}
	client, err := containerd.NewWithConn(conn, containerd.WithDefaultNamespace(Namespace))
	if err != nil {
		return errors.Join(err, conn.Close())
	}
	for {
		_, err = client.Version(ctx)
		if err == nil {
			break
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, client.Close())
		case <-time.After(50 * time.Millisecond):
		}
	}
	r.client, r.conn = client, conn
	return nil
}

func inNamespace(ctx context.Context) context.Context {
	if _, ok := namespaces.Namespace(ctx); ok {
		return ctx
	}
	return namespaces.WithNamespace(ctx, Namespace)
}

// Client is the connection, for what works on images.
func (r *Runtime) Client() *containerd.Client { return r.client }

// Host is what Open has found out.
func (r *Runtime) Host() Host { return r.host }

// Version asks containerd for its version, as it stands in a node's status.
func (r *Runtime) Version(ctx context.Context) (string, error) {
	v, err := r.client.Version(ctx)
	if err != nil {
		return "", err
	}
	return "containerd://" + v.Version, nil
}

// Close ends the connection. Containers go on.
func (r *Runtime) Close() error {
	if r.client == nil {
		return nil
	}
	return r.client.Close()
}

func (r *Runtime) nsDir() string { return filepath.Join(r.config.RunDir, "ns") }
func (r *Runtime) ioDir() string { return filepath.Join(r.config.RunDir, "io") }

func ignoreNotFound(err error) error {
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

// slot waits for its turn; the function it returns gives it back.
func (r *Runtime) slot(ctx context.Context) (func(), error) {
	select {
	case r.slots <- struct{}{}:
		return func() { <-r.slots }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

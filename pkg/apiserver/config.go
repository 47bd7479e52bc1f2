package apiserver

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"

	"skiff/pkg/api"
	"skiff/pkg/apiserver/aggregate"
	"skiff/pkg/apiserver/audit"
	"skiff/pkg/apiserver/authz"
	"skiff/pkg/apiserver/patch"
	"skiff/pkg/apiserver/request"
	"skiff/pkg/apiserver/stream"
	"skiff/pkg/component"
	"skiff/pkg/store"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Authenticator finds out who a request comes from.
type Authenticator interface {
	// Authenticate returns the anonymous user for a request without credentials. An
	// error means that credentials were presented and are not valid, or that some are needed.
	Authenticate(r *http.Request) (*request.User, error)
}

// Authorizer decides whether a user may do something.
type Authorizer interface {
	Authorize(ctx context.Context, user *request.User, info *request.Info) authz.Verdict
}

// Admission changes and checks objects on their way to the store. Both are called again,
// with fresh attributes, when a write is retried.
type Admission interface {
	Mutate(ctx context.Context, a *request.Attributes) error
	Validate(ctx context.Context, a *request.Attributes) error
}

// Reviews answers the kinds that are questions rather than objects. create is called with
// the decoded, defaulted body and returns what the client gets (201).
type Reviews interface {
	// Review answers a create of a virtual kind (TokenReview, SubjectAccessReview and its
	// family, SelfSubjectReview). The object may be changed and returned.
	Review(ctx context.Context, kind *api.Kind, namespace string, obj api.Object) (api.Object, error)
	// Token answers a create of serviceaccounts/token. validate is asked about the completed
	// request before anything is signed.
	Token(ctx context.Context, namespace, name string, req *authenticationv1.TokenRequest,
		validate func(*authenticationv1.TokenRequest) error) (*authenticationv1.TokenRequest, error)
}

// Config is all that a server needs.
type Config struct {
	// Listener takes the connections when set; else one is made for BindAddress and Port.
	Listener    net.Listener
	BindAddress string
	Port        int
	// AdvertiseAddress is what the kubernetes service's endpoints name.
	AdvertiseAddress netip.Addr
	// AdvertisePort is the port beside it; 0 is the listener's.
	AdvertisePort int

	// CertFile and KeyFile are read anew when they change.
	CertFile, KeyFile string

	Catalogue *api.Catalogue
	Store     store.Interface
	// Etcd reads and writes what isn't an object: master leases, node ports.
	Etcd *clientv3.Client

	Authenticator Authenticator
	Authorizer    Authorizer
	Admission     Admission
	Reviews       Reviews

	// ServiceRange is where cluster IPs come from, NodePorts the inclusive range of
	// node ports.
	ServiceRange netip.Prefix
	NodePorts    [2]int

	// Audit is where requests are written down; nil is nowhere.
	Audit *audit.Log

	// Kubelet says how the agents of nodes are reached.
	Kubelet stream.Config
	// ProxyCertFile and ProxyKeyFile are what this server shows of itself to the servers of aggregated APIs; empty: nothing.
	ProxyCertFile, ProxyKeyFile string
	// Trust is what these servers are told about recognizing users; nil: nothing.
	Trust func() (aggregate.Trust, error)

	// More are handlers of further paths, by exact path (the discovery of the service
	// account issuer).
	More map[string]http.Handler

	// Parts run beside the server for as long as it does, by name.
	Parts map[string]func(context.Context) error

	// Health collects the checks of all parts; nil makes one.
	Health *component.Health
	Logger *slog.Logger

	// RequestTimeout bounds what isn't long-running; 0 is 60 s.
	RequestTimeout time.Duration
	// MinWatch is the least time that a watch without timeoutSeconds lasts; at most it is twice
	// that. 0 is half an hour.
	MinWatch time.Duration
	// Seats is how many requests run at the same time, long-running ones only while they start; priority levels divide them.
	// 0 is 600.
	Seats int
	// ShutdownDelay is how long a server that is told to stop serves on, not ready, for load balancers to notice.
	ShutdownDelay time.Duration
	// DrainTimeout is how long running requests may take when the server stops; 0 is 10 s.
	DrainTimeout time.Duration
	// Ready is called once with the bound address when the server answers.
	Ready func(address net.Addr)

	managers *patch.Managers // of fields; shared, for they know the schemas of all kinds
}

package component

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/runtime"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Client holds the flags that say which apiserver a component talks to, and as whom.
type Client struct {
	Kubeconfig string
	Master     string
	// CertificateFile holds certificate and key to show instead of the kubeconfig's; empty: the kubeconfig's.
	CertificateFile string
	// Fallback are further apiservers (host:port) for when the kubeconfig's doesn't answer.
	// They must hold a certificate for the kubeconfig's name.
	Fallback []string
	// Servers are more of them, learnt at run time; nil: none.
	Servers *Servers
}

// AddFlags registers --kubeconfig, --master and --fallback-servers.
func (c *Client) AddFlags(flags *pflag.FlagSet) {
	flags.StringVar(&c.Kubeconfig, "kubeconfig", c.Kubeconfig, "path to a kubeconfig file; empty uses the service account of the pod this runs in")
	flags.StringVar(&c.Master, "master", c.Master, "address of the apiserver, instead of the kubeconfig's")
	flags.StringSliceVar(&c.Fallback, "fallback-servers", c.Fallback, "apiservers (host:port) to go to while the kubeconfig's doesn't answer; their certificates must hold its name")
}

// Config returns the client configuration of a component: protobuf on the
// wire, no client-side rate limit (the server has one that sees everybody), and connections
// that are given up within seconds when the other side is gone, for another server if there is one.
func (c *Client) Config(userAgent string) (*rest.Config, error) {
	config, err := clientcmd.BuildConfigFromFlags(c.Master, c.Kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("kubeconfig %q: %w", c.Kubeconfig, err)
	}
	config.QPS = -1
	config.UserAgent = userAgent + "/" + GitVersion
	config.ContentType = runtime.ContentTypeProtobuf
	config.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	if err := c.dial(config); err != nil {
		return nil, err
	}
	if err := c.follow(config); err != nil {
		return nil, fmt.Errorf("kubeconfig %q: %w", c.Kubeconfig, err)
	}
	config.Wrap(resume)
	return config, nil
}

// dial gives a configuration our dialer.
func (c *Client) dial(config *rest.Config) error {
	for _, address := range c.Fallback {
		if _, _, err := net.SplitHostPort(address); err != nil {
			return fmt.Errorf("--fallback-servers: %w", err)
		}
	}
	url, _, err := rest.DefaultServerUrlFor(config)
	if err != nil {
		return err
	}
	port := url.Port()
	if port == "" {
		port = map[string]string{"http": "80"}[url.Scheme]
	}
	config.Dial = newDialer(net.JoinHostPort(url.Hostname(), cmp.Or(port, "443")), c.Fallback, c.Servers).DialContext
	// A server whose process stands still acknowledges what it gets: only pings tell. client-go takes their
	// times from nowhere else.
	for name, seconds := range map[string]string{"HTTP2_READ_IDLE_TIMEOUT_SECONDS": "2", "HTTP2_PING_TIMEOUT_SECONDS": "2"} {
		if _, set := os.LookupEnv(name); !set {
			if err := os.Setenv(name, seconds); err != nil {
				return err
			}
		}
	}
	return nil
}

// Shared returns a configuration whose copies share their connections. Those of a configuration with a dialer
// don't otherwise: client-go makes a transport for each client.
func Shared(config *rest.Config) (*rest.Config, error) {
	transport, err := rest.TransportFor(config)
	if err != nil {
		return nil, err
	}
	url, _, err := rest.DefaultServerUrlFor(config)
	if err != nil {
		return nil, err
	}
	shared := rest.AnonymousClientConfig(config) // who we are is the transport's business
	shared.Host, shared.UserAgent = url.String(), config.UserAgent
	shared.TLSClientConfig, shared.Dial, shared.Transport = rest.TLSClientConfig{}, nil, transport
	return shared, nil
}

// resuming lets requests that only read wait for a server, where client-go's informers would back off
// for up to half a minute and then list everything again: watches for as long as they like, others for a moment.
type resuming struct{ next http.RoundTripper }

func resume(next http.RoundTripper) http.RoundTripper { return &resuming{next} }

// readPatience is how long a read that is no watch waits for a server.
const readPatience = 2 * time.Second

// WrappedRoundTripper lets client-go find the transport below.
func (t *resuming) WrappedRoundTripper() http.RoundTripper { return t.next }

// RoundTrip repeats what found no server, or one that can't serve.
func (t *resuming) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method != http.MethodGet || r.Body != nil {
		return t.next.RoundTrip(r)
	}
	watch := r.URL.Query().Has("watch")
	begun := time.Now()
	for delay := 20 * time.Millisecond; ; delay = min(2*delay, 250*time.Millisecond) {
		response, err := t.next.RoundTrip(r)
		if !worthRepeating(response, err, watch) || r.Context().Err() != nil || !watch && time.Since(begun) > readPatience {
			if watch && err == nil {
				response.Body = watchBody{response.Body}
			}
			return response, err
		}
		if response != nil {
			_, _ = io.Copy(io.Discard, io.LimitReader(response.Body, 64<<10))
			response.Body.Close()
		}
		select {
		case <-r.Context().Done():
			return nil, cmp.Or(err, r.Context().Err())
		case <-time.After(delay):
		}
	}
}

func worthRepeating(response *http.Response, err error, watch bool) bool {
	switch {
	case err == nil && watch:
		return response.StatusCode == http.StatusBadGateway || response.StatusCode == http.StatusServiceUnavailable || response.StatusCode == http.StatusGatewayTimeout
	case err == nil:
		return false
	}
	_, untrusted := errors.AsType[*tls.CertificateVerificationError](err)
	return !untrusted
}

// watchBody ends a watch whose connection is lost as one that was closed: after any other error informers list
// everything again.
type watchBody struct{ io.ReadCloser }

func (b watchBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// WaitForServer returns when an apiserver is ready, or with ctx's error.
// Components call it before they start their informers and elections, whose
// own retries are made for servers that fail and wait up to seconds; this is
// for one that is being started at the same time, and asks often. Nothing can
// be watched before there is a server.
func WaitForServer(ctx context.Context, config *rest.Config) error {
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return err
	}
	url, _, err := rest.DefaultServerUrlFor(config)
	if err != nil {
		return err
	}
	ready := url.JoinPath("/readyz").String()
	for delay := 5 * time.Millisecond; ; delay = min(delay*5/4, 200*time.Millisecond) {
		if isReady(ctx, client, ready) {
			return nil
		}
		utilnet.CloseIdleConnectionsFor(client.Transport) // behind a load balancer the next one may lead to another server
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(delay):
		}
	}
}

func isReady(ctx context.Context, client *http.Client, url string) bool {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false
	}
	response, err := client.Do(request)
	if err != nil {
		return false
	}
	response.Body.Close()
	return response.StatusCode == http.StatusOK
}

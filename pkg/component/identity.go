package component

import (
	"bytes"
	"crypto/tls"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"

	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// identity is the certificate by which a component is known to the apiserver, and the authority
// that it trusts: what the files say now, not what they said at the start. When they change, new
// requests take new connections; what is under way on the old ones ends there in its own time,
// so that no request fails for it. (client-go reloads files it is given by name, every
// five minutes and by breaking all connections, and what is embedded in a kubeconfig never.)
type identity struct {
	client *Client
	config *rest.Config // how to connect, but for what identity replaces

	mu        sync.Mutex
	checked   time.Time
	files     []string // that it was made of
	stamps    []time.Time
	current   rest.TLSClientConfig
	transport http.RoundTripper // nil: the one that client-go made
}

// follow makes all clients of config follow the files that it came from. Clients from whose configuration
// the certificate was taken (service accounts) keep going without.
func (c *Client) follow(config *rest.Config) error {
	loaded, err := c.load()
	if err != nil {
		return err
	}
	if len(loaded.CertData) == 0 {
		return nil
	}
	config.TLSClientConfig = loaded
	i := &identity{client: c, config: rest.CopyConfig(config), current: loaded, checked: time.Now()}
	i.files = c.files()
	i.stamps = modified(i.files)
	config.Wrap(func(base http.RoundTripper) http.RoundTripper {
		if made, err := utilnet.TLSClientConfig(base); err != nil || made == nil || made.GetClientCertificate == nil {
			return base
		}
		return &following{i, base}
	})
	return nil
}

// load reads the TLS configuration of the client, with all that it names embedded.
func (c *Client) load() (rest.TLSClientConfig, error) {
	config, err := clientcmd.BuildConfigFromFlags(c.Master, c.Kubeconfig)
	if err != nil {
		return rest.TLSClientConfig{}, err
	}
	if c.CertificateFile != "" {
		config.CertFile, config.KeyFile, config.CertData, config.KeyData = c.CertificateFile, c.CertificateFile, nil, nil
	}
	if err := rest.LoadTLSFiles(config); err != nil {
		return rest.TLSClientConfig{}, err
	}
	config.CertFile, config.KeyFile, config.CAFile = "", "", ""
	return config.TLSClientConfig, nil
}

// files are those that make the identity.
func (c *Client) files() []string {
	files := []string{c.Kubeconfig, c.CertificateFile}
	if config, err := clientcmd.LoadFromFile(c.Kubeconfig); err == nil {
		for _, user := range config.AuthInfos {
			files = append(files, user.ClientCertificate)
		}
	}
	return files
}

// modified are the times at which files were last changed.
func modified(files []string) []time.Time {
	times := make([]time.Time, len(files))
	for n, file := range files {
		if info, err := os.Stat(file); err == nil {
			times[n] = info.ModTime()
		}
	}
	return times
}

// roundTripper is the transport for a request now: base until something has changed.
func (i *identity) roundTripper(base http.RoundTripper) http.RoundTripper {
	i.mu.Lock()
	defer i.mu.Unlock()
	if time.Since(i.checked) >= time.Second {
		i.checked = time.Now()
		i.refresh()
	}
	if i.transport != nil {
		return i.transport
	}
	return base
}

// refresh takes up files that have changed. Whatever is wrong with them, the identity stays as it was, and they are
// looked at again.
func (i *identity) refresh() {
	stamps := modified(i.files)
	if slices.EqualFunc(stamps, i.stamps, time.Time.Equal) {
		return
	}
	loaded, err := i.client.load()
	if err == nil && len(loaded.CertData) > 0 {
		_, err = tls.X509KeyPair(loaded.CertData, loaded.KeyData)
	}
	if err != nil {
		slog.Warn("keeping the client certificate as it was", "kubeconfig", i.client.Kubeconfig, "error", err)
		return
	}
	i.stamps = stamps
	if bytes.Equal(loaded.CertData, i.current.CertData) && bytes.Equal(loaded.CAData, i.current.CAData) {
		return
	}
	config := &rest.Config{Host: i.config.Host, TLSClientConfig: loaded, Dial: i.config.Dial, Proxy: i.config.Proxy}
	transport, err := rest.TransportFor(config)
	if err != nil {
		slog.Warn("keeping the client certificate as it was", "kubeconfig", i.client.Kubeconfig, "error", err)
		return
	}
	i.current, i.transport = loaded, transport
	slog.Info("took up a renewed client certificate", "kubeconfig", i.client.Kubeconfig)
}

// following sends requests with an identity.
type following struct {
	*identity
	base http.RoundTripper
}

// RoundTrip implements [http.RoundTripper].
func (f *following) RoundTrip(r *http.Request) (*http.Response, error) {
	return f.roundTripper(f.base).RoundTrip(r)
}

// WrappedRoundTripper lets client-go find the transport below.
func (f *following) WrappedRoundTripper() http.RoundTripper { return f.roundTripper(f.base) }

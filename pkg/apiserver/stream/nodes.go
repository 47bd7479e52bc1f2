package stream

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"skiff/pkg/component"
)

// Config says how the nodes' agents and this server prove to each other who they are.
type Config struct {
	CertFile, KeyFile string // the server's client certificate; empty is none
	CAFile            string // who signs the agents' certificates; empty takes any
}

// Nodes reaches the agents of nodes.
type Nodes struct {
	config Config

	mu       sync.Mutex
	stamp    [2]time.Time // of the files that the transports were made of
	checked  *http.Transport
	trusting *http.Transport
}

// NewNodes makes a Nodes. Files are read when an agent is first called, and when they change.
func NewNodes(config Config) *Nodes { return &Nodes{config: config} }

// get returns the transport for now. One that was made with a certificate since renewed is given up with
// its connections: agents look at the certificate at each request, and one that is asked often
// would see the old one past its end.
func (n *Nodes) get(trusting bool) (*http.Transport, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	var stamp [2]time.Time
	for i, file := range []string{n.config.CertFile, n.config.CAFile} {
		if info, err := os.Stat(file); err == nil {
			stamp[i] = info.ModTime()
		}
	}
	if stamp != n.stamp {
		for _, old := range []*http.Transport{n.checked, n.trusting} {
			if old != nil {
				old.CloseIdleConnections()
			}
		}
		n.stamp, n.checked, n.trusting = stamp, nil, nil
	}
	made := &n.checked
	if trusting {
		made = &n.trusting
	}
	if *made == nil {
		fresh, err := n.transport(trusting || n.config.CAFile == "")
		if err != nil {
			return nil, err
		}
		*made = fresh
	}
	return *made, nil
}

func (n *Nodes) transport(trusting bool) (*http.Transport, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: trusting}
	if !trusting {
		pem, err := os.ReadFile(n.config.CAFile)
		if err != nil {
			return nil, fmt.Errorf("authority of the agents' certificates: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("authority of the agents' certificates: none in %s", n.config.CAFile)
		}
	}
	if n.config.CertFile != "" {
		config.GetClientCertificate = component.ReloadingClientCertificate(n.config.CertFile, n.config.KeyFile)
	}
	return transport(config), nil
}

func transport(config *tls.Config) *http.Transport {
	return &http.Transport{
		DialContext:         (&net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSClientConfig:     config,
		TLSHandshakeTimeout: 10 * time.Second,
		MaxIdleConnsPerHost: 4,
		IdleConnTimeout:     90 * time.Second,
	}
}

// Plain reaches pods and services: nobody vouches for their certificates.
var Plain http.RoundTripper = transport(&tls.Config{InsecureSkipVerify: true}) //nolint:gosec // as Kubernetes does

// defaultPort is the agent's where a node doesn't tell.
const defaultPort = 10250

// Location is the root of a node's agent. With trusting, whatever certificate it shows is
// taken (the client asked for that).
func (n *Nodes) Location(node *corev1.Node, trusting bool) (*url.URL, http.RoundTripper, error) {
	host := Address(node)
	if host == "" {
		return nil, nil, fmt.Errorf("no preferred addresses found; known addresses: %v", node.Status.Addresses)
	}
	rt, err := n.get(trusting)
	if err != nil {
		return nil, nil, err
	}
	return &url.URL{Scheme: "https", Host: net.JoinHostPort(host, strconv.Itoa(Port(node)))}, rt, nil
}

// Port is the port of a node's agent.
func Port(node *corev1.Node) int {
	if p := int(node.Status.DaemonEndpoints.KubeletEndpoint.Port); p > 0 {
		return p
	}
	return defaultPort
}

// Address is the best address of a node: one that its cluster uses, before names, which may
// not resolve.
func Address(node *corev1.Node) string {
	for _, kind := range []corev1.NodeAddressType{corev1.NodeInternalIP, corev1.NodeExternalIP, corev1.NodeHostName, corev1.NodeInternalDNS, corev1.NodeExternalDNS} {
		for _, a := range node.Status.Addresses {
			if a.Type == kind && a.Address != "" {
				return a.Address
			}
		}
	}
	return ""
}

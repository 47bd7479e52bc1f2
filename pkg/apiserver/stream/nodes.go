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
)

// Config says how the nodes' agents and this server prove to each other who they are.
type Config struct {
	CertFile, KeyFile string // the server's client certificate; empty is none
	CAFile            string // who signs the agents' certificates; empty takes any
}

// Nodes reaches the agents of nodes.
type Nodes struct {
	config   Config
	checked  func() (*http.Transport, error)
	trusting func() (*http.Transport, error)
}

// NewNodes makes a Nodes. Files are read when an agent is first called, and the client
// certificate at every connection, so that it can be renewed.
func NewNodes(config Config) *Nodes {
	n := &Nodes{config: config}
	n.checked = sync.OnceValues(func() (*http.Transport, error) { return n.transport(config.CAFile == "") })
	n.trusting = sync.OnceValues(func() (*http.Transport, error) { return n.transport(true) })
	return n
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
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(n.config.CertFile, n.config.KeyFile)
			return &pair, err
		}
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
	get := n.checked
	if trusting {
		get = n.trusting
	}
	rt, err := get()
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

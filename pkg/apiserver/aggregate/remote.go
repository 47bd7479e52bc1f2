package aggregate

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"time"

	discoveryv2 "k8s.io/api/apidiscovery/v2"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
)

// Remote is a version of a group that another server answers, as it is known at a moment: it is never changed.
type Remote struct {
	object    *v1.APIService
	transport *http.Transport
	// resources are what the server said of them when it last answered; answers: that was the last time it was asked.
	resources []discoveryv2.APIResourceDiscovery
	answers   bool
	// document is where the server has its OpenAPI v3 document, as its index says; empty: it has none.
	document string
}

// Available says that the server answers this one. That is what the APIService's condition says as well, after which
// apiserver it was that looked last.
func (r *Remote) Available() bool { return r.answers }

// Discovery is the version's part in aggregated discovery.
func (r *Remote) Discovery() discoveryv2.APIVersionDiscovery {
	d := discoveryv2.APIVersionDiscovery{Version: r.object.Spec.Version, Resources: r.resources, Freshness: discoveryv2.DiscoveryFreshnessStale}
	if r.answers {
		d.Freshness = discoveryv2.DiscoveryFreshnessCurrent
	}
	return d
}

// sameServer says that what is known of one APIService's server holds for the other's.
func sameServer(a, b *v1.APIService) bool {
	return equality.Semantic.DeepEqual(a.Spec.Service, b.Spec.Service) && string(a.Spec.CABundle) == string(b.Spec.CABundle) &&
		a.Spec.InsecureSkipTLSVerify == b.Spec.InsecureSkipTLSVerify
}

// newTransport makes the connections to an APIService's server: certificate is what this server shows of itself there.
func newTransport(s *v1.APIService, certificate func(*tls.CertificateRequestInfo) (*tls.Certificate, error)) *http.Transport {
	config := &tls.Config{
		MinVersion:           tls.VersionTLS12,
		ServerName:           s.Spec.Service.Name + "." + s.Spec.Service.Namespace + ".svc",
		InsecureSkipVerify:   s.Spec.InsecureSkipTLSVerify, //nolint:gosec // the APIService says so
		GetClientCertificate: certificate,
	}
	if len(s.Spec.CABundle) > 0 {
		config.RootCAs = x509.NewCertPool()
		config.RootCAs.AppendCertsFromPEM(s.Spec.CABundle) // what can't be read vouches for nobody
	}
	return &http.Transport{
		DialContext:         (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSClientConfig:     config,
		TLSHandshakeTimeout: 10 * time.Second,
		MaxIdleConnsPerHost: 25,
		IdleConnTimeout:     90 * time.Second,
		DisableCompression:  true, // what is passed on stays as it is
		ForceAttemptHTTP2:   true,
		// A connection whose other end has gone without a word is noticed, whatever waits on it.
		HTTP2: &http.HTTP2Config{SendPingTimeout: 30 * time.Second, PingTimeout: 15 * time.Second},
	}
}

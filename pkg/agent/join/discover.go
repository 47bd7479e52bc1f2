package join

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"skiff/pkg/pki/bootstrap"
)

// A final error isn't worth another try.
type final struct{ error }

func (f final) Unwrap() error { return f.error }

var errUnsigned = errors.New("unsigned")

// discover asks the servers in turn until one proves that it belongs to the cluster.
func (c *Config) discover(ctx context.Context, token bootstrap.Token) (*clientcmdapi.Cluster, error) {
	begun := time.Now()
	for {
		var failed []error
		for _, server := range c.Servers {
			cluster, err := c.discoverAt(ctx, server, token)
			if err == nil {
				return cluster, nil
			}
			if errors.Is(err, errUnsigned) && time.Since(begun) >= c.patience {
				return nil, fmt.Errorf("token %s is unknown to the cluster, or has expired: make another one there, with ctl token create", token.ID)
			}
			if _, isFinal := errors.AsType[final](err); isFinal {
				return nil, fmt.Errorf("%s: %w", server, err)
			}
			failed = append(failed, fmt.Errorf("%s: %w", server, err))
		}
		if time.Since(begun) >= c.Timeout {
			return nil, fmt.Errorf("no server tells about the cluster: %w", errors.Join(failed...))
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(append(failed, ctx.Err())...)
		case <-time.After(min(500*time.Millisecond, c.Timeout)):
		}
	}
}

// discoverAt fetches what a server publishes of the cluster, and believes it if the token vouches for it.
func (c *Config) discoverAt(ctx context.Context, server string, token bootstrap.Token) (*clientcmdapi.Cluster, error) {
	// Who answers isn't known yet; that is what this is about.
	info, skew, err := clusterInfo(ctx, server, &tls.Config{InsecureSkipVerify: true}) //nolint:gosec
	if err != nil {
		return nil, err
	}
	content := info.Data[bootstrap.ClusterInfoKey]
	signature, signed := info.Data[bootstrap.SignaturePrefix+token.ID]
	if !signed {
		return nil, errUnsigned
	}
	if err := token.Verify(content, signature); err != nil {
		return nil, final{fmt.Errorf("what the server says of the cluster isn't to be trusted: %w", err)}
	}
	cluster, err := bootstrap.ParseClusterInfo(info)
	if err != nil {
		return nil, final{err}
	}
	if err := c.checkPins(cluster.CertificateAuthorityData); err != nil {
		return nil, final{err}
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(cluster.CertificateAuthorityData)
	again, _, err := clusterInfo(ctx, server, &tls.Config{RootCAs: roots})
	if err != nil {
		return nil, explain(err, skew)
	}
	if again.Data[bootstrap.ClusterInfoKey] != content {
		return nil, final{errors.New("the server tells another story over a verified connection: somebody listens in, or it was just changed")}
	}
	return cluster, nil
}

// clusterInfo gets the config map that anybody may read. skew is by how much this machine's clock is ahead of the server's.
func clusterInfo(ctx context.Context, server string, config *tls.Config) (info *v1.ConfigMap, skew time.Duration, err error) {
	config.MinVersion = tls.VersionTLS12
	transport := &http.Transport{TLSClientConfig: config, Proxy: http.ProxyFromEnvironment}
	defer transport.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	url := fmt.Sprintf("https://%s/api/v1/namespaces/%s/configmaps/%s", strings.TrimPrefix(server, "https://"), metav1.NamespacePublic, bootstrap.ClusterInfo)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, 0, final{err}
	}
	request.Header.Set("Accept", "application/json")
	response, err := transport.RoundTrip(request)
	if err != nil {
		return nil, 0, err
	}
	defer response.Body.Close()
	if date, err := http.ParseTime(response.Header.Get("Date")); err == nil {
		skew = time.Since(date)
	}
	switch response.StatusCode {
	case http.StatusOK:
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound:
		return nil, 0, fmt.Errorf("the server (status %d) doesn't publish the cluster's address to those who join: ctl token create there changes that", response.StatusCode)
	default:
		return nil, 0, fmt.Errorf("the server answers with status %s", response.Status)
	}
	info = &v1.ConfigMap{}
	if err := json.NewDecoder(io.LimitReader(response.Body, 1<<20)).Decode(info); err != nil {
		return nil, 0, fmt.Errorf("this isn't a config map, and maybe not a Kubernetes API: %w", err)
	}
	return info, skew, nil
}

// explain makes a failure to verify the server's certificate one that a person can act upon.
func explain(err error, skew time.Duration) error {
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok && invalid.Reason == x509.Expired {
		if skew = skew.Round(time.Second); skew.Abs() > time.Minute {
			return final{fmt.Errorf("this machine's clock differs from the server's by %v (it is %s here): set it right, and join again. %w", skew, time.Now().Format(time.RFC3339), err)}
		}
		return final{err}
	}
	if host, ok := errors.AsType[x509.HostnameError](err); ok {
		return final{fmt.Errorf("the server's certificate is not for this name; it is for %s, %v: %w", strings.Join(host.Certificate.DNSNames, ", "), host.Certificate.IPAddresses, err)}
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return final{fmt.Errorf("the server doesn't belong to the authority that it publishes: %w", err)}
	}
	return err
}

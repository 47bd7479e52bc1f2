package component

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Client holds the flags that say which apiserver a component talks to, and as whom.
type Client struct {
	Kubeconfig string
	Master     string
	// CertificateFile holds certificate and key to show instead of the kubeconfig's; empty: the kubeconfig's.
	CertificateFile string
}

// AddFlags registers --kubeconfig and --master.
func (c *Client) AddFlags(flags *pflag.FlagSet) {
	flags.StringVar(&c.Kubeconfig, "kubeconfig", c.Kubeconfig, "path to a kubeconfig file; empty uses the service account of the pod this runs in")
	flags.StringVar(&c.Master, "master", c.Master, "address of the apiserver, instead of the kubeconfig's")
}

// Config returns the client configuration of a component: protobuf on the
// wire, no client-side rate limit (the server has one that sees everybody).
func (c *Client) Config(userAgent string) (*rest.Config, error) {
	config, err := clientcmd.BuildConfigFromFlags(c.Master, c.Kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("kubeconfig %q: %w", c.Kubeconfig, err)
	}
	config.QPS = -1
	config.UserAgent = userAgent + "/" + GitVersion
	config.ContentType = runtime.ContentTypeProtobuf
	config.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	if err := c.follow(config); err != nil {
		return nil, fmt.Errorf("kubeconfig %q: %w", c.Kubeconfig, err)
	}
	return config, nil
}

// WaitForServer returns when the apiserver is ready, or with ctx's error.
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

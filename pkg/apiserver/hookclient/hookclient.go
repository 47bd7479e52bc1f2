// Package hookclient reaches webhooks, of admission and of conversion alike: by URL or by service, over TLS, with
// connections that are used again.
package hookclient

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"

	"skiff/pkg/apiserver/lookup"
)

// Timeout is how long a webhook may take at most.
const Timeout = 30 * time.Second

// Resolver finds the address (host:port) at which a service's port is reached.
type Resolver func(ctx context.Context, namespace, name string, port int32) (string, error)

// New makes a client of the webhook that c names; codecs are for what it says. It connects when it is used, and keeps
// connections for a while. A service has to show a certificate for <name>.<namespace>.svc.
func New(c *admissionregistrationv1.WebhookClientConfig, services Resolver, codecs runtime.NegotiatedSerializer) (*rest.RESTClient, error) {
	config := &rest.Config{
		QPS: -1, UserAgent: "kube-apiserver-admission",
		ContentConfig:   rest.ContentConfig{NegotiatedSerializer: codecs, ContentType: runtime.ContentTypeJSON},
		TLSClientConfig: rest.TLSClientConfig{CAData: bytes.TrimSpace(c.CABundle)},
	}
	var dialer net.Dialer
	dial := dialer.DialContext
	switch {
	case c.Service != nil:
		s := c.Service
		port := ptr.Deref(s.Port, 443)
		config.TLSClientConfig.ServerName = s.Name + "." + s.Namespace + ".svc"
		host := net.JoinHostPort(config.TLSClientConfig.ServerName, strconv.Itoa(int(port)))
		config.Host, config.APIPath = "https://"+host, ptr.Deref(s.Path, "")
		dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			if address == host {
				var err error
				if address, err = services(ctx, s.Namespace, s.Name, port); err != nil {
					return nil, err
				}
			}
			return dialer.DialContext(ctx, network, address)
		}
	case c.URL != nil:
		u, err := url.Parse(*c.URL)
		if err != nil {
			//lint:ignore ST1005 Kubernetes' text
			return nil, fmt.Errorf("Unparsable URL: %w", err)
		}
		config.Host, config.APIPath = u.Scheme+"://"+u.Host, u.Path
	default:
		return nil, errors.New("webhook configuration must have either service or URL")
	}
	secure, err := rest.TLSConfigFor(config)
	if err != nil {
		return nil, err
	}
	// HTTP/1.1 only, for a connection of HTTP/2 would go to one of a service's endpoints for ever. A transport of our own is
	// collected with its client; client-go's would stay in a cache.
	return rest.UnversionedRESTClientForConfigAndClient(config, &http.Client{Timeout: Timeout, Transport: &http.Transport{
		Proxy: http.ProxyFromEnvironment, TLSClientConfig: secure, DialContext: dial,
		TLSHandshakeTimeout: 10 * time.Second, MaxIdleConnsPerHost: 25, IdleConnTimeout: 90 * time.Second,
	}})
}

// Reviews reads what webhooks answer in these versions, with what Kubernetes says of answers that are none.
func Reviews(versions map[schema.GroupVersion]func(*runtime.Scheme) error) runtime.NegotiatedSerializer {
	scheme := runtime.NewScheme()
	for _, add := range versions {
		utilruntime.Must(add(scheme))
	}
	codec := serializer.NewCodecFactory(scheme).LegacyCodec(slices.Collect(maps.Keys(versions))...)
	return serializer.NegotiatedSerializerWrapper(runtime.SerializerInfo{Serializer: codec})
}

// Services finds services as this server reaches them: by their cluster IP.
func Services(objects lookup.Reader) Resolver {
	return func(ctx context.Context, namespace, name string, port int32) (string, error) {
		service, err := lookup.Get[*corev1.Service](ctx, objects, corev1.Resource("services"), namespace, name)
		if apierrors.IsNotFound(err) {
			err = apierrors.NewNotFound(corev1.Resource("service"), name) // as Kubernetes has it here
		}
		if err != nil {
			return "", err
		}
		text := strconv.Itoa(int(port))
		if service.Spec.Type == corev1.ServiceTypeExternalName {
			return net.JoinHostPort(service.Spec.ExternalName, text), nil
		}
		if service.Spec.ClusterIP == "" || service.Spec.ClusterIP == corev1.ClusterIPNone {
			return "", fmt.Errorf("cannot route to service with ClusterIP %q", service.Spec.ClusterIP)
		}
		for _, p := range service.Spec.Ports {
			if p.Port == port {
				return net.JoinHostPort(service.Spec.ClusterIP, text), nil
			}
		}
		return "", fmt.Errorf("no service port %d found for service %q", port, name)
	}
}

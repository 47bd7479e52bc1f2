package probe

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

const (
	userAgent = "kube-probe/1.36"
	maxBody   = 10 << 10
)

// Port finds the number of a port that may be named.
func Port(port intstr.IntOrString, c *v1.Container) (int, error) {
	n := port.IntValue()
	if port.Type == intstr.String {
		n = 0
		for _, p := range c.Ports {
			if p.Name == port.StrVal {
				n = int(p.ContainerPort)
			}
		}
		if n == 0 {
			if v, err := strconv.Atoi(port.StrVal); err == nil {
				n = v
			}
		}
	}
	if n < 1 || n > 65535 {
		return 0, fmt.Errorf("invalid port number: %v", port.String())
	}
	return n, nil
}

// dialer leaves no sockets in TIME_WAIT behind: probes are many.
func dialer() *net.Dialer {
	return &net.Dialer{Control: noLinger}
}

// HTTPRequest makes the request of a probe or hook.
func HTTPRequest(ctx context.Context, action *v1.HTTPGetAction, c *v1.Container, podIP string) (*http.Request, error) {
	port, err := Port(action.Port, c)
	if err != nil {
		return nil, err
	}
	host := action.Host
	if host == "" {
		host = podIP
	}
	u, err := url.Parse(action.Path)
	if err != nil {
		u = &url.URL{Path: action.Path}
	}
	u.Scheme = "http"
	if strings.EqualFold(string(action.Scheme), "https") {
		u.Scheme = "https"
	}
	u.Host = net.JoinHostPort(host, strconv.Itoa(port))
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	for _, h := range action.HTTPHeaders {
		request.Header.Add(h.Name, h.Value)
	}
	set := func(name, value string) {
		if values, ok := request.Header[name]; !ok {
			request.Header.Set(name, value)
		} else if len(values) == 1 && values[0] == "" {
			request.Header.Del(name) // an empty header takes the default away
			if name == "User-Agent" {
				request.Header[name] = []string{""}
			}
		}
	}
	set("User-Agent", userAgent)
	set("Accept", "*/*")
	if hostHeader := request.Header.Get("Host"); hostHeader != "" {
		request.Host = hostHeader
	}
	return request, nil
}

// HTTP succeeds with any status from 200 to 399.
func HTTP(ctx context.Context, action *v1.HTTPGetAction, c *v1.Container, podIP string) (Result, string) {
	request, err := HTTPRequest(ctx, action, c, podIP)
	if err != nil {
		return Failure, err.Error()
	}
	transport := &http.Transport{
		TLSClientConfig:    &tls.Config{InsecureSkipVerify: true}, // #nosec: a probe asks whether, not who
		DisableKeepAlives:  true,
		DisableCompression: true,
		Proxy:              nil,
		DialContext:        dialer().DialContext,
	}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, CheckRedirect: sameHost}
	response, err := client.Do(request)
	if err != nil {
		return Failure, err.Error()
	}
	defer response.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(response.Body, maxBody))
	switch {
	case response.StatusCode >= 300 && response.StatusCode < 400:
		return Warning, fmt.Sprintf("Probe terminated redirects, Response body: %v", string(body))
	case response.StatusCode >= 200 && response.StatusCode < 300:
		return Success, string(body)
	}
	return Failure, fmt.Sprintf("HTTP probe failed with statuscode: %d", response.StatusCode)
}

// sameHost follows redirects within a host only.
func sameHost(request *http.Request, via []*http.Request) error {
	if request.URL.Hostname() != via[0].URL.Hostname() {
		return http.ErrUseLastResponse
	}
	if len(via) >= 10 {
		return errors.New("stopped after 10 redirects")
	}
	return nil
}

// TCP succeeds when a connection can be opened.
func TCP(ctx context.Context, action *v1.TCPSocketAction, c *v1.Container, podIP string) (Result, string) {
	port, err := Port(action.Port, c)
	if err != nil {
		return Failure, err.Error()
	}
	host := action.Host
	if host == "" {
		host = podIP
	}
	conn, err := dialer().DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(port)))
	if err != nil {
		return Failure, err.Error()
	}
	_ = conn.Close()
	return Success, ""
}

// GRPC asks the standard health service.
func GRPC(ctx context.Context, action *v1.GRPCAction, podIP string, timeout time.Duration) (Result, string) {
	address := net.JoinHostPort(podIP, strconv.Itoa(int(action.Port)))
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithUserAgent(userAgent),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			return dialer().DialContext(ctx, "tcp", address)
		}))
	if err != nil {
		return Failure, fmt.Sprintf("error: %v", err)
	}
	defer conn.Close()
	service := ""
	if action.Service != nil {
		service = *action.Service
	}
	answer, err := healthpb.NewHealthClient(conn).Check(metadata.NewOutgoingContext(ctx, metadata.MD{}), &healthpb.HealthCheckRequest{Service: service})
	if err != nil {
		switch status.Code(err) {
		case codes.Unimplemented:
			return Failure, fmt.Sprintf("error: this server does not implement the grpc health protocol (grpc.health.v1.Health): %s", status.Convert(err).Message())
		case codes.DeadlineExceeded:
			return Failure, fmt.Sprintf("timeout: health rpc did not complete within %v", timeout)
		case codes.Unavailable:
			return Failure, fmt.Sprintf("timeout: failed to connect service %q within %v: %s", address, timeout, status.Convert(err).Message())
		}
		return Failure, fmt.Sprintf("error: health rpc probe failed: %s", status.Convert(err).Message())
	}
	if answer.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		return Failure, fmt.Sprintf("service unhealthy (responded with %q)", answer.GetStatus().String())
	}
	return Success, "service healthy"
}

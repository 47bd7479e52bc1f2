package image

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
)

// registryHost is one place to ask for the images of a registry.
type registryHost struct {
	url          string
	capabilities []string // "pull", "resolve"; none is both
	ca           []string
	skipVerify   bool
	overridePath bool
}

// registryHosts says where the images of host are asked for: at the mirrors
// that <dir>/<host>/hosts.toml names, in order, and last at its server. A host
// on loopback may speak HTTP.
func registryHosts(dir string, credentials func(host string) (string, string, error)) docker.RegistryHosts {
	return func(host string) ([]docker.RegistryHost, error) {
		configured, err := readHosts(dir, host)
		if err != nil {
			return nil, err
		}
		if configured == nil {
			configured = []registryHost{{url: defaultServer(host)}}
		}
		var out []docker.RegistryHost
		for _, c := range configured {
			h, err := c.registry(credentials)
			if err != nil {
				return nil, fmt.Errorf("registry %s: %w", host, err)
			}
			out = append(out, h)
		}
		return out, nil
	}
}

func defaultServer(host string) string {
	switch {
	case host == "docker.io":
		return "https://registry-1.docker.io"
	case onLoopback(host):
		return "http://" + host
	}
	return "https://" + host
}

func onLoopback(host string) bool {
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	ip := net.ParseIP(name)
	return name == "localhost" || ip != nil && ip.IsLoopback()
}

func (c registryHost) registry(credentials func(string) (string, string, error)) (docker.RegistryHost, error) {
	u, err := url.Parse(c.url)
	if err != nil || u.Host == "" {
		return docker.RegistryHost{}, fmt.Errorf("bad host %q", c.url)
	}
	config := &tls.Config{InsecureSkipVerify: c.skipVerify} // #nosec: what the node's owner has written
	if len(c.ca) > 0 {
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		for _, file := range c.ca {
			b, err := os.ReadFile(file)
			if err != nil {
				return docker.RegistryHost{}, err
			}
			if !pool.AppendCertsFromPEM(b) {
				return docker.RegistryHost{}, fmt.Errorf("no certificate in %s", file)
			}
		}
		config.RootCAs = pool
	}
	client := &http.Client{Transport: &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSClientConfig:       config,
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: time.Minute,
		IdleConnTimeout:       30 * time.Second,
		ForceAttemptHTTP2:     true,
	}}
	path := strings.TrimSuffix(u.Path, "/")
	if !c.overridePath && !strings.HasSuffix(path, "/v2") {
		path += "/v2"
	}
	return docker.RegistryHost{
		Client:       client,
		Authorizer:   docker.NewDockerAuthorizer(docker.WithAuthClient(client), docker.WithAuthCreds(credentials)),
		Host:         u.Host,
		Scheme:       u.Scheme,
		Path:         path,
		Capabilities: c.capability(),
	}, nil
}

func (c registryHost) capability() docker.HostCapabilities {
	var out docker.HostCapabilities
	for _, name := range c.capabilities {
		switch name {
		case "pull":
			out |= docker.HostCapabilityPull
		case "resolve":
			out |= docker.HostCapabilityResolve
		}
	}
	if len(c.capabilities) == 0 {
		out = docker.HostCapabilityPull | docker.HostCapabilityResolve
	}
	return out
}

// readHosts reads <dir>/<host>/hosts.toml, else <dir>/_default/hosts.toml; nil
// says that there is neither.
func readHosts(dir, host string) ([]registryHost, error) {
	if dir == "" {
		return nil, nil
	}
	for _, name := range []string{host, strings.ReplaceAll(host, ":", "_") + "_", "_default"} {
		file := filepath.Join(dir, name, "hosts.toml")
		b, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		hosts, err := parseHosts(b, filepath.Dir(file), host)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		return hosts, nil
	}
	return nil, nil
}

// parseHosts reads the part of TOML that hosts.toml files are written in: keys
// with strings, booleans and one-line lists of strings, and tables
// [host."https://…"]. Anything else is an error, never passed over.
// Format: https://github.com/containerd/containerd/blob/main/docs/hosts.md
func parseHosts(b []byte, dir, host string) ([]registryHost, error) {
	server := registryHost{url: defaultServer(host)}
	var mirrors []*registryHost
	current := &server
	scanner := bufio.NewScanner(bytes.NewReader(b))
	for n := 1; scanner.Scan(); n++ {
		line := strings.TrimSpace(scanner.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if inner, ok := strings.CutPrefix(line, "["); ok {
			name, ok := strings.CutPrefix(strings.TrimSuffix(inner, "]"), "host.")
			address, err := strconv.Unquote(name)
			if !ok || err != nil {
				return nil, fmt.Errorf("line %d: only tables [host.\"URL\"] are supported", n)
			}
			current = &registryHost{url: address}
			mirrors = append(mirrors, current)
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		if !ok {
			return nil, fmt.Errorf("line %d: not understood", n)
		}
		if err := current.set(strings.TrimSpace(key), strings.TrimSpace(value), dir); err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
	}
	var hosts []registryHost
	for _, m := range mirrors {
		if !strings.Contains(m.url, "://") {
			m.url = "https://" + m.url
		}
		hosts = append(hosts, *m)
	}
	return append(hosts, server), nil
}

func (c *registryHost) set(key, value, dir string) error {
	var err error
	switch key {
	case "server":
		c.url, err = strconv.Unquote(value)
		if !strings.Contains(c.url, "://") {
			c.url = "https://" + c.url
		}
	case "capabilities":
		c.capabilities, err = stringList(value)
	case "ca":
		c.ca, err = stringList(value)
		for i, file := range c.ca {
			if !filepath.IsAbs(file) {
				c.ca[i] = filepath.Join(dir, file)
			}
		}
	case "skip_verify":
		c.skipVerify, err = strconv.ParseBool(value)
	case "override_path":
		c.overridePath, err = strconv.ParseBool(value)
	default:
		return fmt.Errorf("key %q is not supported", key)
	}
	if err != nil {
		return fmt.Errorf("%s = %s: %w", key, value, err)
	}
	return nil
}

func stringList(value string) ([]string, error) {
	inner, ok := strings.CutPrefix(value, "[")
	if !ok {
		s, err := strconv.Unquote(value)
		return []string{s}, err
	}
	inner, ok = strings.CutSuffix(inner, "]")
	if !ok {
		return nil, errors.New("a list has to stand on one line")
	}
	var out []string
	for _, item := range strings.Split(inner, ",") {
		if item = strings.TrimSpace(item); item == "" {
			continue
		}
		s, err := strconv.Unquote(item)
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}

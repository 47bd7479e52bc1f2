package authn

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"skiff/pkg/apiserver/request"
)

// FrontProxyConfig says which proxies are believed, and where they say who makes a request.
type FrontProxyConfig struct {
	// CAFile has the authorities of the proxies' certificates; empty: there are no proxies. Names are the common names
	// that they may have; empty is any.
	CAFile string
	Names  []string
	// UserHeaders and UIDHeaders count in this order; of GroupHeaders, and headers beginning with ExtraPrefixes, all do.
	UserHeaders, UIDHeaders, GroupHeaders, ExtraPrefixes []string
}

// FrontProxy recognizes the users that a proxy in front of this server has recognized: it says in headers who makes
// a request, and is believed because of its client certificate.
type FrontProxy struct {
	FrontProxyConfig
	certificates *Certificates
}

// NewFrontProxy reads the authorities; without a file for them it returns nil.
func NewFrontProxy(config FrontProxyConfig) (*FrontProxy, error) {
	if config.CAFile == "" {
		return nil, nil
	}
	certificates, err := NewCertificates(config.CAFile)
	if err != nil {
		return nil, fmt.Errorf("front proxies: %w", err)
	}
	return &FrontProxy{config, certificates}, nil
}

// identify returns the user that a proxy names; nil when the headers name none.
func (p *FrontProxy) identify(r *http.Request) (*request.User, error) {
	name := first(r.Header, p.UserHeaders)
	if name == "" {
		return nil, nil
	}
	proxy, err := p.certificates.Verify(r.TLS.PeerCertificates)
	if err != nil {
		return nil, err
	}
	common := r.TLS.PeerCertificates[0].Subject.CommonName
	if len(p.Names) > 0 && (proxy == nil || !slices.Contains(p.Names, common)) {
		return nil, fmt.Errorf("x509: subject with cn=%s is not in the allowed list", common)
	}
	user := &request.User{Name: name, UID: first(r.Header, p.UIDHeaders), Extra: map[string][]string{}}
	for _, header := range p.GroupHeaders {
		for _, group := range r.Header.Values(header) {
			if group != "" {
				user.Groups = append(user.Groups, group)
			}
		}
	}
	for _, prefix := range p.ExtraPrefixes {
		for header, values := range r.Header {
			if hasPrefix(header, prefix) {
				key := strings.ToLower(header[len(prefix):])
				if decoded, err := url.PathUnescape(key); err == nil {
					key = decoded
				}
				user.Extra[key] = append(user.Extra[key], values...)
			}
		}
	}
	return user, nil
}

func first(header http.Header, names []string) string {
	for _, name := range names {
		if value := header.Get(name); value != "" {
			return value
		}
	}
	return ""
}

func hasPrefix(header, prefix string) bool {
	return len(header) >= len(prefix) && strings.EqualFold(header[:len(prefix)], prefix)
}

// strip takes the headers away in which a proxy says who makes a request, these and the usual ones: nobody behind
// this server may take them for its own. p may be nil.
func (p *FrontProxy) strip(header http.Header) {
	for name := range header {
		switch {
		case hasPrefix(name, "X-Remote-"):
			delete(header, name)
		case p == nil:
		case slices.ContainsFunc(slices.Concat(p.UserHeaders, p.UIDHeaders, p.GroupHeaders), func(own string) bool { return strings.EqualFold(name, own) }),
			slices.ContainsFunc(p.ExtraPrefixes, func(prefix string) bool { return hasPrefix(name, prefix) }):
			delete(header, name)
		}
	}
}

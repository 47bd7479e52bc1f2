package join

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"
)

// What a person is told when the server's certificate doesn't verify, and whether it is tried again.
func TestExplain(t *testing.T) {
	expired := x509.CertificateInvalidError{Cert: &x509.Certificate{}, Reason: x509.Expired}
	host := x509.HostnameError{Certificate: &x509.Certificate{DNSNames: []string{"kubernetes"}, IPAddresses: []net.IP{net.IPv4(10, 0, 0, 1)}}, Host: "api"}
	for name, c := range map[string]struct {
		err   error
		skew  time.Duration
		want  string
		final bool
	}{
		"the clock is ahead":  {expired, 48 * time.Hour, "clock differs from the server's by 48h0m0s", true},
		"the clock is behind": {expired, -time.Hour, "clock differs from the server's by -1h0m0s", true},
		"really expired":      {expired, time.Second, "certificate has expired or is not yet valid", true},
		"another name":        {host, 0, "it is for kubernetes, [10.0.0.1]", true},
		"another authority":   {x509.UnknownAuthorityError{}, 0, "doesn't belong to the authority", true},
		"unreachable":         {errors.New("connection refused"), 0, "connection refused", false},
	} {
		err := explain(&url.Error{Op: "Get", URL: "https://api", Err: fmt.Errorf("tls: %w", c.err)}, c.skew)
		if _, isFinal := errors.AsType[final](err); isFinal != c.final || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, final %t", name, err, isFinal)
		}
	}
}

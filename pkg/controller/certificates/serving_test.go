package certificates

import (
	"crypto/x509"
	"net"
	"strings"
	"testing"

	certs "k8s.io/api/certificates/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func node(name string, labels map[string]string, addresses ...string) *v1.Node {
	n := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}
	for _, a := range addresses {
		n.Status.Addresses = append(n.Status.Addresses, v1.NodeAddress{Type: v1.NodeInternalIP, Address: a})
	}
	return n
}

func TestRefuseServing(t *testing.T) {
	master := map[string]string{controlPlaneLabel: ""}
	nodes := []*v1.Node{
		node("n1", nil, "10.0.0.1", "10.0.0.9", "10.96.0.1", "10.0.0.100", "127.0.0.1", "169.254.1.1", "api.example.org", "web.shop.svc", "kubernetes"),
		node("n2", nil, "10.0.0.2", "10.0.0.9"),
		node("m1", master, "10.0.0.3"),
	}
	reserved := reservedNames{
		services:   map[string]string{"10.96.0.1": "default/kubernetes"},
		apiservers: map[string]bool{"10.0.0.3": true, "10.0.0.100": true, "api.example.org": true, "m1": true},
	}
	sans := func(names ...string) func(*x509.CertificateRequest) {
		return func(r *x509.CertificateRequest) {
			for _, name := range names {
				if ip := net.ParseIP(name); ip != nil {
					r.IPAddresses = append(r.IPAddresses, ip)
				} else {
					r.DNSNames = append(r.DNSNames, name)
				}
			}
		}
	}
	for name, c := range map[string]struct {
		user   string
		change func(*x509.CertificateRequest)
		want   string // part of the refusal; empty: approved
	}{
		"name and address":                 {"n1", sans("n1", "10.0.0.1"), ""},
		"a name alone":                     {"n1", sans("n1"), ""},
		"nothing":                          {"n1", sans(), "subjectAltName is required"},
		"another's address":                {"n1", sans("n1", "10.0.0.2"), "10.0.0.2 is neither name nor address of node n1"},
		"another's name":                   {"n1", sans("n2"), "neither name nor address"},
		"an address that two claim":        {"n1", sans("n1", "10.0.0.9"), "also claimed by node n2"},
		"the API's service":                {"n1", sans("n1", "10.96.0.1"), "an address of service default/kubernetes"},
		"the API's virtual address":        {"n1", sans("10.0.0.100"), "10.0.0.100 is an apiserver's"},
		"the API's name":                   {"n1", sans("api.example.org"), "api.example.org is an apiserver's"},
		"a service's name":                 {"n1", sans("web.shop.svc"), "is a name of services"},
		"a name of the API in its pods":    {"n1", sans("kubernetes"), "is a name of services"},
		"loopback":                         {"n1", sans("127.0.0.1"), "not one machine's"},
		"link-local":                       {"n1", sans("169.254.1.1"), "not one machine's"},
		"a master's own":                   {"m1", sans("m1", "10.0.0.3"), ""},
		"an unknown node":                  {"n3", sans("n3"), `there is no node "n3"`},
		"in another's name":                {"n2", sans("n1"), `the request is for "system:node:n1"`},
		"an email":                         {"n1", func(r *x509.CertificateRequest) { sans("n1")(r); r.EmailAddresses = []string{"a@b"} }, "Email"},
		"of another organization":          {"n1", func(r *x509.CertificateRequest) { sans("n1")(r); r.Subject.Organization = []string{"system:masters"} }, "organization"},
		"a node that isn't in system:node": {"!n1", sans("n1"), "is not a node"},
	} {
		parsed, _ := request(t, func(r *x509.CertificateRequest) {
			if own := strings.TrimPrefix(c.user, "!"); own != "n2" {
				r.Subject.CommonName = "system:node:" + own
			}
			c.change(r)
		})
		csr := &certs.CertificateSigningRequest{Spec: certs.CertificateSigningRequestSpec{
			SignerName: certs.KubeletServingSignerName, Username: "system:node:" + c.user, Groups: []string{"system:nodes", "system:authenticated"},
			Usages: []certs.KeyUsage{certs.UsageDigitalSignature, certs.UsageServerAuth},
		}}
		if strings.HasPrefix(c.user, "!") {
			csr.Spec.Username, csr.Spec.Groups = "system:node:n1", []string{"system:authenticated"}
		}
		if got := refuseServing(csr, parsed, nodes, reserved); (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q", name, got)
		}
	}
	parsed, _ := request(t, sans("n1"))
	client := &certs.CertificateSigningRequest{Spec: certs.CertificateSigningRequestSpec{Username: "system:node:n1", Groups: []string{"system:nodes"},
		Usages: []certs.KeyUsage{certs.UsageDigitalSignature, certs.UsageClientAuth}}}
	if got := refuseServing(client, parsed, nodes, reserved); !strings.Contains(got, "usages did not match") {
		t.Errorf("a client's usages: %q", got)
	}
}

package cluster

import (
	"net/netip"
	"os"

	"skiff/pkg/pki"
)

// Inside a node its configuration lies in /run/skiff/etc: certificates and
// kubeconfigs, each node with its own and no other's.
const nodeEtc = "/run/skiff/etc"

// identity is a client of the API, with a kubeconfig of its own.
type identity struct {
	file          string // kubeconfig, below the node's etc
	commonName    string
	organizations []string
}

// identities are those of a node's processes. Each works with its own rights,
// those that Kubernetes' bootstrap roles give to the names used here.
func identities(n Node) []identity {
	list := []identity{
		{"agent.conf", "system:node:" + n.Name, []string{"system:nodes"}},
		{"proxy.conf", "system:kube-proxy", nil},
	}
	if n.Role == Master {
		list = append(list,
			identity{"scheduler.conf", "system:kube-scheduler", nil},
			identity{"controller.conf", "system:kube-controller-manager", nil})
	}
	return list
}

// writeAuthorities makes the cluster's certificate authority and the key that signs
// service account tokens, in the cluster's own directory, and the administrator's kubeconfig.
func writeAuthorities(s *Spec, l layout) (*pki.Authority, error) {
	authority, err := pki.NewAuthority("kubernetes")
	if err != nil {
		return nil, err
	}
	if err := authority.Pair().Write(l.pki("ca")); err != nil {
		return nil, err
	}
	signing, err := pki.NewSigningKey()
	if err != nil {
		return nil, err
	}
	if err := writeSigningKey(signing, l.pki("sa")); err != nil {
		return nil, err
	}
	admin, err := authority.Issue(pki.Request{CommonName: "kubernetes-admin", Organizations: []string{"system:masters"}, Client: true})
	if err != nil {
		return nil, err
	}
	return authority, pki.Kubeconfig{
		Cluster: contextName(s.Name), User: contextName(s.Name), Context: contextName(s.Name),
		Server: s.Server(), CA: authority.Pair().Cert, Client: admin,
	}.Write(l.adminConfig())
}

func writeSigningKey(p pki.Pair, file string) error {
	if err := os.WriteFile(file+".key", p.Key, 0o600); err != nil {
		return err
	}
	return os.WriteFile(file+".pub", p.Cert, 0o644)
}

// writeNodeCertificates makes what one node's processes show to others.
func writeNodeCertificates(s *Spec, l layout, n Node, authority *pki.Authority) error {
	etc := func(name string) string { return l.nodeFile(n.Name, "etc", name) }
	for _, id := range identities(n) {
		client, err := authority.Issue(pki.Request{CommonName: id.commonName, Organizations: id.organizations, Client: true})
		if err != nil {
			return err
		}
		err = pki.Kubeconfig{Cluster: s.Name, User: id.commonName, Context: s.Name,
			Server: s.Server(), CA: authority.Pair().Cert, Client: client}.Write(etc(id.file))
		if err != nil {
			return err
		}
	}
	if err := os.WriteFile(etc("ca.crt"), authority.Pair().Cert, 0o644); err != nil {
		return err
	}
	certificates := map[string]pki.Request{
		"agent": {CommonName: "system:node:" + n.Name, Organizations: []string{"system:nodes"},
			Hosts: []string{n.Name, n.IP.String()}, Server: true},
	}
	if n.Role == Master {
		certificates["apiserver"] = pki.Request{CommonName: "kube-apiserver", Server: true, Hosts: apiHosts(s, n)}
		certificates["apiserver-kubelet-client"] = pki.Request{CommonName: "kube-apiserver-kubelet-client",
			Organizations: []string{"kubeadm:cluster-admins", "system:masters"}, Client: true}
		for _, suffix := range []string{".key", ".pub"} {
			if err := copyFile(l.pki("sa")+suffix, etc("sa"+suffix)); err != nil {
				return err
			}
		}
		if err := copyFile(l.pki("ca")+".key", etc("ca.key")); err != nil {
			return err
		}
	}
	for name, request := range certificates {
		pair, err := authority.Issue(request)
		if err != nil {
			return err
		}
		if err := pair.Write(etc(name)); err != nil {
			return err
		}
	}
	return nil
}

func apiHosts(s *Spec, n Node) []string {
	hosts := []string{n.Name, "localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc." + ClusterDomain}
	for _, ip := range []netip.Addr{n.IP, netip.MustParseAddr("127.0.0.1"), nth(s.ServiceRange, 1)} {
		hosts = append(hosts, ip.String())
	}
	return hosts
}

func copyFile(from, to string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, data, 0o600)
}

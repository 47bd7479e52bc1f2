package cluster

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"time"

	"skiff/pkg/pki"
)

// Inside a node its configuration lies in /run/skiff/etc: kubeconfigs, and
// certificates below pki, each node with its own and no other's.
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
	list := []identity{{"agent.conf", "system:node:" + n.Name, []string{"system:nodes"}}}
	if n.Role == Master {
		list = append(list,
			identity{"proxy.conf", "system:kube-proxy", nil},
			identity{"scheduler.conf", "system:kube-scheduler", nil},
			identity{"controller.conf", "system:kube-controller-manager", nil})
	}
	return list
}

// authorities are a cluster's: the one of the API and its clients, the one by which the servers of aggregated APIs
// know the apiservers, and, with several masters, one among etcd's members and those who may talk to them.
type authorities struct {
	api, front, etcd *pki.Authority
}

const frontProxyCA = "front-proxy-ca"

// newAuthority makes one, in dir/pki.
func newAuthority(dir, name, commonName string) (*pki.Authority, error) {
	authority, err := pki.NewAuthority(commonName)
	if err != nil {
		return nil, err
	}
	return authority, authority.Pair().Write(filepath.Join(dir, "pki", name))
}

// writeAuthorities makes the cluster's certificate authorities and the key that signs
// service account tokens, below dir/pki, and the administrator's kubeconfig.
func writeAuthorities(s *Spec, dir string) (a authorities, err error) {
	file := func(name string) string { return filepath.Join(dir, "pki", name) }
	if a.api, err = newAuthority(dir, "ca", "kubernetes"); err != nil {
		return a, err
	}
	if a.front, err = newAuthority(dir, frontProxyCA, frontProxyCA); err != nil {
		return a, err
	}
	if s.VIP.IsValid() {
		if a.etcd, err = newAuthority(dir, "etcd/ca", "etcd-ca"); err != nil {
			return a, err
		}
		if err := a.issueInto(file(""), etcdClient()); err != nil {
			return a, err
		}
	}
	signing, err := pki.NewSigningKey()
	if err != nil {
		return a, err
	}
	if err := os.WriteFile(file("sa.key"), signing.Key, 0o600); err != nil {
		return a, err
	}
	if err := os.WriteFile(file("sa.pub"), signing.Cert, 0o644); err != nil {
		return a, err
	}
	admin, err := a.api.Issue(pki.Request{CommonName: "kubernetes-admin", Organizations: []string{"system:masters"}, Client: true})
	if err != nil {
		return a, err
	}
	return a, pki.Kubeconfig{
		Cluster: contextName(s.Name), User: contextName(s.Name), Context: contextName(s.Name),
		Server: s.Server(), CA: a.api.Pair().Cert, Client: admin,
	}.Write(file("admin.conf"))
}

// certificate is one that a node needs, in a file named as kubeadm names it.
type certificate struct {
	file string // below pki, without its ending
	pki.Request
}

func etcdClient() certificate {
	return certificate{"apiserver-etcd-client", pki.Request{CommonName: "kube-apiserver-etcd-client", Client: true}}
}

// frontProxy is what apiservers show of themselves to the servers of aggregated APIs.
func frontProxy() certificate {
	return certificate{"front-proxy-client", pki.Request{CommonName: "front-proxy-client", Client: true}}
}

// certificates are those of a node's processes beside their kubeconfigs'.
func certificates(s *Spec, n Node) []certificate {
	list := []certificate{{"agent", pki.Request{CommonName: "system:node:" + n.Name, Organizations: []string{"system:nodes"},
		Hosts: []string{n.Name, n.IP.String()}, Server: true}}}
	if n.Role != Master {
		return list
	}
	list = append(list, frontProxy(),
		certificate{"apiserver", pki.Request{CommonName: "kube-apiserver", Server: true, Hosts: apiHosts(s, n)}},
		certificate{"apiserver-kubelet-client", pki.Request{CommonName: "kube-apiserver-kubelet-client",
			Organizations: []string{"kubeadm:cluster-admins", "system:masters"}, Client: true}})
	if !s.VIP.IsValid() {
		return list
	}
	hosts := []string{n.Name, "localhost", n.IP.String(), "127.0.0.1"}
	return append(list, etcdClient(),
		certificate{"etcd/server", pki.Request{CommonName: n.Name, Hosts: hosts, Server: true, Client: true}},
		certificate{"etcd/peer", pki.Request{CommonName: n.Name, Hosts: hosts, Server: true, Client: true}})
}

// issueInto signs a certificate, by the authority that its file's name says.
func (a authorities) issueInto(dir string, c certificate) error {
	authority := a.api
	switch {
	case c.file == etcdClient().file || filepath.Dir(c.file) == "etcd":
		authority = a.etcd
	case c.file == frontProxy().file:
		authority = a.front
	}
	pair, err := authority.Issue(c.Request)
	if err != nil {
		return err
	}
	return pair.Write(filepath.Join(dir, c.file))
}

// writeNodeCertificates makes what one node's processes show to others, below etc, where it isn't there yet: a newer
// version may want more than the node was made with. from is the directory with the cluster's own.
func writeNodeCertificates(s *Spec, n Node, a authorities, from, etc string) error {
	for _, id := range identities(n) {
		if exists(filepath.Join(etc, id.file)) {
			continue
		}
		client, err := a.api.Issue(pki.Request{CommonName: id.commonName, Organizations: id.organizations, Client: true})
		if err != nil {
			return err
		}
		err = pki.Kubeconfig{Cluster: s.Name, User: id.commonName, Context: s.Name,
			Server: s.Server(), CA: a.api.Pair().Cert, Client: client}.Write(filepath.Join(etc, id.file))
		if err != nil {
			return err
		}
	}
	for _, c := range certificates(s, n) {
		if exists(filepath.Join(etc, "pki", c.file+".crt")) {
			continue
		}
		if err := a.issueInto(filepath.Join(etc, "pki"), c); err != nil {
			return err
		}
	}
	files := []string{"ca.crt"}
	if n.Role == Master {
		files = append(files, "ca.key", "sa.key", "sa.pub", frontProxyCA+".crt", frontProxyCA+".key")
		if s.VIP.IsValid() {
			files = append(files, "etcd/ca.crt", "etcd/ca.key")
		}
	}
	for _, name := range files {
		if exists(filepath.Join(etc, "pki", name)) {
			continue
		}
		if err := copyFile(filepath.Join(from, "pki", name), filepath.Join(etc, "pki", name)); err != nil {
			return err
		}
	}
	return nil
}

func apiHosts(s *Spec, n Node) []string {
	hosts := []string{n.Name, "localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc." + ClusterDomain,
		n.IP.String(), "127.0.0.1", nth(s.ServiceRange, 1).String()}
	if s.VIP.IsValid() {
		// Every server's certificate holds the VIP and the other servers' addresses: whoever
		// looks for one by its name may be led to another.
		hosts = append(hosts, s.VIP.String())
		for _, m := range s.Masters() {
			if m.Name != n.Name {
				hosts = append(hosts, m.IP.String())
			}
		}
	}
	return hosts
}

// loading is held while authorities are read: what a cluster lacks is made once.
var loading sync.Mutex

// loadAuthorities reads what [writeAuthorities] wrote. Clusters that were made before there was a front proxy get its authority now.
func loadAuthorities(s *Spec, dir string) (a authorities, err error) {
	loading.Lock()
	defer loading.Unlock()
	if a.api, err = pki.LoadAuthority(filepath.Join(dir, "pki/ca")); err != nil {
		return a, err
	}
	a.front, err = pki.LoadAuthority(filepath.Join(dir, "pki", frontProxyCA))
	if errors.Is(err, os.ErrNotExist) {
		a.front, err = newAuthority(dir, frontProxyCA, frontProxyCA)
	}
	if err != nil {
		return a, err
	}
	if s.VIP.IsValid() {
		a.etcd, err = pki.LoadAuthority(filepath.Join(dir, "pki/etcd/ca"))
	}
	return a, err
}

// renewAdmin renews the administrator's certificates below dir/pki when they are due: they lie on
// no node, where somebody renews them all the time.
func (a authorities) renewAdmin(dir string) error {
	for _, authority := range []*pki.Authority{a.api, a.etcd} {
		if authority == nil {
			continue
		}
		if _, err := pki.Renew(filepath.Join(dir, "pki"), authority, time.Now()); err != nil {
			return err
		}
	}
	return nil
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}

func copyFile(from, to string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	info, err := os.Stat(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, data, info.Mode().Perm())
}

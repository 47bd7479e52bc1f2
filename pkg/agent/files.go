package agent

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
)

// Limits of resolv.conf(5) as Kubernetes holds to them.
const (
	maxNameservers   = 3
	maxSearches      = 32
	maxSearchLength  = 2048
	resolvConf       = "/etc/resolv.conf"
	hostsFile        = "/etc/hosts"
	maxHostnameBytes = 63
)

// hostname is a pod's hostname, and its domain if it has a subdomain.
func hostname(pod *v1.Pod, nodeName, clusterDomain string) (host, domain string) {
	if pod.Spec.HostNetwork && pod.Spec.HostnameOverride == nil {
		return nodeName, ""
	}
	if pod.Spec.HostnameOverride != nil {
		return shorten(*pod.Spec.HostnameOverride), ""
	}
	host = pod.Name
	if pod.Spec.Hostname != "" {
		host = pod.Spec.Hostname
	}
	if pod.Spec.Subdomain != "" {
		domain = fmt.Sprintf("%s.%s.svc.%s", pod.Spec.Subdomain, pod.Namespace, clusterDomain)
	}
	return shorten(host), domain
}

// shorten cuts a name to what sethostname(2) takes, and what a DNS label may end with.
func shorten(name string) string {
	if len(name) <= maxHostnameBytes {
		return name
	}
	return strings.TrimRight(name[:maxHostnameBytes], "-.")
}

// hosts is the content of a pod's /etc/hosts; node is that of the node, for
// pods in its network.
func hosts(pod *v1.Pod, ips []string, host, domain string, node []byte) []byte {
	var b bytes.Buffer
	if pod.Spec.HostNetwork {
		b.WriteString("# Kubernetes-managed hosts file (host network).\n")
		b.Write(node)
	} else {
		b.WriteString("# Kubernetes-managed hosts file.\n" +
			"127.0.0.1\tlocalhost\n" +
			"::1\tlocalhost ip6-localhost ip6-loopback\n" +
			"fe00::0\tip6-localnet\n" +
			"fe00::0\tip6-mcastprefix\n" +
			"fe00::1\tip6-allnodes\n" +
			"fe00::2\tip6-allrouters\n")
		for _, ip := range ips {
			if domain != "" {
				fmt.Fprintf(&b, "%s\t%s.%s\t%s\n", ip, host, domain, host)
			} else {
				fmt.Fprintf(&b, "%s\t%s\n", ip, host)
			}
		}
	}
	if len(pod.Spec.HostAliases) > 0 {
		b.WriteString("\n# Entries added by HostAliases.\n")
		for _, alias := range pod.Spec.HostAliases {
			fmt.Fprintf(&b, "%s\t%s\n", alias.IP, strings.Join(alias.Hostnames, "\t"))
		}
	}
	return b.Bytes()
}

// resolver is what a resolv.conf says.
type resolver struct {
	nameservers, searches, options []string
}

func parseResolver(content []byte) resolver {
	var r resolver
	for _, line := range strings.Split(string(content), "\n") {
		if i := strings.IndexAny(line, "#;"); i >= 0 {
			line = line[:i]
		}
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		switch f[0] {
		case "nameserver":
			r.nameservers = append(r.nameservers, f[1])
		case "search":
			r.searches = nil
			for _, s := range f[1:] {
				if s != "." {
					s = strings.TrimSuffix(s, ".")
				}
				r.searches = append(r.searches, s)
			}
		case "options":
			r.options = append(r.options, f[1:]...)
		}
	}
	return r
}

// podResolver follows the pod's DNS policy from the node's own resolver and
// the cluster's. fallback says that the policy wants a cluster DNS which isn't configured.
func podResolver(pod *v1.Pod, node resolver, clusterDNS []string, domain string) (r resolver, fallback bool) {
	policy := pod.Spec.DNSPolicy
	cluster := policy == v1.DNSClusterFirstWithHostNet || policy == v1.DNSClusterFirst && !pod.Spec.HostNetwork
	switch {
	case policy == v1.DNSNone:
	case cluster && len(clusterDNS) > 0:
		r.nameservers = slices.Clone(clusterDNS)
		if domain != "" {
			r.searches = []string{pod.Namespace + ".svc." + domain, "svc." + domain, domain}
		}
		r.searches = append(r.searches, node.searches...)
		r.options = []string{"ndots:5"}
	default:
		fallback = cluster
		r = resolver{slices.Clone(node.nameservers), slices.Clone(node.searches), slices.Clone(node.options)}
	}
	if c := pod.Spec.DNSConfig; c != nil {
		r.nameservers = append(r.nameservers, c.Nameservers...)
		r.searches = append(r.searches, c.Searches...)
		for _, o := range c.Options {
			text := o.Name
			if o.Value != nil && *o.Value != "" {
				text += ":" + *o.Value
			}
			r.options = slices.DeleteFunc(r.options, func(have string) bool {
				name, _, _ := strings.Cut(have, ":")
				return name == o.Name
			})
			r.options = append(r.options, text)
		}
	}
	r.nameservers, r.searches = unique(r.nameservers), unique(r.searches)
	r.nameservers = r.nameservers[:min(len(r.nameservers), maxNameservers)]
	r.searches = r.searches[:min(len(r.searches), maxSearches)]
	for len(strings.Join(r.searches, " ")) > maxSearchLength {
		r.searches = r.searches[:len(r.searches)-1]
	}
	return r, fallback
}

func unique(list []string) []string {
	var out []string
	for _, s := range list {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

func (r resolver) String() string {
	var b strings.Builder
	if len(r.searches) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(r.searches, " "))
	}
	for _, n := range r.nameservers {
		fmt.Fprintf(&b, "nameserver %s\n", n)
	}
	if len(r.options) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(r.options, " "))
	}
	return b.String()
}

// writeFile writes a file that containers of the pod get to see, with a mode
// that the umask doesn't touch. It is replaced in place: it is bind-mounted.
func writeFile(path string, content []byte, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(path, content, mode); err != nil {
		return err
	}
	return os.Chmod(path, mode)
}

package cluster

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/pkg/cluster/supervise"
)

// registryPort is where the image registry listens on the first master.
const registryPort = 5000

// registryProgram is Debian's docker-registry, which keeps images on disk.
const registryProgram = "/usr/bin/docker-registry"

// registryNode is the node that runs the cluster's image registry, if it has one.
func (s *Spec) registryNode() (Node, bool) {
	if s.Registry == 0 {
		return Node{}, false
	}
	return s.Masters()[0], true
}

// registryHosts are the two names of the registry: the machine's, which users
// put into the names of images, and the one on the nodes' link.
func (s *Spec) registryHosts() (machine, link string) {
	n, _ := s.registryNode()
	return fmt.Sprintf("localhost:%d", s.Registry), netip.AddrPortFrom(n.IP, registryPort).String()
}

func registryProcess(at site) supervise.Process {
	return supervise.Process{Name: "registry", Args: []string{registryProgram, "serve", at.conf("registry.yml")}}
}

// writeRegistry writes what a node knows of the registry: how to reach it and,
// on the one that runs it, how to.
func writeRegistry(s *Spec, n Node, etc string) error {
	home, enabled := s.registryNode()
	if !enabled {
		return nil
	}
	machine, link := s.registryHosts()
	for _, name := range []string{machine, link} {
		dir := filepath.Join(etc, "certs.d", name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		text := fmt.Sprintf("server = \"http://%s\"\n\n[host.\"http://%s\"]\n  capabilities = [\"pull\", \"resolve\"]\n", link, link)
		if err := os.WriteFile(filepath.Join(dir, "hosts.toml"), []byte(text), 0o644); err != nil {
			return err
		}
	}
	if n.Name != home.Name {
		return nil
	}
	text := fmt.Sprintf(`version: 0.1
log: {level: warn, accesslog: {disabled: true}}
storage:
  filesystem: {rootdirectory: /var/lib/registry}
  delete: {enabled: true}
http: {addr: "%s"}
`, link)
	return os.WriteFile(filepath.Join(etc, "registry.yml"), []byte(text), 0o644)
}

// announceRegistry tells tools where the registry is, as KEP-1755 says.
func (a *api) announceRegistry(ctx context.Context, s *Spec) error {
	if _, enabled := s.registryNode(); !enabled {
		return nil
	}
	machine, link := s.registryHosts()
	config := &v1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "local-registry-hosting", Namespace: metav1.NamespacePublic},
		Data: map[string]string{"localRegistryHosting.v1": fmt.Sprintf(
			"host: %q\nhostFromContainerRuntime: %q\nhostFromClusterNetwork: %q\n", machine, link, link)},
	}
	_, err := a.CoreV1().ConfigMaps(config.Namespace).Create(ctx, config, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("announce the registry: %w", err)
	}
	return nil
}

package join

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"skiff/pkg/agent/rotation"
	"skiff/pkg/pki"
	"skiff/pkg/pki/bootstrap"
)

// EnvironmentFile holds the agent's flags for the unit that starts it, as FLAGS.
const EnvironmentFile = "agent.env"

const flagsVariable = "FLAGS="

func (c *Config) file(name string) string { return filepath.Join(c.Dir, name) }
func (c *Config) pkiDir() string          { return c.file("pki") }
func (c *Config) caFile() string          { return filepath.Join(c.pkiDir(), "ca.crt") }
func (c *Config) kubeconfig() string      { return c.file("agent.conf") }
func (c *Config) bootstrapConfig() string { return c.file("bootstrap-agent.conf") }

// writeDiscovered keeps what was learnt of the cluster: its authority, and how to ask it for a certificate.
func (c *Config) writeDiscovered(cluster *clientcmdapi.Cluster, token bootstrap.Token) error {
	if err := os.MkdirAll(c.pkiDir(), 0o700); err != nil {
		return err
	}
	if err := pki.Replace(c.caFile(), cluster.CertificateAuthorityData, 0o644); err != nil {
		return err
	}
	return c.writeConfig(c.bootstrapConfig(), cluster.Server, "tls-bootstrap-token-user", &clientcmdapi.AuthInfo{Token: token.String()})
}

// flags are the agent's: from the directory, from the cluster's settings, and those that were asked for.
func (c *Config) flags(ctx context.Context, cluster *clientcmdapi.Cluster) ([]string, error) {
	certificate := rotation.ClientFile(c.pkiDir())
	client, err := kubernetes.NewForConfig(&rest.Config{Host: cluster.Server,
		TLSClientConfig: rest.TLSClientConfig{CAData: cluster.CertificateAuthorityData, CertFile: certificate, KeyFile: certificate}})
	if err != nil {
		return nil, err
	}
	settings, err := bootstrap.ReadSettings(ctx, client)
	if err != nil {
		return nil, fmt.Errorf("read what nodes need to know of the cluster (ctl token create writes it): %w", err)
	}
	flags := []string{
		"--kubeconfig=" + c.kubeconfig(),
		"--hostname-override=" + c.NodeName,
		"--client-ca-file=" + c.caFile(),
		"--cert-dir=" + c.pkiDir(),
		"--rotate-certificates",
		"--rotate-server-certificates",
	}
	for _, name := range bootstrap.SettingNames {
		if settings[name] == "" {
			return nil, fmt.Errorf("the cluster's settings (config map kube-system/%s) don't tell %s", bootstrap.NodeConfig, name)
		}
		flags = append(flags, "--"+name+"="+settings[name])
	}
	return append(flags, c.Extra...), nil
}

// finish writes what the agent starts with, and forgets the token.
func (c *Config) finish(cluster *clientcmdapi.Cluster, flags []string) error {
	if err := pki.Replace(c.file(EnvironmentFile), []byte(flagsVariable+`"`+strings.Join(flags, " ")+"\"\n"), 0o644); err != nil {
		return err
	}
	certificate := rotation.ClientFile(c.pkiDir())
	err := c.writeConfig(c.kubeconfig(), cluster.Server, "system:node:"+c.NodeName, &clientcmdapi.AuthInfo{ClientCertificate: certificate, ClientKey: certificate})
	if err != nil {
		return err
	}
	return os.Remove(c.bootstrapConfig())
}

func (c *Config) writeConfig(file, server, user string, auth *clientcmdapi.AuthInfo) error {
	config := clientcmdapi.NewConfig()
	config.Clusters["default"] = &clientcmdapi.Cluster{Server: server, CertificateAuthority: c.caFile()}
	config.AuthInfos[user] = auth
	config.Contexts["default"] = &clientcmdapi.Context{Cluster: "default", AuthInfo: user}
	config.CurrentContext = "default"
	data, err := clientcmd.Write(*config)
	if err != nil {
		return err
	}
	return pki.Replace(file, data, 0o600)
}

// readFlags are those that finish wrote.
func (c *Config) readFlags() ([]string, error) {
	data, err := os.ReadFile(c.file(EnvironmentFile))
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(data)) {
		if flags, ok := strings.CutPrefix(strings.TrimSpace(line), flagsVariable); ok {
			return strings.Fields(strings.Trim(flags, `"`)), nil
		}
	}
	return nil, fmt.Errorf("no %s in %s", flagsVariable, c.file(EnvironmentFile))
}

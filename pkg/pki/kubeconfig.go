package pki

import (
	"os"
	"path/filepath"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// Kubeconfig names a cluster and the certificate that a client shows it.
type Kubeconfig struct {
	Cluster string // name of the cluster entry
	User    string // name of the user entry
	Context string // name of the context, which is made current
	Server  string // https://…
	CA      []byte // PEM
	Client  Pair
}

// Config is the kubeconfig as client-go's type, with everything embedded.
func (k Kubeconfig) Config() *clientcmdapi.Config {
	config := clientcmdapi.NewConfig()
	config.Clusters[k.Cluster] = &clientcmdapi.Cluster{Server: k.Server, CertificateAuthorityData: k.CA}
	config.AuthInfos[k.User] = &clientcmdapi.AuthInfo{ClientCertificateData: k.Client.Cert, ClientKeyData: k.Client.Key}
	config.Contexts[k.Context] = &clientcmdapi.Context{Cluster: k.Cluster, AuthInfo: k.User}
	config.CurrentContext = k.Context
	return config
}

// Write stores the kubeconfig in a file that only its owner can read.
func (k Kubeconfig) Write(file string) error {
	data, err := clientcmd.Write(*k.Config())
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return os.WriteFile(file, data, 0o600)
}

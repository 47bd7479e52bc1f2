package cluster

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

func contextName(cluster string) string { return "skiff-" + cluster }

// mergeKubeconfig adds the cluster's context to the user's kubeconfig and makes it current.
func mergeKubeconfig(l layout) error {
	own, err := clientcmd.LoadFromFile(l.adminConfig())
	if err != nil {
		return err
	}
	return editKubeconfig(func(config *clientcmdapi.Config) bool {
		name := contextName(l.name)
		config.Clusters[name] = own.Clusters[name]
		config.AuthInfos[name] = own.AuthInfos[name]
		config.Contexts[name] = own.Contexts[name]
		config.CurrentContext = name
		return true
	})
}

// removeFromKubeconfig takes the cluster's context out of the user's kubeconfig.
func removeFromKubeconfig(l layout) error {
	return editKubeconfig(func(config *clientcmdapi.Config) bool {
		name := contextName(l.name)
		_, there := config.Contexts[name]
		delete(config.Clusters, name)
		delete(config.AuthInfos, name)
		delete(config.Contexts, name)
		if config.CurrentContext == name {
			config.CurrentContext = ""
		}
		return there
	})
}

// editKubeconfig changes the user's kubeconfig ($KUBECONFIG's first file, or
// ~/.kube/config) under a lock, and writes it whole, readable by its owner only.
func editKubeconfig(edit func(*clientcmdapi.Config) (changed bool)) error {
	file := clientcmd.NewDefaultClientConfigLoadingRules().GetDefaultFilename()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	unlock, err := lock(file + ".skiff-lock")
	if err != nil {
		return err
	}
	defer unlock()
	defer os.Remove(file + ".skiff-lock")
	config, err := clientcmd.LoadFromFile(file)
	if os.IsNotExist(err) {
		config, err = clientcmdapi.NewConfig(), nil
	}
	if err != nil {
		return fmt.Errorf("kubeconfig %s: %w", file, err)
	}
	if !edit(config) {
		return nil
	}
	data, err := clientcmd.Write(*config)
	if err != nil {
		return err
	}
	temporary := file + ".new"
	if err := os.WriteFile(temporary, data, 0o600); err != nil {
		return err
	}
	return os.Rename(temporary, file)
}

// lock waits for the exclusive lock on a file.
func lock(file string) (unlock func(), err error) {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(file, os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", file, err)
	}
	return func() { f.Close() }, nil
}

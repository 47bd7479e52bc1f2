package join

import (
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	certs "k8s.io/api/certificates/v1"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/cert"
	"k8s.io/client-go/util/certificate"
	"k8s.io/client-go/util/certificate/csr"
	"k8s.io/client-go/util/keyutil"

	"skiff/pkg/agent/rotation"
	"skiff/pkg/pki"
)

// request gets the node's client certificate and stores it. The key is kept until then, so that a run that was
// killed finds its own request again.
func (c *Config) request(ctx context.Context, client kubernetes.Interface) error {
	if err := c.checkName(ctx, client); err != nil {
		return err
	}
	keyFile := filepath.Join(c.pkiDir(), "kubelet-client.key.tmp") // the kubelet's name for it
	keyPEM, key, err := loadKey(keyFile)
	if err != nil {
		return err
	}
	request, err := cert.MakeCSR(key, &pkix.Name{CommonName: "system:node:" + c.NodeName, Organization: []string{"system:nodes"}}, nil, nil)
	if err != nil {
		return err
	}
	name, uid, err := csr.RequestCertificateWithContext(ctx, client, request, requestName(c.NodeName, key), certs.KubeAPIServerClientKubeletSignerName, nil,
		certificate.DefaultKubeletClientGetUsages(key), key)
	switch {
	case apierrors.IsUnauthorized(err):
		return fmt.Errorf("the cluster doesn't accept the token: it has expired by now, or may not be used for authentication (ctl token list tells): %w", err)
	case apierrors.IsForbidden(err):
		return fmt.Errorf("the token doesn't give the right to ask for a certificate: is it of the group system:bootstrappers:kubeadm:default-node-token? %w", err)
	case err != nil:
		return err
	}
	waiting, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	issued, err := csr.WaitForCertificate(waiting, client, name, uid)
	if wait.Interrupted(err) || errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("request %s wasn't approved and signed within %v: look at it with ctl get csr, approve it with ctl certificate approve %s, and join again", name, c.Timeout, name)
	}
	if err != nil {
		// Denied or failed: another try takes another request.
		return errors.Join(fmt.Errorf("request %s: %w", name, err), os.Remove(keyFile))
	}
	if err := rotation.Store(c.pkiDir(), issued, keyPEM); err != nil {
		return err
	}
	return os.Remove(keyFile)
}

// checkName makes sure that no other machine is this node.
func (c *Config) checkName(ctx context.Context, client kubernetes.Interface) error {
	node, err := client.CoreV1().Nodes().Get(ctx, c.NodeName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || apierrors.IsForbidden(err) {
		return nil // kubeadm's right to look is a courtesy, that to join is another
	}
	if apierrors.IsUnauthorized(err) {
		return fmt.Errorf("the cluster doesn't accept the token: it has expired by now, or may not be used for authentication (ctl token list tells): %w", err)
	}
	if err != nil {
		return fmt.Errorf("look for node %s: %w", c.NodeName, err)
	}
	for _, condition := range node.Status.Conditions {
		if condition.Type == v1.NodeReady && condition.Status == v1.ConditionTrue {
			return fmt.Errorf("the cluster has a node %s already, and it is ready: take another name (--node-name), or delete that node", c.NodeName)
		}
	}
	return nil
}

func loadKey(file string) ([]byte, crypto.Signer, error) {
	data, err := os.ReadFile(file)
	if err == nil {
		if key, err := pki.ParseKey(data); err == nil {
			return data, key, nil
		}
	} else if !os.IsNotExist(err) {
		return nil, nil, err
	}
	if data, err = keyutil.MakeEllipticPrivateKeyPEM(); err != nil {
		return nil, nil, err
	}
	if err := pki.Replace(file, data, 0o600); err != nil {
		return nil, nil, err
	}
	key, err := pki.ParseKey(data)
	return data, key, err
}

// requestName is one and the same for a node and a key.
func requestName(node string, key crypto.Signer) string {
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return "" // the server makes a name
	}
	sum := sha256.Sum256(append([]byte(strings.ToLower(node)+"\n"), der...))
	return "node-csr-" + hex.EncodeToString(sum[:16])
}

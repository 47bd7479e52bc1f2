package node

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/pkg/cluster"
)

const waitShort = 20 * time.Second

func unmarshal(data []byte, into any) error { return json.Unmarshal(data, into) }

var startRegistry = sync.OnceValues(func() (string, error) {
	s, err := cluster.Get(clusterName)
	if err != nil {
		return "", err
	}
	// On the link between the machine and the nodes, which nobody else is on.
	listener, err := net.Listen("tcp", net.JoinHostPort(s.Gateway().String(), "0"))
	if err != nil {
		return "", err
	}
	// The nodes must be told that it speaks plain HTTP.
	for _, n := range s.Nodes {
		hosts, err := cluster.NodeFile(clusterName, n.Name, "/run/skiff/etc/certs.d/"+listener.Addr().String()+"/hosts.toml")
		if err != nil {
			return "", err
		}
		if err := os.MkdirAll(filepath.Dir(hosts), 0o755); err != nil {
			return "", err
		}
		if err := os.WriteFile(hosts, []byte("server = \"http://"+listener.Addr().String()+"\"\n"), 0o644); err != nil {
			return "", err
		}
	}
	go http.Serve(listener, registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	return listener.Addr().String(), nil
})

// registryHost is the address of an empty image registry that the nodes can reach.
func registryHost(t *testing.T) string {
	t.Helper()
	host, err := startRegistry()
	if err != nil {
		t.Fatal(err)
	}
	return host
}

// TestPull pulls from a real registry, by each policy.
func TestPull(t *testing.T) {
	ns := newNamespace(t)
	host := registryHost(t)
	image, err := tarball.ImageFromPath(filepath.Join(root, "bin/images/hello.tar"), nil)
	if err != nil {
		t.Fatal(err)
	}
	reference, err := name.ParseReference(host+"/library/hello:v1", name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(reference, image); err != nil {
		t.Fatal(err)
	}
	pod := func(name, image string, policy v1.PullPolicy) {
		t.Helper()
		_, err := client.CoreV1().Pods(ns).Create(t.Context(), &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec: v1.PodSpec{NodeName: clusterName + "-worker-1", TerminationGracePeriodSeconds: new(int64),
				Containers: []v1.Container{{Name: "c", Image: image, ImagePullPolicy: policy}}}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
	pod("never", host+"/library/hello:v1", v1.PullNever)
	waitPod(t, ns, "never", "ErrImageNeverPull", func(p *v1.Pod) bool {
		return len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].State.Waiting != nil &&
			p.Status.ContainerStatuses[0].State.Waiting.Reason == "ErrImageNeverPull"
	})
	pod("if-not-present", host+"/library/hello:v1", v1.PullIfNotPresent)
	waitPod(t, ns, "if-not-present", "ready", ready)
	pod("always", host+"/library/hello:v1", v1.PullAlways)
	p := waitPod(t, ns, "always", "ready", ready)
	if id := p.Status.ContainerStatuses[0].ImageID; !strings.Contains(id, "@sha256:") {
		t.Errorf("imageID %q has no digest", id)
	}
	events := must(t, "get", "events", "-n", ns, "-o", "custom-columns=R:.reason,O:.involvedObject.name,M:.message")
	for _, want := range []string{"Pulling", "Successfully pulled image"} {
		if !strings.Contains(events, want) {
			t.Errorf("no %q among the events:\n%s", want, events)
		}
	}
}

func selfSigned(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "kubernetes-admin", Organization: []string{"system:masters"}},
		NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

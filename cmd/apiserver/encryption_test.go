package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"

	"skiff/pkg/etcd"
)

// keyFile writes an encryption configuration with these keys of aesgcm for everything, by name.
func (s *site) keyFile(t *testing.T, names ...string) string {
	t.Helper()
	var text strings.Builder
	text.WriteString("apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: ['*.*']\n  providers:\n")
	for _, name := range names {
		secret := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte(name[:1]), 32))
		fmt.Fprintf(&text, "  - aesgcm: {keys: [{name: %s, secret: %s}]}\n", name, secret)
	}
	text.WriteString("  - identity: {}\n")
	if err := os.WriteFile(s.file("keys.yaml"), []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return "--encryption-provider-config=" + s.file("keys.yaml")
}

// all returns what etcd holds below a prefix.
func (s *site) all(t *testing.T, prefix string) map[string][]byte {
	t.Helper()
	o := etcdTLS{ca: s.file("ca.crt"), cert: s.file("etcd.crt"), key: s.file("etcd.key")}
	config, err := o.dial([]string{s.etcd})
	if err != nil {
		t.Fatal(err)
	}
	client, err := etcd.Dial(config)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	answer, err := client.Get(t.Context(), prefix, clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	found := map[string][]byte{}
	for _, kv := range answer.Kvs {
		found[string(kv.Key)] = kv.Value
	}
	return found
}

// rewrite replaces all secrets by themselves, as kubectl get and replace do.
func rewrite(t *testing.T, client kubernetes.Interface) {
	t.Helper()
	secrets, err := client.CoreV1().Secrets("").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range secrets.Items {
		if _, err := client.CoreV1().Secrets(secrets.Items[i].Namespace).Update(t.Context(), &secrets.Items[i], metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
}

// Whatever a server writes is encrypted, what stands in other objects' transactions as well; keys rotate over a
// restart and without one; and an object whose key is gone is one error, not the end.
func TestEncryptionAtRest(t *testing.T) {
	s := newSite(t)
	_, with := s.startEtcd(t)
	client, stop := s.server(t, append(with, s.keyFile(t, "first"))...)
	core := client.CoreV1()
	if _, err := core.Secrets("default").Create(t.Context(), &v1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s"}, StringData: map[string]string{"k": "confidential"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := core.Services("default").Create(t.Context(), &v1.Service{ObjectMeta: metav1.ObjectMeta{Name: "with-address"}, Spec: v1.ServiceSpec{Ports: []v1.ServicePort{{Port: 1}}}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	ten := v1.ResourceList{"configmaps": resource.MustParse("10")}
	quota, err := core.ResourceQuotas("default").Create(t.Context(), &v1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "q"}, Spec: v1.ResourceQuotaSpec{Hard: ten}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	quota.Status = v1.ResourceQuotaStatus{Hard: ten, Used: v1.ResourceList{"configmaps": resource.MustParse("0")}}
	if _, err := core.ResourceQuotas("default").UpdateStatus(t.Context(), quota, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := core.ConfigMaps("default").Create(t.Context(), &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "charged"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if quota, err = core.ResourceQuotas("default").Get(t.Context(), "q", metav1.GetOptions{}); err != nil || quota.Status.Used.Name("configmaps", resource.DecimalSI).Value() != 1 {
		t.Errorf("the quota: %v, %v", quota.Status.Used, err)
	}
	for key, value := range s.all(t, "/registry/") {
		bare := strings.HasPrefix(key, "/registry/skiff/") || strings.HasPrefix(key, "/registry/masterleases/") // no objects
		if !bare && !bytes.HasPrefix(value, []byte("k8s:enc:aesgcm:v1:first:")) {
			t.Errorf("etcd holds in %s: %q", key, value)
		}
	}
	stop()

	const key = "/registry/secrets/default/s"
	writtenBy := func(name string) bool {
		return bytes.HasPrefix(s.all(t, key)[key], []byte("k8s:enc:aesgcm:v1:"+name+":"))
	}
	read := func(client kubernetes.Interface) error {
		found, err := client.CoreV1().Secrets("default").Get(t.Context(), "s", metav1.GetOptions{})
		if err == nil && string(found.Data["k"]) != "confidential" {
			err = fmt.Errorf("the secret is %+v", found)
		}
		return err
	}
	client, stop = s.server(t, append(with, s.keyFile(t, "second", "first"), "--encryption-provider-config-automatic-reload")...)
	if err := read(client); err != nil || !writtenBy("first") {
		t.Errorf("by an older key: %v", err)
	}
	rewrite(t, client)
	if err := read(client); err != nil || !writtenBy("second") {
		t.Errorf("rewritten: %v", err)
	}
	s.keyFile(t, "third", "second")
	eventually(t, func() bool { rewrite(t, client); return writtenBy("third") })
	stop()

	client, _ = s.server(t, append(with, s.keyFile(t, "unrelated", "first", "second"), "--encryption-provider-config-automatic-reload")...)
	if err := read(client); !apierrors.IsInternalError(err) || !strings.Contains(err.Error(), "secrets/default/s") || !strings.Contains(err.Error(), `key "third" of aesgcm is not in the encryption configuration`) {
		t.Errorf("without its key: %v", err)
	}
	if _, err := client.CoreV1().Namespaces().List(t.Context(), metav1.ListOptions{}); err != nil {
		t.Errorf("other objects: %v", err)
	}
	s.keyFile(t, "unrelated", "first", "second", "third")
	eventually(t, func() bool { return read(client) == nil })
}

func eventually(t *testing.T, done func() bool) {
	t.Helper()
	err := wait.PollUntilContextTimeout(t.Context(), 50*time.Millisecond, 20*time.Second, true, func(context.Context) (bool, error) { return done(), nil })
	if err != nil {
		t.Fatal(err)
	}
}

package encryption

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/nacl/secretbox"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff/pkg/api"
)

const head = "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n"

// secret is a key of 32 bytes, as the file has it.
func secret(n byte) string { return base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{n}, 32)) }

func provider(name string, n byte, provider string) string {
	return fmt.Sprintf("{%s: {keys: [{name: %s, secret: %s}]}}", provider, name, secret(n))
}

func secretsBy(providers ...string) string {
	return head + "- resources: [secrets]\n  providers: [" + strings.Join(providers, ", ") + "]\n"
}

func open(t *testing.T, text string) (*Provider, string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "encryption.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := Open(file)
	if err != nil {
		t.Fatal(err)
	}
	return p, file
}

func of(p *Provider, group, resource string) *transformer {
	return p.Transformer(&api.Kind{GroupVersionKind: schema.GroupVersionKind{Group: group}, Resource: resource}).(*transformer)
}

var plain, place = []byte("k8s\x00 something that is longer than one block"), []byte("/registry/secrets/a/b")

// What is written can be decrypted by the ciphers alone, by what Kubernetes says of its format.
func TestFormat(t *testing.T) {
	raw := bytes.Repeat([]byte{7}, 32)
	block, err := aes.NewCipher(raw)
	if err != nil {
		t.Fatal(err)
	}
	decrypt := map[string]func(data []byte) ([]byte, error){
		"aesgcm": func(data []byte) ([]byte, error) {
			gcm, err := cipher.NewGCM(block)
			if err != nil {
				return nil, err
			}
			return gcm.Open(nil, data[:12], data[12:], place)
		},
		"aescbc": func(data []byte) ([]byte, error) {
			out := make([]byte, len(data)-16)
			cipher.NewCBCDecrypter(block, data[:16]).CryptBlocks(out, data[16:])
			return out[:len(out)-int(out[len(out)-1])], nil
		},
		"secretbox": func(data []byte) ([]byte, error) {
			out, ok := secretbox.Open(nil, data[24:], (*[24]byte)(data[:24]), (*[32]byte)(raw))
			if !ok {
				return nil, os.ErrInvalid
			}
			return out, nil
		},
	}
	for name, decrypt := range decrypt {
		p, _ := open(t, secretsBy(provider("k1", 7, name)))
		data, with, err := of(p, "", "secrets").ToStorage(plain, place)
		if err != nil {
			t.Fatal(err)
		}
		rest, ok := bytes.CutPrefix(data, []byte("k8s:enc:"+name+":v1:k1:"))
		if got, err := decrypt(rest); !ok || err != nil || !bytes.Equal(got, plain) {
			t.Errorf("%s: %q is %q (%v)", name, data, got, err)
		}
		got, by, err := of(p, "", "secrets").FromStorage(data, place)
		if err != nil || !bytes.Equal(got, plain) || by != with || of(p, "", "secrets").Stale(by) {
			t.Errorf("%s: read back %q, by %q, of %q: %v", name, got, by, with, err)
		}
		_, _, err = of(p, "", "secrets").FromStorage(data, []byte("/registry/secrets/a/c"))
		if name == "aesgcm" && (err == nil || !strings.Contains(err.Error(), `key "k1" of aesgcm does not fit`)) {
			t.Errorf("a value moved to another key: %v", err)
		}
	}
}

func TestRotation(t *testing.T) {
	p, file := open(t, secretsBy("{identity: {}}", provider("old", 1, "aescbc")))
	secrets := of(p, "", "secrets")
	rewrite := func(providers ...string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(secretsBy(providers...)), 0o600); err != nil {
			t.Fatal(err)
		}
		if news, err := p.Reload(); err != nil || !news {
			t.Fatalf("reload: %v, %v", news, err)
		}
	}
	bare, with, err := secrets.ToStorage(plain, place)
	if err != nil || !bytes.Equal(bare, plain) || secrets.Stale(with) {
		t.Fatalf("identity writes %q: %v", bare, err)
	}
	rewrite(provider("old", 1, "aescbc"), "{identity: {}}")
	if got, with, err := secrets.FromStorage(bare, place); err != nil || !bytes.Equal(got, plain) || !secrets.Stale(with) {
		t.Errorf("what isn't encrypted: %q, %q, %v", got, with, err)
	}
	old, withOld, err := secrets.ToStorage(plain, place)
	if err != nil || secrets.Stale(withOld) {
		t.Fatal(err)
	}
	rewrite(provider("old", 2, "aescbc"), provider("old", 1, "aescbc")) // the same name, another key
	if got, with, err := secrets.FromStorage(old, place); err != nil || !bytes.Equal(got, plain) || with != withOld || !secrets.Stale(with) {
		t.Errorf("what an old key wrote: %q, %q, %v", got, with, err)
	}
	if _, _, err := secrets.FromStorage(bare, place); err == nil || !strings.Contains(err.Error(), "no identity provider") {
		t.Errorf("what isn't encrypted, without identity: %v", err)
	}
	rewrite(provider("new", 3, "secretbox"))
	if _, _, err := secrets.FromStorage(old, place); err == nil || !strings.Contains(err.Error(), `key "old" of aescbc is not in the encryption configuration`) {
		t.Errorf("an unknown key: %v", err)
	}
	if err := os.WriteFile(file, []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Reload(); err == nil {
		t.Error("nonsense was taken for a configuration")
	}
	if data, _, err := secrets.ToStorage(plain, place); err != nil || !bytes.HasPrefix(data, []byte("k8s:enc:secretbox:v1:new:")) {
		t.Errorf("after a file that is no use: %q, %v", data, err)
	}
	if news, err := p.Reload(); news || err == nil {
		t.Errorf("again: %v, %v", news, err)
	}
}

func TestResources(t *testing.T) {
	p, _ := open(t, head+`
- {resources: [events], providers: [{identity: {}}]}
- {resources: [deployments.apps, widgets.example.com], providers: [`+provider("a", 1, "aesgcm")+`]}
- {resources: ["*.apps", "*."], providers: [`+provider("b", 2, "aesgcm")+`]}
- {resources: ["*.*"], providers: [`+provider("c", 3, "aesgcm")+`]}
`)
	for resource, want := range map[string]string{
		"events": "k8s\x00", "deployments.apps": "k8s:enc:aesgcm:v1:a:", "widgets.example.com": "k8s:enc:aesgcm:v1:a:",
		"daemonsets.apps": "k8s:enc:aesgcm:v1:b:", "secrets": "k8s:enc:aesgcm:v1:b:", "gadgets.example.com": "k8s:enc:aesgcm:v1:c:",
	} {
		gr := schema.ParseGroupResource(resource)
		if data, _, err := of(p, gr.Group, gr.Resource).ToStorage(plain, place); err != nil || !bytes.HasPrefix(data, []byte(want)) {
			t.Errorf("%s: %q, %v", resource, data, err)
		}
	}
	p, _ = open(t, secretsBy(provider("k", 1, "aesgcm")))
	data, _, err := of(p, "", "secrets").ToStorage(plain, place)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := of(p, "", "pods").FromStorage(data, place); err == nil || !strings.Contains(err.Error(), `key "k" of aesgcm is not in the encryption configuration for this resource`) {
		t.Errorf("something encrypted of a resource that isn't: %v", err)
	}
}

func TestBadFiles(t *testing.T) {
	for what, row := range map[string][2]string{
		"another kind":   {"apiVersion: v1\nkind: Secret", "v1 Secret"},
		"a typo":         {head + "- {resources: [secrets], provider: []}", "provider"},
		"nothing":        {strings.TrimSuffix(head, "resources:\n"), "at least one resources is required"},
		"no provider":    {head + "- {resources: [secrets], providers: []}", "at least one"},
		"an empty one":   {head + "- {resources: [secrets], providers: [{}]}", "does not contain any of the expected providers"},
		"two in one":     {head + "- {resources: [secrets], providers: [{identity: {}, aescbc: {keys: [{name: a, secret: " + secret(1) + "}]}}]}", "more than one provider"},
		"no key":         {secretsBy("{aesgcm: {keys: []}}"), "at least one keys is required"},
		"a short key":    {secretsBy("{secretbox: {keys: [{name: a, secret: c2hvcnQ=}]}}"), "expected length"},
		"no base64":      {secretsBy("{aescbc: {keys: [{name: a, secret: '?'}]}}"), "base64"},
		"the wildcard *": {head + "- {resources: ['*'], providers: [{identity: {}}]}", "*.*"},
		"an overlap":     {head + "- {resources: ['*.', secrets], providers: [{identity: {}}]}", "overlapping"},
		"kms":            {secretsBy("{kms: {apiVersion: v2, name: vault, endpoint: unix:///x}}"), "resources[0].providers[0]: key management services (kms) are not supported"},
	} {
		if _, err := parse([]byte(row[0])); err == nil || !strings.Contains(err.Error(), row[1]) {
			t.Errorf("%s: %v", what, err)
		} else if strings.Contains(err.Error(), secret(1)) {
			t.Errorf("%s: the error has the key in it: %v", what, err)
		}
	}
	if _, err := Open(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("a file that isn't there was opened")
	}
}

func BenchmarkAESGCM(b *testing.B) {
	c, err := parse([]byte(secretsBy(provider("k", 1, "aesgcm"))))
	if err != nil {
		b.Fatal(err)
	}
	value := bytes.Repeat([]byte{1}, 2000)
	for b.Loop() {
		data, _, err := c.rules[0].seal(value, place)
		if err != nil {
			b.Fatal(err)
		}
		if _, _, err := c.rules[0].open(data, place); err != nil {
			b.Fatal(err)
		}
	}
}

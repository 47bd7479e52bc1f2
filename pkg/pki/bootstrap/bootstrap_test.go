package bootstrap

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func TestParseToken(t *testing.T) {
	for text, ok := range map[string]bool{
		"abcdef.0123456789abcdef": true, "abcde.0123456789abcdef": false, "abcdef.0123456789abcde": false, "ABCDEF.0123456789abcdef": false,
		"abcdef.0123456789abcdef ": false, "abcdef:0123456789abcdef": false, "": false, "xabcdef.0123456789abcdef\n": false,
	} {
		token, err := ParseToken(text)
		if (err == nil) != ok || ok && token.String() != text {
			t.Errorf("%q: %v %v", text, token, err)
		}
	}
	seen := map[string]bool{}
	for range 100 {
		made, err := NewToken()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParseToken(made.String()); err != nil || seen[made.ID] {
			t.Errorf("%v: %v", made, err)
		}
		seen[made.ID] = true
	}
}

func TestSignature(t *testing.T) {
	// From the tests of k8s.io/cluster-bootstrap, with which kubeadm signs and verifies.
	const (
		content   = "Hello from the other side. I must have called a thousand times."
		signature = "eyJhbGciOiJIUzI1NiIsImtpZCI6Impvc2h1YSJ9..VShe2taLd-YTrmWuRkcL_8QTNDHYxQIEBsAYYiIj1_8"
	)
	if got := (Token{"joshua", "my voice is my passcode"}).Sign(content); got != signature {
		t.Errorf("%s, want %s", got, signature)
	}
	rapid.Check(t, func(r *rapid.T) {
		token := Token{rapid.StringMatching(`[a-z0-9]{6}`).Draw(r, "id"), rapid.StringMatching(`[a-z0-9]{16}`).Draw(r, "secret")}
		content := rapid.String().Draw(r, "content")
		if err := token.Verify(content, token.Sign(content)); err != nil {
			r.Fatal(err)
		}
	})
	token := Token{"abcdef", "0123456789abcdef"}
	good := token.Sign("content")
	none := "eyJhbGciOiJub25lIiwia2lkIjoiYWJjZGVmIn0.." // {"alg":"none","kid":"abcdef"}
	for name, c := range map[string]struct {
		token              Token
		content, signature string
	}{
		"other content":  {token, "contenT", good},
		"other secret":   {Token{"abcdef", "0123456789abcdeF"}, "content", good},
		"other id":       {Token{"bbcdef", "0123456789abcdef"}, "content", good},
		"no algorithm":   {token, "content", none},
		"with a payload": {token, "content", strings.Replace(good, "..", ".Y29udGVudA.", 1)},
		"cut off":        {token, "content", good[:len(good)-2]},
		"empty":          {token, "content", ""},
	} {
		if c.token.Verify(c.content, c.signature) == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

// stored is a secret as the server gives it back.
func stored(secret *v1.Secret) *v1.Secret {
	secret.Data = map[string][]byte{}
	for key, value := range secret.StringData {
		secret.Data[key] = []byte(value)
	}
	return secret
}

func TestSecret(t *testing.T) {
	grant := Grant{Token: Token{"abcdef", "0123456789abcdef"}, Expires: now.Add(time.Hour), Usages: []string{UsageSigning}, Groups: []string{NodeGroup}, Description: "rack"}
	secret, err := grant.NewSecret()
	if err != nil {
		t.Fatal(err)
	}
	read, err := ReadSecret(stored(secret))
	if err != nil || read.Token != grant.Token || !read.Expires.Equal(grant.Expires) || !slices.Equal(read.Usages, grant.Usages) || !slices.Equal(read.Groups, grant.Groups) || read.Description != "rack" {
		t.Errorf("%+v %v", read, err)
	}
	for name, c := range map[string]struct {
		usage string
		at    time.Time
		want  error
	}{
		"good": {UsageSigning, now, nil}, "other usage": {UsageAuthentication, now, ErrUsage},
		"at its end": {UsageSigning, now.Add(time.Hour), ErrExpired}, "just before": {UsageSigning, now.Add(time.Hour - 1), nil},
	} {
		if err := read.Usable(c.usage, c.at); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, change := range map[string]func(*v1.Secret){
		"type":        func(s *v1.Secret) { s.Type = v1.SecretTypeOpaque },
		"name":        func(s *v1.Secret) { s.Name = "bootstrap-token-bbcdef" },
		"secret half": func(s *v1.Secret) { s.Data[keySecret] = nil },
		"group":       func(s *v1.Secret) { s.Data[keyGroups] = []byte("system:masters") },
		"expiration":  func(s *v1.Secret) { s.Data[keyExpiration] = []byte("tomorrow") },
	} {
		bad := secret.DeepCopy()
		change(bad)
		if g, err := ReadSecret(bad); err == nil {
			t.Errorf("%s: read as %+v", name, g)
		}
	}
	for _, bad := range []Grant{{Groups: []string{"system:masters"}}, {Usages: []string{"signin"}}} {
		if _, err := bad.NewSecret(); err == nil {
			t.Errorf("%+v becomes a secret", bad)
		}
	}
}

func TestParseClusterInfo(t *testing.T) {
	parse := func(text string) error {
		_, err := ParseClusterInfo(&v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: ClusterInfo}, Data: map[string]string{ClusterInfoKey: text}})
		return err
	}
	cluster := "apiVersion: v1\nkind: Config\nclusters:\n- name: %q\n  cluster: {server: 'https://a:1', certificate-authority-data: Y2E=}\n"
	if err := parse(strings.Replace(cluster, "%q", `""`, 1)); err != nil {
		t.Error(err)
	}
	if err := parse(strings.Replace(cluster, "%q", "x", 1)); err == nil {
		t.Error("a cluster with a name, and no context that names it, is taken")
	}
	if err := parse(strings.Replace(cluster, "%q", "x", 1) + "contexts:\n- {name: c, context: {cluster: x, user: ''}}\ncurrent-context: c\n"); err != nil {
		t.Error(err)
	}
	for _, text := range []string{"", "][", "apiVersion: v1\nkind: Config\n"} {
		if parse(text) == nil {
			t.Errorf("%q is taken", text)
		}
	}
}

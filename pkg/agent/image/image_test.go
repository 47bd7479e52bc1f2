package image

import (
	"fmt"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
)

func TestNormalize(t *testing.T) {
	for name, want := range map[string]string{
		"busybox": "docker.io/library/busybox:latest", "a/b:1": "docker.io/a/b:1", "registry.k8s.io/pause:3.9": "registry.k8s.io/pause:3.9",
		"localhost:5000/x": "localhost:5000/x:latest",
	} {
		if got, err := Normalize(name); err != nil || got != want {
			t.Errorf("%s: %s %v", name, got, err)
		}
	}
	for _, bad := range []string{"", "UPPER", "a b", "x:/y"} {
		if got, err := Normalize(bad); err == nil {
			t.Errorf("%q became %q", bad, got)
		}
	}
}

func TestKeyring(t *testing.T) {
	config := func(text string) *v1.Secret {
		return &v1.Secret{Type: v1.SecretTypeDockerConfigJson, Data: map[string][]byte{v1.DockerConfigJsonKey: []byte(text)}}
	}
	ring, err := NewKeyring([]*v1.Secret{
		config(`{"auths":{"https://index.docker.io/v1/":{"auth":"aHViOnB3"},"r.example":{"username":"all","password":"p"},"r.example/team":{"username":"team","password":"p"}}}`),
		config(`{"auths":{"*.wild.example":{"username":"wild","password":"p"},"http://h.example:5000":{"username":"port","password":"p"}}}`),
		{Type: v1.SecretTypeOpaque, Data: map[string][]byte{"x": []byte("y")}},
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"busybox": "hub", "docker.io/library/x": "hub", "r.example/other": "all", "r.example/team/x:1": "team all", "r.example/teammate": "all",
		"a.wild.example/x": "wild", "a.b.wild.example/x": "", "h.example:5000/x": "port", "h.example/x": "", "else.example/x": "",
	} {
		var users []string
		for _, a := range ring.Lookup(name) {
			users = append(users, a.Username)
		}
		if got := strings.Join(users, " "); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	for _, bad := range []string{`{`, `{"auths":{"x":{"auth":"%%%"}}}`, `{"auths":{"x":{"auth":"bm9jb2xvbg=="}}}`} {
		if _, err := NewKeyring([]*v1.Secret{config(bad)}); err == nil {
			t.Errorf("%s is taken", bad)
		}
	}
}

func TestParseHosts(t *testing.T) {
	hosts, err := parseHosts([]byte(`# mirrors
server = "https://registry.example"

[host."http://mirror:5000"]
  capabilities = ["pull", "resolve"]
  skip_verify = true
[host."https://other/v2/proxy"]
  override_path = true
  ca = ["ca.crt", "/etc/ca.crt"]
`), "/certs.d/x", "x")
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, h := range hosts {
		lines = append(lines, fmt.Sprint(h.url, h.capabilities, h.skipVerify, h.overridePath, h.ca))
	}
	want := "http://mirror:5000 [pull resolve] true false []\nhttps://other/v2/proxy [] false true [/certs.d/x/ca.crt /etc/ca.crt]\nhttps://registry.example [] false false []"
	if got := strings.Join(lines, "\n"); normalizeSpace(got) != normalizeSpace(want) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	for _, bad := range []string{"[plugins]", `capabilities = ["a",`, "client = 1", "nonsense", `skip_verify = "maybe"`} {
		if _, err := parseHosts([]byte(bad), "", "x"); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
	for host, want := range map[string]string{"docker.io": "https://registry-1.docker.io", "localhost:5000": "http://localhost:5000", "127.0.0.1": "http://127.0.0.1", "x.y": "https://x.y"} {
		if got := defaultServer(host); got != want {
			t.Errorf("%s: %s", host, got)
		}
	}
}

func normalizeSpace(s string) string { return strings.ReplaceAll(s, " ", "") }

package image

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"path"
	"slices"
	"strings"

	"github.com/distribution/reference"
	v1 "k8s.io/api/core/v1"
)

// Auth is one set of credentials for a registry.
type Auth struct {
	Username, Password string
	IdentityToken      string
}

// Keyring holds credentials by what they are for: a host with an optional path,
// where a "*" in the host stands for anything within one label.
type Keyring struct {
	entries []keyringEntry
}

type keyringEntry struct {
	host, path string
	auth       Auth
}

type dockerConfig struct {
	Auths map[string]dockerAuth `json:"auths"`
}

type dockerAuth struct {
	Username      string `json:"username"`
	Password      string `json:"password"`
	Auth          string `json:"auth"`
	IdentityToken string `json:"identitytoken"`
}

// NewKeyring reads secrets of the types kubernetes.io/dockerconfigjson and
// kubernetes.io/dockercfg; others are passed over.
func NewKeyring(secrets []*v1.Secret) (*Keyring, error) {
	k := &Keyring{}
	for _, s := range secrets {
		auths := map[string]dockerAuth{}
		switch {
		case s.Type == v1.SecretTypeDockerConfigJson && len(s.Data[v1.DockerConfigJsonKey]) > 0:
			var c dockerConfig
			if err := json.Unmarshal(s.Data[v1.DockerConfigJsonKey], &c); err != nil {
				return nil, fmt.Errorf("image pull secret %s/%s: %w", s.Namespace, s.Name, err)
			}
			auths = c.Auths
		case s.Type == v1.SecretTypeDockercfg && len(s.Data[v1.DockerConfigKey]) > 0:
			if err := json.Unmarshal(s.Data[v1.DockerConfigKey], &auths); err != nil {
				return nil, fmt.Errorf("image pull secret %s/%s: %w", s.Namespace, s.Name, err)
			}
		}
		for key, a := range auths {
			if err := k.add(key, a); err != nil {
				return nil, fmt.Errorf("image pull secret %s/%s: %w", s.Namespace, s.Name, err)
			}
		}
	}
	// The longest path is the most specific; names break ties, for a stable order.
	slices.SortStableFunc(k.entries, func(a, b keyringEntry) int {
		if d := len(b.path) - len(a.path); d != 0 {
			return d
		}
		return strings.Compare(b.host, a.host)
	})
	return k, nil
}

func (k *Keyring) add(key string, a dockerAuth) error {
	if !strings.HasPrefix(key, "https://") && !strings.HasPrefix(key, "http://") {
		key = "https://" + key
	}
	u, err := url.Parse(key)
	if err != nil {
		return fmt.Errorf("registry %q: %w", key, err)
	}
	auth := Auth{Username: a.Username, Password: a.Password, IdentityToken: a.IdentityToken}
	if a.Auth != "" {
		b, err := base64.StdEncoding.DecodeString(a.Auth)
		if err != nil {
			b, err = base64.RawStdEncoding.DecodeString(a.Auth)
		}
		if err != nil {
			return fmt.Errorf("registry %q: auth is not base64", u.Host)
		}
		name, password, ok := strings.Cut(string(b), ":")
		if !ok {
			return fmt.Errorf("registry %q: auth lacks a colon", u.Host)
		}
		auth.Username, auth.Password = name, strings.TrimRight(password, "\x00")
	}
	p := u.Path // docker writes "https://index.docker.io/v1/" for a whole host
	if strings.HasPrefix(p, "/v1/") || strings.HasPrefix(p, "/v2/") {
		p = p[3:]
	}
	k.entries = append(k.entries, keyringEntry{host: u.Host, path: strings.Trim(p, "/"), auth: auth})
	return nil
}

// Lookup returns the credentials for an image, the most specific first.
func (k *Keyring) Lookup(name string) []Auth {
	ref, err := reference.ParseNormalizedNamed(name)
	if err != nil || k == nil {
		return nil
	}
	host, repository := reference.Domain(ref), reference.Path(ref)
	var found []Auth
	for _, e := range k.entries {
		if !matchHost(e.host, host) {
			continue
		}
		if e.path != "" && repository != e.path && !strings.HasPrefix(repository, e.path+"/") {
			continue
		}
		if !slices.Contains(found, e.auth) {
			found = append(found, e.auth)
		}
	}
	return found
}

func matchHost(pattern, host string) bool {
	if host == "docker.io" && (pattern == "index.docker.io" || pattern == "registry-1.docker.io") {
		return true
	}
	p, h := strings.Split(pattern, "."), strings.Split(host, ".")
	if len(p) != len(h) {
		return false
	}
	for i := range p {
		if ok, err := path.Match(p[i], h[i]); err != nil || !ok {
			return false
		}
	}
	return true
}

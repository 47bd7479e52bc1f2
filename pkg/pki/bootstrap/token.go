// Package bootstrap is the vocabulary of joining a cluster, shared by those who make it
// possible (ctl), watch over it (controller), admit (apiserver) and join (agent):
// bootstrap tokens and the secrets that hold them, the signature by which a token
// vouches for the cluster's address and certificate authority, and the objects that
// a cluster needs so that machines can join it.
//
// Names and formats are kubeadm's, so that kubeadm's own tokens and joins work as well.
// https://kubernetes.io/docs/reference/access-authn-authz/bootstrap-tokens/.
package bootstrap

import (
	"crypto/rand"
	"errors"
	"fmt"
	"math/big"
	"regexp"
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// What secrets with tokens are made of.
const (
	SecretType   = v1.SecretType("bootstrap.kubernetes.io/token")
	SecretPrefix = "bootstrap-token-"

	keyID          = "token-id"
	keySecret      = "token-secret"
	keyExpiration  = "expiration" // RFC 3339; missing: never
	keyDescription = "description"
	keyGroups      = "auth-extra-groups"
	usagePrefix    = "usage-bootstrap-"
)

// What a token may be used for.
const (
	UsageSigning        = "signing"
	UsageAuthentication = "authentication"
)

// Who holds a token is system:bootstrap:<id>, in DefaultGroup and in the secret's
// groups. NodeGroup is the one to which the rights of joining are bound.
const (
	UserPrefix   = "system:bootstrap:"
	DefaultGroup = "system:bootstrappers"
	NodeGroup    = "system:bootstrappers:kubeadm:default-node-token"
)

var (
	tokenPattern = regexp.MustCompile(`\A([a-z0-9]{6})\.([a-z0-9]{16})\z`)
	groupPattern = regexp.MustCompile(`\Asystem:bootstrappers:[a-z0-9:-]{0,255}[a-z0-9]\z`)
)

// A Token is the public name of a secret and the secret: "abcdef.0123456789abcdef".
type Token struct{ ID, Secret string }

// ParseToken reads a token.
func ParseToken(text string) (Token, error) {
	parts := tokenPattern.FindStringSubmatch(text)
	if parts == nil {
		return Token{}, errors.New("not a bootstrap token: one looks like abcdef.0123456789abcdef")
	}
	return Token{parts[1], parts[2]}, nil
}

// NewToken makes a random token.
func NewToken() (Token, error) {
	const alphabet = "abcdefghijklmnopqrstuvwxyz0123456789"
	text := make([]byte, 22)
	for i := range text {
		n, err := rand.Int(rand.Reader, big.NewInt(int64(len(alphabet))))
		if err != nil {
			return Token{}, err
		}
		text[i] = alphabet[n.Int64()]
	}
	return Token{string(text[:6]), string(text[6:])}, nil
}

func (t Token) String() string { return t.ID + "." + t.Secret }

// A Grant is a token with what a cluster's secret says of it.
type Grant struct {
	Token
	Expires     time.Time // zero: never
	Usages      []string
	Groups      []string // beside DefaultGroup
	Description string
}

// NewSecret is the secret that makes a cluster accept the token.
func (g Grant) NewSecret() (*v1.Secret, error) {
	data := map[string]string{keyID: g.ID, keySecret: g.Secret}
	for _, group := range g.Groups {
		if !groupPattern.MatchString(group) {
			return nil, fmt.Errorf("group %q: the groups of bootstrap tokens match %s", group, groupPattern)
		}
	}
	if len(g.Groups) > 0 {
		data[keyGroups] = strings.Join(g.Groups, ",")
	}
	if !g.Expires.IsZero() {
		data[keyExpiration] = g.Expires.UTC().Format(time.RFC3339)
	}
	if g.Description != "" {
		data[keyDescription] = g.Description
	}
	for _, usage := range g.Usages {
		if usage != UsageSigning && usage != UsageAuthentication {
			return nil, fmt.Errorf("usage %q is neither %s nor %s", usage, UsageSigning, UsageAuthentication)
		}
		data[usagePrefix+usage] = "true"
	}
	return &v1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: SecretPrefix + g.ID},
		Type:       SecretType, StringData: data,
	}, nil
}

// ReadSecret returns the token in a secret, expired or not. An error says why
// the secret holds none that may be used.
func ReadSecret(secret *v1.Secret) (Grant, error) {
	g := Grant{Token: Token{string(secret.Data[keyID]), string(secret.Data[keySecret])}, Description: string(secret.Data[keyDescription])}
	switch {
	case secret.Type != SecretType:
		return g, fmt.Errorf("secret %s is of type %q, not %q", secret.Name, secret.Type, SecretType)
	case secret.Name != SecretPrefix+g.ID:
		return g, fmt.Errorf("secret %s holds a token named %q", secret.Name, g.ID)
	case !tokenPattern.MatchString(g.String()):
		return g, fmt.Errorf("secret %s holds no well-formed token", secret.Name)
	}
	for _, usage := range []string{UsageSigning, UsageAuthentication} {
		if string(secret.Data[usagePrefix+usage]) == "true" {
			g.Usages = append(g.Usages, usage)
		}
	}
	for group := range strings.SplitSeq(string(secret.Data[keyGroups]), ",") {
		if group == "" {
			continue
		}
		if !groupPattern.MatchString(group) {
			return g, fmt.Errorf("secret %s: group %q doesn't match %s", secret.Name, group, groupPattern)
		}
		g.Groups = append(g.Groups, group)
	}
	var err error
	g.Expires, err = Expiry(secret)
	return g, err
}

// Expiry is when a secret's token ends; zero: never. What can't be read is an error, and
// counts as expired.
func Expiry(secret *v1.Secret) (time.Time, error) {
	text := string(secret.Data[keyExpiration])
	if text == "" {
		return time.Time{}, nil
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return time.Time{}, fmt.Errorf("secret %s: expiration %q is no RFC 3339 time", secret.Name, text)
	}
	return at, nil
}

// Errors of Grant.Usable.
var (
	ErrExpired = errors.New("the token has expired")
	ErrUsage   = errors.New("the token is not for this use")
)

// Usable says why the token isn't good for a usage now.
func (g Grant) Usable(usage string, now time.Time) error {
	if !g.Expires.IsZero() && !now.Before(g.Expires) {
		return ErrExpired
	}
	if !slices.Contains(g.Usages, usage) {
		return ErrUsage
	}
	return nil
}

package authn

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/pkg/apiserver/lookup"
	"skiff/pkg/apiserver/request"
	"skiff/pkg/pki/bootstrap"
)

// BootstrapTokens recognizes machines that join, by the secrets of kube-system that
// hold their tokens.
type BootstrapTokens struct{ Objects lookup.Reader }

var errWrongSecret = errors.New("bootstrap token's secret half is wrong")

// Authenticate returns the user that a token stands for.
func (b *BootstrapTokens) Authenticate(ctx context.Context, token bootstrap.Token) (*request.User, error) {
	secret, err := lookup.Get[*corev1.Secret](ctx, b.Objects, secrets, metav1.NamespaceSystem, bootstrap.SecretPrefix+token.ID)
	if err != nil {
		return nil, fmt.Errorf("bootstrap token %s: %w", token.ID, err)
	}
	if secret.DeletionTimestamp != nil {
		return nil, fmt.Errorf("bootstrap token %s is being deleted", token.ID)
	}
	grant, err := bootstrap.ReadSecret(secret)
	if err != nil {
		return nil, err
	}
	if subtle.ConstantTimeCompare([]byte(grant.Secret), []byte(token.Secret)) != 1 {
		return nil, errWrongSecret
	}
	if err := grant.Usable(bootstrap.UsageAuthentication, time.Now()); err != nil {
		return nil, fmt.Errorf("bootstrap token %s: %w", token.ID, err)
	}
	return &request.User{
		Name:   bootstrap.UserPrefix + token.ID,
		Groups: append([]string{bootstrap.DefaultGroup}, grant.Groups...),
	}, nil
}

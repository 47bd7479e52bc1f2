package agent

import (
	"context"
	"fmt"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// tokens keeps the service account tokens of one pod, each bound to it. A token
// is asked for again when 80 % of its life, or a day, is over.
type tokens struct {
	client kubernetes.Interface
	mu     sync.Mutex
	byKey  map[tokenKey]token
}

type tokenKey struct {
	audience string
	seconds  int64
}

type token struct {
	value   string
	refresh time.Time
	expires time.Time
}

func (t *tokens) get(ctx context.Context, pod *v1.Pod, projection *v1.ServiceAccountTokenProjection) (string, error) {
	key := tokenKey{audience: projection.Audience, seconds: 3600}
	if projection.ExpirationSeconds != nil {
		key.seconds = *projection.ExpirationSeconds
	}
	t.mu.Lock()
	known, ok := t.byKey[key]
	t.mu.Unlock()
	now := time.Now()
	if ok && now.Before(known.refresh) {
		return known.value, nil
	}
	fresh, err := t.request(ctx, pod, key)
	if err != nil {
		if ok && now.Before(known.expires) {
			return known.value, nil // it still serves; the next refresh is soon
		}
		return "", fmt.Errorf("failed to fetch token: %w", err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byKey == nil {
		t.byKey = map[tokenKey]token{}
	}
	t.byKey[key] = fresh
	return fresh.value, nil
}

func (t *tokens) request(ctx context.Context, pod *v1.Pod, key tokenKey) (token, error) {
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		ExpirationSeconds: &key.seconds,
		BoundObjectRef:    &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID},
	}}
	if key.audience != "" {
		request.Spec.Audiences = []string{key.audience}
	}
	accounts := t.client.CoreV1().ServiceAccounts(pod.Namespace)
	// A refusal right after the pod was bound is most likely the node authorizer
	// not having seen the pod yet.
	for delay := firstDelay; ; delay *= 3 {
		start := time.Now()
		answer, err := accounts.CreateToken(ctx, pod.Spec.ServiceAccountName, request, metav1.CreateOptions{})
		if err == nil {
			life := answer.Status.ExpirationTimestamp.Sub(start)
			return token{value: answer.Status.Token, expires: answer.Status.ExpirationTimestamp.Time,
				refresh: start.Add(min(life*8/10, 24*time.Hour))}, nil
		}
		if !apierrors.IsForbidden(err) || delay > time.Second {
			return token{}, err
		}
		select {
		case <-ctx.Done():
			return token{}, err
		case <-time.After(delay):
		}
	}
}

// refreshAt is when the first of the tokens wants to be asked for again; zero is never.
func (t *tokens) refreshAt() time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	var at time.Time
	for _, token := range t.byKey {
		at = earlier(at, token.refresh)
	}
	return at
}

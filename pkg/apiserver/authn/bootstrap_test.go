package authn

import (
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/pkg/apiserver/lookup"
	"skiff/pkg/pki/bootstrap"
)

func TestBootstrapTokens(t *testing.T) {
	const token = "abcdef.0123456789abcdef"
	for name, c := range map[string]struct {
		change func(*corev1.Secret)
		token  string
		groups []string // nil: refused
	}{
		"good":              {nil, token, []string{"system:bootstrappers", bootstrap.NodeGroup, "system:authenticated"}},
		"without an end":    {func(s *corev1.Secret) { delete(s.Data, "expiration") }, token, []string{"system:bootstrappers", bootstrap.NodeGroup, "system:authenticated"}},
		"without groups":    {func(s *corev1.Secret) { delete(s.Data, "auth-extra-groups") }, token, []string{"system:bootstrappers", "system:authenticated"}},
		"wrong secret half": {nil, "abcdef.0123456789abcdeg", nil},
		"unknown id":        {nil, "bbcdef.0123456789abcdef", nil},
		"expired": {func(s *corev1.Secret) {
			s.Data["expiration"] = []byte(time.Now().Add(-time.Second).Format(time.RFC3339))
		}, token, nil},
		"not for this":     {func(s *corev1.Secret) { s.Data["usage-bootstrap-authentication"] = []byte("yes") }, token, nil},
		"of another type":  {func(s *corev1.Secret) { s.Type = corev1.SecretTypeOpaque }, token, nil},
		"elsewhere":        {func(s *corev1.Secret) { s.Namespace = "default" }, token, nil},
		"deleted":          {func(s *corev1.Secret) { s.DeletionTimestamp = &metav1.Time{Time: time.Now()} }, token, nil},
		"with more groups": {func(s *corev1.Secret) { s.Data["auth-extra-groups"] = []byte("system:masters") }, token, nil},
	} {
		secret, err := bootstrap.Grant{Token: bootstrap.Token{ID: "abcdef", Secret: "0123456789abcdef"}, Expires: time.Now().Add(time.Hour),
			Groups: []string{bootstrap.NodeGroup}, Usages: []string{bootstrap.UsageAuthentication}}.NewSecret()
		if err != nil {
			t.Fatal(err)
		}
		secret.Data = map[string][]byte{}
		for key, value := range secret.StringData {
			secret.Data[key] = []byte(value)
		}
		if c.change != nil {
			c.change(secret)
		}
		a := New(Config{Bootstrap: &BootstrapTokens{Objects: lookup.NewFake(secret)}})
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("Authorization", "Bearer "+c.token)
		user, err := a.Authenticate(r)
		switch {
		case c.groups == nil && err == nil:
			t.Errorf("%s: taken for %+v", name, user)
		case c.groups != nil && (err != nil || user.Name != "system:bootstrap:abcdef" || !slices.Equal(user.Groups, c.groups)):
			t.Errorf("%s: %+v %v", name, user, err)
		}
		review, err := a.ReviewToken(t.Context(), &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: c.token}})
		if err != nil || review.Status.Authenticated != (c.groups != nil) {
			t.Errorf("%s: review %+v %v", name, review, err)
		}
	}
	off := New(Config{})
	r := httptest.NewRequest("GET", "/", nil)
	r.Header.Set("Authorization", "Bearer "+token)
	if _, err := off.Authenticate(r); err == nil {
		t.Error("a server without bootstrap tokens takes one")
	}
}

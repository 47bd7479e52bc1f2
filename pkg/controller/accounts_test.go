package controller

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

// TestTokens follows one account: it is made when missing, its token is kept, renewed before it
// expires, and renewed when the server no longer takes it.
func TestTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset()
		granted := 0
		client.PrependReactor("create", "serviceaccounts", func(action clienttesting.Action) (bool, runtime.Object, error) {
			if action.GetSubresource() != "token" {
				return false, nil, nil
			}
			if _, err := client.Tracker().Get(action.GetResource(), "kube-system", "foo-controller"); err != nil {
				return true, nil, apierrors.NewNotFound(v1.Resource("serviceaccounts"), "foo-controller")
			}
			granted++
			seconds := int64(1000)
			return true, &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &seconds},
				Status: authenticationv1.TokenRequestStatus{Token: fmt.Sprint("token-", granted)}}, nil
		})
		status, seen := http.StatusOK, ""
		transport := &asBearer{&tokenSource{root: client, name: "foo-controller"}, roundTrip(func(r *http.Request) (*http.Response, error) {
			seen = r.Header.Get("Authorization")
			return &http.Response{StatusCode: status, Body: http.NoBody}, nil
		})}
		send := func(want string) {
			t.Helper()
			request := httptest.NewRequest(http.MethodGet, "/", nil)
			response, err := transport.RoundTrip(request)
			if err != nil {
				t.Fatal(err)
			}
			_ = response.Body.Close()
			if seen != "Bearer "+want {
				t.Errorf("sent %q, want %s", seen, want)
			}
			if request.Header.Get("Authorization") != "" {
				t.Error("the caller's request was changed")
			}
		}
		send("token-1")
		send("token-1")
		time.Sleep(799 * time.Second)
		send("token-1")
		time.Sleep(2 * time.Second)
		send("token-2")
		status = http.StatusUnauthorized
		send("token-2")
		status = http.StatusOK
		send("token-3")
	})
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

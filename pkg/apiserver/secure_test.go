package apiserver_test

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"skiff/pkg/apiserver"
)

// TestSecured starts a server as it is run: nobody gets in without credentials, tokens are issued
// and honoured, and rights are what bindings say.
func TestSecured(t *testing.T) {
	i := start(t, func(c *apiserver.Config) { secured(t, c) })
	ctx := limited(t)
	eventually(t, func(context.Context) (bool, error) { // until the default roles are there
		code, _, _ := raw(t, i, "GET", "/readyz", "", "")
		return code == http.StatusOK, nil
	})
	for path, want := range map[string]int{"/healthz": 200, "/version": 200, "/api": 403, "/api/v1/namespaces": 403, "/metrics": 403, "/debug/pprof/heap": 403} {
		if code, _, body := raw(t, i, "GET", path, "", ""); code != want {
			t.Errorf("anonymous %s: %d %s", path, code, body)
		}
	}
	code, _, body := raw(t, i, "GET", "/api", "", "", "Authorization", "Bearer nonsense")
	var st metav1.Status
	if err := json.Unmarshal(body, &st); err != nil || code != http.StatusUnauthorized || st.Message != "Unauthorized" || st.Reason != metav1.StatusReasonUnauthorized {
		t.Errorf("%d %s", code, body)
	}

	// The test's certificate authority signs for itself: its subject is just "test".
	admin := rest.CopyConfig(i.config)
	admin.CertFile, admin.KeyFile = i.certFile, i.keyFile
	nobody, err := kubernetes.NewForConfig(admin)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := nobody.CoreV1().Namespaces().List(ctx, metav1.ListOptions{}); err == nil || !strings.Contains(err.Error(), `namespaces is forbidden: User "test" cannot list resource "namespaces" in API group "" at the cluster scope`) {
		t.Errorf("%v", err)
	}
	who, err := nobody.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil || who.Status.UserInfo.Username != "test" {
		t.Errorf("%v %+v", err, who)
	}

	direct := i.direct(t)
	direct(&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "robot", Namespace: "default"}})
	direct(&rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "test"}, RoleRef: rbacv1.RoleRef{APIGroup: "rbac.authorization.k8s.io", Kind: "ClusterRole", Name: "cluster-admin"},
		Subjects: []rbacv1.Subject{{Kind: "User", APIGroup: "rbac.authorization.k8s.io", Name: "test"}},
	})
	var token string
	eventually(t, func(context.Context) (bool, error) {
		answer, err := nobody.CoreV1().ServiceAccounts("default").CreateToken(ctx, "robot", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
		if err != nil {
			return false, nil // the binding is not seen yet
		}
		token = answer.Status.Token
		return true, nil
	})
	robot := rest.CopyConfig(i.config)
	robot.BearerToken = token
	client, err := kubernetes.NewForConfig(robot)
	if err != nil {
		t.Fatal(err)
	}
	if who, err = client.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{}); err != nil || who.Status.UserInfo.Username != "system:serviceaccount:default:robot" {
		t.Errorf("%v %+v", err, who)
	}
	if _, err := client.CoreV1().Secrets("default").List(ctx, metav1.ListOptions{}); err == nil {
		t.Error("a robot reads secrets")
	}
	// Pods name a service account that exists, or are refused.
	_, err = nobody.CoreV1().Pods("default").Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}},
	}, metav1.CreateOptions{})
	if err == nil || !strings.Contains(err.Error(), `error looking up service account default/default: serviceaccount "default" not found`) {
		t.Errorf("%v", err)
	}
}

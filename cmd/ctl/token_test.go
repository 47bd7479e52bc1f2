package main

import (
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/rest"

	"skiff/pkg/pki/bootstrap"
)

func TestTokenTable(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	var out strings.Builder
	err := printTokens(&out, []bootstrap.Grant{
		{Token: bootstrap.Token{ID: "abcdef", Secret: "0123456789abcdef"}, Expires: now.Add(23 * time.Hour), Usages: []string{"signing", "authentication"}, Groups: []string{bootstrap.NodeGroup}, Description: "rack"},
		{Token: bootstrap.Token{ID: "bbcdef", Secret: "0123456789abcdef"}},
		{Token: bootstrap.Token{ID: "cbcdef", Secret: "0123456789abcdef"}, Expires: now},
	}, now)
	want := `TOKEN                     TTL         EXPIRES                USAGES                   DESCRIPTION   EXTRA GROUPS
abcdef.0123456789abcdef   23h         2026-01-03T02:04:05Z   signing,authentication   rack          system:bootstrappers:kubeadm:default-node-token
bbcdef.0123456789abcdef   <forever>   <never>                <none>                   <none>        <none>
cbcdef.0123456789abcdef   <expired>   2026-01-02T03:04:05Z   <none>                   <none>        <none>
`
	if err != nil || out.String() != want {
		t.Errorf("%v\n%s", err, out.String())
	}
}

// A token isn't made for a cluster that nobody could find with it.
func TestTokenForUnreachableCluster(t *testing.T) {
	for host, want := range map[string]string{
		"https://127.0.0.1:6443": "other machines can't reach the apiserver", "https://localhost:6443": "other machines can't reach the apiserver",
		"http://10.0.0.1": "is not the https:// address of a server",
	} {
		client := fake.NewClientset()
		o := &createOptions{grant: bootstrap.Grant{Token: bootstrap.Token{ID: "abcdef", Secret: "0123456789abcdef"}}}
		err := o.run(t.Context(), t.Output(), client, &rest.Config{Host: host, TLSClientConfig: rest.TLSClientConfig{CAData: []byte("x")}})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", host, err)
		}
		if secrets, _ := client.CoreV1().Secrets("").List(t.Context(), metav1.ListOptions{}); len(secrets.Items) > 0 {
			t.Errorf("%s: there is a token all the same", host)
		}
	}
}

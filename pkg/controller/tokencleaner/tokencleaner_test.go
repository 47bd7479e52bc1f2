package tokencleaner

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/pkg/controller/controllertest"
	"skiff/pkg/pki/bootstrap"
)

func token(id, expiration string) *v1.Secret {
	return &v1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: bootstrap.SecretPrefix + id}, Type: bootstrap.SecretType,
		Data: map[string][]byte{"token-id": []byte(id), "token-secret": []byte("0123456789abcdef"), "expiration": []byte(expiration)},
	}
}

// Each token goes at its time, and no other does.
func TestTokensGoAtTheirTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in := func(d time.Duration) string { return time.Now().Add(d).Format(time.RFC3339) }
		client := controllertest.NewClient(token("expire", in(-time.Minute)), token("minute", in(time.Minute)), token("hourly", in(time.Hour)), token("always", ""), token("broken", "soon"))
		c := controllertest.Config(t, client)
		controllertest.Run(t, c, New(c).Run)
		left := func() (names []string) {
			synctest.Wait()
			list, err := client.CoreV1().Secrets(metav1.NamespaceSystem).List(t.Context(), metav1.ListOptions{})
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range list.Items {
				names = append(names, s.Name[len(bootstrap.SecretPrefix):])
			}
			slices.Sort(names)
			return names
		}
		for _, step := range []struct {
			wait time.Duration
			want []string
		}{
			{time.Second, []string{"always", "hourly", "minute"}},
			{57 * time.Second, []string{"always", "hourly", "minute"}},
			{3 * time.Second, []string{"always", "hourly"}},
			{2 * time.Hour, []string{"always"}},
		} {
			time.Sleep(step.wait)
			if got := left(); !slices.Equal(got, step.want) {
				t.Errorf("after another %v: %v, want %v", step.wait, got, step.want)
			}
		}
	})
}

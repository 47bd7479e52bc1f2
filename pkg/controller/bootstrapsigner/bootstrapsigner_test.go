package bootstrapsigner

import (
	"maps"
	"slices"
	"testing"
	"time"

	"skiff/pkg/pki/bootstrap"
)

func TestPlan(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	grant := func(id string, left time.Duration, usage string) bootstrap.Grant {
		g := bootstrap.Grant{Token: bootstrap.Token{ID: id, Secret: "0123456789abcdef"}, Usages: []string{usage}}
		if left != 0 {
			g.Expires = now.Add(left)
		}
		return g
	}
	data := map[string]string{"kubeconfig": "content", "jws-kubeconfig-gone": "x", "note": "kept"}
	got, next := plan(data, []bootstrap.Grant{
		grant("always", 0, "signing"), grant("hourly", time.Hour, "signing"), grant("minute", time.Minute, "signing"),
		grant("expire", -time.Second, "signing"), grant("logins", time.Second, "authentication"),
	}, now)
	if keys := slices.Sorted(maps.Keys(got)); !slices.Equal(keys, []string{"jws-kubeconfig-always", "jws-kubeconfig-hourly", "jws-kubeconfig-minute", "kubeconfig", "note"}) {
		t.Error(keys)
	}
	if next != time.Minute {
		t.Errorf("looked at again after %v", next)
	}
	if err := (bootstrap.Token{ID: "hourly", Secret: "0123456789abcdef"}).Verify("content", got["jws-kubeconfig-hourly"]); err != nil {
		t.Error(err)
	}
	if data["jws-kubeconfig-gone"] != "x" {
		t.Error("the cache's object was changed")
	}
	if got, next := plan(map[string]string{"note": "kept"}, []bootstrap.Grant{grant("hourly", time.Hour, "signing")}, now); len(got) != 1 || next != 0 {
		t.Errorf("without content: %v %v", got, next)
	}
}

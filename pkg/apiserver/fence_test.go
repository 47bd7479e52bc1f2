package apiserver_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const leaders = "/api/v1/namespaces/kube-system/endpoints"

// lead writes the election record of an Endpoints object, and returns its epoch.
func lead(t *testing.T, i *instance, method, holder string) string {
	t.Helper()
	record, err := json.Marshal(fmt.Sprintf(`{"holderIdentity":%q}`, holder))
	if err != nil {
		t.Fatal(err)
	}
	path := leaders
	if method == "PUT" {
		path += "/boss"
	}
	code, headers, body := raw(t, i, method, path, asJSON, fmt.Sprintf(
		`{"metadata":{"name":"boss","annotations":{"control-plane.alpha.kubernetes.io/leader":%s}}}`, record))
	if code != http.StatusOK && code != http.StatusCreated {
		t.Fatalf("%d %s", code, body)
	}
	return headers.Get("Skiff-Epoch")
}

// write makes a config map under a fence, and returns the reason of its refusal.
func write(t *testing.T, i *instance, name, epoch string) metav1.StatusReason {
	t.Helper()
	code, _, body := raw(t, i, "POST", maps, asJSON, fmt.Sprintf(`{"metadata":{"name":%q}}`, name), "Skiff-Fence", "kube-system/boss="+epoch)
	if code == http.StatusCreated {
		return ""
	}
	var st metav1.Status
	if err := json.Unmarshal(body, &st); err != nil || int(st.Code) != code {
		t.Fatalf("%d %s", code, body)
	}
	return st.Reason
}

func TestFence(t *testing.T) {
	i := start(t)
	first := lead(t, i, "POST", "one")
	if first == "" {
		t.Fatal("no epoch")
	}
	if reason := write(t, i, "a", first); reason != "" {
		t.Errorf("the leader's write was refused: %s", reason)
	}
	if again := lead(t, i, "PUT", "one"); again != first {
		t.Errorf("a renewal changed the epoch from %s to %s", first, again)
	}
	_, headers, _ := raw(t, i, "GET", leaders+"/boss", "", "")
	if headers.Get("Skiff-Epoch") != first {
		t.Errorf("get says %s, not %s", headers.Get("Skiff-Epoch"), first)
	}
	second := lead(t, i, "PUT", "two")
	if second == first || second == "" {
		t.Errorf("a new leader has the epoch %q after %q", second, first)
	}
	if reason := write(t, i, "b", first); reason != "Fenced" {
		t.Errorf("a deposed leader's write: %q", reason)
	}
	code, _, body := raw(t, i, "PATCH", maps+"/a", "application/merge-patch+json", `{"data":{"x":"y"}}`, "Skiff-Fence", "kube-system/boss="+first)
	if code != http.StatusConflict || !strings.Contains(string(body), `"reason":"Fenced"`) {
		t.Errorf("a deposed leader's patch: %d %s", code, body)
	}
	code, _, body = raw(t, i, "DELETE", maps+"/a", "", "", "Skiff-Fence", "kube-system/boss="+first)
	if code != http.StatusConflict || !strings.Contains(string(body), `"reason":"Fenced"`) {
		t.Errorf("a deposed leader's deletion: %d %s", code, body)
	}
	if reason := write(t, i, "b", second); reason != "" {
		t.Errorf("the new leader's write was refused: %s", reason)
	}
	if code, _, body := raw(t, i, "DELETE", leaders+"/boss", "", ""); code != http.StatusOK {
		t.Fatalf("%d %s", code, body)
	}
	if reason := write(t, i, "c", second); reason != "Fenced" {
		t.Errorf("a write after the record went: %q", reason)
	}
	if third := lead(t, i, "POST", "two"); third == second {
		t.Error("a record that came back has its old epoch")
	}
	// What fails for a reason of its own says so.
	if reason := write(t, i, "b", lead(t, i, "PUT", "three")); reason != metav1.StatusReasonAlreadyExists {
		t.Errorf("a name that is taken: %q", reason)
	}
}

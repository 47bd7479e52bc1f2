package apiserver_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"skiff/pkg/apiserver"
	"skiff/pkg/apiserver/request"
)

// named makes everybody who the headers say they are.
type named struct{ everyone }

func (named) Authenticate(r *http.Request) (*request.User, error) {
	user := &request.User{Name: r.Header.Get("X-Test-User"), Groups: []string{request.Authenticated}}
	if user.Name == "" {
		user.Name = "admin"
		user.Groups = append(user.Groups, request.Masters)
	}
	if strings.HasPrefix(user.Name, "system:node:") {
		user.Groups = append(user.Groups, "system:nodes")
	}
	return user, nil
}

// as sends a request in somebody's name.
func as(ctx context.Context, t testing.TB, i *instance, user, method, path string) *http.Response {
	t.Helper()
	client, err := rest.HTTPClientFor(i.config)
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.NewRequestWithContext(ctx, method, i.address+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-Test-User", user)
	answer, err := client.Do(r)
	if err != nil {
		t.Fatalf("%s %s as %s: %v", method, path, user, err)
	}
	t.Cleanup(func() { answer.Body.Close() })
	return answer
}

// becomes waits for what happens by itself.
func becomes(t testing.TB, what string, condition func() bool) {
	t.Helper()
	t.Log("waiting:", what)
	eventually(t, func(context.Context) (bool, error) { return condition(), nil })
}

func TestPrioritiesAreStored(t *testing.T) {
	i := start(t, func(c *apiserver.Config) { c.Authenticator = named{} })
	client := kubernetes.NewForConfigOrDie(i.config).FlowcontrolV1()
	condition := func(name string) string {
		s, err := client.FlowSchemas().Get(limited(t), name, metav1.GetOptions{})
		if err != nil || len(s.Status.Conditions) == 0 {
			return fmt.Sprint(err)
		}
		return string(s.Status.Conditions[0].Status) + " " + s.Status.Conditions[0].Reason
	}
	for _, name := range []string{"exempt", "catch-all", "system-nodes", "system-node-high", "probes", "system-leader-election",
		"kube-controller-manager", "kube-scheduler", "kube-system-service-accounts", "service-accounts", "global-default"} {
		becomes(t, "flow schema "+name, func() bool { return condition(name) == "False Found" })
	}
	levels, err := client.PriorityLevelConfigurations().List(limited(t), metav1.ListOptions{})
	if err != nil || len(levels.Items) != 8 {
		t.Fatalf("%d priority levels: %v", len(levels.Items), err)
	}

	own := &flowcontrolv1.FlowSchema{ObjectMeta: metav1.ObjectMeta{Name: "own"}, Spec: flowcontrolv1.FlowSchemaSpec{
		MatchingPrecedence: 50, PriorityLevelConfiguration: flowcontrolv1.PriorityLevelConfigurationReference{Name: "own"},
		Rules: []flowcontrolv1.PolicyRulesWithSubjects{{
			Subjects:      []flowcontrolv1.Subject{{Kind: flowcontrolv1.SubjectKindUser, User: &flowcontrolv1.UserSubject{Name: "noxu"}}},
			ResourceRules: []flowcontrolv1.ResourcePolicyRule{{Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"*"}, Namespaces: []string{"*"}, ClusterScope: true}},
		}},
	}}
	if own, err = client.FlowSchemas().Create(limited(t), own, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	becomes(t, "a schema without its level", func() bool { return condition("own") == "True NotFound" })
	reject := &flowcontrolv1.PriorityLevelConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "own"}, Spec: flowcontrolv1.PriorityLevelConfigurationSpec{
		Type: flowcontrolv1.PriorityLevelEnablementLimited, Limited: &flowcontrolv1.LimitedPriorityLevelConfiguration{
			LimitResponse: flowcontrolv1.LimitResponse{Type: flowcontrolv1.LimitResponseTypeReject}}}}
	if reject, err = client.PriorityLevelConfigurations().Create(limited(t), reject, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	becomes(t, "its level came", func() bool { return condition("own") == "False Found" })
	becomes(t, "requests are matched with it", func() bool {
		header := as(t.Context(), t, i, "noxu", "GET", "/api/v1/namespaces/default").Header
		return header.Get("X-Kubernetes-PF-FlowSchema-UID") == string(own.UID) && header.Get("X-Kubernetes-PF-PriorityLevel-UID") == string(reject.UID)
	})
	if header := as(t.Context(), t, i, "foo", "GET", "/api/v1/namespaces/default").Header; header.Get("X-Kubernetes-PF-FlowSchema-UID") == string(own.UID) {
		t.Error("somebody else's request was matched, too")
	}
	metrics, err := io.ReadAll(as(t.Context(), t, i, "", "GET", "/metrics").Body)
	if err != nil || !strings.Contains(string(metrics), `apiserver_flowcontrol_nominal_limit_seats{priority_level="own"} 66`) { // of 600, 30 of 275 shares
		t.Errorf("the level's seats are not in the metrics (%v)", err)
	}
}

// One user who floods the server is refused in part; nodes, others and health are served meanwhile. Watches
// that stand take no seat.
func TestFlood(t *testing.T) {
	release := make(chan struct{})
	i := start(t, func(c *apiserver.Config) {
		c.Authenticator, c.Seats = named{}, 24
		c.More = map[string]http.Handler{"/slow": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			select {
			case <-time.After(20 * time.Millisecond):
			case <-release:
			}
		})}
	})
	for range 60 { // more than there are seats
		as(t.Context(), t, i, "system:node:n", "GET", "/api/v1/nodes?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true")
	}
	ctx, cancel := context.WithCancel(t.Context())
	var refused atomic.Int64
	var flood sync.WaitGroup
	for range 400 {
		flood.Go(func() {
			for ctx.Err() == nil {
				answer := as(t.Context(), t, i, "flood", "GET", "/slow")
				if answer.StatusCode != http.StatusTooManyRequests {
					continue
				}
				if body, _ := io.ReadAll(answer.Body); answer.Header.Get("Retry-After") != "1" || !strings.Contains(string(body), "Too many requests, please try again later.") {
					t.Errorf("refused with %q, %s", answer.Header.Get("Retry-After"), body)
				}
				refused.Add(1)
				return // those who are let in are enough to keep it full
			}
		})
	}
	becomes(t, "the flood is refused in part", func() bool { return refused.Load() > 0 })
	for range 20 {
		for _, other := range []struct{ user, path string }{
			{"calm", "/api/v1/namespaces/default"}, {"system:node:n", "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"},
			{"system:node:n", "/api/v1/nodes"}, {"flood", "/healthz"}, {"", "/api/v1/namespaces"},
		} {
			if answer := as(t.Context(), t, i, other.user, "GET", other.path); answer.StatusCode != http.StatusOK {
				t.Errorf("%s asks for %s: %s", other.user, other.path, answer.Status)
			}
		}
	}
	cancel()
	close(release)
	flood.Wait()
}

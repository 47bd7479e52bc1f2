package clients

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	v1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// serviceAccount makes one that may do what a role's rules say, and returns a
// client's configuration with a token of it.
func serviceAccount(t *testing.T, ns, name string, rules ...rbacv1.PolicyRule) *rest.Config {
	t.Helper()
	meta := metav1.ObjectMeta{Name: name}
	if _, err := client.CoreV1().ServiceAccounts(ns).Create(t.Context(), &v1.ServiceAccount{ObjectMeta: meta}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.RbacV1().Roles(ns).Create(t.Context(), &rbacv1.Role{ObjectMeta: meta, Rules: rules}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	binding := &rbacv1.RoleBinding{ObjectMeta: meta, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: name},
		Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: ns, Name: name}}}
	if _, err := client.RbacV1().RoleBindings(ns).Create(t.Context(), binding, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	token, err := client.CoreV1().ServiceAccounts(ns).CreateToken(t.Context(), name, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	config := rest.AnonymousClientConfig(restConfig)
	config.BearerToken, config.QPS = token.Status.Token, -1
	return config
}

// election lets candidates run for one lease, and knows who leads. That two lead
// at once is an error.
type election struct {
	t       *testing.T
	client  kubernetes.Interface
	ns      string
	lasting time.Duration
	mu      sync.Mutex
	leaders map[string]bool
	running sync.WaitGroup
}

func (e *election) lock(id string) resourcelock.Interface {
	return &resourcelock.LeaseLock{LeaseMeta: metav1.ObjectMeta{Name: "lock", Namespace: e.ns}, Client: e.client.CoordinationV1(),
		LockConfig: resourcelock.ResourceLockConfig{Identity: id}}
}

// run starts a candidate. With release, it gives the lease back when it is stopped.
func (e *election) run(id string, release bool) (stop context.CancelFunc) {
	ctx, cancel := context.WithCancel(e.t.Context())
	e.running.Go(func() {
		leaderelection.RunOrDie(ctx, leaderelection.LeaderElectionConfig{
			Lock: e.lock(id), ReleaseOnCancel: release,
			LeaseDuration: e.lasting, RenewDeadline: e.lasting * 2 / 3, RetryPeriod: 200 * time.Millisecond,
			Callbacks: leaderelection.LeaderCallbacks{
				OnStartedLeading: func(ctx context.Context) { e.set(id, true); <-ctx.Done(); e.set(id, false) },
				OnStoppedLeading: func() {},
			},
		})
	})
	return cancel
}

func (e *election) set(id string, leads bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if delete(e.leaders, id); leads {
		e.leaders[id] = true
	}
	if len(e.leaders) > 1 {
		e.t.Errorf("at once there lead %v", e.leaders)
	}
}

func (e *election) wait(id string) {
	e.t.Helper()
	eventually(e.t, time.Minute, id+" leads", func() error {
		e.mu.Lock()
		defer e.mu.Unlock()
		if !e.leaders[id] {
			return fmt.Errorf("%v", e.leaders)
		}
		return nil
	})
	record, _, err := e.lock("spectator").Get(e.t.Context())
	if err != nil || record.HolderIdentity != id {
		e.t.Errorf("the lease names %+v: %v", record, err)
	}
}

// TestLeaderElection elects by client-go's own package, with the rights that
// such programs ask for. A leader survives the apiserver's death; one that
// gives up is followed at once, one that is gone after its lease has run out.
func TestLeaderElection(t *testing.T) {
	ns := newNamespace(t)
	config := serviceAccount(t, ns, "candidate",
		rbacv1.PolicyRule{APIGroups: []string{"coordination.k8s.io"}, Resources: []string{"leases"}, Verbs: []string{"create", "get", "update"}})
	e := &election{t: t, client: kubernetes.NewForConfigOrDie(config), ns: ns, lasting: time.Minute, leaders: map[string]bool{}}
	stop1 := e.run("one", true)
	e.wait("one")
	stop2 := e.run("two", true)
	killApiserver(t)
	before, _, err := e.lock("spectator").Get(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, "the leader renews again", func() error {
		now, _, err := e.lock("spectator").Get(t.Context())
		if err != nil {
			return err
		}
		if now.HolderIdentity != "one" || !now.RenewTime.After(before.RenewTime.Time) {
			return fmt.Errorf("%+v", now)
		}
		return nil
	})
	stop1()
	e.wait("two")
	stop2()
	e.running.Wait()

	e.lasting = 2 * time.Second
	stop3 := e.run("three", false)
	e.wait("three")
	stop3()
	e.running.Wait()
	stop4 := e.run("four", true)
	e.wait("four")
	stop4()
	e.running.Wait()
	record, _, err := e.lock("spectator").Get(t.Context())
	if err != nil || record.HolderIdentity != "" || record.LeaderTransitions < 3 {
		t.Errorf("after all, the lease is %+v: %v", record, err)
	}
}

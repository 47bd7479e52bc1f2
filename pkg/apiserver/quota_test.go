package apiserver_test

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	applycorev1 "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/client-go/kubernetes"

	"skiff/pkg/api"
	"skiff/pkg/apiserver"
	"skiff/pkg/store"
)

// enforce makes a quota with a status, as the controller would.
func enforce(t *testing.T, client kubernetes.Interface, name string, hard, used corev1.ResourceList) {
	t.Helper()
	quotas := client.CoreV1().ResourceQuotas("default")
	q, err := quotas.Create(limited(t), &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ResourceQuotaSpec{Hard: hard}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	q.Status = corev1.ResourceQuotaStatus{Hard: hard, Used: used}
	if _, err := quotas.UpdateStatus(limited(t), q, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func amounts(pairs ...string) corev1.ResourceList {
	list := corev1.ResourceList{}
	for i := 0; i < len(pairs); i += 2 {
		list[corev1.ResourceName(pairs[i])] = resource.MustParse(pairs[i+1])
	}
	return list
}

func used(t *testing.T, client kubernetes.Interface, quota, name string) string {
	t.Helper()
	q, err := client.CoreV1().ResourceQuotas("default").Get(limited(t), quota, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	amount := q.Status.Used[corev1.ResourceName(name)]
	return amount.String()
}

// lagging is a store whose cache of quotas is as old as it may be: it moves only when a read insists.
type lagging struct {
	store.Interface
	mu   sync.Mutex
	page *store.Page
}

func (l *lagging) List(ctx context.Context, kind *api.Kind, q store.Query) (*store.Page, error) {
	if kind.Kind != "ResourceQuota" {
		return l.Interface.List(ctx, kind, q)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	atLeast, _ := strconv.ParseInt(q.ResourceVersion, 10, 64)
	if l.page != nil && q.ResourceVersion != "" && atLeast <= l.page.Revision {
		return l.page, nil
	}
	page, err := l.Interface.List(ctx, kind, q)
	if err == nil {
		l.page = page
	}
	return page, err
}

// Two servers, one of which hears late of what the other does, never let more in than two quotas allow, and charge
// exactly what they let in.
func TestQuotaIsNeverOverdrawn(t *testing.T) {
	one := start(t)
	another := store.New(store.Config{Client: one.etcd.Client(), Stored: func(k *api.Kind) *api.Kind { return one.rows.View().Stored(k) }})
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := another.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	defer running.Wait()
	defer cancel()
	two := start(t, func(c *apiserver.Config) { c.Store, c.Etcd = &lagging{Interface: another}, one.etcd.Client() })
	defer two.stop() // before its store
	clients := []kubernetes.Interface{typed(t, one, "application/json"), typed(t, two, "application/json")}
	enforce(t, clients[0], "few", amounts("configmaps", "10"), amounts("configmaps", "0"))
	enforce(t, clients[0], "many", amounts("count/configmaps", "1k"), amounts("count/configmaps", "7"))
	if _, err := clients[1].CoreV1().ConfigMaps("default").Create(limited(t), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "first"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	var made, refused atomic.Int32
	var group sync.WaitGroup
	for n := range 50 {
		group.Go(func() {
			_, err := clients[n%2].CoreV1().ConfigMaps("default").Create(limited(t), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("c", n)}}, metav1.CreateOptions{})
			switch {
			case err == nil:
				made.Add(1)
			case apierrors.IsForbidden(err) && strings.Contains(err.Error(), "exceeded quota: few, requested: configmaps=1, used: configmaps=10, limited: configmaps=10"):
				refused.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	group.Wait()
	if made.Load() != 9 || refused.Load() != 41 {
		t.Errorf("%d made, %d refused", made.Load(), refused.Load())
	}
	if few, many := used(t, clients[0], "few", "configmaps"), used(t, clients[1], "many", "count/configmaps"); few != "10" || many != "17" {
		t.Errorf("charged %s and %s", few, many)
	}
	// What was released counts at once, also where nobody has heard of it.
	q, err := clients[0].CoreV1().ResourceQuotas("default").Get(limited(t), "few", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	q.Status.Used = amounts("configmaps", "9")
	if _, err := clients[0].CoreV1().ResourceQuotas("default").UpdateStatus(limited(t), q, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := clients[1].CoreV1().ConfigMaps("default").Create(limited(t), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "late"}}, metav1.CreateOptions{}); err != nil {
		t.Error(err)
	}
}

func TestQuotaCharges(t *testing.T) {
	i := start(t)
	client := typed(t, i, "application/json")
	ctx := limited(t)
	enforce(t, client, "q", amounts("services", "2", "services.nodeports", "1", "count/secrets", "2", "persistentvolumeclaims", "5"),
		amounts("services", "0", "services.nodeports", "0", "count/secrets", "0"))

	services := client.CoreV1().Services("default")
	s, err := services.Create(ctx, service("a"), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	s.Spec.Type = corev1.ServiceTypeNodePort
	s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Name: "more", Port: 81})
	_, err = services.Update(ctx, s, metav1.UpdateOptions{})
	if want := `services "a" is forbidden: exceeded quota: q, requested: services.nodeports=2, used: services.nodeports=0, limited: services.nodeports=1`; err == nil || err.Error() != want {
		t.Errorf("%v\nwant %s", err, want)
	}
	s.Spec.Ports = s.Spec.Ports[:1]
	if _, err = services.Update(ctx, s, metav1.UpdateOptions{}); err != nil {
		t.Error(err)
	}
	if got := used(t, client, "q", "services.nodeports") + used(t, client, "q", "services"); got != "11" {
		t.Errorf("used %s", got)
	}

	secrets := client.CoreV1().Secrets("default")
	if _, err := secrets.Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{GenerateName: "dry-"}}, metav1.CreateOptions{DryRun: []string{"All"}}); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"applied", "applied", "twice"} { // the second is an update
		if _, err := secrets.Apply(ctx, applycorev1.Secret(name, "default").WithStringData(map[string]string{"a": name}), metav1.ApplyOptions{FieldManager: "t"}); err != nil {
			t.Error(err)
		}
	}
	if got := used(t, client, "q", "count/secrets"); got != "2" {
		t.Errorf("used %s", got)
	}
	for _, dry := range [][]string{{"All"}, nil} {
		if _, err := secrets.Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "third"}}, metav1.CreateOptions{DryRun: dry}); !apierrors.IsForbidden(err) {
			t.Error(err)
		}
	}
	claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "c"}, Spec: corev1.PersistentVolumeClaimSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		Resources:   corev1.VolumeResourceRequirements{Requests: amounts("storage", "1Gi")},
	}}
	if _, err := client.CoreV1().PersistentVolumeClaims("default").Create(ctx, claim, metav1.CreateOptions{}); err == nil || !strings.Contains(err.Error(), "status unknown for quota: q, resources: persistentvolumeclaims") {
		t.Error(err)
	}
}

// Quotas count themselves, though no transaction writes two of them.
func TestQuotaOfQuotas(t *testing.T) {
	i := start(t)
	client := typed(t, i, "application/json")
	enforce(t, client, "self", amounts("resourcequotas", "3"), amounts("resourcequotas", "1"))
	var made atomic.Int32
	var group sync.WaitGroup
	for n := range 10 {
		group.Go(func() {
			q := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("q", n)}, Spec: corev1.ResourceQuotaSpec{Hard: amounts("pods", "1")}}
			if _, err := client.CoreV1().ResourceQuotas("default").Create(limited(t), q, metav1.CreateOptions{}); err == nil {
				made.Add(1)
			} else if !apierrors.IsForbidden(err) {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if made.Load() != 2 {
		t.Errorf("%d made", made.Load())
	}
}

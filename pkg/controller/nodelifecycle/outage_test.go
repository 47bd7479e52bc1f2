package nodelifecycle

import (
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	coordination "k8s.io/api/coordination/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"skiff/pkg/controller/controllertest"
)

// cluster is a number of nodes with leases of five seconds.
type cluster struct {
	t      *testing.T
	client *fake.Clientset
	names  []string
	wrong  time.Duration // how wrong the nodes' clocks are
}

func newCluster(t *testing.T, nodes int) *cluster {
	c := &cluster{t: t}
	var objects []runtime.Object
	for i := range nodes {
		node := nodeOf(v1.ConditionTrue)
		node.Name = fmt.Sprintf("n%d", i)
		c.names = append(c.names, node.Name)
		objects = append(objects, node, c.lease(node.Name))
	}
	c.client = controllertest.NewClient(objects...)
	return c
}

func (c *cluster) lease(name string) *coordination.Lease {
	return &coordination.Lease{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: v1.NamespaceNodeLease},
		Spec: coordination.LeaseSpec{LeaseDurationSeconds: new(int32(5)), RenewTime: &metav1.MicroTime{Time: time.Now().Add(c.wrong)}}}
}

func (c *cluster) run() {
	config := controllertest.Config(c.t, c.client)
	controllertest.Run(c.t, config, New(config, Config{Rates: DefaultRates}).Run)
}

// live lets seconds pass in which these nodes renew their leases.
func (c *cluster) live(seconds int, names ...string) {
	for range seconds {
		time.Sleep(time.Second)
		for _, name := range names {
			if _, err := c.client.CoordinationV1().Leases(v1.NamespaceNodeLease).Update(c.t.Context(), c.lease(name), metav1.UpdateOptions{}); err != nil {
				c.t.Fatal(err)
			}
		}
	}
}

// count says how many nodes are ready, and from how many pods are evicted.
func (c *cluster) count() (ready, evicting int) {
	nodes, err := c.client.CoreV1().Nodes().List(c.t.Context(), metav1.ListOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	for i := range nodes.Items {
		if readiness(&nodes.Items[i]) == v1.ConditionTrue {
			ready++
		}
		for _, taint := range nodes.Items[i].Spec.Taints {
			if taint.Effect == v1.TaintEffectNoExecute {
				evicting++
			}
		}
	}
	return ready, evicting
}

// When most nodes vanish at once, it is the network that is broken: none but the first to be noticed is emptied.
func TestMostNodesVanish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 8)
		c.run()
		c.live(10, c.names...)
		c.live(120, c.names[:2]...)
		if ready, evicting := c.count(); ready != 2 || evicting > 1 {
			t.Errorf("%d are ready, %d are being emptied", ready, evicting)
		}
		c.live(10, c.names...)
		for _, name := range c.names { // the nodes say that they are ready; only they may
			node, err := c.client.CoreV1().Nodes().Get(t.Context(), name, metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			node.Status.Conditions[0].Status = v1.ConditionTrue
			node.Status.Conditions[0].LastHeartbeatTime = metav1.Now()
			if _, err := c.client.CoreV1().Nodes().UpdateStatus(t.Context(), node, metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		c.live(10, c.names...)
		if ready, evicting := c.count(); ready != 8 || evicting != 0 {
			t.Errorf("afterwards %d are ready, %d are being emptied", ready, evicting)
		}
	})
}

// When all nodes vanish nothing is emptied at all.
func TestAllNodesVanish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 4)
		c.run()
		c.live(10, c.names...)
		c.live(120)
		if ready, evicting := c.count(); ready != 0 || evicting != 0 {
			t.Errorf("%d are ready, %d are being emptied", ready, evicting)
		}
	})
}

// While the apiserver is away, for this process or for all, no node is given up; nor are those whose clocks are wrong, or
// jump.
func TestApiserverAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 4)
		c.wrong = -24 * time.Hour
		var away atomic.Bool
		c.client.PrependReactor("list", "leases", func(clienttesting.Action) (bool, runtime.Object, error) {
			if away.Load() {
				return true, nil, errors.New("the apiserver is away")
			}
			return false, nil, nil
		})
		c.run()
		c.live(10, c.names...)
		for range 3 {
			away.Store(true)
			c.live(30) // no renewal gets through
			away.Store(false)
			c.wrong += 48 * time.Hour
			c.live(20, c.names...)
			if ready, evicting := c.count(); ready != 4 || evicting != 0 {
				t.Fatalf("%d are ready, %d are being emptied", ready, evicting)
			}
		}
	})
}

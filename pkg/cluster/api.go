package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"skiff/pkg/component"
	"skiff/pkg/pki/bootstrap"
)

// adminConfig is the way to the API as its administrator. The virtual address may move while a
// cluster starts, and its dialer doesn't wait for one that nobody has.
func adminConfig(l layout) (*rest.Config, error) {
	return (&component.Client{Kubeconfig: l.adminConfig()}).Config("ctl")
}

// api is the administrator's view of a cluster.
type api struct {
	kubernetes.Interface
}

func connectAPI(l layout) (*api, error) {
	config, err := adminConfig(l)
	if err != nil {
		return nil, err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	return &api{client}, nil
}

// ready waits until the apiserver says that it is. There is nothing to watch
// before that, so it asks again and again, at first often.
func (a *api) ready(ctx context.Context) error {
	for delay := 5 * time.Millisecond; ; delay = min(delay*5/4, 200*time.Millisecond) {
		err := a.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the API is not ready: %w", err)
		case <-time.After(delay):
		}
	}
}

// furnish creates the objects that a cluster has from its beginning: the rights of
// workers, the service under which its DNS is found, and the word of its registry.
func (a *api) furnish(ctx context.Context, s *Spec) error {
	if len(s.Workers()) > 0 {
		if err := bootstrap.EnsureRights(ctx, a); err != nil {
			return fmt.Errorf("rights of workers: %w", err)
		}
	}
	dns := dnsService(s)
	_, err := a.CoreV1().Services(dns.Namespace).Create(ctx, dns, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("service kube-dns: %w", err)
	}
	return a.announceRegistry(ctx, s)
}

// persist does what may be repeated, until it is done or the API itself refuses it: a
// connection may break in the middle.
func persist(ctx context.Context, do func(context.Context) error) error {
	for {
		err := do(ctx)
		if err == nil || apierrors.ReasonForError(err) != metav1.StatusReasonUnknown {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func dnsService(s *Spec) *v1.Service {
	return &v1.Service{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Service"},
		ObjectMeta: metav1.ObjectMeta{
			Name: "kube-dns", Namespace: metav1.NamespaceSystem,
			Labels: map[string]string{"k8s-app": "kube-dns", "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CoreDNS"},
		},
		Spec: v1.ServiceSpec{
			ClusterIP: s.DNS().String(),
			Ports: []v1.ServicePort{
				{Name: "dns", Port: 53, Protocol: v1.ProtocolUDP, TargetPort: intstr.FromInt32(53)},
				{Name: "dns-tcp", Port: 53, Protocol: v1.ProtocolTCP, TargetPort: intstr.FromInt32(53)},
			},
		},
	}
}

// notReadyError names a node that isn't Ready in time, and why.
type notReadyError struct {
	node, why string
}

func (e *notReadyError) Error() string { return fmt.Sprintf("node %s is not Ready: %s", e.node, e.why) }

// heard waits until each node has renewed its lease after a moment. A node that
// was stopped and started again is still called Ready from before.
func (a *api) heard(ctx context.Context, nodes []Node, since time.Time) error {
	for _, n := range nodes {
		for {
			lease, err := a.CoordinationV1().Leases(v1.NamespaceNodeLease).Get(ctx, n.Name, metav1.GetOptions{})
			if err == nil && lease.Spec.RenewTime != nil && lease.Spec.RenewTime.After(since) {
				break
			}
			if err != nil && !apierrors.IsNotFound(err) && ctx.Err() == nil {
				return fmt.Errorf("lease of node %s: %w", n.Name, err)
			}
			select {
			case <-ctx.Done():
				return &notReadyError{n.Name, "it has not been heard of since it was started"}
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
	return nil
}

// nodesReady waits until all nodes are Ready, and gives them the labels that
// they may not give themselves.
func (a *api) nodesReady(ctx context.Context, nodes []Node) error {
	waiting := map[string]string{}
	byName := map[string]Node{}
	for _, n := range nodes {
		waiting[n.Name] = "it has not registered"
		byName[n.Name] = n
	}
	see := func(node *v1.Node) error {
		if _, ok := waiting[node.Name]; !ok {
			return nil
		}
		if why := notReady(node); why != "" {
			waiting[node.Name] = why
			return nil
		}
		delete(waiting, node.Name)
		return a.label(ctx, byName[node.Name])
	}
	for len(waiting) > 0 {
		list, err := a.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if err != nil {
			return late(waiting, err)
		}
		for i := range list.Items {
			if err := see(&list.Items[i]); err != nil {
				return err
			}
		}
		watch, err := a.CoreV1().Nodes().Watch(ctx, metav1.ListOptions{ResourceVersion: list.ResourceVersion})
		if err != nil {
			return late(waiting, err)
		}
		for len(waiting) > 0 {
			event, ok := <-watch.ResultChan()
			if !ok {
				break
			}
			if node, ok := event.Object.(*v1.Node); ok {
				if err := see(node); err != nil {
					watch.Stop()
					return err
				}
			}
		}
		watch.Stop()
		if ctx.Err() != nil {
			return late(waiting, ctx.Err())
		}
	}
	return nil
}

// label gives a node its labels of reserved domains.
func (a *api) label(ctx context.Context, n Node) error {
	labels := map[string]string{}
	for key, value := range n.Labels {
		if reserved(key) {
			labels[key] = value
		}
	}
	if n.Role == Master {
		labels["node-role.kubernetes.io/control-plane"] = ""
	}
	if len(labels) == 0 {
		return nil
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"labels": labels}})
	if err != nil {
		return err
	}
	if _, err = a.CoreV1().Nodes().Patch(ctx, n.Name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		return fmt.Errorf("labels of node %s: %w", n.Name, err)
	}
	return nil
}

func late(waiting map[string]string, err error) error {
	for node, why := range waiting {
		if errors.Is(err, context.DeadlineExceeded) {
			return &notReadyError{node, why}
		}
		return &notReadyError{node, why + " (" + err.Error() + ")"}
	}
	return err
}

func notReady(node *v1.Node) string {
	for _, c := range node.Status.Conditions {
		if c.Type == v1.NodeReady {
			if c.Status == v1.ConditionTrue {
				return ""
			}
			return c.Message
		}
	}
	return "it has reported no condition"
}

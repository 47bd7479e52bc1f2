package certificates

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	certs "k8s.io/api/certificates/v1"
	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	discoverylisters "k8s.io/client-go/listers/discovery/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"skiff/pkg/controller/reconciler"
)

// controlPlaneLabel marks nodes on which an apiserver may run. NodeRestriction doesn't let a node
// put it on itself.
const controlPlaneLabel = "node-role.kubernetes.io/control-plane"

// How often a request is looked at again whose node hasn't told its addresses yet, and for how long.
const (
	servingRetry   = 2 * time.Second
	servingPatient = time.Minute
)

// ServingApprover approves the serving certificates of nodes, which Kubernetes leaves to a person.
//
// What a certificate for names N opens: whoever has it can answer, towards clients that trust the cluster's
// authority, as N. So no node may get one for a name or an address that somebody else answers
// under. Who the requestor is, is certain: only the holder of X's client certificate is
// system:node:X. Which addresses are X's is not: they stand in X's own status, NodeRestriction
// lets X write that, and a node that was broken into can write anything there. The name X itself
// was chosen by whoever joined with a token. Hence what X says of itself is believed only as far as
// nothing that X can't write speaks against it. Refused are
//
//   - names and addresses that another node has too: the honest owner of an address claims it
//     by existing (and then neither gets a certificate for it, which is an outage, but no theft);
//   - addresses and names of apiservers: what the certificate of the apiserver says that this process talks to
//     (a virtual address and a load balancer's name are among it), and the endpoints of the kubernetes
//     service. Unless X is labelled a node of the control plane, which X can't do;
//   - addresses of services, whoever serves them: virtual ones, external ones, load balancers';
//   - addresses that aren't one machine's: loopback, link-local, multicast, unspecified;
//   - names that stand for the apiserver or for services in certificates, and all names with a dot
//     that end like a service's.
//
// What is left: a node can get a certificate for an address that no node, apiserver or service of the
// cluster has. A machine outside of the cluster that serves with a certificate of the cluster's
// authority would be such a case; an administrator who has one turns this reconciler off by
// --controllers=*,-skiff-kubelet-serving-approver and approves by hand. The rights it needs are
// an object (cluster role binding skiff:kubelet-serving-approver): without that, it approves nothing.
type ServingApprover struct {
	*Reconciler
	nodes    corelisters.NodeLister
	services corelisters.ServiceLister
	slices   discoverylisters.EndpointSliceLister
	synced   []cache.InformerSynced
	server   func(context.Context) ([]string, error) // names of the apiserver
}

// NewServingApprover makes the reconciler.
func NewServingApprover(c reconciler.Config) *ServingApprover {
	nodes, services, endpoints := c.Informers.Core().V1().Nodes(), c.Informers.Core().V1().Services(), c.Informers.Discovery().V1().EndpointSlices()
	a := &ServingApprover{Reconciler: newReconciler(c), nodes: nodes.Lister(), services: services.Lister(), slices: endpoints.Lister(), server: serverNames(c.Client),
		synced: []cache.InformerSynced{nodes.Informer().HasSynced, services.Informer().HasSynced, endpoints.Informer().HasSynced}}
	a.perRequest(c, "kubelet-serving-approver", a.approve)
	reconciler.OnChange(nodes.Informer(), func(old, node *v1.Node) {
		if node != nil && (old == nil || !slices.Equal(old.Status.Addresses, node.Status.Addresses)) {
			a.retryAll()
		}
	})
	return a
}

// retryAll has all requests looked at again: a node has told its addresses.
func (a *ServingApprover) retryAll() {
	for _, key := range a.store.GetStore().ListKeys() {
		a.loop.Add(key)
	}
}

// Run works until ctx ends.
func (a *ServingApprover) Run(ctx context.Context) error {
	return reconciler.Run(ctx, append(a.synced, a.store.HasSynced), a.loop.Run)
}

func (a *ServingApprover) approve(ctx context.Context, csr *certs.CertificateSigningRequest) (time.Duration, error) {
	if csr.Spec.SignerName != certs.KubeletServingSignerName || !undecided(csr) {
		return 0, nil
	}
	request, err := parse(csr)
	if err != nil {
		return 0, fmt.Errorf("unable to parse csr %q: %w", csr.Name, err)
	}
	reserved, err := a.reserved(ctx)
	if err != nil {
		return 0, err
	}
	nodes, err := a.nodes.List(labels.Everything())
	if err != nil {
		return 0, err
	}
	if refusal := refuseServing(csr, request, nodes, reserved); refusal != "" {
		// Not denied: a person may know better, and a node that registers a moment later is no impostor.
		if age := time.Since(csr.CreationTimestamp.Time); age < servingPatient {
			a.log.Debug("kubelet serving certificate is not approved yet", "csr", csr.Name, "user", csr.Spec.Username, "reason", refusal)
			return servingRetry, nil
		}
		a.log.Warn("kubelet serving certificate is not approved", "csr", csr.Name, "user", csr.Spec.Username, "reason", refusal)
		return 0, nil
	}
	csr.Status.Conditions = append(csr.Status.Conditions, certs.CertificateSigningRequestCondition{
		Type: certs.CertificateApproved, Status: v1.ConditionTrue, Reason: "AutoApproved", Message: "The node's name and addresses are its own.",
	})
	written, err := a.client.CertificatesV1().CertificateSigningRequests().UpdateApproval(ctx, csr.Name, csr, metav1.UpdateOptions{})
	return 0, a.wrote(csr.Name, written, "approve", err)
}

// reservedNames are names and addresses that are not a node's, and whose they are.
type reservedNames struct {
	services   map[string]string
	apiservers map[string]bool
}

func (a *ServingApprover) reserved(ctx context.Context) (reservedNames, error) {
	r := reservedNames{map[string]string{}, map[string]bool{}}
	own, err := a.server(ctx)
	if err != nil {
		return r, fmt.Errorf("learn under which names the apiserver answers: %w", err)
	}
	for _, name := range own {
		r.apiservers[name] = true
	}
	services, err := a.services.List(labels.Everything())
	if err != nil {
		return r, err
	}
	for _, s := range services {
		all := slices.Concat(s.Spec.ClusterIPs, s.Spec.ExternalIPs)
		for _, ingress := range s.Status.LoadBalancer.Ingress {
			all = append(all, ingress.IP)
		}
		for _, address := range all {
			r.services[address] = s.Namespace + "/" + s.Name
		}
	}
	endpoints, err := a.slices.EndpointSlices(metav1.NamespaceDefault).List(labels.SelectorFromSet(labels.Set{discovery.LabelServiceName: "kubernetes"}))
	for _, slice := range endpoints {
		for _, endpoint := range slice.Endpoints {
			for _, address := range endpoint.Addresses {
				r.apiservers[address] = true
			}
		}
	}
	return r, err
}

// serverNames returns what a client's apiserver shows as its names and addresses.
func serverNames(client kubernetes.Interface) func(context.Context) ([]string, error) {
	return func(ctx context.Context) ([]string, error) {
		server, ok := client.Discovery().RESTClient().(*rest.RESTClient)
		if !ok || server == nil {
			return nil, errors.New("the client has no connection")
		}
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, server.Get().AbsPath("/version").URL().String(), nil)
		if err != nil {
			return nil, err
		}
		response, err := server.Client.Do(request)
		if err != nil {
			return nil, err
		}
		defer response.Body.Close()
		if response.TLS == nil || len(response.TLS.PeerCertificates) == 0 {
			return nil, errors.New("the server shows no certificate")
		}
		leaf := response.TLS.PeerCertificates[0]
		names := slices.Clone(leaf.DNSNames)
		for _, ip := range leaf.IPAddresses {
			names = append(names, ip.String())
		}
		return names, nil
	}
}

// refuseServing says why a request for a serving certificate isn't approved; "": it is.
func refuseServing(csr *certs.CertificateSigningRequest, request *x509.CertificateRequest, nodes []*v1.Node, reserved reservedNames) string {
	if err := checkKubeletServing(request, csr.Spec.Usages); err != nil {
		return err.Error()
	}
	user := csr.Spec.Username
	name, isNode := strings.CutPrefix(user, "system:node:")
	switch {
	case !isNode || !slices.Contains(csr.Spec.Groups, "system:nodes"):
		return fmt.Sprintf("%q is not a node", user)
	case request.Subject.CommonName != user:
		return fmt.Sprintf("the request is for %q", request.Subject.CommonName)
	}
	i := slices.IndexFunc(nodes, func(n *v1.Node) bool { return n.Name == name })
	if i < 0 {
		return fmt.Sprintf("there is no node %q", name)
	}
	node := nodes[i]
	wanted := slices.Clone(request.DNSNames)
	for _, ip := range request.IPAddresses {
		wanted = append(wanted, ip.String())
	}
	for _, claim := range wanted {
		if refusal := refuseClaim(claim, node, nodes, reserved); refusal != "" {
			return refusal
		}
	}
	return ""
}

func refuseClaim(claim string, node *v1.Node, nodes []*v1.Node, reserved reservedNames) string {
	if !answersTo(node, claim) {
		return fmt.Sprintf("%s is neither name nor address of node %s", claim, node.Name)
	}
	for _, other := range nodes {
		if other.Name != node.Name && answersTo(other, claim) {
			return fmt.Sprintf("%s is also claimed by node %s", claim, other.Name)
		}
	}
	ip := net.ParseIP(claim)
	_, controlPlane := node.Labels[controlPlaneLabel]
	switch {
	case reserved.apiservers[claim] && !controlPlane:
		return fmt.Sprintf("%s is an apiserver's, and node %s isn't labelled %s", claim, node.Name, controlPlaneLabel)
	case ip == nil && publicName(claim):
		return fmt.Sprintf("%s is a name of services", claim)
	case ip == nil:
		return ""
	case !ip.IsGlobalUnicast():
		return fmt.Sprintf("%s is not one machine's address", claim)
	case reserved.services[claim] != "":
		return fmt.Sprintf("%s is an address of service %s", claim, reserved.services[claim])
	}
	return ""
}

// answersTo says that a node claims a name or an address.
func answersTo(node *v1.Node, claim string) bool {
	return node.Name == claim || slices.ContainsFunc(node.Status.Addresses, func(a v1.NodeAddress) bool { return a.Address == claim })
}

// publicName says that a name stands for the apiserver or for a service.
func publicName(name string) bool {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	return name == "localhost" || name == "kubernetes" || strings.HasPrefix(name, "kubernetes.default") ||
		strings.HasSuffix(name, ".svc") || strings.Contains(name, ".svc.") || strings.Contains(name, "*")
}

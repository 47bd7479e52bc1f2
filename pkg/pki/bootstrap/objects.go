package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	coreapply "k8s.io/client-go/applyconfigurations/core/v1"
	rbacapply "k8s.io/client-go/applyconfigurations/rbac/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// Settings are what an agent must know of its cluster beyond address and authority, by the names
// of its flags. They stand in the config map kube-system/skiff-config.
type Settings map[string]string

// NodeConfig is the name of the config map with the Settings.
const NodeConfig = "skiff-config"

// SettingNames are the settings there are.
var SettingNames = []string{"cluster-dns", "cluster-domain", "cluster-cidr", "service-cluster-ip-range"}

// Approver is the service account of kube-system that may approve kubelets' serving certificates.
const Approver = "kubelet-serving-approver"

// A cluster as whoever sets it up describes it to those who will join.
type Cluster struct {
	Server string // https://…, as other machines reach it
	CA     []byte // PEM
	// Settings that are missing are looked for in the cluster: the name server's address and
	// the ranges of services.
	Settings Settings
}

const (
	signerReader = "kubeadm:bootstrap-signer-clusterinfo"
	configReader = "skiff:nodes-config"
	approverRole = "skiff:kubelet-serving-approver"
	csrRole      = "system:certificates.k8s.io:certificatesigningrequests:"
)

// bindings are the rights of those who join, and of nodes that have joined, by the cluster role
// that grants them. All but the last two are kubeadm's. Those two are needed since a
// Skiff agent is a node and its proxy under one identity, and since somebody has to
// approve serving certificates; they are objects of a cluster, not a default policy of the
// server, so that a server has no more defaults than Kubernetes' and an administrator can delete them.
var bindings = []struct{ name, role, kind, subject string }{
	{"kubeadm:kubelet-bootstrap", "system:node-bootstrapper", rbacv1.GroupKind, NodeGroup},
	{"kubeadm:node-autoapprove-bootstrap", csrRole + "nodeclient", rbacv1.GroupKind, NodeGroup},
	{"kubeadm:node-autoapprove-certificate-rotation", csrRole + "selfnodeclient", rbacv1.GroupKind, "system:nodes"},
	{"kubeadm:get-nodes", "kubeadm:get-nodes", rbacv1.GroupKind, NodeGroup},
	{"skiff:node-proxier", "system:node-proxier", rbacv1.GroupKind, "system:nodes"},
	{approverRole, approverRole, rbacv1.ServiceAccountKind, Approver},
}

// clusterRoles are those of the bindings that a server doesn't have by itself.
var clusterRoles = map[string][]rbacv1.PolicyRule{
	"kubeadm:get-nodes": {{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"nodes"}}},
	approverRole: {
		{Verbs: []string{"update"}, APIGroups: []string{"certificates.k8s.io"}, Resources: []string{"certificatesigningrequests/approval"}},
		{Verbs: []string{"approve"}, APIGroups: []string{"certificates.k8s.io"}, Resources: []string{"signers"}, ResourceNames: []string{"kubernetes.io/kubelet-serving"}},
	},
}

// readers are rights to one config map, for people who aren't administrators.
var readers = []struct {
	namespace, name, configMap string
	subjects                   map[string]string // name: kind
}{
	{metav1.NamespacePublic, signerReader, ClusterInfo, map[string]string{"system:anonymous": rbacv1.UserKind}},
	{metav1.NamespaceSystem, configReader, NodeConfig, map[string]string{NodeGroup: rbacv1.GroupKind, "system:nodes": rbacv1.GroupKind}},
}

var apply = metav1.ApplyOptions{FieldManager: "skiff-bootstrap", Force: true}

// Ensure makes what a cluster needs so that machines can join it, or completes it. It may be
// repeated. An address that is published already stays, unless c names one.
func Ensure(ctx context.Context, client kubernetes.Interface, c Cluster) error {
	if err := EnsureRights(ctx, client); err != nil {
		return err
	}
	if err := ensureSettings(ctx, client, c.Settings); err != nil {
		return err
	}
	return ensureClusterInfo(ctx, client, c)
}

// EnsureRights makes the roles and bindings alone.
func EnsureRights(ctx context.Context, client kubernetes.Interface) error {
	var errs []error
	for name, rules := range clusterRoles {
		_, err := client.RbacV1().ClusterRoles().Apply(ctx, rbacapply.ClusterRole(name).WithRules(ruleApplies(rules)...), apply)
		errs = append(errs, err)
	}
	for _, b := range bindings {
		binding := rbacapply.ClusterRoleBinding(b.name).WithSubjects(subjectApply(b.kind, b.subject)).
			WithRoleRef(rbacapply.RoleRef().WithAPIGroup(rbacv1.GroupName).WithKind("ClusterRole").WithName(b.role))
		_, err := client.RbacV1().ClusterRoleBindings().Apply(ctx, binding, apply)
		errs = append(errs, err)
	}
	for _, r := range readers {
		rule := rbacapply.PolicyRule().WithVerbs("get").WithAPIGroups("").WithResources("configmaps").WithResourceNames(r.configMap)
		_, err := client.RbacV1().Roles(r.namespace).Apply(ctx, rbacapply.Role(r.name, r.namespace).WithRules(rule), apply)
		errs = append(errs, err)
		binding := rbacapply.RoleBinding(r.name, r.namespace).
			WithRoleRef(rbacapply.RoleRef().WithAPIGroup(rbacv1.GroupName).WithKind("Role").WithName(r.name))
		for _, name := range slices.Sorted(maps.Keys(r.subjects)) {
			binding.WithSubjects(subjectApply(r.subjects[name], name))
		}
		_, err = client.RbacV1().RoleBindings(r.namespace).Apply(ctx, binding, apply)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func ruleApplies(rules []rbacv1.PolicyRule) []*rbacapply.PolicyRuleApplyConfiguration {
	var out []*rbacapply.PolicyRuleApplyConfiguration
	for _, r := range rules {
		out = append(out, rbacapply.PolicyRule().WithVerbs(r.Verbs...).WithAPIGroups(r.APIGroups...).WithResources(r.Resources...).WithResourceNames(r.ResourceNames...))
	}
	return out
}

func subjectApply(kind, name string) *rbacapply.SubjectApplyConfiguration {
	s := rbacapply.Subject().WithKind(kind).WithName(name)
	if kind == rbacv1.ServiceAccountKind {
		return s.WithNamespace(metav1.NamespaceSystem)
	}
	return s.WithAPIGroup(rbacv1.GroupName)
}

// ensureClusterInfo leaves the signatures of the config map alone: their controller makes new ones.
func ensureClusterInfo(ctx context.Context, client kubernetes.Interface, c Cluster) error {
	published, err := ReadClusterInfo(ctx, client)
	switch {
	case err == nil && c.Server == "":
		return nil
	case err != nil && !apierrors.IsNotFound(err):
		return err
	case c.Server == "" || len(c.CA) == 0:
		return errors.New("the cluster's address isn't published yet, and none was named")
	case err == nil && published.Server == c.Server && string(published.CertificateAuthorityData) == string(c.CA):
		return nil
	}
	config := clientcmdapi.NewConfig()
	config.Clusters[""] = &clientcmdapi.Cluster{Server: c.Server, CertificateAuthorityData: c.CA} // nameless, as kubeadm has it
	text, err := clientcmd.Write(*config)
	if err != nil {
		return err
	}
	info := coreapply.ConfigMap(ClusterInfo, metav1.NamespacePublic).WithData(map[string]string{ClusterInfoKey: string(text)})
	if _, err := client.CoreV1().ConfigMaps(metav1.NamespacePublic).Apply(ctx, info, apply); err != nil {
		return fmt.Errorf("publish the cluster's address: %w", err)
	}
	return nil
}

// ReadClusterInfo returns what a cluster publishes of itself.
func ReadClusterInfo(ctx context.Context, client kubernetes.Interface) (*clientcmdapi.Cluster, error) {
	info, err := client.CoreV1().ConfigMaps(metav1.NamespacePublic).Get(ctx, ClusterInfo, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	return ParseClusterInfo(info)
}

// ParseClusterInfo reads the config map's kubeconfig, which names one cluster.
func ParseClusterInfo(info *v1.ConfigMap) (*clientcmdapi.Cluster, error) {
	config, err := clientcmd.Load([]byte(info.Data[ClusterInfoKey]))
	if err != nil {
		return nil, fmt.Errorf("config map %s/%s: %w", info.Namespace, info.Name, err)
	}
	cluster := config.Clusters[""]
	if current := config.Contexts[config.CurrentContext]; current != nil {
		cluster = config.Clusters[current.Cluster]
	}
	if cluster == nil || cluster.Server == "" || len(cluster.CertificateAuthorityData) == 0 {
		return nil, fmt.Errorf("config map %s/%s names no cluster with an address and an authority", info.Namespace, info.Name)
	}
	return cluster, nil
}

func ensureSettings(ctx context.Context, client kubernetes.Interface, named Settings) error {
	settings, err := ReadSettings(ctx, client)
	if err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	if settings == nil {
		settings = Settings{}
	}
	maps.Copy(settings, named)
	if err := discover(ctx, client, settings); err != nil {
		return err
	}
	object := coreapply.ConfigMap(NodeConfig, metav1.NamespaceSystem).WithData(settings)
	if _, err := client.CoreV1().ConfigMaps(metav1.NamespaceSystem).Apply(ctx, object, apply); err != nil {
		return fmt.Errorf("publish the nodes' settings: %w", err)
	}
	return nil
}

// discover fills in what the cluster's objects tell, and refuses when something is missing then.
func discover(ctx context.Context, client kubernetes.Interface, settings Settings) error {
	if settings["cluster-domain"] == "" {
		settings["cluster-domain"] = "cluster.local"
	}
	if settings["cluster-dns"] == "" {
		service, err := client.CoreV1().Services(metav1.NamespaceSystem).Get(ctx, "kube-dns", metav1.GetOptions{})
		if err != nil {
			return fmt.Errorf("find the name server's address (name it with --cluster-dns): %w", err)
		}
		settings["cluster-dns"] = strings.Join(service.Spec.ClusterIPs, ",")
	}
	if settings["service-cluster-ip-range"] == "" {
		ranges, err := client.NetworkingV1().ServiceCIDRs().List(ctx, metav1.ListOptions{})
		if err != nil {
			return fmt.Errorf("find the ranges of services (name them with --service-cluster-ip-range): %w", err)
		}
		var all []string
		for _, r := range ranges.Items {
			all = append(all, r.Spec.CIDRs...)
		}
		settings["service-cluster-ip-range"] = strings.Join(all, ",")
	}
	for _, name := range SettingNames {
		if settings[name] == "" {
			return fmt.Errorf("the cluster doesn't tell what its nodes need as --%s: name it", name)
		}
	}
	return nil
}

// ReadSettings returns the settings of a cluster's nodes.
func ReadSettings(ctx context.Context, client kubernetes.Interface) (Settings, error) {
	object, err := client.CoreV1().ConfigMaps(metav1.NamespaceSystem).Get(ctx, NodeConfig, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	return object.Data, nil
}

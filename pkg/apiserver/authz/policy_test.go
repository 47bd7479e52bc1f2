package authz

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"

	"skiff/pkg/apiserver/request"
)

// The names and numbers of rules of Kubernetes 1.36
// (plugin/pkg/auth/authorizer/rbac/bootstrappolicy/testdata).
var wantClusterRoles = map[string]int{
	"cluster-admin": 2, "system:aggregate-to-admin": 2, "system:aggregate-to-edit": 15, "system:aggregate-to-view": 12,
	"system:auth-delegator": 2, "system:basic-user": 2, "system:discovery": 1, "system:heapster": 2, "system:kube-aggregator": 1,
	"system:certificates.k8s.io:certificatesigningrequests:nodeclient": 1, "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient": 1,
	"system:certificates.k8s.io:kube-apiserver-client-approver": 1, "system:certificates.k8s.io:kube-apiserver-client-kubelet-approver": 1,
	"system:certificates.k8s.io:kubelet-serving-approver": 1, "system:certificates.k8s.io:legacy-unknown-approver": 1,
	"system:kube-controller-manager": 11, "system:kube-dns": 1, "system:kube-scheduler": 27, "system:kubelet-api-admin": 4, "system:monitoring": 2,
	"system:node": 25, "system:node-bootstrapper": 1, "system:node-problem-detector": 3, "system:node-proxier": 5,
	"system:persistent-volume-provisioner": 5, "system:public-info-viewer": 1, "system:service-account-issuer-discovery": 1, "system:volume-scheduler": 3,
}

var wantControllers = map[string]int{
	"attachdetach-controller": 8, "certificate-controller": 6, "clusterrole-aggregation-controller": 1, "cronjob-controller": 6, "daemon-set-controller": 8,
	"deployment-controller": 6, "device-taint-eviction-controller": 6, "disruption-controller": 9, "endpoint-controller": 4, "endpointslice-controller": 4,
	"endpointslicemirroring-controller": 5, "ephemeral-volume-controller": 4, "expand-controller": 4, "generic-garbage-collector": 2,
	"horizontal-pod-autoscaler": 8, "job-controller": 5, "legacy-service-account-token-cleaner": 2, "namespace-controller": 3, "node-controller": 5,
	"persistent-volume-binder": 9, "pod-garbage-collector": 3, "pv-protection-controller": 2, "pvc-protection-controller": 4, "replicaset-controller": 5,
	"replication-controller": 5, "resource-claim-controller": 7, "resourcequota-controller": 3, "root-ca-cert-publisher": 2, "route-controller": 3,
	"selinux-warning-controller": 5, "service-account-controller": 2, "service-cidrs-controller": 5, "service-controller": 4, "statefulset-controller": 10,
	"ttl-after-finished-controller": 2, "ttl-controller": 2, "validatingadmissionpolicy-status-controller": 3, "volumeattributesclass-protection-controller": 4,
}

func defaultPolicy(t testing.TB) *Policy {
	t.Helper()
	policy, err := DefaultPolicy()
	if err != nil {
		t.Fatal(err)
	}
	return policy
}

func TestDefaultPolicyIsKubernetes(t *testing.T) {
	policy := defaultPolicy(t)
	want := map[string]int{"admin": 29, "edit": 27, "view": 12}
	for name, rules := range wantClusterRoles {
		want[name] = rules
	}
	for name, rules := range wantControllers {
		want["system:controller:"+name] = rules
	}
	for _, role := range policy.ClusterRoles {
		if rules, ok := want[role.Name]; !ok || rules != len(role.Rules) {
			t.Errorf("cluster role %s has %d rules, want %d", role.Name, len(role.Rules), rules)
		}
		delete(want, role.Name)
		if role.Labels["kubernetes.io/bootstrapping"] != "rbac-defaults" || role.Annotations[rbacv1.AutoUpdateAnnotationKey] != "true" {
			t.Errorf("cluster role %s lacks the marks of a default role", role.Name)
		}
	}
	if len(want) > 0 {
		t.Errorf("missing cluster roles: %v", want)
	}
	var bindings, roles, roleBindings []string
	for _, b := range policy.ClusterRoleBindings {
		bindings = append(bindings, fmt.Sprintf("%s %s %d", b.Name, b.RoleRef.Name, len(b.Subjects)))
	}
	for name := range wantControllers {
		binding := fmt.Sprintf("system:controller:%[1]s system:controller:%[1]s 1", name)
		if i := slices.Index(bindings, binding); i >= 0 {
			bindings = slices.Delete(bindings, i, i+1)
		} else {
			t.Errorf("no binding %s", binding)
		}
	}
	equal(t, "cluster role bindings", bindings, []string{
		"cluster-admin cluster-admin 1", "system:basic-user system:basic-user 1", "system:discovery system:discovery 1",
		"system:kube-controller-manager system:kube-controller-manager 1", "system:kube-dns system:kube-dns 1",
		"system:kube-scheduler system:kube-scheduler 1", "system:monitoring system:monitoring 1", "system:node system:node 0",
		"system:node-proxier system:node-proxier 1", "system:public-info-viewer system:public-info-viewer 2",
		"system:service-account-issuer-discovery system:service-account-issuer-discovery 1", "system:volume-scheduler system:volume-scheduler 1",
	})
	for _, r := range policy.Roles {
		roles = append(roles, fmt.Sprintf("%s/%s %d", r.Namespace, r.Name, len(r.Rules)))
	}
	equal(t, "roles", roles, []string{
		"kube-public/system:controller:bootstrap-signer 3", "kube-system/extension-apiserver-authentication-reader 1",
		"kube-system/skiff:leader-locking-kube-controller-manager 2", "kube-system/skiff:leader-locking-kube-scheduler 2",
		"kube-system/system::leader-locking-kube-controller-manager 2", "kube-system/system::leader-locking-kube-scheduler 2",
		"kube-system/system:controller:bootstrap-signer 1", "kube-system/system:controller:cloud-provider 1", "kube-system/system:controller:token-cleaner 2",
	})
	for _, b := range policy.RoleBindings {
		roleBindings = append(roleBindings, fmt.Sprintf("%s/%s %s %d", b.Namespace, b.Name, b.RoleRef.Name, len(b.Subjects)))
	}
	equal(t, "role bindings", roleBindings, []string{
		"kube-public/system:controller:bootstrap-signer system:controller:bootstrap-signer 1",
		"kube-system/skiff:leader-locking-kube-controller-manager skiff:leader-locking-kube-controller-manager 1",
		"kube-system/skiff:leader-locking-kube-scheduler skiff:leader-locking-kube-scheduler 1",
		"kube-system/system::extension-apiserver-authentication-reader extension-apiserver-authentication-reader 2",
		"kube-system/system::leader-locking-kube-controller-manager system::leader-locking-kube-controller-manager 3",
		"kube-system/system::leader-locking-kube-scheduler system::leader-locking-kube-scheduler 2",
		"kube-system/system:controller:bootstrap-signer system:controller:bootstrap-signer 1",
		"kube-system/system:controller:cloud-provider system:controller:cloud-provider 1",
		"kube-system/system:controller:token-cleaner system:controller:token-cleaner 1",
	})
}

func equal(t *testing.T, what string, got, want []string) {
	t.Helper()
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("%s:\n%s\nwant\n%s", what, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// A sample of what users of the default roles may do, and above all of what they may not.
func TestDefaultPolicyDecisions(t *testing.T) {
	rbac := rbacOf(defaultPolicy(t))
	bind(rbac, "dev", "ClusterRole", "admin", "alice")
	bind(rbac, "dev", "ClusterRole", "edit", "bob")
	bind(rbac, "dev", "ClusterRole", "view", "carol")
	authenticated := []string{request.Authenticated}
	for _, c := range []struct {
		user    string
		groups  []string
		request string // verb namespace/group/resource[/subresource][=name], or verb url:path
		want    bool
	}{
		{"alice", nil, "create dev/apps/deployments", true},
		{"alice", nil, "create dev/rbac.authorization.k8s.io/rolebindings", true},
		{"alice", nil, "update dev//resourcequotas=q", false},
		{"alice", nil, "create prod/apps/deployments", false},
		{"alice", nil, "get //nodes=n", false},
		{"bob", nil, "create dev//pods/exec=p", true},
		{"bob", nil, "get dev//secrets=s", true},
		{"bob", nil, "create dev/rbac.authorization.k8s.io/rolebindings", false},
		{"carol", nil, "get dev//pods/log=p", true},
		{"carol", nil, "get dev//secrets=s", false},
		{"carol", nil, "delete dev//pods=p", false},
		{"dave", authenticated, "create /authorization.k8s.io/selfsubjectaccessreviews", true},
		{"dave", authenticated, "create /authorization.k8s.io/subjectaccessreviews", false},
		{"dave", authenticated, "get url:/apis/apps/v1", true},
		{"dave", authenticated, "get url:/metrics", false},
		{"dave", []string{"system:monitoring"}, "get url:/metrics", true},
		{request.Anonymous, []string{request.Unauthenticated}, "get url:/healthz", true},
		{request.Anonymous, []string{request.Unauthenticated}, "get url:/api", false},
		{"system:kube-scheduler", nil, "create kube-system//pods/binding=p", true},
		{"system:kube-scheduler", nil, "create kube-system//endpoints", true},
		{"system:kube-scheduler", nil, "update kube-system//endpoints=kube-controller-manager", false},
		{"system:kube-scheduler", nil, "create default//endpoints", false},
		{"system:kube-scheduler", nil, "get kube-system//secrets=s", false},
		{"system:serviceaccount:kube-system:endpointslice-controller", nil, "create /discovery.k8s.io/endpointslices/restricted", false},
		{"system:kube-proxy", nil, "watch /discovery.k8s.io/endpointslices", true},
		{"system:serviceaccount:kube-system:deployment-controller", nil, "update dev/apps/replicasets=r", true},
		{"system:serviceaccount:kube-system:deployment-controller", nil, "get dev//secrets=s", false},
		{"system:serviceaccount:dev:deployment-controller", nil, "update dev/apps/replicasets=r", false},
		{"system:serviceaccount:dev:default", []string{"system:serviceaccounts"}, "get url:/openid/v1/jwks", true},
		{"system:node:n1", []string{"system:nodes"}, "get dev//secrets=s", false},
	} {
		user := &request.User{Name: c.user, Groups: c.groups}
		if got := rbac.authorize(user, infoOf(t, c.request)) != nil; got != c.want {
			t.Errorf("%s %v: %s: got %t", c.user, c.groups, c.request, got)
		}
	}
}

// infoOf reads a request as the table above writes it.
func infoOf(t testing.TB, text string) *request.Info {
	t.Helper()
	verb, rest, _ := strings.Cut(text, " ")
	if path, ok := strings.CutPrefix(rest, "url:"); ok {
		return &request.Info{Verb: verb, Path: path}
	}
	rest, name, _ := strings.Cut(rest, "=")
	parts := append(strings.Split(rest, "/"), "")
	return &request.Info{IsResourceRequest: true, Verb: verb, Namespace: parts[0], APIGroup: parts[1], Resource: parts[2], Subresource: parts[3], Name: name}
}

func TestPolicySyntax(t *testing.T) {
	for _, text := range []string{
		"\tget core pods", "ClusterRole", "ClusterRole a/b", "Role a", "ClusterRole a x=y", "Role a/b c", "Thing a",
		"ClusterRole a\n\tget core", "ClusterRole a\n\tget core pods called x", "ClusterRoleBinding a", "ClusterRoleBinding a b c=d",
		"ClusterRoleBinding a b user=c\n\tget core pods",
	} {
		if _, err := parsePolicy(text); err == nil {
			t.Errorf("%q was understood", text)
		}
	}
}

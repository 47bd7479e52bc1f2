package authz

import (
	_ "embed"
	"fmt"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/pkg/api/rbac"
)

//go:embed policy.txt
var policyText string

// Policy is a set of roles and bindings.
type Policy struct {
	ClusterRoles        []*rbacv1.ClusterRole
	Roles               []*rbacv1.Role
	ClusterRoleBindings []*rbacv1.ClusterRoleBinding
	RoleBindings        []*rbacv1.RoleBinding
}

// DefaultPolicy returns the roles and bindings that a cluster starts with. The
// aggregated roles among them (admin, edit, view) already have their rules; from then on
// it is a controller that keeps those up to date.
func DefaultPolicy() (*Policy, error) {
	policy, err := parsePolicy(policyText)
	if err != nil {
		return nil, fmt.Errorf("default RBAC policy: %w", err)
	}
	// edit feeds admin and view feeds edit, so that one pass may not be enough.
	for changed := true; changed; {
		changed = false
		for _, role := range policy.ClusterRoles {
			rules, err := rbac.Aggregate(role, policy.ClusterRoles)
			if err != nil {
				return nil, fmt.Errorf("default RBAC policy: %w", err)
			}
			if !equality.Semantic.DeepEqual(rules, role.Rules) {
				role.Rules, changed = rules, true
			}
		}
	}
	return policy, nil
}

const aggregateLabel = "rbac.authorization.k8s.io/aggregate-to-"

// parsePolicy reads the format that policy.txt explains.
func parsePolicy(text string) (*Policy, error) {
	policy := &Policy{}
	var rules *[]rbacv1.PolicyRule // of the role that rule lines belong to
	for number, line := range strings.Split(text, "\n") {
		words := strings.Fields(line)
		if len(words) == 0 || strings.HasPrefix(line, "#") {
			continue
		}
		if strings.HasPrefix(line, "\t") {
			rule, err := parseRule(words)
			if err == nil && rules == nil {
				err = fmt.Errorf("a rule outside of a role")
			}
			if err != nil {
				return nil, fmt.Errorf("line %d: %w", number+1, err)
			}
			*rules = append(*rules, rule)
			continue
		}
		var err error
		if rules, err = policy.parseHeader(words); err != nil {
			return nil, fmt.Errorf("line %d: %w", number+1, err)
		}
	}
	return policy, nil
}

// parseHeader adds the object that words name, and returns where its rules go.
func (p *Policy) parseHeader(words []string) (*[]rbacv1.PolicyRule, error) {
	if len(words) < 2 {
		return nil, fmt.Errorf("no name")
	}
	kind, name := words[0], words[1]
	namespace, local, namespaced := strings.Cut(name, "/")
	if needs := kind == "Role" || kind == "RoleBinding"; needs != namespaced {
		return nil, fmt.Errorf("%s %q: the namespace is missing or too many", kind, name)
	}
	switch {
	case kind == "ClusterRole" || kind == "Controller":
		role := &rbacv1.ClusterRole{ObjectMeta: policyMeta("", name)}
		if kind == "Controller" {
			role.Name = "system:controller:" + name
			p.bind("", role.Name, "ClusterRole", role.Name, []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: "kube-system", Name: name}})
		}
		for _, word := range words[2:] {
			key, value, _ := strings.Cut(word, "=")
			switch key {
			case "label":
				role.Labels[aggregateLabel+value] = "true"
			case "from":
				role.AggregationRule = &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{
					{MatchLabels: map[string]string{aggregateLabel + value: "true"}}}}
			default:
				return nil, fmt.Errorf("unknown word %q", word)
			}
		}
		p.ClusterRoles = append(p.ClusterRoles, role)
		return &role.Rules, nil
	case kind == "Role" && len(words) == 2:
		role := &rbacv1.Role{ObjectMeta: policyMeta(namespace, local)}
		p.Roles = append(p.Roles, role)
		return &role.Rules, nil
	case (kind == "RoleBinding" || kind == "ClusterRoleBinding") && len(words) > 2:
		subjects, err := parseSubjects(words[3:])
		if err != nil {
			return nil, err
		}
		if namespaced {
			p.bind(namespace, local, "Role", words[2], subjects)
		} else {
			p.bind("", name, "ClusterRole", words[2], subjects)
		}
		return nil, nil
	}
	return nil, fmt.Errorf("not understood: %s", strings.Join(words, " "))
}

// bind adds a cluster role binding, or a role binding when a namespace is given.
func (p *Policy) bind(namespace, name, roleKind, role string, subjects []rbacv1.Subject) {
	ref := rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: roleKind, Name: role}
	if namespace == "" {
		p.ClusterRoleBindings = append(p.ClusterRoleBindings, &rbacv1.ClusterRoleBinding{
			ObjectMeta: policyMeta("", name), RoleRef: ref, Subjects: subjects})
		return
	}
	p.RoleBindings = append(p.RoleBindings, &rbacv1.RoleBinding{
		ObjectMeta: policyMeta(namespace, name), RoleRef: ref, Subjects: subjects})
}

func policyMeta(namespace, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Namespace:   namespace,
		Name:        name,
		Labels:      map[string]string{"kubernetes.io/bootstrapping": "rbac-defaults"},
		Annotations: map[string]string{rbacv1.AutoUpdateAnnotationKey: "true"},
	}
}

func parseRule(words []string) (rbacv1.PolicyRule, error) {
	if len(words) != 3 && (len(words) != 5 || words[3] != "named") {
		return rbacv1.PolicyRule{}, fmt.Errorf("a rule has three columns, and names")
	}
	rule := rbacv1.PolicyRule{}
	for _, verb := range strings.Split(words[0], ",") {
		switch verb {
		case "read":
			rule.Verbs = append(rule.Verbs, "get", "list", "watch")
		case "write":
			rule.Verbs = append(rule.Verbs, "create", "delete", "deletecollection", "patch", "update")
		default:
			rule.Verbs = append(rule.Verbs, verb)
		}
	}
	slices.Sort(rule.Verbs)
	if words[1] == "url" {
		rule.NonResourceURLs = strings.Split(words[2], ",")
		return rule, nil
	}
	for _, group := range strings.Split(words[1], ",") {
		if group == "core" {
			group = ""
		}
		rule.APIGroups = append(rule.APIGroups, group)
	}
	rule.Resources = strings.Split(words[2], ",")
	if len(words) == 5 {
		rule.ResourceNames = strings.Split(words[4], ",")
	}
	return rule, nil
}

func parseSubjects(words []string) ([]rbacv1.Subject, error) {
	var subjects []rbacv1.Subject
	for _, word := range words {
		kind, name, _ := strings.Cut(word, "=")
		switch kind {
		case "user":
			subjects = append(subjects, rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: "User", Name: name})
		case "group":
			subjects = append(subjects, rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: "Group", Name: name})
		case "sa":
			namespace, name, _ := strings.Cut(name, "/")
			subjects = append(subjects, rbacv1.Subject{Kind: "ServiceAccount", Namespace: namespace, Name: name})
		default:
			return nil, fmt.Errorf("unknown subject %q", word)
		}
	}
	return subjects, nil
}

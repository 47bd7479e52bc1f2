package fair

import (
	"hash/maphash"
	"slices"
	"strings"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apimachinery/pkg/types"

	"skiff/pkg/apiserver/request"
)

// Match is what a request was classified as.
type Match struct {
	Schema, Level       string
	SchemaUID, LevelUID types.UID
	// Flow is a hash of the schema and what it tells flows apart by.
	Flow uint64
}

var seed = maphash.MakeSeed()

// Classify finds the first schema that matches a request. The last schema matches everything.
func (c *Configuration) Classify(user *request.User, info *request.Info) Match {
	last := len(c.schemas) - 1
	for i, s := range c.schemas {
		if i == last || s.matches(user, info) {
			return s.match(user, info)
		}
	}
	return Match{}
}

// flowSchema is a FlowSchema whose level exists.
type flowSchema struct {
	*flowcontrolv1.FlowSchema
	level *flowcontrolv1.PriorityLevelConfiguration
}

func (s flowSchema) match(user *request.User, info *request.Info) Match {
	m := Match{Schema: s.Name, SchemaUID: s.UID, Level: s.level.Name, LevelUID: s.level.UID}
	flow := struct{ schema, distinguisher string }{schema: s.Name}
	if method := s.Spec.DistinguisherMethod; method != nil {
		switch method.Type {
		case flowcontrolv1.FlowDistinguisherMethodByUserType:
			flow.distinguisher = user.Name
		case flowcontrolv1.FlowDistinguisherMethodByNamespaceType:
			flow.distinguisher = info.Namespace
		}
	}
	m.Flow = maphash.Comparable(seed, flow)
	return m
}

func (s flowSchema) matches(user *request.User, info *request.Info) bool {
	for i := range s.Spec.Rules {
		rule := &s.Spec.Rules[i]
		if slices.ContainsFunc(rule.Subjects, func(subject flowcontrolv1.Subject) bool { return isSubject(&subject, user) }) && ruleMatches(rule, info) {
			return true
		}
	}
	return false
}

func isSubject(s *flowcontrolv1.Subject, user *request.User) bool {
	switch {
	case s.Kind == flowcontrolv1.SubjectKindUser && s.User != nil:
		return s.User.Name == flowcontrolv1.NameAll || s.User.Name == user.Name
	case s.Kind == flowcontrolv1.SubjectKindGroup && s.Group != nil:
		return s.Group.Name == flowcontrolv1.NameAll || slices.Contains(user.Groups, s.Group.Name)
	case s.Kind == flowcontrolv1.SubjectKindServiceAccount && s.ServiceAccount != nil:
		account, ok := strings.CutPrefix(user.Name, "system:serviceaccount:")
		namespace, name, _ := strings.Cut(account, ":")
		return ok && namespace == s.ServiceAccount.Namespace && (s.ServiceAccount.Name == flowcontrolv1.NameAll || s.ServiceAccount.Name == name)
	}
	return false
}

func ruleMatches(rule *flowcontrolv1.PolicyRulesWithSubjects, info *request.Info) bool {
	if !info.IsResourceRequest {
		for i := range rule.NonResourceRules {
			r := &rule.NonResourceRules[i]
			if has(r.Verbs, info.Verb) && slices.ContainsFunc(r.NonResourceURLs, func(url string) bool { return covers(url, info.Path) }) {
				return true
			}
		}
		return false
	}
	for i := range rule.ResourceRules {
		r := &rule.ResourceRules[i]
		if !has(r.Verbs, info.Verb) || !has(r.APIGroups, info.APIGroup) || !hasResource(r.Resources, info) {
			continue
		}
		if info.Namespace == "" && r.ClusterScope || info.Namespace != "" && has(r.Namespaces, info.Namespace) {
			return true
		}
	}
	return false
}

// has says whether a list holds a word, or the asterisk, which validation has stand alone.
func has(list []string, word string) bool {
	return len(list) == 1 && list[0] == "*" || slices.Contains(list, word)
}

func hasResource(list []string, info *request.Info) bool {
	if info.Subresource == "" {
		return has(list, info.Resource)
	}
	return has(list, info.Resource+"/"+info.Subresource)
}

// covers is Kubernetes' way: "/healthz" and "/healthz/*" both cover "/healthz/etcd".
func covers(url, path string) bool {
	if url == "*" || url == path {
		return true
	}
	prefix := strings.TrimSuffix(url, "*")
	if !strings.HasSuffix(prefix, "/") {
		prefix += "/"
	}
	return strings.HasPrefix(path, prefix)
}

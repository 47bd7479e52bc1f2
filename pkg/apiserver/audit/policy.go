package audit

import (
	"fmt"
	"os"
	"slices"

	internal "k8s.io/apiserver/pkg/apis/audit"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	upstream "k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/audit/policy"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"sigs.k8s.io/yaml"

	"skiff/pkg/apiserver/request"
)

// Policy says what is written down of a request.
type Policy struct{ rules upstream.PolicyRuleEvaluator }

// ReadPolicy reads a file with a Policy of audit.k8s.io/v1.
func ReadPolicy(file string) (*Policy, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("audit policy: %w", err)
	}
	p, err := parsePolicy(data)
	if err != nil {
		return nil, fmt.Errorf("audit policy %s: %w", file, err)
	}
	return p, nil
}

func parsePolicy(data []byte) (*Policy, error) {
	if err := yaml.UnmarshalStrict(data, &auditv1.Policy{}); err != nil {
		return nil, err
	}
	parsed, err := policy.LoadPolicyFromBytes(data)
	if err != nil {
		return nil, err
	}
	return &Policy{policy.NewPolicyRuleEvaluator(parsed)}, nil
}

// decision is what the policy says of one request.
type decision struct {
	level             auditv1.Level
	omitted           []internal.Stage
	omitManagedFields bool
}

func (d decision) omits(stage auditv1.Stage) bool {
	return slices.Contains(d.omitted, internal.Stage(stage))
}

// decide asks the policy; who is nil when nobody was recognized.
func (p *Policy) decide(who *request.User, info *request.Info) decision {
	a := authorizer.AttributesRecord{
		Verb: info.Verb, Namespace: info.Namespace, APIGroup: info.APIGroup, APIVersion: info.APIVersion, Resource: info.Resource,
		Subresource: info.Subresource, Name: info.Name, ResourceRequest: info.IsResourceRequest, Path: info.Path,
	}
	if who != nil {
		a.User = &user.DefaultInfo{Name: who.Name, Groups: who.Groups}
	}
	c := p.rules.EvaluatePolicyRule(a)
	return decision{level: auditv1.Level(c.Level), omitted: c.OmitStages, omitManagedFields: c.OmitManagedFields}
}

package flowcontrol

import (
	"strings"
	"testing"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"
	"k8s.io/utils/ptr"
)

// Kubernetes' own objects are valid, and are refused when they are changed in one place.
func TestFlowSchemas(t *testing.T) {
	for _, s := range append(bootstrap.SuggestedFlowSchemas, bootstrap.MandatoryFlowSchemas...) {
		if errs := validateFlowSchema(s); len(errs) > 0 {
			t.Errorf("%s: %v", s.Name, errs)
		}
	}
	for want, change := range map[string]func(*flowcontrolv1.FlowSchema, *flowcontrolv1.PolicyRulesWithSubjects){
		"spec.matchingPrecedence: Invalid value: 0: must be a positive value": func(s *flowcontrolv1.FlowSchema, _ *flowcontrolv1.PolicyRulesWithSubjects) {
			s.Spec.MatchingPrecedence = 0
		},
		"spec.matchingPrecedence: Invalid value: 10001: must not be greater than 10000": func(s *flowcontrolv1.FlowSchema, _ *flowcontrolv1.PolicyRulesWithSubjects) {
			s.Spec.MatchingPrecedence = 10001
		},
		"only the schema named 'exempt' may have matchingPrecedence 1": func(s *flowcontrolv1.FlowSchema, _ *flowcontrolv1.PolicyRulesWithSubjects) {
			s.Spec.MatchingPrecedence = 1
		},
		`spec.distinguisherMethod.type: Unsupported value: {"type":"x"}`: func(s *flowcontrolv1.FlowSchema, _ *flowcontrolv1.PolicyRulesWithSubjects) {
			s.Spec.DistinguisherMethod.Type = "x"
		},
		"spec.priorityLevelConfiguration.name: Required value: must reference a priority level": func(s *flowcontrolv1.FlowSchema, _ *flowcontrolv1.PolicyRulesWithSubjects) {
			s.Spec.PriorityLevelConfiguration.Name = ""
		},
		"spec.rules[0].subjects: Required value": func(_ *flowcontrolv1.FlowSchema, r *flowcontrolv1.PolicyRulesWithSubjects) { r.Subjects = nil },
		`spec.rules[0].subjects[0].kind: Unsupported value: "Robot"`: func(_ *flowcontrolv1.FlowSchema, r *flowcontrolv1.PolicyRulesWithSubjects) {
			r.Subjects[0].Kind = "Robot"
		},
		"spec.rules[0].subjects[0].user: Required value: user is required when subject kind is 'User'": func(_ *flowcontrolv1.FlowSchema, r *flowcontrolv1.PolicyRulesWithSubjects) {
			r.Subjects[0].Kind = "User"
		},
		"spec.rules[0].subjects[0].group: Forbidden: group is forbidden when subject kind is not 'Group'": func(_ *flowcontrolv1.FlowSchema, r *flowcontrolv1.PolicyRulesWithSubjects) {
			r.Subjects[0].Kind = "User"
		},
		"spec.rules[0].subjects[0].group.name: Required value": func(_ *flowcontrolv1.FlowSchema, r *flowcontrolv1.PolicyRulesWithSubjects) {
			r.Subjects[0].Group.Name = ""
		},
		"serviceAccount.namespace: Required value: must specify namespace for service account": func(_ *flowcontrolv1.FlowSchema, r *flowcontrolv1.PolicyRulesWithSubjects) {
			r.Subjects[0] = flowcontrolv1.Subject{Kind: "ServiceAccount", ServiceAccount: &flowcontrolv1.ServiceAccountSubject{Name: "*"}}
		},
		"at least one of resourceRules and nonResourceRules has to be non-empty": func(_ *flowcontrolv1.FlowSchema, r *flowcontrolv1.PolicyRulesWithSubjects) {
			r.ResourceRules, r.NonResourceRules = nil, nil
		},
		"resourceRules[0].verbs: Unsupported value": func(_ *flowcontrolv1.FlowSchema, r *flowcontrolv1.PolicyRulesWithSubjects) {
			r.ResourceRules[0].Verbs = []string{"gaze"}
		},
		"resourceRules[0].apiGroups: Required value": func(_ *flowcontrolv1.FlowSchema, r *flowcontrolv1.PolicyRulesWithSubjects) {
			r.ResourceRules[0].APIGroups = nil
		},
		"if '*' is present, must not specify other resources": func(_ *flowcontrolv1.FlowSchema, r *flowcontrolv1.PolicyRulesWithSubjects) {
			r.ResourceRules[0].Resources = []string{"*", "pods"}
		},
		"resource rules that are not cluster scoped must supply at least one namespace": func(_ *flowcontrolv1.FlowSchema, r *flowcontrolv1.PolicyRulesWithSubjects) {
			r.ResourceRules[0].Namespaces, r.ResourceRules[0].ClusterScope = nil, false
		},
		"each member of this list must be '*' or a DNS-1123 label": func(_ *flowcontrolv1.FlowSchema, r *flowcontrolv1.PolicyRulesWithSubjects) {
			r.ResourceRules[0].Namespaces = []string{"A"}
		},
		"nonResourceURLs[0]: Invalid value: \"a\": must start with slash": func(_ *flowcontrolv1.FlowSchema, r *flowcontrolv1.PolicyRulesWithSubjects) {
			r.NonResourceRules[0].NonResourceURLs = []string{"a"}
		},
		"wildcard can only do suffix matching": func(_ *flowcontrolv1.FlowSchema, r *flowcontrolv1.PolicyRulesWithSubjects) {
			r.NonResourceRules[0].NonResourceURLs = []string{"/a*"}
		},
	} {
		s := bootstrap.SuggestedFlowSchemaSystemNodes.DeepCopy()
		change(s, &s.Spec.Rules[0])
		if errs := validateFlowSchema(s); !strings.Contains(errs.ToAggregate().Error(), want) {
			t.Errorf("want %s\n got %v", want, errs)
		}
	}
	s := bootstrap.MandatoryFlowSchemaCatchAll.DeepCopy()
	s.Spec.MatchingPrecedence--
	if errs := validateFlowSchema(s); len(errs) != 1 || !strings.Contains(errs[0].Error(), "spec of 'catch-all' must equal the fixed value") {
		t.Errorf("a mandatory schema: %v", errs)
	}
}

func TestPriorityLevels(t *testing.T) {
	for _, l := range append(bootstrap.SuggestedPriorityLevelConfigurations, bootstrap.MandatoryPriorityLevelConfigurations...) {
		if errs := validatePriorityLevel(l); len(errs) > 0 {
			t.Errorf("%s: %v", l.Name, errs)
		}
	}
	for want, change := range map[string]func(*flowcontrolv1.PriorityLevelConfigurationSpec, *flowcontrolv1.LimitedPriorityLevelConfiguration){
		"must be 'Exempt' if and only if `name` is 'exempt'": func(s *flowcontrolv1.PriorityLevelConfigurationSpec, _ *flowcontrolv1.LimitedPriorityLevelConfiguration) {
			s.Type = "Exempt"
		},
		"spec.type: Unsupported value: \"x\"": func(s *flowcontrolv1.PriorityLevelConfigurationSpec, _ *flowcontrolv1.LimitedPriorityLevelConfiguration) {
			s.Type = "x"
		},
		"spec.limited: Required value": func(s *flowcontrolv1.PriorityLevelConfigurationSpec, _ *flowcontrolv1.LimitedPriorityLevelConfiguration) {
			s.Limited = nil
		},
		"spec.limited.nominalConcurrencyShares: Invalid value: -1": func(_ *flowcontrolv1.PriorityLevelConfigurationSpec, l *flowcontrolv1.LimitedPriorityLevelConfiguration) {
			l.NominalConcurrencyShares = ptr.To[int32](-1)
		},
		"spec.limited.lendablePercent: Invalid value: 101": func(_ *flowcontrolv1.PriorityLevelConfigurationSpec, l *flowcontrolv1.LimitedPriorityLevelConfiguration) {
			l.LendablePercent = ptr.To[int32](101)
		},
		"spec.limited.borrowingLimitPercent: Invalid value: -1": func(_ *flowcontrolv1.PriorityLevelConfigurationSpec, l *flowcontrolv1.LimitedPriorityLevelConfiguration) {
			l.BorrowingLimitPercent = ptr.To[int32](-1)
		},
		"spec.limited.limitResponse.type: Unsupported value": func(_ *flowcontrolv1.PriorityLevelConfigurationSpec, l *flowcontrolv1.LimitedPriorityLevelConfiguration) {
			l.LimitResponse.Type = "Wait"
		},
		"spec.limited.limitResponse.queuing: Required value": func(_ *flowcontrolv1.PriorityLevelConfigurationSpec, l *flowcontrolv1.LimitedPriorityLevelConfiguration) {
			l.LimitResponse.Queuing = nil
		},
		"spec.limited.limitResponse.queuing: Forbidden": func(_ *flowcontrolv1.PriorityLevelConfigurationSpec, l *flowcontrolv1.LimitedPriorityLevelConfiguration) {
			l.LimitResponse.Type = "Reject"
		},
		"queuing.handSize: Invalid value: 65: should not be greater than queues (64)": func(_ *flowcontrolv1.PriorityLevelConfigurationSpec, l *flowcontrolv1.LimitedPriorityLevelConfiguration) {
			l.LimitResponse.Queuing.HandSize = 65
		},
		"required entropy bits of deckSize 64 and handSize 11 should not be greater than 60": func(_ *flowcontrolv1.PriorityLevelConfigurationSpec, l *flowcontrolv1.LimitedPriorityLevelConfiguration) {
			l.LimitResponse.Queuing.HandSize = 11
		},
		"queuing.queues: Invalid value: -1: must be positive": func(_ *flowcontrolv1.PriorityLevelConfigurationSpec, l *flowcontrolv1.LimitedPriorityLevelConfiguration) {
			l.LimitResponse.Queuing.Queues = -1
		},
		"queuing.queueLengthLimit: Invalid value: 0: must be positive": func(_ *flowcontrolv1.PriorityLevelConfigurationSpec, l *flowcontrolv1.LimitedPriorityLevelConfiguration) {
			l.LimitResponse.Queuing.QueueLengthLimit = 0
		},
	} {
		l := bootstrap.SuggestedPriorityLevelConfigurationSystem.DeepCopy()
		change(&l.Spec, l.Spec.Limited)
		if errs := validatePriorityLevel(l); !strings.Contains(errs.ToAggregate().Error(), want) {
			t.Errorf("want %s\n got %v", want, errs)
		}
	}
	exempt := bootstrap.MandatoryPriorityLevelConfigurationExempt.DeepCopy()
	exempt.Spec.Exempt.NominalConcurrencyShares = ptr.To[int32](10)
	if errs := validatePriorityLevel(exempt); len(errs) > 0 {
		t.Errorf("the shares of exempt: %v", errs)
	}
	if errs := validatePriorityLevel(&flowcontrolv1.PriorityLevelConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "catch-all"}, Spec: exempt.Spec}); len(errs) != 2 {
		t.Errorf("catch-all made exempt: %v", errs)
	}
}

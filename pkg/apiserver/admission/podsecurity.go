package admission

import (
	"context"
	"fmt"

	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	podsecurity "k8s.io/pod-security-admission/admission"
	configuration "k8s.io/pod-security-admission/admission/api"
	podsecurityapi "k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/metrics"
	"k8s.io/pod-security-admission/policy"

	"skiff/pkg/apiserver/lookup"
	"skiff/pkg/apiserver/request"
)

// podSecurityPlugin holds namespaces to the Pod Security Standards that their labels name.
// The standards are those of k8s.io/pod-security-admission.
type podSecurityPlugin struct{ admission *podsecurity.Admission }

func newPodSecurity(objects lookup.Reader) (*podSecurityPlugin, error) {
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		return nil, fmt.Errorf("pod security: %w", err)
	}
	privileged, latest := string(podsecurityapi.LevelPrivileged), podsecurityapi.VersionLatest
	a := &podsecurity.Admission{
		Configuration: &configuration.PodSecurityConfiguration{Defaults: configuration.PodSecurityDefaults{
			Enforce: privileged, EnforceVersion: latest,
			Audit: privileged, AuditVersion: latest,
			Warn: privileged, WarnVersion: latest,
		}},
		Evaluator:        evaluator,
		Metrics:          uncounted{},
		PodSpecExtractor: podsecurity.DefaultPodSpecExtractor{},
		NamespaceGetter:  namespaceGetter{objects},
		PodLister:        podLister{objects},
	}
	if err := a.CompleteConfiguration(); err != nil {
		return nil, fmt.Errorf("pod security: %w", err)
	}
	if err := a.ValidateConfiguration(); err != nil {
		return nil, fmt.Errorf("pod security: %w", err)
	}
	return &podSecurityPlugin{a}, nil
}

func (p *podSecurityPlugin) validate(ctx context.Context, attrs *request.Attributes) error {
	resource := attrs.Kind.GroupResource()
	if resource != core("pods") && resource != core("namespaces") && !p.admission.PodSpecExtractor.HasPodSpec(resource) {
		return nil
	}
	if attrs.Operation != request.Create && attrs.Operation != request.Update {
		return nil
	}
	response := p.admission.Validate(ctx, &podsecurityapi.AttributesRecord{
		Name:        attrs.Name,
		Namespace:   attrs.Namespace,
		Kind:        attrs.Kind.GroupVersionKind,
		Resource:    attrs.Kind.GroupVersionResource(),
		Subresource: attrs.Subresource,
		Operation:   admissionv1.Operation(attrs.Operation),
		Object:      attrs.Object,
		OldObject:   attrs.Old,
		Username:    userName(attrs.User),
	})
	for _, warning := range response.Warnings {
		attrs.Warn(warning)
	}
	for key, value := range response.AuditAnnotations {
		attrs.Annotate(podsecurityapi.AuditAnnotationPrefix+key, value)
	}
	if response.Allowed {
		return nil
	}
	return refusal(attrs, response)
}

func userName(user *request.User) string {
	if user == nil {
		return ""
	}
	return user.Name
}

// refusal is a Forbidden error with whatever the response says better.
func refusal(attrs *request.Attributes, response *admissionv1.AdmissionResponse) error {
	err := forbidden(attrs, "Not allowed by PodSecurity")
	result := response.Result
	if result == nil {
		return err
	}
	if result.Message != "" {
		err.ErrStatus.Message = result.Message
	}
	if result.Reason != "" {
		err.ErrStatus.Reason = result.Reason
	}
	if result.Details != nil {
		err.ErrStatus.Details = result.Details
	}
	if result.Code != 0 {
		err.ErrStatus.Code = result.Code
	}
	return err
}

type namespaceGetter struct{ objects lookup.Reader }

func (g namespaceGetter) GetNamespace(ctx context.Context, name string) (*corev1.Namespace, error) {
	return lookup.Get[*corev1.Namespace](ctx, g.objects, core("namespaces"), "", name)
}

type podLister struct{ objects lookup.Reader }

func (l podLister) ListPods(ctx context.Context, namespace string) ([]*corev1.Pod, error) {
	return lookup.List[*corev1.Pod](ctx, l.objects, core("pods"), namespace)
}

// uncounted drops the library's metrics.
type uncounted struct{}

func (uncounted) RecordEvaluation(metrics.Decision, podsecurityapi.LevelVersion, metrics.Mode, podsecurityapi.Attributes) {
}
func (uncounted) RecordExemption(podsecurityapi.Attributes)   {}
func (uncounted) RecordError(bool, podsecurityapi.Attributes) {}

package admission

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff/pkg/api"
	"skiff/pkg/apiserver/authz"
	"skiff/pkg/apiserver/lookup"
	"skiff/pkg/apiserver/request"
)

// Authorizer is asked where a write needs a right of its own beyond its verb.
type Authorizer interface {
	Authorize(ctx context.Context, user *request.User, info *request.Info) authz.Verdict
	GuardRoles(ctx context.Context, attrs *request.Attributes) error
}

// Config is what plugins depend on.
type Config struct {
	Objects    lookup.Reader
	Authorizer Authorizer
}

// Chain is all plugins in order. It may be used concurrently.
type Chain struct {
	plugins []plugin
}

// plugin is one admission plugin. Its functions are nil where it has no part.
type plugin struct {
	name     string
	mutate   handler
	validate handler
}

type handler func(ctx context.Context, attrs *request.Attributes) error

// New returns the chain.
func New(config Config) (*Chain, error) {
	security, err := newPodSecurity(config.Objects)
	if err != nil {
		return nil, fmt.Errorf("admission: %w", err)
	}
	accounts := &serviceAccountPlugin{config.Objects}
	runtimes := &runtimeClassPlugin{config.Objects}
	limits := &limitRangerPlugin{config.Objects}
	priorities := &priorityPlugin{config.Objects}
	signers := &signerPlugin{config.Authorizer}
	return &Chain{plugins: []plugin{
		{name: "NamespaceLifecycle", mutate: (&lifecyclePlugin{config.Objects}).admit},
		{name: "LimitRanger", mutate: limits.mutate, validate: limits.validate},
		{name: "ServiceAccount", mutate: accounts.mutate, validate: accounts.validate},
		{name: "NodeRestriction", mutate: (&nodeRestrictionPlugin{config.Objects, config.Authorizer}).admit},
		{name: "TaintNodesByCondition", mutate: taintNewNode},
		{name: "PodSecurity", validate: security.validate},
		{name: "Priority", mutate: priorities.mutate, validate: priorities.validate},
		{name: "DefaultTolerationSeconds", mutate: tolerateNodeTrouble},
		{name: "DefaultStorageClass", mutate: (&storageClassPlugin{config.Objects}).mutate},
		{name: "PersistentVolumeClaimResize", validate: (&claimResizePlugin{config.Objects}).validate},
		{name: "RuntimeClass", mutate: runtimes.mutate, validate: runtimes.validate},
		{name: "CertificateApproval", validate: signers.validateApproval},
		{name: "CertificateSigning", validate: signers.validateSigning},
		{name: "CertificateSubjectRestriction", validate: validateCertificateSubject},
		{name: "DefaultIngressClass", mutate: (&ingressClassPlugin{config.Objects}).mutate},
		{name: "PodTopologyLabels", mutate: (&topologyLabelsPlugin{config.Objects}).mutate},
		// Kubernetes checks this in the registry of roles and bindings.
		{name: "RBACEscalation", validate: config.Authorizer.GuardRoles},
	}}, nil
}

// Mutate completes the object of a write, or refuses the write.
func (c *Chain) Mutate(ctx context.Context, attrs *request.Attributes) error {
	for _, p := range c.plugins {
		if p.mutate == nil {
			continue
		}
		if err := p.mutate(ctx, attrs); err != nil {
			return asStatus(p.name, err)
		}
	}
	return nil
}

// Validate refuses a write, or lets it pass as it is.
func (c *Chain) Validate(ctx context.Context, attrs *request.Attributes) error {
	for _, p := range c.plugins {
		if p.validate == nil {
			continue
		}
		if err := p.validate(ctx, attrs); err != nil {
			return asStatus(p.name, err)
		}
	}
	return nil
}

// asStatus leaves answers to the client as they are; anything else is the server's failure.
func asStatus(plugin string, err error) error {
	var status apierrors.APIStatus
	if errors.As(err, &status) {
		return err
	}
	return apierrors.NewInternalError(fmt.Errorf("admission plugin %q: %w", plugin, err))
}

// forbidden refuses a write with a reason.
func forbidden(attrs *request.Attributes, format string, args ...any) *apierrors.StatusError {
	name := attrs.Name
	if obj, ok := attrs.Object.(api.Object); ok && name == "" {
		name = cmp.Or(obj.GetName(), obj.GetGenerateName())
	}
	return apierrors.NewForbidden(attrs.Kind.GroupResource(), cmp.Or(name, "Unknown"), fmt.Errorf(format, args...))
}

// concerns reports whether a write is of this resource (of the core group) and subresource.
func concerns(attrs *request.Attributes, resource, subresource string) bool {
	return attrs.Kind.Group == "" && attrs.Kind.Resource == resource && attrs.Subresource == subresource
}

func core(resource string) schema.GroupResource { return schema.GroupResource{Resource: resource} }

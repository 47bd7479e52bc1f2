package admission

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff/pkg/api"
	"skiff/pkg/apiserver/admission/match"
	"skiff/pkg/apiserver/authz"
	"skiff/pkg/apiserver/lookup"
	"skiff/pkg/apiserver/patch"
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
	// Catalogue and Dynamic are for admission that the cluster's own objects describe: in
	// Kubernetes' order, policies before webhooks.
	Catalogue *api.Catalogue
	Dynamic   []Dynamic
}

// Dynamic is admission whose rules are objects of the cluster: webhooks and policies. It may be used
// concurrently. Package match has what implementations share.
type Dynamic interface {
	// Active says that there are such objects, or that it isn't known yet. It is asked on every write, and must cost nothing.
	Active() bool
	// Mutate is the plugin's turn in a round of mutation. It may be called twice for a request.
	Mutate(ctx context.Context, r *match.Request) error
	Validate(ctx context.Context, r *match.Request) error
}

// Chain is all plugins in order. It may be used concurrently.
type Chain struct {
	plugins   []plugin
	catalogue *api.Catalogue
	objects   lookup.Reader
	dynamic   []Dynamic
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
	return &Chain{catalogue: config.Catalogue, objects: config.Objects, dynamic: config.Dynamic, plugins: []plugin{
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
		// Kubernetes checks these in the registries of what they guard.
		{name: "RBACEscalation", validate: config.Authorizer.GuardRoles},
		{name: "PolicyParams", validate: (&policyParamsPlugin{config.Objects, config.Authorizer, config.Catalogue}).validate},
		{name: "Devices", validate: (&devicesPlugin{config.Objects, config.Authorizer}).validate},
	}}, nil
}

// Mutate completes the object of a write, or refuses the write. If a webhook or a policy changes the object,
// everybody has a second look at it.
func (c *Chain) Mutate(ctx context.Context, attrs *request.Attributes) error {
	active := c.active(attrs)
	if len(active) == 0 {
		return c.mutate(ctx, attrs)
	}
	defer keepOwners(attrs)()
	r := match.NewRequest(attrs, c.catalogue.View(), c.objects)
	for {
		if err := c.mutate(ctx, attrs); err != nil {
			return err
		}
		for _, d := range active {
			if err := d.Mutate(ctx, r); err != nil {
				return asStatus("", err)
			}
		}
		if !r.Again() {
			return nil
		}
	}
}

// keepOwners takes back what was done to the record of who owns which field, if it can't be read any more.
func keepOwners(attrs *request.Attributes) func() {
	obj, ok := attrs.Object.(metav1.Object)
	if !ok {
		return func() {}
	}
	before := obj.GetManagedFields()
	return func() {
		if err := patch.Validate(obj.GetManagedFields()); err != nil {
			obj.SetManagedFields(before)
			attrs.Warn(fmt.Sprintf(".metadata.managedFields was in an invalid state after admission; this could be caused by an outdated mutating admission controller; please fix your requests: %v", err))
		}
	}
}

// active is the dynamic admission that has a say in a write.
func (c *Chain) active(attrs *request.Attributes) []Dynamic {
	var active []Dynamic
	for _, d := range c.dynamic {
		if d.Active() && !match.Exempt(attrs) {
			active = append(active, d)
		}
	}
	return active
}

func (c *Chain) mutate(ctx context.Context, attrs *request.Attributes) error {
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
	active := c.active(attrs)
	if len(active) == 0 {
		return nil
	}
	r := match.NewRequest(attrs, c.catalogue.View(), c.objects)
	for _, d := range active {
		if err := d.Validate(ctx, r); err != nil {
			return asStatus("", err)
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
	if plugin != "" {
		err = fmt.Errorf("admission plugin %q: %w", plugin, err)
	}
	return apierrors.NewInternalError(err)
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

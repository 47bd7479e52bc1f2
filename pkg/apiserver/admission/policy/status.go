package policy

import (
	"context"
	"fmt"

	v1 "k8s.io/api/admissionregistration/v1"

	"skiff/pkg/api"
	"skiff/pkg/apiserver/lookup"
)

// StatusConfig is what [KeepStatus] depends on.
type StatusConfig struct {
	Checker *TypeChecker
	Feed    lookup.Feed
	Writer  lookup.Writer
	// Apply makes status an owner's in a copy of live, as server-side apply does.
	Apply func(live api.Object, status any, owner string) (api.Object, error)
}

// statusOwner is what Kubernetes' controller manager, which does this there, calls itself.
const statusOwner = "validatingadmissionpolicy-status"

// KeepStatus checks the types of every validating policy once per generation and writes what it finds into the
// policy's status, until ctx ends. Servers of one cluster come to the same result; the first one writes it.
func KeepStatus(ctx context.Context, config StatusConfig) error {
	return config.Feed.Follow(ctx, v1.Resource("validatingadmissionpolicies"), nil, func(changes []lookup.Change) {
		for _, change := range changes {
			p := change.Object.(*v1.ValidatingAdmissionPolicy)
			if change.Deleted || p.Status.ObservedGeneration >= p.Generation {
				continue
			}
			warnings := config.Checker.Check(p)
			_ = lookup.Retry(ctx, fmt.Sprintf("the status of ValidatingAdmissionPolicy %q", p.Name), func(ctx context.Context) error {
				return config.write(ctx, p, warnings)
			})
		}
	})
}

func (c *StatusConfig) write(ctx context.Context, checked *v1.ValidatingAdmissionPolicy, warnings []v1.ExpressionWarning) error {
	return c.Writer.Update(ctx, v1.Resource("validatingadmissionpolicies"), "", checked.Name, func(current api.Object) (api.Object, error) {
		live, ok := current.(*v1.ValidatingAdmissionPolicy)
		if !ok || live.UID != checked.UID || live.Generation != checked.Generation || live.Status.ObservedGeneration >= checked.Generation {
			return nil, nil // gone, changed, or done by another server
		}
		return c.Apply(live, &v1.ValidatingAdmissionPolicyStatus{
			ObservedGeneration: checked.Generation, TypeChecking: &v1.TypeChecking{ExpressionWarnings: warnings},
		}, statusOwner)
	})
}

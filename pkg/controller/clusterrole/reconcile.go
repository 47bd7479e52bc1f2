// Package clusterrole fills cluster roles that have an aggregation rule with the
// rules of the roles that it selects. The default roles admin, edit and view are made that way, and
// custom resources join them by labels.
package clusterrole

import (
	"context"
	"fmt"
	"time"

	rbac "k8s.io/api/rbac/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	rbacapply "k8s.io/client-go/applyconfigurations/rbac/v1"
	"k8s.io/client-go/kubernetes"
	rbaclisters "k8s.io/client-go/listers/rbac/v1"
	"k8s.io/client-go/tools/cache"

	rbacapi "skiff/pkg/api/rbac"
	"skiff/pkg/controller/reconciler"
	"skiff/pkg/reconcile"
)

const fieldManager = "clusterrole-aggregation-controller"

// Reconciler fills aggregated roles. Its keys are their names.
type Reconciler struct {
	client kubernetes.Interface
	roles  rbaclisters.ClusterRoleLister
	store  cache.SharedIndexInformer
	loop   *reconcile.Loop[string]
}

// New makes the reconciler.
func New(c reconciler.Config) *Reconciler {
	roles := c.Informers.Rbac().V1().ClusterRoles()
	r := &Reconciler{client: c.Client, roles: roles.Lister(), store: roles.Informer()}
	r.loop = reconciler.Loop(c, "ClusterRoleAggregator", 2, reconcile.Config[string]{Reconcile: r.reconcile})
	reconciler.OnEach(r.store, func(*rbac.ClusterRole) { r.wakeAll() })
	return r
}

// Run works until ctx ends.
func (r *Reconciler) Run(ctx context.Context) error {
	return reconciler.Run(ctx, []cache.InformerSynced{r.store.HasSynced}, r.loop.Run)
}

// wakeAll looks at all aggregated roles: any role may be part of any of them.
func (r *Reconciler) wakeAll() {
	roles, err := r.roles.List(labels.Everything())
	if err != nil {
		return
	}
	for _, role := range roles {
		if role.AggregationRule != nil {
			r.loop.Add(role.Name)
		}
	}
}

func (r *Reconciler) reconcile(ctx context.Context, name string) (time.Duration, error) {
	role, err := r.roles.Get(name)
	if err != nil || role.AggregationRule == nil {
		return 0, nil
	}
	all, err := r.roles.List(labels.Everything())
	if err != nil {
		return 0, err
	}
	rules, err := rbacapi.Aggregate(role, all)
	if err != nil || apiequality.Semantic.DeepEqual(rules, role.Rules) {
		return 0, err
	}
	apply := rbacapply.ClusterRole(name)
	for _, rule := range rules {
		apply.WithRules(&rbacapply.PolicyRuleApplyConfiguration{
			Verbs: rule.Verbs, APIGroups: rule.APIGroups, Resources: rule.Resources,
			ResourceNames: rule.ResourceNames, NonResourceURLs: rule.NonResourceURLs,
		})
	}
	applied, err := r.client.RbacV1().ClusterRoles().Apply(ctx, apply, metav1.ApplyOptions{FieldManager: fieldManager, Force: true})
	if err != nil {
		return 0, fmt.Errorf("fill aggregated cluster role %s: %w", name, err)
	}
	r.loop.Wrote(name, r.store.GetStore(), applied.ResourceVersion)
	return 0, nil
}

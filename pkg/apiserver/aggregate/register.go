package aggregate

import (
	crdv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"skiff/pkg/api"
)

// automanaged is the label of the APIServices that a server makes by itself. Those of its own groups it cares for when it
// starts only, so that they can be changed; those of custom resources as long as they are defined.
const (
	automanaged = "kube-aggregator.kubernetes.io/automanaged"
	onStart     = "onstart"
	always      = "true"
)

// Name is the name of the APIService for a version of a group.
func Name(gv schema.GroupVersion) string { return gv.Version + "." + gv.Group }

func versionOf(s *v1.APIService) schema.GroupVersion {
	return schema.GroupVersion{Group: s.Spec.Group, Version: s.Spec.Version}
}

// Wanted are the APIServices, by name, of what is served here: of the catalogue's own rows, and of definitions.
func Wanted(view *api.View, definitions []*crdv1.CustomResourceDefinition) map[string]*v1.APIService {
	wanted := map[string]*v1.APIService{}
	for _, k := range view.Kinds() {
		if k.Custom == nil && k.Group != v1.GroupName {
			wanted[Name(k.GroupVersion())] = local(k.GroupVersion(), onStart)
		}
	}
	for _, crd := range definitions {
		for i := range crd.Spec.Versions {
			gv := schema.GroupVersion{Group: crd.Spec.Group, Version: crd.Spec.Versions[i].Name}
			if wanted[Name(gv)] == nil && crd.Spec.Versions[i].Served {
				wanted[Name(gv)] = local(gv, always)
			}
		}
	}
	return wanted
}

func local(gv schema.GroupVersion, managed string) *v1.APIService {
	group, version := api.Priority(gv)
	return &v1.APIService{
		ObjectMeta: metav1.ObjectMeta{Name: Name(gv), Labels: map[string]string{automanaged: managed}},
		Spec:       v1.APIServiceSpec{Group: gv.Group, Version: gv.Version, GroupPriorityMinimum: group, VersionPriority: version},
	}
}

// step is what is done about an APIService.
type step string

const (
	nothing step = "nothing"
	create  step = "create"
	update  step = "update"
	remove  step = "remove"
)

// decide compares an APIService with the one wanted; nil is none. first: nothing has been done about it since this
// server started; atStart: it was there then.
func decide(have, want *v1.APIService, first, atStart bool) step {
	switch {
	case want == nil && have == nil, want != nil && want.Labels[automanaged] == onStart && !first:
		return nothing
	case have == nil:
		return create
	}
	switch have.Labels[automanaged] {
	case always:
	case onStart:
		if !first || !atStart {
			return nothing
		}
	default: // somebody else's
		return nothing
	}
	switch {
	case want == nil:
		return remove
	case !equality.Semantic.DeepEqual(have.Spec, want.Spec):
		return update
	}
	return nothing
}

package aggregate

import (
	"cmp"
	"slices"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/version"
	"k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"skiff/pkg/api"
)

// Group is a group as discovery lists it, its preferred version first.
type Group struct {
	Name     string
	Versions []Version
}

// Version is a version of a group. Remote is nil for what is served here.
type Version struct {
	schema.GroupVersion
	Remote *Remote
}

// candidate is a version with its place among all others.
type candidate struct {
	Version
	groupPriority, versionPriority int32
}

// Groups are all that are served, here or elsewhere, in the order of their priorities: those of the APIServices,
// where there are some.
func (s *State) Groups(view *api.View) []Group {
	var all []candidate
	add := func(gv schema.GroupVersion, remote *Remote) {
		c := candidate{Version: Version{gv, remote}}
		c.groupPriority, c.versionPriority = api.Priority(gv)
		if object := s.objects[Name(gv)]; object != nil && gv.Group != v1.GroupName {
			c.groupPriority, c.versionPriority = object.Spec.GroupPriorityMinimum, object.Spec.VersionPriority
		}
		all = append(all, c)
	}
	for _, g := range view.Groups() {
		for _, version := range g.Versions {
			if gv := (schema.GroupVersion{Group: g.Name, Version: version}); s.remotes[gv] == nil {
				add(gv, nil)
			}
		}
	}
	for gv, remote := range s.remotes {
		add(gv, remote)
	}
	return arrange(all)
}

// arrange sorts as Kubernetes does: a group stands where the first of its versions does, and of equals the one whose APIService's
// name is less.
func arrange(all []candidate) []Group {
	slices.SortFunc(all, func(a, b candidate) int {
		return cmp.Or(-cmp.Compare(a.groupPriority, b.groupPriority), cmp.Compare(Name(a.GroupVersion), Name(b.GroupVersion)))
	})
	var names []string
	versions := map[string][]candidate{}
	for _, c := range all {
		if versions[c.Group] == nil {
			names = append(names, c.Group)
		}
		versions[c.Group] = append(versions[c.Group], c)
	}
	groups := make([]Group, len(names))
	for i, name := range names {
		groups[i].Name = name
		slices.SortFunc(versions[name], func(a, b candidate) int {
			return cmp.Or(-cmp.Compare(a.versionPriority, b.versionPriority), -version.CompareKubeAwareVersionStrings(a.GroupVersion.Version, b.GroupVersion.Version))
		})
		for _, c := range versions[name] {
			groups[i].Versions = append(groups[i].Versions, c.Version)
		}
	}
	return groups
}

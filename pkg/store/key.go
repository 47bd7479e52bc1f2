package store

import (
	"strings"

	"skiff/pkg/api"
)

// String is the key as in etcd, without the prefix of all.
func (k Key) String() string { return k.Path + "/" + k.suffix() }

// suffix orders the objects of one resource as etcd does.
func (k Key) suffix() string {
	if k.Namespace == "" {
		return k.Name
	}
	return k.Namespace + "/" + k.Name
}

// parseSuffix is suffix's reverse.
func parseSuffix(kind *api.Kind, suffix string) Key {
	key := Key{Path: kind.StoragePath, Name: suffix}
	if kind.Namespaced {
		key.Namespace, key.Name, _ = strings.Cut(suffix, "/")
	}
	return key
}

// sound says whether the key names one object and nothing outside of its resource.
func (k Key) sound(kind *api.Kind) bool {
	return segment(k.Name) && kind.Namespaced == (k.Namespace != "") && (k.Namespace == "" || segment(k.Namespace))
}

func segment(s string) bool {
	return s != "" && s != "." && s != ".." && !strings.ContainsAny(s, "/\x00")
}

package store

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"strings"

	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"

	"skiff/pkg/api"
)

// filter is what a list or a watch is narrowed to. Matching allocates nothing.
type filter struct {
	namespace, name string
	labels          labels.Selector // nil: any
	fields          fields.Selector // nil: any
	everything      bool            // nothing but a namespace may narrow it
	// kind is set when fields are those of a custom resource in some version: each version has
	// fields of its own.
	kind *api.Kind
}

func newFilter(kind *api.Kind, namespace, name string, l labels.Selector, f fields.Selector) filter {
	if l != nil && l.Empty() {
		l = nil
	}
	if f != nil && f.Empty() {
		f = nil
	}
	out := filter{namespace: namespace, name: name, labels: l, fields: f}
	out.everything = name == "" && l == nil && f == nil
	if f != nil && name == "" { // a list by name is one look-up
		out.name, _ = f.RequiresExactMatch("metadata.name")
	}
	if f != nil && kind.Custom != nil {
		for _, r := range f.Requirements() {
			if r.Field != "metadata.name" && r.Field != "metadata.namespace" {
				out.kind = kind
			}
		}
	}
	return out
}

func (f *filter) match(e *Entry) bool {
	return e != nil &&
		(f.namespace == "" || f.namespace == e.Key.Namespace) &&
		(f.name == "" || f.name == e.Key.Name) &&
		(f.labels == nil || f.labels.Matches(e.Labels)) &&
		(f.fields == nil || f.fields.Matches(f.fieldsOf(e)))
}

func (f *filter) fieldsOf(e *Entry) fields.Set {
	if f.kind == nil {
		return e.Fields
	}
	set, _ := e.fieldsAs(f.kind) // check has told of an error
	return set
}

// check reports why it can't be said whether an entry matches; nil is usual.
func (f *filter) check(e *Entry) error {
	if f.kind == nil || e == nil || e.err != nil {
		return nil
	}
	_, err := e.fieldsAs(f.kind)
	return err
}

// trigger is a value that a field must have before or after a change for a watcher to care. The zero trigger is any change.
type trigger struct{ field, value string }

// trigger picks the narrowest condition that f implies.
func (f *filter) trigger() trigger {
	if f.name != "" {
		return trigger{"metadata.name", f.name}
	}
	if f.fields != nil && f.kind == nil {
		for _, r := range f.fields.Requirements() {
			if value, exact := f.fields.RequiresExactMatch(r.Field); exact && r.Field != "metadata.namespace" {
				return trigger{r.Field, value}
			}
		}
	}
	if f.namespace != "" {
		return trigger{"metadata.namespace", f.namespace}
	}
	return trigger{}
}

// continueToken is the form that Kubernetes gives its continue tokens.
type continueToken struct {
	Version  string `json:"v"`
	Revision int64  `json:"rv"`
	Start    string `json:"start"`
}

const continueVersion = "meta.k8s.io/v1"

// formatContinue makes the token for a list to go on from start, which is relative to the
// list's prefix, at a revision (-1: at the newest state).
func formatContinue(start string, revision int64) string {
	data, _ := json.Marshal(continueToken{continueVersion, revision, start})
	return base64.RawURLEncoding.EncodeToString(data)
}

func parseContinue(token string) (start string, revision int64, err error) {
	data, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil {
		return "", 0, fmt.Errorf("continue key is not valid: %w", err)
	}
	var t continueToken
	if err := json.Unmarshal(data, &t); err != nil {
		return "", 0, fmt.Errorf("continue key is not valid: %w", err)
	}
	switch {
	case t.Version != continueVersion:
		return "", 0, fmt.Errorf("continue key is not valid: server does not recognize this encoded version %s", t.Version)
	case t.Revision == 0:
		return "", 0, errors.New("continue key is not valid: incorrect encoded start resourceVersion (version meta.k8s.io/v1)")
	case t.Start == "":
		return "", 0, errors.New("continue key is not valid: encoded start key empty (version meta.k8s.io/v1)")
	}
	// A start that climbs out of its prefix would show another namespace.
	rooted := "/" + strings.TrimPrefix(t.Start, "/")
	if path.Clean(rooted) != rooted {
		return "", 0, fmt.Errorf("continue key is not valid: %s", t.Start)
	}
	return rooted[1:], t.Revision, nil
}

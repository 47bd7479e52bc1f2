package openapi

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// Others knows the documents of other servers, for the versions of groups that are theirs.
type Others interface {
	// Documents are the URLs of v3 documents, by their names in the index.
	Documents() map[string]string
	// Swagger asks for v2 documents, which may take seconds. Each is keyed by what the paths begin with that count in it.
	Swagger(ctx context.Context) map[string][]byte
}

// mergedAge is how long a document of v2 with parts of others is good: those say nothing when they change.
const mergedAge = time.Minute

// swagger is the v2 document, with the parts of others.
func (s *Service) swagger(ctx context.Context) (*document, error) {
	if s.config.Others == nil {
		return s.get("")
	}
	view := s.config.Catalogue.View()
	s.mu.Lock()
	merged, fresh := s.merged, s.mergedOf == view && time.Since(s.mergedAt) < mergedAge
	s.mu.Unlock()
	if merged != nil && fresh {
		return merged, nil
	}
	parts := s.config.Others.Swagger(ctx)
	if len(parts) == 0 {
		return s.get("")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	content, err := s.source().v2Document()
	if err != nil {
		return nil, err
	}
	for prefix, text := range parts {
		var other object
		if err := json.Unmarshal(text, &other); err != nil {
			continue // the server says nothing that could be shown
		}
		adopt(content, other, prefix)
	}
	s.merged, err = newDocument(content, v2Protobuf)
	s.mergedOf, s.mergedAt = view, time.Now()
	return s.merged, err
}

// adopt adds to a v2 document what another one says of the paths with a prefix, and what that refers to. Definitions that have
// the name of different ones get another, as Kubernetes gives it.
func adopt(into, other object, prefix string) {
	a := &adoption{into: into["definitions"].(object), names: map[string]string{}}
	a.theirs, _ = other["definitions"].(object)
	paths, _ := other["paths"].(object)
	for path, item := range paths {
		if strings.HasPrefix(path, prefix) || path+"/" == prefix {
			a.follow(item)
			into["paths"].(object)[path] = item
		}
	}
	// Parameters that several operations share have names that are made of their content.
	if theirs, _ := other["parameters"].(object); len(theirs) > 0 {
		all, _ := into["parameters"].(object)
		if all == nil {
			all = object{}
			into["parameters"] = all
		}
		for name, parameter := range theirs {
			a.follow(parameter)
			all[name] = parameter
		}
	}
}

type adoption struct {
	into, theirs object
	names        map[string]string // what their definitions are called here
}

// follow takes the definitions along that a part of the document refers to, and lets it refer to them as they are called here.
func (a *adoption) follow(v any) {
	switch v := v.(type) {
	case object:
		if ref, ok := v["$ref"].(string); ok {
			if name, ok := strings.CutPrefix(ref, v2.prefix); ok {
				v["$ref"] = v2.prefix + a.take(name)
			}
		}
		for _, e := range v {
			a.follow(e)
		}
	case []any:
		for _, e := range v {
			a.follow(e)
		}
	}
}

func (a *adoption) take(name string) string {
	if known, ok := a.names[name]; ok {
		return known
	}
	definition, here := a.theirs[name], name
	for n := 2; a.into[here] != nil && !same(a.into[here], definition); n++ {
		here = fmt.Sprintf("%s_v%d", name, n)
	}
	a.names[name] = here // before it is looked at: it may refer to itself
	if a.into[here] == nil && definition != nil {
		a.into[here] = definition
		a.follow(definition)
	}
	return here
}

func same(a, b any) bool {
	one, err := json.Marshal(a)
	two, err2 := json.Marshal(b)
	return err == nil && err2 == nil && bytes.Equal(one, two)
}

package aggregate

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

// documentPath is how the index of OpenAPI v3 documents calls a version's: "apis/<group>/<version>".
func documentPath(gv schema.GroupVersion) string {
	if gv.Group == "" {
		return "api/" + gv.Version
	}
	return "apis/" + gv.Group + "/" + gv.Version
}

// findDocument is where a server has the OpenAPI v3 document of its version. When it doesn't say, it is where it was.
func (a *Aggregator) findDocument(ctx context.Context, r *Remote) string {
	var index struct {
		Paths map[string]struct{ ServerRelativeURL string }
	}
	if err := a.get(ctx, r, "/openapi/v3", &index); err != nil {
		if isStatus(err, http.StatusNotFound) {
			return ""
		}
		return r.document
	}
	return index.Paths[documentPath(versionOf(r.object))].ServerRelativeURL
}

// Documents are the URLs of other servers' OpenAPI v3 documents, by their names in the index.
func (a *Aggregator) Documents() map[string]string {
	s := a.State()
	if s.Alone() {
		return nil
	}
	all := map[string]string{}
	for gv, r := range s.remotes {
		if r.document != "" {
			all[documentPath(gv)] = r.document
		}
	}
	return all
}

// At is the server of the version that a path names (like that of a document); nil if it is this one.
func (s *State) At(path string) *Remote {
	parts := strings.Split(path, "/")
	switch {
	case len(parts) == 3 && parts[0] == "apis":
		return s.remotes[schema.GroupVersion{Group: parts[1], Version: parts[2]}]
	case len(parts) == 2 && parts[0] == "api":
		return s.remotes[schema.GroupVersion{Version: parts[1]}]
	}
	return nil
}

// Swagger asks the servers that answer for their OpenAPI v2 documents: by what the paths of their versions begin with.
func (a *Aggregator) Swagger(ctx context.Context) map[string][]byte {
	var group sync.WaitGroup
	var mu sync.Mutex
	all := map[string][]byte{}
	for gv, r := range a.State().remotes {
		if !r.Available() {
			continue
		}
		group.Go(func() {
			var text json.RawMessage
			if err := a.get(ctx, r, "/openapi/v2", &text); err != nil {
				a.cfg.Logger.Info("the server of an APIService has no OpenAPI v2 document", "name", r.object.Name, "error", err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			all["/"+documentPath(gv)+"/"] = text
		})
	}
	group.Wait()
	return all
}

package apiserver

import (
	"net/http"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"skiff/pkg/apiserver/fair"
	"skiff/pkg/apiserver/request"
)

// fairly has a request wait for its seat, or refuses it, by the priority level that it is of. Health always
// answers, whatever flow schemas say.
func (s *server) fairly(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx := r.Context()
		info := request.InfoFrom(ctx)
		if isHealth(info.Path) {
			next.ServeHTTP(w, r)
			return
		}
		match := s.flow.Classify(request.UserFrom(ctx), info)
		header := w.Header()
		header.Set("X-Kubernetes-PF-FlowSchema-UID", string(match.SchemaUID))
		header.Set("X-Kubernetes-PF-PriorityLevel-UID", string(match.LevelUID))
		ticket, err := s.flow.Admit(ctx, match, s.width(r, info), s.cfg.RequestTimeout/4)
		if err != nil {
			s.writeError(w, r, apierrors.NewTooManyRequests("Too many requests, please try again later.", 1))
			return
		}
		defer ticket.Release()
		running := s.metrics.inFlight.WithLabelValues(requestKind(info))
		running.Inc()
		defer running.Dec()
		if info.LongRunning() {
			r = r.WithContext(request.WithStarted(ctx, ticket.Release))
		}
		next.ServeHTTP(w, r)
	})
}

func isHealth(path string) bool {
	endpoint, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	return endpoint == "healthz" || endpoint == "livez" || endpoint == "readyz"
}

func requestKind(info *request.Info) string {
	switch info.Verb {
	case "get", "list", "watch":
		return "readOnly"
	}
	return "mutating"
}

// width is how many seats a request takes: one, or for what lists one for every so many objects.
func (s *server) width(r *http.Request, info *request.Info) int {
	if info.Verb != "list" && info.Verb != "watch" || info.Name != "" {
		return 1
	}
	kind := s.cfg.Catalogue.View().ByResource(info.GroupVersion().WithResource(info.Resource))
	if kind == nil || kind.Virtual {
		return 1
	}
	return fair.ListWidth(info.Verb == "watch", info.FieldsRaw+info.LabelsRaw != "", r.URL.Query(), func(limit int) int {
		return s.store.Count(kind, info.Namespace, limit)
	})
}

package apiserver

import (
	"bufio"
	"context"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/util/uuid"

	"skiff/pkg/apiserver/audit"
	"skiff/pkg/apiserver/authn"
	"skiff/pkg/apiserver/authz"
	"skiff/pkg/apiserver/request"
)

// filters wraps what every request passes through, outermost last.
func (s *server) filters(next http.Handler) http.Handler {
	next = s.authorize(next)
	next = s.fairly(next)
	next = s.impersonate(next)
	next = s.audited(next)
	next = s.authenticate(next)
	next = s.bound(next)
	next = s.observe(next)
	next = s.identify(next)
	return s.survive(next)
}

// survive keeps a panic to its request, and counts what runs.
func (s *server) survive(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.running.Add(1)
		defer s.running.Add(-1)
		defer func() {
			reason := recover()
			if reason == nil {
				return
			}
			if reason == http.ErrAbortHandler {
				panic(reason)
			}
			s.logger.Error("panic in a handler", "panic", reason, "method", r.Method, "path", r.URL.Path, "stack", string(debug.Stack()))
			http.Error(w, "This request caused apiserver to panic. Look in the logs for details.", http.StatusInternalServerError)
		}()
		next.ServeHTTP(w, r)
	})
}

// identify gives a request its audit id, its parsed path, and a place for warnings.
func (s *server) identify(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := r.Header.Get("Audit-ID")
		if id == "" || len(id) > 64 {
			id = string(uuid.NewUUID())
		}
		w.Header().Set("Audit-Id", id)
		w.Header().Set("Cache-Control", "no-cache, private")
		info, err := request.Parse(r)
		if err != nil {
			s.writeError(w, r, apierrors.NewBadRequest(err.Error()))
			return
		}
		ctx := request.WithInfo(request.WithAuditID(r.Context(), id), info)
		warnings := &warnings{header: w.Header(), seen: map[string]bool{}}
		ctx = request.WithWarn(ctx, warnings.add)
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

// warnings puts each text once into a Warning header (RFC 7234 §5.5, code 299), up to a total size.
type warnings struct {
	header http.Header
	seen   map[string]bool
	size   int
}

// maxWarnings is how many bytes of warnings a response carries: a proxy may refuse headers above that.
const maxWarnings = 4 << 10

func (w *warnings) add(text string) {
	if w.seen[text] {
		return
	}
	w.seen[text] = true
	value, err := utilnet.NewWarningHeader(299, "-", text)
	if err != nil || w.size+len(value) > maxWarnings {
		return
	}
	w.size += len(value)
	w.header.Add("Warning", value)
}

// bound limits the time of what isn't long-running, to the client's ?timeout if that is less.
func (s *server) bound(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		info := request.InfoFrom(r.Context())
		if info.LongRunning() {
			if s.stopping.Err() != nil { // another server has an answer
				w.Header().Set("Connection", "close")
				w.Header().Set("Retry-After", "1")
				s.writeError(w, r, apierrors.NewServiceUnavailable("the server is stopping"))
				return
			}
			ctx, cancel := context.WithCancel(r.Context())
			defer cancel()
			defer context.AfterFunc(s.stopping, cancel)()
			next.ServeHTTP(w, r.WithContext(ctx))
			return
		}
		limit := s.cfg.RequestTimeout
		if text := r.URL.Query().Get("timeout"); text != "" {
			asked, err := time.ParseDuration(text)
			if err != nil {
				s.writeError(w, r, apierrors.NewBadRequest("invalid timeout specified in the request URL - "+err.Error()))
				return
			}
			if asked > 0 {
				limit = min(limit, asked)
			}
		}
		ctx, cancel := context.WithTimeout(r.Context(), limit)
		defer cancel()
		growStack(len(r.URL.Path))
		// A body that never ends must not hold the request for longer.
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(limit))
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

// authenticate finds out who asks.
func (s *server) authenticate(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, err := s.cfg.Authenticator.Authenticate(r)
		if err != nil {
			s.logger.Debug("authentication failed", "error", err, "path", r.URL.Path)
			s.auditUnknown(r)
			s.writeError(w, r, apierrors.NewUnauthorized("Unauthorized"))
			return
		}
		next.ServeHTTP(w, r.WithContext(request.WithUser(r.Context(), user)))
	})
}

// impersonate finds out whom for.
func (s *server) impersonate(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx := r.Context()
		other, err := authn.Impersonate(r.Header, func(info *request.Info) error { return s.may(ctx, request.UserFrom(ctx), info) })
		if err != nil {
			s.writeError(w, r, err)
			return
		}
		if other != nil {
			audit.From(ctx).Impersonated(other)
			r = r.WithContext(request.WithUser(ctx, other))
		}
		next.ServeHTTP(w, r)
	})
}

func (s *server) authorize(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx := r.Context()
		user, info := request.UserFrom(ctx), request.InfoFrom(ctx)
		verdict := s.cfg.Authorizer.Authorize(ctx, user, info)
		if audit.From(ctx) != nil { // else the reason need not be put into words
			decision := "forbid"
			if verdict.Allowed {
				decision = "allow"
			}
			request.Annotate(ctx, "authorization.k8s.io/decision", decision)
			request.Annotate(ctx, "authorization.k8s.io/reason", verdict.Reason())
		}
		if !verdict.Allowed {
			w.Header().Set("X-Content-Type-Options", "nosniff")
			s.writeError(w, r, authz.Forbidden(user, info, verdict.Reason()))
			return
		}
		next.ServeHTTP(w, r)
	})
}

// may returns the refusal of what a user may not do.
func (s *server) may(ctx context.Context, user *request.User, info *request.Info) error {
	verdict := s.cfg.Authorizer.Authorize(ctx, user, info)
	if verdict.Allowed {
		return nil
	}
	return authz.Forbidden(user, info, verdict.Reason())
}

// observe counts and logs what was answered.
func (s *server) observe(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began := time.Now()
		seen := &statusWriter{ResponseWriter: w}
		info := request.InfoFrom(r.Context())
		if info.LongRunning() {
			running := s.metrics.longRunning.WithLabelValues(longRunningLabels(info)...)
			running.Inc()
			defer running.Dec()
		}
		defer func() {
			s.metrics.request(info, r, seen.code(), time.Since(began))
			if s.logger.Enabled(r.Context(), slog.LevelDebug) {
				s.logger.Debug("request", "verb", info.Verb, "uri", r.RequestURI, "code", seen.code(), "took", time.Since(began), "agent", r.UserAgent(),
					"audit", request.AuditIDFrom(r.Context()))
			}
		}()
		next.ServeHTTP(seen, r)
	})
}

// statusWriter remembers the status that was sent.
type statusWriter struct {
	http.ResponseWriter
	status int
	first  func(code int) // is called with it; may be nil
}

func (w *statusWriter) note(code int) {
	if w.status != 0 {
		return
	}
	w.status = code
	if w.first != nil {
		w.first(code)
	}
}

func (w *statusWriter) WriteHeader(code int) {
	if code >= 200 || code == http.StatusSwitchingProtocols {
		w.note(code)
	}
	w.ResponseWriter.WriteHeader(code)
}

func (w *statusWriter) Write(p []byte) (int, error) {
	w.note(http.StatusOK)
	return w.ResponseWriter.Write(p)
}

// Hijack and Flush are for those who don't ask http.ResponseController.
func (w *statusWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	w.note(http.StatusSwitchingProtocols)
	return http.NewResponseController(w.ResponseWriter).Hijack()
}

// Flush sends what was written.
func (w *statusWriter) Flush() { _ = http.NewResponseController(w.ResponseWriter).Flush() }

// Unwrap lets http.ResponseController find what the connection can do.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *statusWriter) code() int {
	if w.status == 0 {
		return http.StatusOK
	}
	return w.status
}

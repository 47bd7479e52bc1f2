package component

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
)

// Health is a set of named checks behind /healthz, /livez and /readyz, with
// Kubernetes' output: "ok", or with ?verbose a line per check, ?exclude=NAME,
// and /healthz/NAME for one check. The zero value has only "ping".
type Health struct {
	mu     sync.RWMutex
	checks []check
}

// Notice is what a check returns that passes and has something to say all the same.
type Notice string

func (n Notice) Error() string { return string(n) }

type check struct {
	name     string
	onlyRead bool // counts for /readyz only
	run      func() error
}

// Live adds a check whose failure means that the process wants a restart.
func (h *Health) Live(name string, run func() error) { h.add(check{name, false, run}) }

// Ready adds a check whose failure means that the process can't do its work now.
func (h *Health) Ready(name string, run func() error) { h.add(check{name, true, run}) }

func (h *Health) add(c check) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.checks = append(h.checks, c)
}

// Handle registers the three endpoints and those of the single checks.
func (h *Health) Handle(handle func(pattern string, handler http.Handler)) {
	for _, endpoint := range []string{"healthz", "livez", "readyz"} {
		handler := h.Endpoint(endpoint)
		handle("/"+endpoint, handler)
		handle("/"+endpoint+"/", handler)
	}
}

// Endpoint is the handler of one of "healthz", "livez" and "readyz", for its
// own path and the paths of single checks below it.
func (h *Health) Endpoint(endpoint string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.serve(w, r, endpoint)
	})
}

func (h *Health) serve(w http.ResponseWriter, r *http.Request, endpoint string) {
	h.mu.RLock()
	checks := append([]check{{name: "ping"}}, h.checks...)
	h.mu.RUnlock()
	if endpoint != "readyz" {
		checks = slices.DeleteFunc(checks, func(c check) bool { return c.onlyRead })
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-cache, private")

	if _, one, ok := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/"); ok && one != "" {
		i := slices.IndexFunc(checks, func(c check) bool { return c.name == one })
		if i < 0 {
			http.Error(w, "404 page not found", http.StatusNotFound)
			return
		}
		if err := checks[i].err(); failed(err) {
			http.Error(w, "internal server error: "+err.Error(), http.StatusInternalServerError)
			return
		}
		fmt.Fprint(w, "ok")
		return
	}

	exclude := r.URL.Query()["exclude"]
	var report strings.Builder
	broken := false
	for _, c := range checks {
		if slices.Contains(exclude, c.name) {
			fmt.Fprintf(&report, "[+]%s excluded: ok\n", c.name)
			continue
		}
		err := c.err()
		if failed(err) {
			broken = true
			fmt.Fprintf(&report, "[-]%s failed: %v\n", c.name, err)
			continue
		}
		if err != nil {
			fmt.Fprintf(&report, "[+]%s ok: %v\n", c.name, err)
			continue
		}
		fmt.Fprintf(&report, "[+]%s ok\n", c.name)
	}
	switch {
	case broken:
		w.WriteHeader(http.StatusInternalServerError)
		fmt.Fprintf(w, "%s%s check failed\n", report.String(), endpoint)
	case r.URL.Query().Has("verbose"):
		fmt.Fprintf(w, "%s%s check passed\n", report.String(), endpoint)
	default:
		fmt.Fprint(w, "ok")
	}
}

func failed(err error) bool {
	_, notice := errors.AsType[Notice](err)
	return err != nil && !notice
}

func (c check) err() error {
	if c.run == nil {
		return nil
	}
	return c.run()
}

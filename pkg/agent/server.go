package agent

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	authorizationv1 "k8s.io/api/authorization/v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"skiff/pkg/agent/runtime"
	"skiff/pkg/agent/stats"
	"skiff/pkg/agent/stream"
	"skiff/pkg/component"
)

// ServerConfig is the HTTPS endpoint: the kubelet's API. Who may use it is
// asked of the apiserver: the right is to nodes/log, nodes/stats, nodes/metrics,
// nodes/pods, nodes/healthz, or for all else nodes/proxy.
type ServerConfig struct {
	Address  string
	Port     int    // 0: none
	CertFile string // empty: a self-signed one, made in memory
	KeyFile  string
	// Certificate comes before CertFile and the self-signed one, except when it fails.
	Certificate  func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	ClientCAFile string            // who signs client certificates
	Health       *component.Health // nil: only ping
	Metrics      *prometheus.Registry
	// Access replaces the delegation to the apiserver.
	Access component.Access
}

// serve runs the HTTPS endpoint.
func (a *Agent) serve(ctx context.Context) error {
	c := a.cfg.Server
	if c.Port == 0 {
		<-ctx.Done()
		return nil
	}
	certificate, err := servingCertificate(c, a.cfg.NodeName, a.hostIPs())
	if err != nil {
		return err
	}
	access := c.Access
	if access == nil {
		access = &nodeAccess{node: a.cfg.NodeName, delegated: &component.Delegated{Client: a.cfg.Client, ClientCAFile: c.ClientCAFile, Attributes: nodeAttributes}}
	}
	server := &http.Server{
		Handler:           guard(access, a.handler()),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       90 * time.Second,
		TLSConfig:         &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: certificate, ClientAuth: tls.RequestClientCert, NextProtos: []string{"http/1.1"}},
		ErrorLog:          slog.NewLogLogger(a.log.Handler(), slog.LevelDebug),
		BaseContext:       func(net.Listener) context.Context { return ctx },
		// Upgrades need the connection: no HTTP/2.
		TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){},
	}
	listener, err := net.Listen("tcp", net.JoinHostPort(c.Address, strconv.Itoa(c.Port)))
	if err != nil {
		return fmt.Errorf("serve the kubelet's API: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	if err := server.ServeTLS(listener, "", ""); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve the kubelet's API: %w", err)
	}
	return nil
}

// servingCertificate is the configured one, the files', which are read again when they change, or a
// self-signed one.
func servingCertificate(c ServerConfig, name string, ips []string) (func(*tls.ClientHelloInfo) (*tls.Certificate, error), error) {
	if own := c.Certificate; own != nil {
		c.Certificate = nil
		otherwise, err := servingCertificate(c, name, ips)
		return func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			if pair, err := own(hello); err == nil {
				return pair, nil
			}
			return otherwise(hello)
		}, err
	}
	if c.CertFile != "" {
		return component.ReloadingCertificate(c.CertFile, c.KeyFile)
	}
	pair, err := selfSigned(name, ips)
	if err != nil {
		return nil, err
	}
	return func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return pair, nil }, nil
}

func guard(access component.Access, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if code, reason := access.Check(r); code != http.StatusOK {
			http.Error(w, reason, code)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// nodeAccess asks for the finer right first, then for the coarser one, as the
// kubelet does (KEP-2862).
type nodeAccess struct {
	node      string
	delegated *component.Delegated
}

type attributesKey struct{}

func (n *nodeAccess) Check(r *http.Request) (int, string) {
	code, reason := http.StatusForbidden, "Forbidden"
	for _, subresource := range subresources(r.URL.Path) {
		attributes := &authorizationv1.ResourceAttributes{
			Verb: verbs[r.Method], Version: "v1", Resource: "nodes", Subresource: subresource, Name: n.node}
		code, reason = n.delegated.Check(r.WithContext(context.WithValue(r.Context(), attributesKey{}, attributes)))
		if code != http.StatusForbidden {
			break
		}
		reason = fmt.Sprintf("Forbidden (verb=%s, resource=nodes, subresource(s)=%v)", attributes.Verb, subresources(r.URL.Path))
	}
	return code, reason
}

var verbs = map[string]string{http.MethodPost: "create", http.MethodGet: "get", http.MethodHead: "get",
	http.MethodPut: "update", http.MethodPatch: "patch", http.MethodDelete: "delete"}

func nodeAttributes(r *http.Request) (*authorizationv1.ResourceAttributes, *authorizationv1.NonResourceAttributes) {
	attributes, _ := r.Context().Value(attributesKey{}).(*authorizationv1.ResourceAttributes)
	return attributes, nil
}

// subresources are the rights to nodes that open a path.
func subresources(path string) []string {
	below := func(root string) bool { return path == root || strings.HasPrefix(path, root+"/") }
	switch {
	case below("/stats"):
		return []string{"stats"}
	case below("/metrics"):
		return []string{"metrics"}
	case below("/logs"):
		return []string{"log"}
	case below("/pods"), below("/runningpods"):
		return []string{"pods", "proxy"}
	case below("/healthz"):
		return []string{"healthz", "proxy"}
	case below("/configz"):
		return []string{"configz", "proxy"}
	}
	return []string{"proxy"}
}

func (a *Agent) handler() http.Handler {
	mux := http.NewServeMux()
	health := a.cfg.Server.Health
	if health == nil {
		health = &component.Health{}
	}
	health.Handle(mux.Handle)
	mux.HandleFunc("GET /containerLogs/{namespace}/{pod}/{container}", a.serveLogs)
	for _, path := range []string{"/{namespace}/{pod}/{container}", "/{namespace}/{pod}/{uid}/{container}"} {
		mux.HandleFunc("/exec"+path, a.serveExec)
		mux.HandleFunc("/attach"+path, a.serveAttach)
		mux.HandleFunc("POST /run"+path, a.serveRun)
	}
	for _, path := range []string{"/{namespace}/{pod}", "/{namespace}/{pod}/{uid}"} {
		mux.HandleFunc("/portForward"+path, a.servePortForward)
	}
	mux.HandleFunc("GET /pods", a.servePods)
	mux.HandleFunc("GET /pods/", a.servePods)
	mux.HandleFunc("GET /runningpods/", a.servePods)
	mux.HandleFunc("GET /stats/summary", a.serveStats)
	mux.HandleFunc("GET /metrics/resource", a.serveResourceMetrics)
	mux.Handle("GET /logs/", http.StripPrefix("/logs/", http.FileServer(http.Dir("/var/log"))))
	registry := a.cfg.Server.Metrics
	if registry == nil {
		registry = component.Metrics()
	}
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	return mux
}

// view is what others may see of a worker's pod.
type view struct {
	pod        *v1.Pod
	status     v1.PodStatus
	containers map[string]containerView
}

type containerView struct {
	id      string
	cgroup  string
	running bool
	done    <-chan struct{} // closed when the attempt has ended
	spec    *v1.Container
	started time.Time
}

// look publishes the worker's view of its pod.
func (w *worker) look(status v1.PodStatus) {
	v := &view{pod: w.pod, status: status, containers: map[string]containerView{}}
	for _, c := range w.state.Containers {
		cv := containerView{spec: c.Spec}
		if a := c.Current; a != nil {
			cv.id, cv.cgroup, cv.running, cv.done, cv.started = a.ID, a.Cgroup, a.Running(), a.Done, a.StartedAt
		}
		v.containers[c.Name] = cv
	}
	w.seen.Store(v)
}

// pod finds a pod of this node by name, of that uid if one is given.
func (a *Agent) pod(namespace, name string, uid types.UID) *view {
	a.mu.Lock()
	defer a.mu.Unlock()
	var found *view
	for _, w := range a.workers {
		v := w.seen.Load()
		if v == nil || v.pod.Namespace != namespace || v.pod.Name != name || uid != "" && v.pod.UID != uid {
			continue
		}
		// Of two pods of one name the older is on its way out.
		if found == nil || found.pod.CreationTimestamp.Before(&v.pod.CreationTimestamp) {
			found = v
		}
	}
	return found
}

// target finds the running container that a request names, or answers it.
func (a *Agent) target(w http.ResponseWriter, r *http.Request) (*view, containerView, bool) {
	v := a.pod(r.PathValue("namespace"), r.PathValue("pod"), types.UID(r.PathValue("uid")))
	if v == nil {
		http.Error(w, "pod does not exist", http.StatusNotFound)
		return nil, containerView{}, false
	}
	name := r.PathValue("container")
	c, ok := v.containers[name]
	if !ok || !c.running {
		http.Error(w, fmt.Sprintf("container not found (%q)", name), http.StatusNotFound)
		return nil, containerView{}, false
	}
	return v, c, true
}

func (a *Agent) serveExec(w http.ResponseWriter, r *http.Request) {
	_, c, ok := a.target(w, r)
	if !ok {
		return
	}
	command := r.URL.Query()[v1.ExecCommandParam]
	if len(command) == 0 {
		http.Error(w, "you must specify a command", http.StatusBadRequest)
		return
	}
	stream.Serve(w, r, false, func(ctx context.Context, s stream.Streams) error {
		code, err := a.runtime.Exec(ctx, c.id, runtime.ExecConfig{Args: command, Terminal: s.TTY, Stdin: s.Stdin, Stdout: s.Stdout, Stderr: s.Stderr, Resize: s.Resize})
		if err == nil && code != 0 {
			err = stream.ExitError(code)
		}
		return err
	})
}

func (a *Agent) serveAttach(w http.ResponseWriter, r *http.Request) {
	_, c, ok := a.target(w, r)
	if !ok {
		return
	}
	stream.Serve(w, r, true, func(ctx context.Context, s stream.Streams) error {
		config := runtime.AttachConfig{Stdout: s.Stdout, Stderr: s.Stderr, StdinOnce: c.spec.StdinOnce, Resize: s.Resize}
		if c.spec.Stdin {
			config.Stdin = s.Stdin
		}
		return a.runtime.Attach(ctx, c.id, config)
	})
}

// serveRun runs a command without streams, and answers with its output.
func (a *Agent) serveRun(w http.ResponseWriter, r *http.Request) {
	_, c, ok := a.target(w, r)
	if !ok {
		return
	}
	out := &limitedBuffer{limit: 16 << 20}
	code, err := a.runtime.Exec(r.Context(), c.id, runtime.ExecConfig{Args: strings.Split(r.FormValue("cmd"), " "), Stdout: out, Stderr: out})
	if err == nil && code != 0 {
		err = stream.ExitError(code)
	}
	if err != nil {
		http.Error(w, fmt.Sprintf("%v: %s", err, out), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(out.data)
}

func (a *Agent) servePortForward(w http.ResponseWriter, r *http.Request) {
	v := a.pod(r.PathValue("namespace"), r.PathValue("pod"), types.UID(r.PathValue("uid")))
	if v == nil {
		http.Error(w, "pod does not exist", http.StatusNotFound)
		return
	}
	netns := a.runtime.Sandbox(sandboxConfig(v.pod, a)).Net
	stream.PortForward(w, r, func(ctx context.Context, port int32) (net.Conn, error) {
		return a.runtime.Dial(ctx, netns, port)
	})
}

func (a *Agent) views() []*view {
	a.mu.Lock()
	defer a.mu.Unlock()
	var out []*view
	for _, w := range a.workers {
		if v := w.seen.Load(); v != nil {
			out = append(out, v)
		}
	}
	return out
}

func (a *Agent) servePods(w http.ResponseWriter, _ *http.Request) {
	list := v1.PodList{}
	list.Kind, list.APIVersion = "PodList", "v1"
	for _, v := range a.views() {
		pod := v.pod.DeepCopy()
		pod.Status = v.status
		list.Items = append(list.Items, *pod)
	}
	writeJSON(w, list)
}

func (a *Agent) serveStats(w http.ResponseWriter, r *http.Request) {
	writeJSON(w, a.summary(r.URL.Query().Get("only_cpu_and_memory") == "true"))
}

func (a *Agent) serveResourceMetrics(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	_ = stats.WriteMetrics(w, a.summary(true))
}

func (a *Agent) summary(brief bool) stats.Summary {
	reader := stats.Reader{V2: a.runtime.Host().CgroupV2, Node: a.cfg.NodeName, Root: a.cfg.RootDir, Parent: a.cfg.Runtime.CgroupParent, Started: a.node.started}
	var pods []stats.Pod
	for _, v := range a.views() {
		p := stats.Pod{Namespace: v.pod.Namespace, Name: v.pod.Name, UID: string(v.pod.UID), Cgroup: a.runtime.PodCgroup(string(v.pod.UID), qosClass(v.pod))}
		if v.status.StartTime != nil {
			p.Started = v.status.StartTime.Time
		}
		if !v.pod.Spec.HostNetwork {
			p.Netns = a.runtime.Sandbox(sandboxConfig(v.pod, a)).Net
		}
		for name, c := range v.containers {
			if c.running {
				p.Containers = append(p.Containers, stats.Container{Name: name, Cgroup: c.cgroup, Started: c.started})
			}
		}
		if len(p.Containers) > 0 {
			pods = append(pods, p)
		}
	}
	return reader.Summary(pods, brief)
}

func writeJSON(w http.ResponseWriter, object any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(object)
}

package agent

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strconv"
	"time"

	v1 "k8s.io/api/core/v1"

	"skiff/pkg/agent/logs"
)

// logQuery is what a request for a container's log asks for.
type logQuery struct {
	logs.Options
	previous bool
	stream   string
}

func parseLogQuery(q url.Values, now time.Time) (logQuery, error) {
	l := logQuery{Options: logs.Options{Tail: -1}, stream: v1.LogStreamAll}
	flag := func(name string) bool { v := q.Get(name); return q.Has(name) && v != "false" && v != "0" }
	number := func(name string) (int64, bool, error) {
		text := q.Get(name)
		if text == "" {
			return 0, false, nil
		}
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || n < 0 {
			return 0, false, fmt.Errorf("%s: %q is not a number that makes sense", name, text)
		}
		return n, true, nil
	}
	l.Follow, l.previous, l.Timestamps = flag("follow"), flag("previous"), flag("timestamps")
	var errs []error
	tail := "tailLines"
	if t := q.Get("tail"); t != "" && t != "all" {
		tail = "tail"
	}
	if n, set, err := number(tail); err != nil {
		errs = append(errs, err)
	} else if set {
		l.Tail = n
	}
	n, _, err := number("limitBytes")
	l.LimitBytes, errs = n, append(errs, err)
	n, set, err := number("sinceSeconds")
	errs = append(errs, err)
	if set {
		l.Since = now.Add(-time.Duration(n) * time.Second)
	}
	if text := q.Get("sinceTime"); text != "" {
		at, err := time.Parse(time.RFC3339Nano, text)
		errs = append(errs, err)
		l.Since = at
	}
	if s := q.Get("stream"); s != "" {
		l.stream = s
		if s != v1.LogStreamAll && s != v1.LogStreamStdout && s != v1.LogStreamStderr {
			errs = append(errs, fmt.Errorf("invalid stream type %q", s))
		}
	}
	return l, errors.Join(errs...)
}

// logAttempt decides whose log is meant: that of the attempt that runs, or of
// the last that did. The texts are the kubelet's.
func logAttempt(pod string, name string, status *v1.PodStatus, previous bool) (int, error) {
	var cs *v1.ContainerStatus
	for _, list := range [][]v1.ContainerStatus{status.ContainerStatuses, status.InitContainerStatuses, status.EphemeralContainerStatuses} {
		if found := statusOf(list, name); found != nil {
			cs = found
			break
		}
	}
	if cs == nil {
		return 0, fmt.Errorf("container %q in pod %q is not available", name, pod)
	}
	attempt, last := int(cs.RestartCount), cs.LastTerminationState.Terminated
	switch {
	case previous:
		if last == nil || last.ContainerID == "" {
			return 0, fmt.Errorf("previous terminated container %q in pod %q not found", name, pod)
		}
		if cs.State.Waiting != nil {
			return attempt, nil
		}
		return max(attempt-1, 0), nil
	case cs.State.Running != nil:
		return attempt, nil
	case cs.State.Terminated != nil:
		if cs.State.Terminated.ContainerID == "" {
			return 0, fmt.Errorf("container %q in pod %q is terminated", name, pod)
		}
		return attempt, nil
	case last != nil:
		if last.ContainerID == "" {
			return 0, fmt.Errorf("container %q in pod %q is terminated", name, pod)
		}
		return attempt, nil
	case cs.State.Waiting != nil:
		switch reason := cs.State.Waiting.Reason; reason {
		case "ErrImagePull":
			return 0, fmt.Errorf("container %q in pod %q is waiting to start: image can't be pulled", name, pod)
		case "ImagePullBackOff":
			return 0, fmt.Errorf("container %q in pod %q is waiting to start: trying and failing to pull image", name, pod)
		default:
			return 0, fmt.Errorf("container %q in pod %q is waiting to start: %v", name, pod, reason)
		}
	}
	return 0, fmt.Errorf("container %q in pod %q is waiting to start - no logs yet", name, pod)
}

func (a *Agent) serveLogs(w http.ResponseWriter, r *http.Request) {
	query, err := parseLogQuery(r.URL.Query(), time.Now())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	name, container := r.PathValue("pod"), r.PathValue("container")
	v := a.pod(r.PathValue("namespace"), name, "")
	if v == nil {
		http.Error(w, fmt.Sprintf("pod %q does not exist", name), http.StatusNotFound)
		return
	}
	c, ok := v.containers[container]
	if !ok {
		http.Error(w, fmt.Sprintf("container %q not found in pod %q", container, name), http.StatusNotFound)
		return
	}
	attempt, err := logAttempt(name, container, &v.status, query.previous)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	query.Ended = closed
	if query.Follow && c.running && !query.previous {
		query.Ended = c.done
	}
	path := filepath.Join(a.logDir(v.pod), container, strconv.Itoa(attempt)+".log")
	if err := a.copyLog(r.Context(), w, path, query); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("unable to retrieve container logs for containerd://%s", c.id)
		}
		http.Error(w, err.Error(), http.StatusBadRequest)
	}
}

func (a *Agent) copyLog(ctx context.Context, w http.ResponseWriter, path string, q logQuery) error {
	w.Header().Set("Content-Type", "text/plain")
	out := &flusher{w: w, control: http.NewResponseController(w)}
	if q.Follow {
		stop := out.flushRegularly()
		defer stop()
	}
	var stdout, stderr io.Writer = out, out
	switch q.stream {
	case v1.LogStreamStdout:
		stderr = nil
	case v1.LogStreamStderr:
		stdout = nil
	}
	return logs.Read(ctx, path, q.Options, stdout, stderr)
}

// closed is for logs that nothing more is written to.
var closed = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

func selfSigned(name string, ips []string) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "system:node:" + name, Organization: []string{"system:nodes"}},
		DNSNames: []string{name, "localhost"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, ip := range ips {
		template.IPAddresses = append(template.IPAddresses, net.ParseIP(ip))
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

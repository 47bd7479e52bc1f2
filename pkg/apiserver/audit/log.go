package audit

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"gopkg.in/natefinch/lumberjack.v2"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
)

// Options say where events go, and which.
type Options struct {
	PolicyFile string // empty: there is no audit log
	Path       string // of the log; "-" is standard output
	Format     string // "json"
	// MaxAge in days and MaxBackups bound what is kept of rotated files, MaxSize in MB when one is rotated; 0 is
	// no bound, and 100 MB.
	MaxAge, MaxBackups, MaxSize int
	Compress                    bool
}

// Log is an audit log. It may be used concurrently.
type Log struct {
	policy *Policy
	mu     sync.Mutex
	out    io.Writer
}

// Open returns the log of some options; nil when they ask for none.
func Open(o Options) (*Log, error) {
	switch {
	case o.PolicyFile == "" && o.Path == "":
		return nil, nil
	case o.PolicyFile == "" || o.Path == "":
		return nil, errors.New("audit: a policy and a path for the log are needed together")
	case o.Format != "" && o.Format != "json":
		return nil, fmt.Errorf("audit: invalid log format %q, must be json", o.Format)
	case o.MaxAge < 0 || o.MaxBackups < 0 || o.MaxSize < 0:
		return nil, errors.New("audit: the log's age, backups and size can't be negative")
	}
	policy, err := ReadPolicy(o.PolicyFile)
	if err != nil {
		return nil, err
	}
	if o.Path == "-" {
		return &Log{policy: policy, out: os.Stdout}, nil
	}
	// What can't be written shall be known now, not at the first request.
	if err := os.MkdirAll(filepath.Dir(o.Path), 0o700); err != nil {
		return nil, fmt.Errorf("audit log: %w", err)
	}
	file, err := os.OpenFile(o.Path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("audit log: %w", err)
	}
	if err := file.Close(); err != nil {
		return nil, fmt.Errorf("audit log: %w", err)
	}
	return &Log{policy: policy, out: &lumberjack.Logger{
		Filename: o.Path, MaxAge: o.MaxAge, MaxBackups: o.MaxBackups, MaxSize: o.MaxSize, Compress: o.Compress}}, nil
}

// write appends an event. A request doesn't fail for its event; the server's own log says that one is missing.
func (l *Log) write(event *auditv1.Event) {
	line, err := json.Marshal(event)
	if err == nil {
		l.mu.Lock()
		_, err = l.out.Write(append(line, '\n'))
		l.mu.Unlock()
	}
	if err != nil {
		slog.Error("an audit event could not be written", "audit", event.AuditID, "error", err)
	}
}

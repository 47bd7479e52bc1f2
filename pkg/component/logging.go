package component

import (
	"fmt"
	"io"
	"log/slog"
	"strconv"

	"github.com/spf13/pflag"
	"k8s.io/klog/v2"
)

// Logging holds the logger's flags.
type Logging struct {
	// Verbosity is klog's -v: 0 logs what an operator wants to know, 4 and more logs
	// what a developer wants to know.
	Verbosity int
	// Format is "text" or "json".
	Format string
}

// AddFlags registers -v and --logging-format.
func (l *Logging) AddFlags(flags *pflag.FlagSet) {
	flags.IntVarP(&l.Verbosity, "v", "v", l.Verbosity, "log level verbosity: 0 for operators, 4 and more for developers")
	flags.StringVar(&l.Format, "logging-format", "text", `log format, "text" or "json"`)
}

// Logger builds the process' logger on w, makes it slog's default, and
// redirects klog, through which client-go and other libraries log, to it, at
// the same verbosity.
func (l *Logging) Logger(w io.Writer, name string) (*slog.Logger, error) {
	level := slog.LevelInfo
	if l.Verbosity >= 4 {
		level = slog.LevelDebug
	}
	options := &slog.HandlerOptions{Level: level}
	var handler slog.Handler
	switch l.Format {
	case "", "text":
		handler = slog.NewTextHandler(w, options)
	case "json":
		handler = slog.NewJSONHandler(w, options)
	default:
		return nil, fmt.Errorf(`--logging-format %q: want "text" or "json"`, l.Format)
	}
	logger := slog.New(handler)
	slog.SetDefault(logger)

	var verbosity klog.Level
	if err := verbosity.Set(strconv.Itoa(l.Verbosity)); err != nil {
		return nil, err
	}
	klog.SetSlogLogger(logger.With("from", "library"))
	return logger.With("component", name), nil
}

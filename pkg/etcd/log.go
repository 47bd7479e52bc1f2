package etcd

import (
	"context"
	"log/slog"
	"slices"
	"sync/atomic"

	"go.uber.org/zap/zapcore"
)

// slogCore lets etcd's zap logger write to slog, from warnings upwards.
type slogCore struct {
	log   *slog.Logger
	quiet *atomic.Bool // closing down, when every listener reports its end as an error; may be nil
}

// moot are warnings about what Skiff does on purpose, or that every fresh member starts with
// (its database has no storage version before the first commit; etcd tries again).
var moot = []string{
	"Running http and grpc server on single port. This is not recommended for production.",
	"simple token is not cryptographically signed",
	"Failed to detect schema version",
	"failed to update storage version",
	"retrying of unary invoker failed", // the caller learns of the last try
	"Failed to detect storage schema version. Please wait till wal snapshot before upgrading cluster.",
}

func (c slogCore) Enabled(level zapcore.Level) bool {
	return level >= zapcore.WarnLevel && (c.quiet == nil || !c.quiet.Load())
}

func (c slogCore) With(fields []zapcore.Field) zapcore.Core {
	c.log = slog.New(c.log.Handler().WithAttrs(attributes(fields)))
	return c
}

func (c slogCore) Check(e zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if !c.Enabled(e.Level) || slices.Contains(moot, e.Message) {
		return checked
	}
	return checked.AddCore(e, c)
}

func (c slogCore) Write(e zapcore.Entry, fields []zapcore.Field) error {
	level := slog.LevelWarn
	if e.Level > zapcore.WarnLevel {
		level = slog.LevelError
	}
	c.log.LogAttrs(context.Background(), level, "etcd: "+e.Message, attributes(fields)...)
	return nil
}

func (c slogCore) Sync() error { return nil }

func attributes(fields []zapcore.Field) []slog.Attr {
	m := zapcore.NewMapObjectEncoder()
	var attributes []slog.Attr
	for _, f := range fields {
		f.AddTo(m)
		attributes = append(attributes, slog.Any(f.Key, m.Fields[f.Key]))
	}
	return attributes
}

// Package zaplog hands what etcd's libraries log with zap to a *slog.Logger.
package zaplog

import (
	"context"
	"log/slog"
	"slices"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// New returns a zap logger that writes to log, nil: nowhere, what is at least as grave as least. Each message has the prefix, and
// zap's fields become attributes. What is fatal to zap panics here after it was written: a library never ends its process in
// silence. A message of which expected, if it is not nil, says that it is no news is left out; err is that of its fields.
func New(log *slog.Logger, prefix string, least slog.Level, expected func(message string, err error) bool) *zap.Logger {
	var c zapcore.Core = zapcore.NewNopCore()
	if log != nil {
		c = core{log: log.Handler(), prefix: prefix, least: least, expected: expected}
	}
	return zap.New(c, zap.WithFatalHook(zapcore.WriteThenPanic))
}

// core is a slog.Handler as zap wants it.
type core struct {
	log      slog.Handler
	prefix   string
	least    slog.Level
	expected func(message string, err error) bool
	fields   []zapcore.Field
}

// Enabled implements zapcore.Core.
func (c core) Enabled(at zapcore.Level) bool {
	return level(at) >= c.least && c.log.Enabled(context.Background(), level(at))
}

// With implements zapcore.Core.
func (c core) With(fields []zapcore.Field) zapcore.Core {
	c.fields = append(slices.Clone(c.fields), fields...)
	return c
}

// Check implements zapcore.Core.
func (c core) Check(e zapcore.Entry, to *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) {
		return to.AddCore(e, c)
	}
	return to
}

// Write implements zapcore.Core.
func (c core) Write(e zapcore.Entry, fields []zapcore.Field) error {
	r := slog.NewRecord(e.Time, level(e.Level), c.prefix+e.Message, 0)
	values := zapcore.NewMapObjectEncoder()
	var failed error
	for _, some := range [][]zapcore.Field{c.fields, fields} {
		for _, f := range some {
			f.AddTo(values)
			if err, is := f.Interface.(error); is && f.Type == zapcore.ErrorType {
				failed = err
			}
		}
	}
	if c.expected != nil && c.expected(e.Message, failed) {
		return nil
	}
	names := make([]string, 0, len(values.Fields))
	for name := range values.Fields {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		r.AddAttrs(slog.Any(name, values.Fields[name]))
	}
	return c.log.Handle(context.Background(), r)
}

// Sync implements zapcore.Core.
func (core) Sync() error { return nil }

// level is zap's level as slog's: what is above an error stays one.
func level(l zapcore.Level) slog.Level {
	switch {
	case l < zapcore.InfoLevel:
		return slog.LevelDebug
	case l == zapcore.InfoLevel:
		return slog.LevelInfo
	case l == zapcore.WarnLevel:
		return slog.LevelWarn
	}
	return slog.LevelError
}

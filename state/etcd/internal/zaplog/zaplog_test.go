package zaplog

import (
	"bytes"
	"errors"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
)

func TestMessagesReachSlog(t *testing.T) {
	var out bytes.Buffer
	text := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
	z := New(text, "etcd: ", slog.LevelWarn, nil).With(zap.Int("member", 3))
	z.Debug("not this")
	z.Info("nor this")
	z.Warn("slow", zap.String("disk", "a b"))
	z.Error("broken", zap.Error(errors.New("gone")))
	require.PanicsWithValue(t, "the end", func() { z.Fatal("the end") })
	require.Equal(t, "level=WARN msg=\"etcd: slow\" disk=\"a b\" member=3\n"+
		"level=ERROR msg=\"etcd: broken\" error=gone member=3\n"+
		"level=ERROR msg=\"etcd: the end\" member=3\n", out.String())
	require.Panics(t, func() { New(nil, "", slog.LevelInfo, nil).Fatal("silent") })
}

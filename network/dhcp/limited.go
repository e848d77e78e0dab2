package dhcp

import (
	"log/slog"
	"net"
	"sync/atomic"
	"time"
)

// String returns the address in the usual form.
func (h hardware) String() string { return net.HardwareAddr(h[:]).String() }

// limited is a log for what clients can cause at will: it says one thing in a second, and how many it did not say.
type limited struct {
	to     *slog.Logger
	second atomic.Int64
	unsaid atomic.Uint64
}

func (l *limited) warn(what string, args ...any) {
	now := time.Now().Unix()
	if last := l.second.Load(); now == last || !l.second.CompareAndSwap(last, now) {
		l.unsaid.Add(1)
		return
	}
	if n := l.unsaid.Swap(0); n > 0 {
		args = append(args, "others", n)
	}
	l.to.Warn(what, args...)
}

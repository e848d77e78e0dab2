package nats

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	natsgo "github.com/nats-io/nats.go"

	"github.com/dewpoint-cloud/dewpoint/queue"
)

const (
	firstWait  = 100 * time.Millisecond
	writeLimit = 2 * time.Second                   // how long the network may not take what is sent, at most
	headerRoom = 16 << 10                          // the largest envelope without its body, with room to spare
	unseenMsgs = 1 << 13                           // messages of a subscription that may wait to be looked at, which takes a microsecond
	unseenSize = 64 << 20                          // bytes of them
	largest    = int64(queue.MaxBody + headerRoom) // message that a NATS server must take
	mostHosts  = 64                                // servers that the cluster tells of
)

// link is one connection and the calls that wait on it.
type link struct {
	nc   *natsgo.Conn
	down chan struct{} // closed when the connection has ended
	once sync.Once

	mu    sync.Mutex
	calls map[uint64]*call // by key; nil when the connection has ended, or the bus is closed
}

// fail ends the calls that wait, and all that come.
func (l *link) fail(err error) {
	l.mu.Lock()
	calls := l.calls
	l.calls = nil
	l.mu.Unlock()
	for _, c := range calls {
		c.result <- result{err: fmt.Errorf("topic %q: %w", c.topic, err)}
	}
}

// end is called when the connection has ended, and may be called again.
func (l *link) end(reason error) {
	l.once.Do(func() {
		l.fail(fmt.Errorf("%w: %w", ErrDisconnected, reason))
		close(l.down)
	})
}

// deny ends the calls that may not be sent, as the server says in a text that quotes the subject.
func (l *link) deny(b *Bus, text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for key, c := range l.calls {
		if strings.Contains(text, strconv.Quote(b.one(c.topic))) {
			delete(l.calls, key)
			c.result <- result{err: fmt.Errorf("topic %q: the NATS server does not allow this user to send to it: %w", c.topic, errdefs.ErrPermissionDenied)}
		}
	}
}

// forbids tells whether the last that the server had to complain of was a subscription to a subject.
func (l *link) forbids(subject string) bool {
	err := l.nc.LastError()
	return errors.Is(err, natsgo.ErrPermissionViolation) && strings.Contains(err.Error(), strconv.Quote(subject))
}

// flush returns when the server has got everything that was sent, or after 2 s.
func (l *link) flush() {
	_ = l.nc.FlushTimeout(writeLimit) // of an ended connection there is nothing to flush
}

// quit ends subscriptions and returns when all messages that the server has sent for them are where they wait to be looked
// at, and no more come.
func (l *link) quit(subs []*natsgo.Subscription) {
	for _, sub := range subs {
		_ = sub.Drain() // fails if the connection has ended, and the subscription with it
	}
	l.flush()
	for _, sub := range subs {
		_ = sub.Unsubscribe() // the same
	}
}

// keepConnected connects, again and again, until Close. It reports what becomes of each attempt, nil for success.
func (b *Bus) keepConnected(report func(error)) {
	defer close(b.ended)
	hosts, failed := b.cfg.URLs, 0
	for b.connecting.Err() == nil {
		l, err := b.dial(hosts)
		if b.connecting.Err() != nil {
			if err == nil {
				l.nc.Close()
			}
			return
		}
		if err != nil {
			failed++
			wait := b.backoff(failed)
			level := slog.LevelWarn
			if !errdefs.IsUnavailable(err) {
				level = slog.LevelError // waiting does not help, unless somebody does something
			}
			b.log.Log(b.connecting, level, "nats: no connection, trying again", "error", err, "attempt", failed, "wait", wait)
			report(err)
			b.sleep(wait)
			continue
		}
		where := b.where(l)
		b.log.Info("nats: connected", "server", where)
		start := time.Now()
		report(nil)
		select {
		case <-l.down:
		case <-b.connecting.Done():
		}
		b.link.CompareAndSwap(l, nil)
		hosts = slices.Concat(b.cfg.URLs, told(l.nc))
		l.nc.Close()
		if b.connecting.Err() != nil {
			l.end(queue.ErrClosed)
			return
		}
		if failed++; time.Since(start) > b.cfg.MaxWait {
			failed = 1
		}
		wait := b.backoff(failed)
		b.log.Warn("nats: the connection is lost", "server", where, "error", l.nc.LastError(), "wait", wait)
		b.sleep(wait)
	}
}

// backoff returns how long to wait after so many failures in a row.
func (b *Bus) backoff(failed int) time.Duration {
	wait := b.cfg.MaxWait
	if failed < 20 {
		wait = min(wait, firstWait<<(failed-1))
	}
	return wait/2 + rand.N(wait/2+1)
}

// sleep waits, but not longer than the bus lives.
func (b *Bus) sleep(wait time.Duration) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-b.connecting.Done():
	}
}

func (b *Bus) where(l *link) string {
	if b.cfg.InProcess != nil {
		return "in process"
	}
	return l.nc.ConnectedUrlRedacted()
}

// told are the servers that the cluster has told of.
func told(nc *natsgo.Conn) []string {
	urls := nc.DiscoveredServers()
	return urls[:min(len(urls), mostHosts)]
}

// dial connects to one server, subscribes to everything, and makes the connection the bus's.
func (b *Bus) dial(hosts []string) (*link, error) {
	l := &link{down: make(chan struct{}), calls: map[uint64]*call{}}
	d := &dialer{ctx: b.connecting, timeout: b.cfg.DialTimeout}
	opts, err := b.options(hosts, d, l)
	if err != nil {
		return nil, err
	}
	l.nc, err = opts.Connect()
	d.release()
	if err != nil {
		return nil, refused(err)
	}
	if err := b.attach(l); err != nil {
		l.nc.Close()
		return nil, err
	}
	return l, nil
}

func (b *Bus) options(hosts []string, d *dialer, l *link) (natsgo.Options, error) {
	opts := natsgo.GetDefaultOptions()
	opts.Name, opts.Servers = b.cfg.Name, hosts
	opts.AllowReconnect = false // the bus does
	opts.Timeout = b.cfg.DialTimeout
	opts.PingInterval, opts.MaxPingsOut = b.cfg.PingInterval, 2
	opts.FlusherTimeout, opts.ReconnectOnFlusherError = 0, true // 0: the dialer's connections have a limit
	opts.CustomDialer, opts.SkipHostLookup = d, true
	opts.SkipSubjectValidation = true // topics are checked
	opts.User, opts.Password, opts.Token = b.cfg.User, b.cfg.Password, b.cfg.Token
	if b.cfg.InProcess != nil {
		opts.InProcessServer = guarded{d, b.cfg.InProcess}
	} else if b.cfg.TLS != nil {
		opts.Secure, opts.TLSConfig = true, b.cfg.TLS
	}
	opts.ClosedCB = func(nc *natsgo.Conn) {
		err := nc.LastError()
		if err == nil {
			err = natsgo.ErrConnectionClosed
		}
		b.link.CompareAndSwap(l, nil)
		l.end(err)
	}
	opts.AsyncErrorCB = func(_ *natsgo.Conn, sub *natsgo.Subscription, err error) {
		if errors.Is(err, natsgo.ErrSlowConsumer) && sub != nil {
			b.log.Warn("nats: messages come faster than they can be looked at, and are dropped", "subject", sub.Subject)
			return
		}
		b.log.Error("nats: the server reports an error", "error", err)
		if errors.Is(err, natsgo.ErrPermissionViolation) {
			l.deny(b, err.Error())
		}
	}
	var err error
	if b.cfg.NKeyFile != "" {
		var option natsgo.Option
		if option, err = natsgo.NkeyOptionFromSeed(b.cfg.NKeyFile); err == nil {
			err = option(&opts)
		}
	} else if b.cfg.CredentialsFile != "" {
		err = natsgo.UserCredentials(b.cfg.CredentialsFile)(&opts)
	}
	if err != nil {
		err = fmt.Errorf("nats: reading credentials: %w: %w", err, errdefs.ErrUnauthenticated)
	}
	return opts, err
}

// attach makes a connection the bus's.
func (b *Bus) attach(l *link) error {
	if most := l.nc.MaxPayload(); most < largest {
		return fmt.Errorf("nats: the server takes messages of at most %d bytes (max_payload), the bus needs %d: %w",
			most, largest, errdefs.ErrFailedPrecondition)
	}
	if !l.nc.HeadersSupported() {
		return fmt.Errorf("nats: the server does not carry headers: %w", errdefs.ErrFailedPrecondition)
	}
	inbox, err := l.nc.Subscribe(b.inbox+"*", b.answered(l))
	if err == nil {
		err = inbox.SetPendingLimits(unseenMsgs, unseenSize)
	}
	if err == nil {
		err = l.nc.FlushTimeout(b.cfg.DialTimeout)
	}
	if err != nil {
		return refused(err)
	}
	if l.forbids(b.inbox + "*") {
		return fmt.Errorf("nats: the server does not allow this user to subscribe to %s*: %w", b.inbox, errdefs.ErrPermissionDenied)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for s := range b.servers {
		if err == nil && !s.hasLeft() {
			err = s.subscribe(l)
		}
	}
	if err == nil {
		err = l.nc.FlushTimeout(b.cfg.DialTimeout)
	}
	if err != nil {
		return refused(err)
	}
	b.link.Store(l)
	close(b.up)
	b.up = make(chan struct{})
	return nil
}

// refused classifies what keeps the bus from connecting. All that may get better by itself is Unavailable.
func refused(err error) error {
	var class error = errdefs.ErrUnavailable
	var op *net.OpError
	var unknown x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	var name x509.HostnameError
	var verify *tls.CertificateVerificationError
	switch {
	case errors.Is(err, natsgo.ErrAuthorization), errors.Is(err, natsgo.ErrAuthExpired), errors.Is(err, natsgo.ErrAuthRevoked),
		errors.Is(err, natsgo.ErrAccountAuthExpired), errors.Is(err, natsgo.ErrNkeysNotSupported):
		class = errdefs.ErrUnauthenticated
	case errors.As(err, &op) && op.Op == "remote error": // an alert of TLS: the server does not like our certificate
		class = errdefs.ErrUnauthenticated
	case errors.As(err, &unknown), errors.As(err, &invalid), errors.As(err, &name), errors.As(err, &verify),
		errors.Is(err, natsgo.ErrSecureConnWanted):
		class = errdefs.ErrFailedPrecondition
	}
	return fmt.Errorf("nats: connecting: %w: %w", err, class)
}

// dialer makes connections that end with a context until they are released.
type dialer struct {
	ctx     context.Context
	timeout time.Duration
	held    []func() bool
}

// Dial is for natsgo.CustomDialer.
func (d *dialer) Dial(network, address string) (net.Conn, error) {
	conn, err := (&net.Dialer{Timeout: d.timeout}).DialContext(d.ctx, network, address)
	return d.guard(conn, err)
}

func (d *dialer) guard(conn net.Conn, err error) (net.Conn, error) {
	if err != nil {
		return nil, err
	}
	d.held = append(d.held, context.AfterFunc(d.ctx, func() { _ = conn.Close() }))
	return &limited{Conn: conn}, nil
}

func (d *dialer) release() {
	for _, release := range d.held {
		release()
	}
}

// guarded is a server in this process whose connections are guarded.
type guarded struct {
	d      *dialer
	server InProcess
}

func (g guarded) InProcessConn() (net.Conn, error) { return g.d.guard(g.server.InProcessConn()) }

// limited is a connection that fails if what is written is not taken within writeLimit, or half of it. It renews its deadline
// that often at most: the client library would for each write, which is a fiftieth of a call.
type limited struct {
	net.Conn
	renew time.Time // when the deadline must be renewed
}

// Write is called by one goroutine at a time: the client library holds a lock, and so does TLS.
func (l *limited) Write(p []byte) (int, error) {
	if now := time.Now(); !now.Before(l.renew) {
		if err := l.SetWriteDeadline(now.Add(writeLimit)); err != nil {
			return 0, err
		}
		l.renew = now.Add(writeLimit / 2)
	}
	return l.Conn.Write(p)
}

// SetDeadline is called before and after the client library connects, with a deadline of its own.
func (l *limited) SetDeadline(t time.Time) error {
	l.renew = time.Time{}
	return l.Conn.SetDeadline(t)
}

package amqp_test

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/queue"
	"github.com/dewpoint-cloud/dewpoint/queue/amqp"
)

// changed returns a URL with other parts.
func changed(t *testing.T, address string, change func(u *url.URL)) string {
	t.Helper()
	u, err := url.Parse(address)
	require.NoError(t, err)
	change(u)
	return u.String()
}

// secrets are what no error and no log may have.
func secrets(t *testing.T, address string) []string {
	t.Helper()
	u, err := url.Parse(address)
	require.NoError(t, err)
	password, _ := u.User.Password()
	return []string{password, u.User.Username() + ":"}
}

// TestOpenFails for each reason with its class, at once where waiting would not help, and says no secret.
func TestOpenFails(t *testing.T) {
	broker := shared(t)
	ch := bare(t, broker)
	require.NoError(t, ch.ExchangeDeclare("taken.work", "topic", false, true, false, false, nil))
	defer func() { require.NoError(t, ch.ExchangeDelete("taken.work", false, false)) }()
	stranger := authority(t, t.TempDir())
	plain, secure := broker.URL(), broker.TLSURL()
	for name, c := range map[string]struct {
		cfg  amqp.Config
		is   func(error) bool
		says string
	}{
		"password": {amqp.Config{URL: changed(t, plain, func(u *url.URL) { u.User = url.UserPassword(u.User.Username(), "wr0ng-secret") })},
			errdefs.IsUnauthorized, "user and password"},
		"user":        {amqp.Config{URL: changed(t, plain, func(u *url.URL) { u.User = url.UserPassword("no-such-user", "wr0ng-secret") })}, errdefs.IsUnauthorized, "user and password"},
		"vhost":       {amqp.Config{URL: changed(t, plain, func(u *url.URL) { u.Path = "/elsewhere" })}, errdefs.IsPermissionDenied, `"elsewhere"`},
		"authority":   {amqp.Config{URL: secure, TLS: &tls.Config{RootCAs: stranger.pool}}, errdefs.IsUnauthorized, "certificate"},
		"no TLS":      {amqp.Config{URL: changed(t, plain, func(u *url.URL) { u.Scheme = "amqps" })}, errdefs.IsFailedPrecondition, "TLS"},
		"other kind":  {amqp.Config{URL: plain, Prefix: "taken"}, errdefs.IsFailedPrecondition, "taken.work"},
		"URL":         {amqp.Config{URL: "http://user:s3cret@host"}, errdefs.IsInvalidArgument, "Config.URL"},
		"bad URL":     {amqp.Config{URL: "amqp://user:s3cret@ho st:port"}, errdefs.IsInvalidArgument, "Config.URL"},
		"TLS alone":   {amqp.Config{URL: plain, TLS: &tls.Config{}}, errdefs.IsInvalidArgument, "Config.URL"},
		"prefix":      {amqp.Config{URL: plain, Prefix: "a..b"}, errdefs.IsInvalidArgument, "Config.Prefix"},
		"workers":     {amqp.Config{URL: plain, Workers: 1 << 16}, errdefs.IsInvalidArgument, "Config.Workers"},
		"backlog":     {amqp.Config{URL: plain, Backlog: -1}, errdefs.IsInvalidArgument, "Config.Backlog"},
		"heartbeat":   {amqp.Config{URL: plain, Heartbeat: time.Millisecond}, errdefs.IsInvalidArgument, "Config.Heartbeat"},
		"max backoff": {amqp.Config{URL: plain, MaxBackoff: -1}, errdefs.IsInvalidArgument, "Config.MaxBackoff"},
	} {
		t.Run(name, func(t *testing.T) {
			var logged logBuffer
			c.cfg.Logger = slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug}))
			bus, err := amqp.Open(within(t, patience), c.cfg)
			require.Nil(t, bus)
			require.Error(t, err)
			require.True(t, c.is(err), err)
			if name != "TLS alone" {
				require.ErrorContains(t, err, c.says)
			}
			for _, secret := range append(secrets(t, plain), "wr0ng-secret", "s3cret", "no-such-user") {
				require.NotContains(t, err.Error(), secret)
				require.NotContains(t, logged.text(), secret)
			}
		})
	}
}

// TestOpenWaits for a broker that is not there yet, with longer and longer pauses in its log.
func TestOpenWaits(t *testing.T) {
	broker := victim(t)
	broker.Kill()
	var logged logBuffer
	cfg := small(broker.URL(), "late")
	cfg.SendWait = time.Second
	cfg.Logger = slog.New(slog.NewTextHandler(&logged, nil))

	_, err := amqp.Open(within(t, 3*time.Second), cfg) // long enough for one attempt
	require.True(t, errdefs.IsUnavailable(err), err)
	require.ErrorContains(t, err, "127.0.0.1:")
	canceled, cancel := context.WithCancel(context.Background())
	time.AfterFunc(100*time.Millisecond, cancel)
	_, err = amqp.Open(canceled, cfg)
	require.Equal(t, context.Canceled, err)

	opened := make(chan *amqp.Bus, 1)
	go func() {
		bus, err := amqp.Open(within(t, 2*time.Minute), cfg)
		if err != nil {
			t.Error(err)
		}
		opened <- bus
	}()
	eventually(t, "it has tried several times", func() bool { return strings.Count(logged.text(), "no connection to the broker") > 5 })
	require.NoError(t, broker.Restart(within(t, 2*time.Minute)))
	bus := <-opened
	require.NotNil(t, bus)
	defer bus.Close()
	_, err = bus.Serve("work", echo)
	require.NoError(t, err)
	serves(t, bus, "work")

	// And when it is lost later: what is sent waits, but not for ever, and nothing is served that can't be.
	broker.Kill()
	eventually(t, "the bus knows", func() bool {
		_, err := bus.Call(within(t, 20*time.Millisecond), queue.Message{Topic: "work"})
		return err == context.DeadlineExceeded
	})
	_, err = bus.Serve("more", echo)
	require.True(t, errdefs.IsUnavailable(err), err)
	require.True(t, errdefs.IsUnavailable(bus.Fanout(context.Background(), queue.Message{Topic: "work"})))
	require.NoError(t, bus.Close(), "a bus without a broker closes")
	for _, secret := range secrets(t, broker.URL()) {
		require.NotContains(t, logged.text(), secret)
	}
}

// TestOtherBacklog: the queue of a topic exists with other arguments.
func TestOtherBacklog(t *testing.T) {
	broker := shared(t)
	cfg := small(broker.URL(), "other")
	one := connect(t, cfg)
	cfg.Backlog++
	two := connect(t, cfg)
	_, err := one.Serve("work", echo)
	require.NoError(t, err)
	_, err = two.Serve("work", echo)
	require.True(t, errdefs.IsFailedPrecondition(err), err)
	require.ErrorContains(t, err, "other.topic.work")
	_, err = two.Serve("else", echo)
	require.NoError(t, err)
	serves(t, two, "work")
	serves(t, one, "else")
}

// TestTLS uses the bus with a certificate of the test's own authority.
func TestTLS(t *testing.T) {
	broker := shared(t)
	cfg := small(broker.TLSURL(), "tls")
	cfg.TLS = &tls.Config{RootCAs: common.certs.pool}
	near, far := connect(t, cfg), connect(t, cfg)
	require.Empty(t, cfg.TLS.ServerName, "the caller's configuration is not changed")
	_, err := far.Serve("work", echo)
	require.NoError(t, err)
	serves(t, near, "work")
}

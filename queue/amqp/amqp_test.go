package amqp_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/dewpoint-cloud/dewpoint/internal/rabbittest"
	"github.com/dewpoint-cloud/dewpoint/queue"
	"github.com/dewpoint-cloud/dewpoint/queue/amqp"
	"github.com/dewpoint-cloud/dewpoint/queue/queuetest"
)

// common is the broker that the tests of this package share, and second the one that they kill.
var common, second struct {
	once   sync.Once
	dir    string
	broker *rabbittest.Broker
	err    error
	certs  certificates
}

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		for _, b := range []*rabbittest.Broker{common.broker, second.broker} {
			if b != nil {
				b.Stop()
			}
		}
		for _, dir := range []string{common.dir, second.dir} {
			if dir != "" {
				_ = os.RemoveAll(dir)
			}
		}
		os.Exit(code)
	}), goleak.IgnoreTopFunction("os/exec.(*Cmd).Wait"), goleak.IgnoreAnyFunction("os/exec.(*Cmd).Wait"))
}

// shared returns the common broker.
func shared(t testing.TB) *rabbittest.Broker {
	t.Helper()
	rabbittest.Need(t)
	common.once.Do(func() {
		if common.dir, common.err = os.MkdirTemp("", "rabbit"); common.err != nil {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		common.certs = authority(t, common.dir)
		common.broker, common.err = rabbittest.Start(ctx, rabbittest.Config{Dir: common.dir,
			CAFile: common.certs.ca, CertFile: common.certs.cert, KeyFile: common.certs.key})
	})
	require.NoError(t, common.err)
	return common.broker
}

// small is the setting of buses that the suite fills.
func small(url, prefix string) amqp.Config {
	return amqp.Config{URL: url, Prefix: prefix, Workers: 4, Backlog: 8, Async: 6, CallTimeout: 4 * time.Second,
		MaxBackoff: 500 * time.Millisecond, Logger: slog.New(slog.DiscardHandler)}
}

// connect opens a bus that the test's end closes.
func connect(t testing.TB, cfg amqp.Config) *amqp.Bus {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	bus, err := amqp.Open(ctx, cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, bus.Close()) })
	return bus
}

func TestContract(t *testing.T) {
	address, n := shared(t).URL(), 0
	queuetest.TestBus(t, func(t *testing.T) queuetest.Env {
		n++
		p, near := between(t, address)
		cfg := small(near, fmt.Sprintf("suite%d", n))
		cfg.SendWait = time.Second
		return queuetest.Env{
			Sever: func() {
				_ = p.listener.Close()
				p.cut()
			},
			Barred: func() queue.Bus {
				name, own := rand.Text(), "^"+cfg.Prefix+`\.`
				for _, args := range [][]string{{"add_user", name, "secret"},
					{"set_permissions", name, own + `(work|fan|reply|dead|answers\..*)$`, own + `(dead|answers\..*)$`, own}} {
					_, err := shared(t).Control(within(t, patience), args...)
					require.NoError(t, err)
				}
				t.Cleanup(func() {
					_, err := shared(t).Control(context.Background(), "delete_user", name)
					require.NoError(t, err)
				})
				guest := cfg
				guest.URL = changed(t, cfg.URL, func(u *url.URL) { u.User = url.UserPassword(name, "secret") })
				return connect(t, guest)
			},
			Buses:   []queue.Bus{connect(t, cfg), connect(t, cfg)},
			Workers: cfg.Workers, Backlog: cfg.Backlog, Async: cfg.Async, CallTimeout: cfg.CallTimeout,
			Quiet: 300 * time.Millisecond, Patience: 20 * time.Second,
			Knows: queuetest.Knows{Lost: true, CastBacklog: true, CallBacklog: true, FanoutBacklog: true},
		}
	})
}

package nats_test

import (
	"strings"
	"testing"
	"time"

	"github.com/dewpoint-cloud/dewpoint/internal/testneed"
	"github.com/dewpoint-cloud/dewpoint/queue"
	"github.com/dewpoint-cloud/dewpoint/queue/nats"
	"github.com/dewpoint-cloud/dewpoint/queue/nats/natsserver"
	"github.com/dewpoint-cloud/dewpoint/queue/queuetest"
)

const callTimeout = 2 * time.Second

// small is how the suite's buses are set.
func small(cfg nats.Config) nats.Config {
	cfg.Workers, cfg.Backlog, cfg.Async, cfg.CallTimeout = 4, 8, 6, callTimeout
	return cfg
}

func envOf(buses ...queue.Bus) queuetest.Env {
	return queuetest.Env{
		Buses: buses, Workers: 4, Backlog: 8, Async: 6, CallTimeout: callTimeout, Patience: patience,
		Knows: queuetest.Knows{CallBacklog: true},
	}
}

// TestContract is with two buses on one server.
func TestContract(t *testing.T) {
	testneed.Slow(t)
	t.Parallel()
	queuetest.TestBus(t, func(t *testing.T) queuetest.Env {
		p := newProxy(t, strings.TrimPrefix(start(t, natsserver.Config{Listen: "127.0.0.1:0"}).URL(), "nats://"))
		cfg := small(nats.Config{URLs: []string{p.url()}})
		env := envOf(open(t, cfg), open(t, cfg))
		env.Sever = p.block
		return env
	})
}

// TestContractInProcess is with one bus, which hears itself, and no listener.
func TestContractInProcess(t *testing.T) {
	t.Parallel()
	queuetest.TestBus(t, func(t *testing.T) queuetest.Env {
		return envOf(open(t, small(nats.Config{InProcess: start(t, natsserver.Config{})})))
	})
}

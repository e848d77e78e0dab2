package memqueue_test

import (
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/dewpoint-cloud/dewpoint/queue"
	"github.com/dewpoint-cloud/dewpoint/queue/memqueue"
	"github.com/dewpoint-cloud/dewpoint/queue/queuetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func env(*testing.T) queuetest.Env {
	bus := memqueue.New(memqueue.Config{Workers: 4, Backlog: 8, Async: 6, CallTimeout: 15 * time.Second})
	return queuetest.Env{
		Buses: []queue.Bus{bus}, Workers: 4, Backlog: 8, Async: 6, CallTimeout: 15 * time.Second,
		Quiet: 5 * time.Millisecond,
		Knows: queuetest.Knows{Lost: true, CastBacklog: true, CallBacklog: true, FanoutBacklog: true, Gone: true},
	}
}

func TestContract(t *testing.T) {
	queuetest.TestBusInBubble(t, env)
}

// TestContractInRealTime lets the scheduler and the race detector have their say: without a bubble, goroutines run truly at
// the same time as clocks.
func TestContractInRealTime(t *testing.T) {
	queuetest.TestBus(t, func(t *testing.T) queuetest.Env {
		e := env(t)
		e.CallTimeout = 0 // would take as long
		return e
	})
}

package amqp

import (
	"context"
	"math/rand/v2"
	"time"
)

const firstPause = 50 * time.Millisecond

// pause returns how long to wait after a number of failures: twice as long each time, up to most, and of that a random part
// that is at least half, so that those who lost a broker together don't come back together.
func pause(failures int, most time.Duration) time.Duration {
	d := most
	if failures < 20 {
		d = min(most, firstPause<<failures)
	}
	return d/2 + rand.N(d/2+1)
}

// sleep waits, unless one of the channels is closed first.
func sleep(ctx context.Context, d time.Duration, until <-chan struct{}) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	case <-until:
	}
}

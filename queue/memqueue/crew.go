package memqueue

import (
	"runtime"
	"sync"
	"sync/atomic"
)

// crew is the goroutines that run the handlers of a bus, from its first server to its last. A few that have nothing to do stay:
// a new goroutine begins with a small stack, and growing it takes longer than a call.
type crew struct {
	jobs  chan job // without room: a job is given to a goroutine that has nothing to do, or a new one starts
	spare atomic.Int64
	most  int64 // that may stay with nothing to do
	all   sync.WaitGroup
}

type job struct {
	s *server
	t *task
}

func newCrew() *crew {
	return &crew{jobs: make(chan job), most: int64(4 * runtime.GOMAXPROCS(0))}
}

// start handles t, and after it what waits for the server, which must have counted this as running.
func (c *crew) start(s *server, t *task) {
	select {
	case c.jobs <- job{s, t}:
	default:
		c.all.Add(1)
		go c.work(job{s, t})
	}
}

func (c *crew) work(j job) {
	defer c.all.Done()
	for more := true; more; {
		j.s.work(j.t)
		if more = c.spare.Add(1) <= c.most; more {
			j, more = <-c.jobs
		}
		c.spare.Add(-1)
	}
}

// dismiss ends the goroutines. All servers must have left and be idle.
func (c *crew) dismiss() {
	close(c.jobs)
	c.all.Wait()
}

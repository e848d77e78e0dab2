// Package memqueue is the message bus inside one process: the default of a cloud that runs in one, and the bus of tests. It
// keeps every promise of [queue.Bus] and gives none of its own, so that what works on it works on a bus between machines.
//
// It has goroutines only while it has servers. A message that finds a server below its limit gets a goroutine, and one
// that doesn't waits in the topic's backlog for a goroutine that is done with another.
package memqueue

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/queue"
)

// Config is what a [Bus] is made of. The zero value is complete.
type Config struct {
	Workers int // messages that one server handles at a time; 0: 64
	Backlog int // messages that wait for one topic, and fanned-out ones for one server; 0: 4096
	Async   int // CallAsync calls whose done function has not returned; 0: 4096

	CallTimeout time.Duration // how long a call may take whose ctx has no deadline; 0: 1 min

	Logger *slog.Logger // nil: silent
}

// Bus is a [queue.Bus] inside one process.
type Bus struct {
	cfg    Config
	life   context.Context // ends with Close; handlers' contexts come from it
	end    context.CancelFunc
	name   string // begins every message's ID, and is where answers go
	ids    atomic.Uint64
	topics sync.Map // name → *topic, those that have servers

	results sync.Pool // of chan result, empty: to make one takes a tenth of a call

	mu      sync.Mutex
	closed  bool
	servers map[*server]struct{}
	crew    *crew          // nil while there are no servers
	waiting int            // async calls
	async   sync.WaitGroup // the same; Add only under mu while not closed
}

var _ queue.Bus = (*Bus)(nil)

// New returns an open bus. It starts nothing; Close ends what messages start. It panics if a number in cfg is negative.
func New(cfg Config) *Bus {
	for _, f := range []struct {
		name  string
		value *int
		def   int
	}{{"Workers", &cfg.Workers, 64}, {"Backlog", &cfg.Backlog, 4096}, {"Async", &cfg.Async, 4096}} {
		if *f.value < 0 {
			panic(fmt.Sprintf("memqueue: Config.%s is %d, must be at least 0", f.name, *f.value))
		}
		if *f.value == 0 {
			*f.value = f.def
		}
	}
	if cfg.CallTimeout < 0 {
		panic(fmt.Sprintf("memqueue: Config.CallTimeout is %s, must be at least 0", cfg.CallTimeout))
	}
	if cfg.CallTimeout == 0 {
		cfg.CallTimeout = time.Minute
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	b := &Bus{cfg: cfg, name: rand.Text(), servers: map[*server]struct{}{}}
	b.life, b.end = context.WithCancel(context.Background())
	return b
}

// Close is as [queue.Bus] says.
func (b *Bus) Close() error {
	b.mu.Lock()
	b.closed = true
	servers := make([]*server, 0, len(b.servers))
	for s := range b.servers {
		servers = append(servers, s)
	}
	b.mu.Unlock()
	b.end()
	for _, s := range servers {
		s.leave()
	}
	for _, s := range servers {
		b.stop(s)
	}
	b.async.Wait()
	return nil
}

// stop makes a server leave and waits for its handlers, and with the last server, for all goroutines.
func (b *Bus) stop(s *server) {
	s.leave()
	<-s.idle
	b.mu.Lock()
	var last *crew
	if _, here := b.servers[s]; here {
		if delete(b.servers, s); len(b.servers) == 0 {
			last, b.crew = b.crew, nil
		}
	}
	b.mu.Unlock()
	if last != nil {
		last.dismiss()
	}
}

// unheard is the error of a message to a topic that has no server.
func (b *Bus) unheard(topic string) error {
	if b.life.Err() != nil {
		return queue.ErrClosed
	}
	return fmt.Errorf("topic %q: %w", topic, queue.ErrNoListener)
}

// accept checks a message and fills in what the bus fills in.
func (b *Bus) accept(ctx context.Context, m *queue.Message) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := m.Check(); err != nil {
		return err
	}
	m.ReplyTo = ""
	if m.ID == "" {
		var id [64]byte
		m.ID = string(strconv.AppendUint(append(append(id[:0], b.name...), '-'), b.ids.Add(1), 36))
	}
	return nil
}

// Cast is as [queue.Bus] says; with no server it returns ErrNoListener.
func (b *Bus) Cast(ctx context.Context, m queue.Message) error {
	if err := b.accept(ctx, &m); err != nil {
		return err
	}
	return b.send(newTask(b, m, call{}))
}

// Fanout is as [queue.Bus] says; if a server missed the message, it returns ErrBacklog.
func (b *Bus) Fanout(ctx context.Context, m queue.Message) error {
	if err := b.accept(ctx, &m); err != nil {
		return err
	}
	if found, ok := b.topics.Load(m.Topic); ok {
		return found.(*topic).fan(func() *task { return newTask(b, m, call{}) })
	}
	if b.life.Err() != nil {
		return queue.ErrClosed
	}
	return nil
}

// Serve is as [queue.Bus] says.
func (b *Bus) Serve(name string, h queue.Handler) (stop func(), err error) {
	if err := queue.CheckTopic(name); err != nil {
		return nil, err
	}
	if h == nil {
		return nil, fmt.Errorf("memqueue: the handler of %s is nil: %w", name, errdefs.ErrInvalidArgument)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, queue.ErrClosed
	}
	if b.crew == nil {
		b.crew = newCrew()
	}
	s := &server{bus: b, crew: b.crew, handler: h, idle: make(chan struct{})}
	for joined := false; !joined; {
		found, _ := b.topics.LoadOrStore(name, &topic{bus: b, name: name})
		joined = found.(*topic).join(s)
	}
	b.servers[s] = struct{}{}
	return func() { b.stop(s) }, nil
}

package iscsi

import (
	"bytes"
	"context"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// memory is a store that does what a test wants of it.
type memory struct {
	mu    sync.RWMutex
	b     []byte
	delay time.Duration
	gate  atomic.Pointer[chan struct{}] // writes wait for it
	held  atomic.Int32                  // how many do
	syncs atomic.Int32
	fail  atomic.Pointer[error]
}

func newMemory(size int) *memory { return &memory{b: make([]byte, size)} }

func (m *memory) ReadAt(p []byte, offset int64) (int, error) {
	time.Sleep(m.delay)
	if err := m.fail.Load(); err != nil {
		return 0, *err
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	return copy(p, m.b[offset:]), nil
}

func (m *memory) WriteAt(p []byte, offset int64) (int, error) {
	time.Sleep(m.delay)
	if err := m.fail.Load(); err != nil {
		return 0, *err
	}
	if gate := m.gate.Load(); gate != nil {
		m.held.Add(1)
		<-*gate
		m.held.Add(-1)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return copy(m.b[offset:offset+int64(len(p))], p), nil
}

func (m *memory) Sync() error {
	m.syncs.Add(1)
	return nil
}

func (m *memory) Discard(offset, length int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.b[offset : offset+length])
	return nil
}

func (m *memory) Size() (int64, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return int64(len(m.b)), nil
}

// has tells whether the store has data at an offset.
func (m *memory) has(data []byte, offset int) bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return bytes.Equal(data, m.b[offset:offset+len(data)])
}

// hold has writes wait until the function that it returns is called.
func (m *memory) hold() (release func()) {
	gate := make(chan struct{})
	m.gate.Store(&gate)
	return sync.OnceFunc(func() {
		m.gate.Store(nil)
		close(gate)
	})
}

// serve runs a server until the test ends, and returns its address. It asks nobody whether he is there, unless the configuration says so: the
// initiators of the tests don't answer.
func serve(t testing.TB, cfg Config) (*Server, string) {
	t.Helper()
	if cfg.PingInterval == 0 {
		cfg.PingInterval = time.Hour
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := NewServer(cfg)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, listener) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-ended)
		require.Empty(t, s.Sessions())
	})
	return s, listener.Addr().String()
}

// exportOf is an export of a store to the initiators of the tests, without secrets.
func exportOf(store Store) Export {
	return Export{IQN: testTarget, Volume: "volume-1", Store: store, Initiators: []Initiator{{IQN: testInitiator}, {IQN: testInitiator2}}}
}

// session is a server with an export, and an initiator that is logged in.
func session(t testing.TB, store Store) (*Server, *initiator, string) {
	t.Helper()
	s, addr := serve(t, Config{})
	require.NoError(t, s.Export(context.Background(), exportOf(store)))
	i := dial(t, addr, testInitiator)
	require.NoError(t, i.login(testTarget, secrets{}))
	return s, i, addr
}

package dhcp

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
)

func testLease(i int) lease {
	return lease{tap: fmt.Sprintf("dp%d", i), mac: hardware{2, 0, 0, 0, 0, byte(i)}, addr: [4]byte{10, 0, 0, byte(i)}, since: int64(i), until: 1 << 50}
}

// journalWith makes a journal with one batch of records for each of sizes, and returns its bytes.
func journalWith(t *testing.T, sizes ...int) []byte {
	t.Helper()
	dir := t.TempDir()
	j, leases, damage, err := openJournal(dir)
	require.NoError(t, err)
	require.Empty(t, damage)
	require.Empty(t, leases)
	require.NoError(t, j.replace(nil, 0))
	i := 0
	for _, size := range sizes {
		var batch []record
		for range size {
			batch = append(batch, record{kind: recordLease, lease: testLease(i)})
			i++
		}
		require.NoError(t, j.write(batch))
	}
	j.close()
	data, err := os.ReadFile(filepath.Join(dir, leasesFile))
	require.NoError(t, err)
	return data
}

func TestReplayKnowsATornBatchFromDamage(t *testing.T) {
	spoil := func(data []byte, slots ...int) []byte {
		data = append([]byte(nil), data...)
		for _, slot := range slots {
			data[slot*recordSize+20] ^= 0xff
		}
		return data
	}
	good := journalWith(t, 1, 2, 3) // slots 1; 2, 3; 4, 5, 6
	for _, row := range []struct {
		what   string
		data   []byte
		leases int
		damage bool
	}{
		{"whole", good, 6, false},
		{"nothing", nil, 0, false},
		{"the last record torn", spoil(good, 6), 5, false},
		{"the last batch torn, its end there", spoil(good, 4, 5), 4, false},
		{"the last batch torn in its middle", spoil(good, 5), 5, false},
		{"the last batch gone", spoil(good, 4, 5, 6), 3, false},
		{"cut off in a record", good[:6*recordSize+10], 5, false},
		{"the first record damaged", spoil(good, 1), 5, true},
		{"a record in the middle damaged", spoil(good, 3), 5, true},
		{"a record in the middle damaged and the last batch torn", spoil(good, 3, 4), 4, true},
		{"another file", []byte(strings.Repeat("x", 200)), 0, true},
		{"too short", []byte("dew"), 0, true},
	} {
		leases, damage := replay(row.data)
		require.Len(t, leases, row.leases, row.what)
		require.Equal(t, row.damage, damage != "", "%s: %s", row.what, damage)
	}
	for n := range 7 * recordSize { // a file that ends anywhere
		leases, damage := replay(good[:n])
		require.True(t, n < recordSize && n > 0 || damage == "", "%d: %s", n, damage)
		require.Len(t, leases, max(0, n/recordSize-1))
	}
}

// grant puts a lease of port i of deskDesired into the queue and waits until it is on disk, or not.
func grant(t *testing.T, s *Server, i int, kind change) {
	t.Helper()
	s.mu.RLock()
	p := s.taps["dp"+string(rune('a'+i))]
	s.mu.RUnlock()
	before := s.Counters().Failed
	a := &answer{port: p, change: kind, lasts: time.Hour.Milliseconds()}
	require.True(t, s.enqueue(a, &socket{}))
	require.Eventually(t, func() bool { return !p.waiting.Load() }, time.Minute, time.Millisecond)
	require.Equal(t, before, s.Counters().Failed)
}

// committing runs the journal's half of a server.
func committing(t *testing.T, s *Server) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); s.commit(ctx) }()
	return func() { cancel(); <-done }
}

func again(t *testing.T, s *Server) *Server {
	t.Helper()
	n, err := New(Config{Dir: s.cfg.Dir})
	require.NoError(t, err)
	return n
}

// TestLeasesOutliveTheServer is DHCP-03 of Nova's behaviours: who has which address is on record from the lease on, and released with it,
// without a script that a server runs.
func TestLeasesOutliveTheServer(t *testing.T) {
	s := deskServer(t)
	stop := committing(t, s)
	grant(t, s, 0, granted)
	grant(t, s, 1, granted)
	first := s.Leases()
	require.Len(t, first, 2)
	require.Equal(t, "br0", first[0].Bridge)
	require.WithinDuration(t, time.Now().Add(time.Hour), first[0].Expires, time.Minute)
	grant(t, s, 1, granted)
	renewed := s.Leases()
	require.Equal(t, first[1].Since, renewed[1].Since, "renewing does not change since when")
	stop()

	s = again(t, s)
	stop = committing(t, s)
	require.Eventually(t, func() bool { return len(s.Leases()) == 2 }, time.Minute, time.Millisecond)
	require.Equal(t, first[0].Since, s.Leases()[0].Since)
	require.Empty(t, s.Leases()[0].Bridge, "not given yet")
	require.NoError(t, s.Apply(t.Context(), deskDesired()))
	require.Len(t, s.Leases(), 2)
	require.Equal(t, "port", s.Leases()[0].Port)
	grant(t, s, 0, givenUp)
	require.Len(t, s.Leases(), 1)
	require.NoError(t, s.Unplug(t.Context(), "dpb"))
	require.NoError(t, s.Unplug(t.Context(), "nothing"))
	require.Empty(t, s.Leases())
	stop()

	s = again(t, s)
	defer committing(t, s)()
	grantNothing(t, s)
	require.Empty(t, s.Leases(), "an end is kept like a beginning")
}

// grantNothing waits until the journal has been read.
func grantNothing(t *testing.T, s *Server) {
	t.Helper()
	require.NoError(t, s.Apply(t.Context(), deskDesired()))
	grant(t, s, 3, granted)
	grant(t, s, 3, givenUp)
}

func TestUnplugBeforeRunCounts(t *testing.T) {
	s := deskServer(t)
	stop := committing(t, s)
	grant(t, s, 0, granted)
	stop()
	s = again(t, s)
	require.NoError(t, s.Unplug(t.Context(), "dpa"))
	defer committing(t, s)()
	grantNothing(t, s)
	require.Empty(t, s.Leases())
}

func TestApplyEndsTheLeasesOfStrangers(t *testing.T) {
	s := deskServer(t)
	defer committing(t, s)()
	for i := range 4 {
		grant(t, s, i, granted)
	}
	d := deskDesired()
	d.Taps = d.Taps[:3]
	d.Taps[2].IPs = d.Taps[1].IPs
	require.ErrorIs(t, s.Apply(t.Context(), d), errdefs.ErrInvalidArgument)
	require.Len(t, s.Leases(), 4, "nothing was changed")
	d = deskDesired()
	d.Taps = d.Taps[:3]
	d.Taps[2].MAC[5] = 77
	require.NoError(t, s.Apply(t.Context(), d))
	require.Len(t, s.Leases(), 2)
}

func TestTheJournalIsReplacedWhenFull(t *testing.T) {
	s := deskServer(t)
	j, _, _, err := openJournal(s.cfg.Dir)
	require.NoError(t, err)
	require.NoError(t, j.replace(nil, 0))
	size := j.size
	p := s.taps["dpa"]
	var group []*answer
	for range groupLength {
		group = append(group, &answer{port: p, change: granted, lasts: 1 << 40})
	}
	for range 3 * spareSlots / groupLength {
		require.True(t, s.store(j, group, nil))
	}
	require.LessOrEqual(t, j.size, size+3)
	j.close()
	info, err := os.Stat(filepath.Join(s.cfg.Dir, leasesFile))
	require.NoError(t, err)
	require.LessOrEqual(t, info.Size(), int64(size+3)*recordSize)
	_, leases, damage, err := openJournal(s.cfg.Dir)
	require.NoError(t, err)
	require.Empty(t, damage)
	require.Len(t, leases, 1)
}

// TestNobodyIsToldWhatIsNotOnDisk makes the disk fail, and mends it.
func TestNobodyIsToldWhatIsNotOnDisk(t *testing.T) {
	s := deskServer(t)
	var told int
	s.committed = func() { told++ }
	j, _, _, err := openJournal(s.cfg.Dir)
	require.NoError(t, err)
	require.NoError(t, j.replace(nil, 0))
	a := &answer{port: s.taps["dpa"], change: granted, lasts: 1000, length: 10}
	_ = j.file.Close() // writes fail from here on
	require.False(t, s.store(j, []*answer{a}, nil))
	require.True(t, s.store(j, []*answer{a}, nil), "the next one makes a new file")
	require.Zero(t, told)
	j.close()

	require.False(t, s.store(nil, []*answer{a}, nil), "no journal, no answer")
}

func TestADamagedJournalIsKeptAndNobodyWaits(t *testing.T) {
	s := deskServer(t)
	require.NoError(t, os.WriteFile(filepath.Join(s.cfg.Dir, leasesFile), []byte(strings.Repeat("rubbish ", 100)), 0o600))
	defer committing(t, s)()
	grant(t, s, 0, granted)
	require.Len(t, s.Leases(), 1)
	kept, err := os.ReadFile(filepath.Join(s.cfg.Dir, damagedFile))
	require.NoError(t, err)
	require.Contains(t, string(kept), "rubbish")
}

func TestAClientHasOnePlaceInTheQueue(t *testing.T) {
	s := deskServer(t)
	p := s.taps["dpa"]
	require.True(t, s.enqueue(&answer{port: p}, &socket{}))
	require.False(t, s.enqueue(&answer{port: p}, &socket{}))
	require.EqualValues(t, 1, s.Counters().Dropped)
	(<-s.queue).port.waiting.Store(false)
	require.True(t, s.enqueue(&answer{port: p}, &socket{}))
}

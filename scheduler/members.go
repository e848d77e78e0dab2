package scheduler

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/dewpoint-cloud/dewpoint/state"
)

// Members knows, in one process, which hosts are alive, by this process's own clock alone: it notes when each sign of life
// arrives, whatever the host believes the time to be. What a host believes is compared with that, and a host, or a process,
// whose clock is wrong is found out instead of being taken for dead or for alive. All methods are safe for concurrent use.
type Members struct {
	logger *slog.Logger

	mu    sync.Mutex
	since time.Time // when the Run that is under way began; zero: none is
	heard map[string]arrival
}

// arrival is the last sign of life of a host that was seen to arrive.
type arrival struct {
	at     time.Time     // here
	skew   time.Duration // how far the host's clock is ahead
	latest time.Duration // the same, by the last sign alone: one that was late on its way makes it too low
}

// MaxSkew is how far a host's clock may differ from that of the process that places instances: over that, the host gets
// nothing new, because whoever compares times that the two have written is misled.
const MaxSkew = time.Minute

// NewMembers returns one that knows nothing yet. A nil logger is silent.
func NewMembers(logger *slog.Logger) *Members {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	return &Members{logger: logger, heard: map[string]arrival{}}
}

// Run listens for signs of life until ctx ends, then returns nil. One Run at a time; what an earlier one heard is forgotten.
func (m *Members) Run(ctx context.Context, store *state.Store) error {
	m.mu.Lock()
	m.since, m.heard = time.Now(), map[string]arrival{}
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		m.since = time.Time{}
		m.mu.Unlock()
	}()
	missed := func(*state.View) error { return nil } // the next signs of life say the same as those
	for changes, err := range store.ViewAndWatch(ctx, missed) {
		if err != nil {
			return err
		}
		for c := range Beats.Changes(changes) {
			if c.New == nil {
				m.forget(c.Old.HostID)
			} else if c.Old == nil || !c.Old.At.Equal(c.New.At) || c.Old.Run != c.New.Run {
				m.hear(*c.New, time.Now())
			}
		}
	}
	return nil
}

func (m *Members) forget(hostID string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.heard, hostID)
}

func (m *Members) hear(b Beat, now time.Time) {
	m.mu.Lock()
	before, known := m.heard[b.HostID]
	a := arrival{at: now, latest: b.At.Sub(now)}
	a.skew = a.latest
	if known { // of two signs, the one that was on its way for a shorter time is nearer to the truth
		a.skew = max(a.latest, before.latest)
	}
	m.heard[b.HostID] = a
	m.mu.Unlock()
	switch wrong, was := off(a.skew), known && off(before.skew); {
	case wrong && !was:
		m.logger.Error("scheduler: the clocks of a host and of this process differ: it gets nothing until they agree",
			"host", b.HostID, "ahead", a.skew.Round(time.Second))
	case was && !wrong:
		m.logger.Info("scheduler: the clocks of a host and of this process agree again", "host", b.HostID)
	}
}

// WrongClock tells whether the host's clock differs by more than [MaxSkew] from that of this process.
func (c Candidate) WrongClock() bool { return off(c.Skew) }

func off(skew time.Duration) bool { return skew.Abs() > MaxSkew }

// Look returns a candidate with what is known of the signs of life under an id, and no more. A nil Members, and one that does not run, believes
// what is on record.
func (m *Members) Look(r state.Reader, hostID string) Candidate {
	c := Candidate{Host: Host{ID: hostID}}
	c.hear(m, r, time.Now())
	return c
}

// hear notes in c how long the host has been silent, and how far its clock is ahead as far as that is known. A nil Members, and one that
// does not run, believes what the host's record says. So does one that has just begun, for lack of anything better, but not for long: a
// time that lies in the future says only that the host lived before.
func (c *Candidate) hear(m *Members, r state.Reader, now time.Time) {
	beat, err := Beats.Get(r, c.ID)
	if err != nil {
		c.Silent = DownAfter // never heard of
		return
	}
	c.Silent, c.Every = max(0, now.Sub(beat.At)), beat.Every
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if a, known := m.heard[c.ID]; known {
		c.Silent, c.Skew = max(0, now.Sub(a.at)), a.skew
	} else if !m.since.IsZero() && beat.At.After(now) {
		c.Silent = max(0, now.Sub(m.since))
	}
}

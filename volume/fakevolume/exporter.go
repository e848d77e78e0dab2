package fakevolume

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/volume"
)

// Exporter is a volume.Exporter that lets sessions in and moves no data. It outlives agents, unless the test forgets what it exports.
type Exporter struct {
	mu      sync.Mutex
	exports map[string]volume.Export
	newest  map[string]uint64
	open    map[*Session]struct{}
	held    map[string]chan struct{} // closed when writes go on
	fail    func(method, volumeID string) error
}

var _ volume.Exporter = (*Exporter)(nil)

// NewExporter returns one without exports.
func NewExporter() *Exporter {
	return &Exporter{exports: map[string]volume.Export{}, newest: map[string]uint64{}, open: map[*Session]struct{}{}, held: map[string]chan struct{}{}}
}

// Fail has each call, after it had its effect, return what f says. Nil: nothing fails.
func (x *Exporter) Fail(f func(method, volumeID string) error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.fail = f
}

// Restart is the death and the next life of the process that exports: it exports nothing.
func (x *Exporter) Restart() {
	x.mu.Lock()
	defer x.mu.Unlock()
	clear(x.exports)
	clear(x.newest)
	clear(x.open)
}

func (x *Exporter) do(ctx context.Context, method, id string, effect func() error) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := effect(); err != nil {
		return err
	}
	if x.fail != nil {
		return x.fail(method, id)
	}
	return nil
}

func targetOf(id string) volume.Target {
	return volume.Target{Portal: "192.0.2.1:3260", IQN: "iqn.2026-01.example:" + id}
}

// Export implements volume.Exporter.
func (x *Exporter) Export(ctx context.Context, e volume.Export) (volume.Target, error) {
	err := x.do(ctx, "Export", e.VolumeID, func() error {
		have, there := x.exports[e.VolumeID]
		same := have
		same.Initiator, same.Also = e.Initiator, e.Also
		switch {
		case e.Epoch < x.newest[e.VolumeID]:
			return fmt.Errorf("volume %s: epoch %d is over, there has been %d: %w", e.VolumeID, e.Epoch, x.newest[e.VolumeID], errdefs.ErrFailedPrecondition)
		case there && have.Epoch == e.Epoch && same != e:
			return fmt.Errorf("volume %s: epoch %d has other contents: %w", e.VolumeID, e.Epoch, errdefs.ErrAlreadyExists)
		case !there || have.Epoch != e.Epoch:
			x.end(e.VolumeID)
		default:
			x.end(e.VolumeID, e.Initiator, e.Also)
		}
		x.exports[e.VolumeID], x.newest[e.VolumeID] = e, e.Epoch
		return nil
	})
	if err != nil {
		return volume.Target{}, err
	}
	return targetOf(e.VolumeID), nil
}

// end ends the sessions of a volume, but for those of some initiators. x.mu is held.
func (x *Exporter) end(id string, but ...string) {
	for s := range x.open {
		if s.id == id && !slices.Contains(but, s.initiator) {
			delete(x.open, s)
		}
	}
}

// Unexport implements volume.Exporter.
func (x *Exporter) Unexport(ctx context.Context, id string, epoch uint64) error {
	return x.do(ctx, "Unexport", id, func() error {
		have, there := x.exports[id]
		switch {
		case !there:
			return nil
		case epoch < have.Epoch:
			return fmt.Errorf("volume %s: epoch %d is over, there is %d: %w", id, epoch, have.Epoch, errdefs.ErrFailedPrecondition)
		}
		x.end(id)
		delete(x.exports, id)
		return nil
	})
}

// Resized implements volume.Exporter.
func (x *Exporter) Resized(ctx context.Context, id string) error {
	return x.do(ctx, "Resized", id, func() error { return nil })
}

// Hold implements volume.Exporter.
func (x *Exporter) Hold(ctx context.Context, id string) (release func(), err error) {
	held := make(chan struct{})
	err = x.do(ctx, "Hold", id, func() error { x.held[id] = held; return nil })
	release = sync.OnceFunc(func() {
		x.mu.Lock()
		defer x.mu.Unlock()
		delete(x.held, id)
		close(held)
	})
	if err != nil {
		release()
		return nil, err
	}
	return release, nil
}

// Exports implements volume.Exporter.
func (x *Exporter) Exports(ctx context.Context) (all []volume.Exported, err error) {
	err = x.do(ctx, "Exports", "", func() error {
		for id, e := range x.exports {
			all = append(all, volume.Exported{VolumeID: id, Epoch: e.Epoch})
		}
		return nil
	})
	return all, err
}

// Session is an initiator that is logged in.
type Session struct {
	exporter  *Exporter
	id        string
	initiator string
}

// Login lets an initiator in, or is PermissionDenied.
func (x *Exporter) Login(t volume.Target, initiator, user, secret string) (*Session, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for id, e := range x.exports {
		if targetOf(id) == t && (initiator == e.Initiator || initiator == e.Also) && initiator != "" && e.User == user && e.Secret == secret {
			s := &Session{x, id, initiator}
			x.open[s] = struct{}{}
			return s, nil
		}
	}
	return nil, fmt.Errorf("login of %s at %s: %w", initiator, t.IQN, errdefs.ErrPermissionDenied)
}

// Write is Unavailable once the session has ended, and waits while the volume is held.
func (s *Session) Write() error {
	s.exporter.mu.Lock()
	for held := s.exporter.held[s.id]; held != nil; held = s.exporter.held[s.id] {
		s.exporter.mu.Unlock()
		<-held
		s.exporter.mu.Lock()
	}
	defer s.exporter.mu.Unlock()
	if _, ok := s.exporter.open[s]; !ok {
		return fmt.Errorf("the session has ended: %w", errdefs.ErrUnavailable)
	}
	return nil
}

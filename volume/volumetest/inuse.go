package volumetest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/dewpoint-cloud/dewpoint/volume"
)

// slots is how many places a writer writes to in turn, all over the volume.
const slots = 16

// writer writes the numbers from 1 on, each to the next slot, and flushes it before the next: whatever is there at one moment is all numbers up
// to some.
type writer struct {
	f     *os.File
	place []int64
	mu    sync.Mutex // held while it writes, and by who holds it up
	n     uint64
	err   error
}

func (e *rig) writer(ctx context.Context, id string) (*writer, error) {
	f, size, err := e.open(ctx, id)
	if err != nil {
		return nil, err
	}
	w := &writer{f: f}
	for i := range int64(slots) {
		w.place = append(w.place, i*(size/slots))
	}
	return w, nil
}

// during has the writer work before, while and after do is done, and returns the number that it had written before.
func (w *writer) during(do func() error) (before uint64, err error) {
	stop, ended, turned := make(chan struct{}), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-stop:
				return
			default:
			}
			w.mu.Lock()
			w.n++
			_, err := w.f.WriteAt(binary.BigEndian.AppendUint64(nil, w.n), w.place[w.n%slots])
			w.err = errors.Join(w.err, err, w.f.Sync())
			failed := w.err != nil
			if w.n == 2*slots {
				close(turned)
			}
			w.mu.Unlock()
			if failed {
				return
			}
		}
	}()
	select {
	case <-turned:
	case <-ended:
	}
	w.mu.Lock()
	before = w.n
	w.mu.Unlock()
	err = do()
	close(stop)
	<-ended
	return before, errors.Join(err, w.err, w.f.Close())
}

// hold has the writer wait.
func (w *writer) hold(context.Context) (release func(), err error) {
	w.mu.Lock()
	return w.mu.Unlock, nil
}

func (e *rig) snapshotInUse(ctx context.Context, snapshot, of string, w *writer) error {
	if copier, ok := e.Driver.(volume.Copier); ok {
		return copier.SnapshotHeld(ctx, snapshot, of, w.hold)
	}
	return e.Driver.Snapshot(ctx, snapshot, of)
}

// oneMoment checks that a volume holds what a writer had written at one moment, which was not before it had written a number.
func (e *rig) oneMoment(ctx context.Context, id string, before uint64) error {
	w, err := e.writer(ctx, id)
	if err != nil {
		return err
	}
	defer w.f.Close()
	var got [slots]uint64
	last, b := uint64(0), make([]byte, 8)
	for i, at := range w.place {
		if _, err := w.f.ReadAt(b, at); err != nil {
			return err
		}
		got[i] = binary.BigEndian.Uint64(b)
		last = max(last, got[i])
	}
	if last < before {
		return fmt.Errorf("the snapshot has what was written up to %d, and %d was flushed before it", last, before)
	}
	for i, n := range got {
		if want := last - (last-uint64(i))%slots; n != want {
			return fmt.Errorf("the snapshot has %d, and at slot %d not %d but %d: %d", last, i, want, n, got)
		}
	}
	return nil
}

package operation

import (
	"context"
	"time"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/state"
)

// take makes the operation this worker's, under a new epoch. It returns false if it has ended meanwhile. The only worker of
// its owner needs no transaction to take what nobody has had: the first record of progress takes it too.
func (r *Runner) take(ctx context.Context, d *drive, id string) (rec Record, found bool, err error) {
	if r.cfg.Exclusive {
		err = r.cfg.Store.View(func(v *state.View) error { rec, err = Table.Get(v, id); return err })
		if errdefs.IsNotFound(err) {
			return rec, false, nil
		}
		if err != nil || rec.Holder == "" {
			return rec, err == nil, err
		}
	}
	err = r.cfg.Store.Update(ctx, func(tx *state.Tx) error {
		var err error
		if rec, err = Table.Get(tx, id); err != nil {
			return err
		}
		if r.wait(rec, time.Now()) > 0 {
			return errLost
		}
		rec.Epoch++
		rec.Holder = r.holder
		rec.Lease = time.Now().Add(r.cfg.Lease).UTC()
		return Table.Put(tx, rec)
	})
	if errdefs.IsNotFound(err) {
		return rec, false, nil
	}
	if err != nil {
		return rec, false, err
	}
	r.mu.Lock()
	d.epoch = rec.Epoch
	r.mu.Unlock()
	r.leased(d, rec)
	return rec, true, nil
}

// leased notes how long the operation is safe from other workers. When that ends, because the store can't be written for
// so long, the worker lets go, so that its successor is alone.
func (r *Runner) leased(d *drive, rec Record) {
	if r.cfg.Exclusive {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	left := time.Until(rec.Lease)
	if d.expiry == nil {
		d.expiry = time.AfterFunc(left, func() { d.cancel(errLost) })
		return
	}
	d.expiry.Reset(left)
}

// renew keeps the leases of what is being done, and ends what another worker has taken.
func (r *Runner) renew(ctx context.Context) {
	ticker := time.NewTicker(max(r.cfg.Lease/3, 1))
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		due := r.due()
		if len(due) == 0 {
			continue
		}
		var renewed []Record
		err := r.cfg.Store.Update(ctx, func(tx *state.Tx) error {
			renewed = renewed[:0]
			for d, epoch := range due {
				rec, err := Table.Get(tx, d.id)
				if err != nil || rec.Epoch != epoch {
					continue // ended or lost meanwhile
				}
				rec.Lease = time.Now().Add(r.cfg.Lease).UTC()
				if err := Table.Put(tx, rec); err != nil {
					return err
				}
				renewed = append(renewed, rec)
			}
			return nil
		})
		if err != nil {
			if ctx.Err() == nil {
				r.cfg.Logger.Warn("operation: leases could not be renewed", "owner", r.cfg.Owner, "error", err)
			}
			continue
		}
		for _, rec := range renewed {
			for d := range due {
				if d.id == rec.ID {
					r.leased(d, rec)
				}
			}
		}
	}
}

// due drops what another worker has taken, and returns the drives, with their epochs, whose lease must be renewed now: a
// record of progress has done so for the others.
func (r *Runner) due() map[*drive]uint64 {
	due := map[*drive]uint64{}
	soon := time.Now().Add(2 * r.cfg.Lease / 3)
	r.mu.Lock()
	defer r.mu.Unlock()
	_ = r.cfg.Store.View(func(v *state.View) error {
		for _, d := range r.running {
			rec, err := Table.Get(v, d.id)
			switch {
			case err != nil || d.epoch == 0 || rec.Epoch < d.epoch:
			case rec.Epoch > d.epoch:
				d.cancel(errLost)
			case rec.Lease.Before(soon):
				due[d] = d.epoch
			}
		}
		return nil
	})
	return due
}

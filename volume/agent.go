package volume

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/uuid"

	"github.com/dewpoint-cloud/dewpoint/image"
	"github.com/dewpoint-cloud/dewpoint/queue"
	"github.com/dewpoint-cloud/dewpoint/scheduler"
	"github.com/dewpoint-cloud/dewpoint/state"
	"github.com/dewpoint-cloud/dewpoint/state/operation"
	"github.com/dewpoint-cloud/dewpoint/volume/internal/keylock"
)

// AgentConfig is what an [Agent] is made of.
type AgentConfig struct {
	Store    *state.Store // required
	HostID   string       // required: never changes, whatever the machine is called
	HostName string       // required: for people
	Driver   Driver       // required
	Exporter Exporter     // required
	// Bus is how a second agent of the host learns that there is a first, and does not begin. Nil: it takes the host over, and the first ends
	// with its next sign of life.
	Bus    queue.Bus
	Images Images // where the contents of images come from; nil: neither volumes of images nor images of volumes are made here

	// Grown begins what tells an instance that a volume it has is larger, in the transaction that ends the work of the volume's host; whoever
	// does that calls [Confirm] in the end. Nil: instances see it by themselves.
	Grown func(tx *state.Tx, at Attachment) error
	// Ring tells the host of an instance that what Grown began is on record. Nil: that host finds it by itself, later.
	Ring func(ctx context.Context, instanceID string)

	// Heartbeat is how often the host gives a sign of life, describes itself, and compares its exports with the records, at most
	// [scheduler.MaxHeartbeat]; 0: 10 s.
	Heartbeat time.Duration
	Parallel  int // operations at once; 0: 32

	Hooks  operation.Hooks
	Logger *slog.Logger // nil: silent
}

// Images has the contents of images at hand on one host: an [image.Cache]. It is safe for concurrent use.
type Images interface {
	// Raw has use called with the path of a raw file with the content of an image, which is there until use returns.
	Raw(ctx context.Context, img image.Image, use func(path string) error) error

	// Keep makes what a raw file or device holds the content of an image that is being made, which [image.Attempt] returned, and returns when it is on
	// record. It may be repeated, each time with another attempt.
	Keep(ctx context.Context, img image.Image, path string) error
}

// Agent does on one host what the records say of its volumes. It follows the records, and nobody has to ring. Of one host, at most
// one agent runs at a time, in any process: a new one asks on the bus whether there is another, and does not begin if that answers; if
// nothing answers, it takes the host over at once, and a predecessor that lives after all ends with its next sign of life.
type Agent struct {
	cfg    AgentConfig
	runner *operation.Runner
	locks  keylock.Locks
}

// NewAgent checks the configuration. It starts nothing.
func NewAgent(cfg AgentConfig) (*Agent, error) {
	missing := ""
	switch {
	case cfg.Store == nil:
		missing = "Store"
	case cfg.HostID == "":
		missing = "HostID"
	case cfg.HostName == "":
		missing = "HostName"
	case cfg.Driver == nil:
		missing = "Driver"
	case cfg.Exporter == nil:
		missing = "Exporter"
	}
	if missing != "" {
		return nil, fmt.Errorf("volume: AgentConfig.%s is required: %w", missing, errdefs.ErrInvalidArgument)
	}
	if cfg.Heartbeat < 0 || cfg.Heartbeat > scheduler.MaxHeartbeat {
		return nil, fmt.Errorf("volume: AgentConfig.Heartbeat is %v, must be 0 to %v: %w", cfg.Heartbeat, scheduler.MaxHeartbeat, errdefs.ErrInvalidArgument)
	}
	if err := queue.CheckTopic(whoTopic(cfg.HostID)); err != nil {
		return nil, fmt.Errorf("volume: AgentConfig.HostID %.64q must have letters, digits, - and _ only: %w", cfg.HostID, err)
	}
	if cfg.Heartbeat == 0 {
		cfg.Heartbeat = 10 * time.Second
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	cfg.Logger = cfg.Logger.With("host", cfg.HostName)
	a := &Agent{cfg: cfg}
	var err error
	a.runner, err = operation.NewRunner(operation.Config{Store: cfg.Store, Owner: ownerOf(cfg.HostID), Exclusive: true, Parallel: cfg.Parallel,
		Hooks: cfg.Hooks, Logger: cfg.Logger, Kinds: a.kinds()})
	return a, err
}

// Run exports what is attached, makes the host known and does its work until ctx ends; then it returns nil when everything it started has
// ended. Exports stay as they are. A driver or exporter that can't be reached is waited for; a single volume that can't be exported is
// not, and is tried again with each sign of life. It ends earlier, with an error, which is AlreadyExists, if the host's agent runs in
// another process, and with Aborted if another agent has taken the host over.
func (a *Agent) Run(ctx context.Context) error {
	run := uuid.NewString()
	if a.cfg.Bus != nil {
		switch err := scheduler.Alone(ctx, a.cfg.Bus, whoTopic(a.cfg.HostID), a.cfg.HostID); {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return fmt.Errorf("volume: %w", err)
		}
	}
	for wait := 250 * time.Millisecond; ; wait = min(2*wait, 30*time.Second) {
		single, err := a.compare(ctx)
		err = errors.Join(err, a.describe(ctx, run, true))
		if ctx.Err() != nil {
			return nil
		}
		if err == nil {
			if single != nil {
				a.cfg.Logger.Warn("volume: not all exports are there", "error", single)
			}
			break
		}
		a.cfg.Logger.Warn("volume: the host is not ready", "error", err, "again in", wait)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
	life := ctx
	ctx, cancel := context.WithCancelCause(life)
	defer cancel(nil)
	var parts sync.WaitGroup
	parts.Go(func() { a.beat(ctx, run, cancel) })
	parts.Go(func() { a.follow(ctx) })
	parts.Go(func() { a.answer(ctx) })
	err := a.runner.Run(ctx)
	if life.Err() == nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	cancel(nil)
	parts.Wait()
	return err
}

// whoTopic is where a host's agent answers that it is there.
func whoTopic(hostID string) string { return "volume." + hostID + ".who" }

// answer tells who asks that this agent is there, until ctx ends.
func (a *Agent) answer(ctx context.Context) {
	if a.cfg.Bus == nil {
		return
	}
	stop, err := queue.ServeSoon(ctx, a.cfg.Bus, whoTopic(a.cfg.HostID), scheduler.Here(a.cfg.HostName), a.cfg.Logger)
	if err != nil {
		if ctx.Err() == nil {
			a.cfg.Logger.Warn("volume: a second agent of this host would not hear of this one", "error", err)
		}
		return
	}
	<-ctx.Done()
	stop()
}

// beat gives a sign of life now and then. When another agent has taken the host over it ends with that.
func (a *Agent) beat(ctx context.Context, run string, end context.CancelCauseFunc) {
	ticker := time.NewTicker(a.cfg.Heartbeat)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		err := a.describe(ctx, run, false) // first: what another agent has exported since is not this one's to judge
		if errdefs.IsAborted(err) {
			end(err)
			return
		}
		if err = errors.Join(err, a.Compare(ctx)); err != nil && ctx.Err() == nil {
			a.cfg.Logger.Warn("volume: heartbeat failed", "error", err)
		}
	}
}

// follow rings when an operation of this host is begun, by whatever process, and for the instance when its volume has become larger.
func (a *Agent) follow(ctx context.Context) {
	owner := ownerOf(a.cfg.HostID)
	all := func(*state.View) error { a.runner.Ring(); return nil }
	for changes, err := range a.cfg.Store.ViewAndWatch(ctx, all) {
		if err != nil {
			if ctx.Err() == nil {
				a.cfg.Logger.Warn("volume: the records can't be followed", "error", err)
			}
			return
		}
		for c := range operation.Table.Changes(changes) {
			// Begun, asked to stop, or next in its turn.
			if c.New == nil && c.Old.Owner == owner || c.New != nil && c.New.Owner == owner && (c.Old == nil || c.New.Cancel != c.Old.Cancel) {
				a.runner.Ring()
			}
			if c.New == nil && c.Old.Owner == owner && c.Old.Kind == kindExtend {
				a.ring(ctx, strings.TrimPrefix(c.Old.Object, object("")))
			}
		}
	}
}

// ring tells the host of the instance that has a volume that there may be work for it.
func (a *Agent) ring(ctx context.Context, volumeID string) {
	if at, _, err := a.attachment(volumeID); err == nil && at.InstanceID != "" && a.cfg.Ring != nil {
		a.cfg.Ring(ctx, at.InstanceID)
	}
}

// describe records what the host has, and that it is alive. The first time, it makes this run of the agent the only one; later, it is Aborted if
// another has become that.
func (a *Agent) describe(ctx context.Context, run string, first bool) error {
	stats, err := a.cfg.Driver.Stats(ctx)
	if err != nil {
		return fmt.Errorf("volume: host %s: %w", a.cfg.HostName, err)
	}
	all, err := a.cfg.Driver.List(ctx)
	if err != nil {
		return fmt.Errorf("volume: host %s: %w", a.cfg.HostName, err)
	}
	return a.cfg.Store.Update(ctx, func(tx *state.Tx) error {
		last, err := scheduler.Beats.Get(tx, BeatID(a.cfg.HostID))
		if err == nil && !first && last.Run != run {
			return fmt.Errorf("volume: another agent has taken the volumes of host %s (%s) over: %w", a.cfg.HostName, a.cfg.HostID, errdefs.ErrAborted)
		}
		if err := scheduler.Beats.Put(tx, scheduler.Beat{HostID: BeatID(a.cfg.HostID), At: time.Now().UTC(), Run: run, Every: a.cfg.Heartbeat}); err != nil {
			return err
		}
		h := Host{ID: a.cfg.HostID, Name: a.cfg.HostName, TotalGiB: stats.TotalGiB, FreeGiB: stats.FreeGiB}
		for _, i := range all {
			if counted(tx.Unguarded(), i) {
				h.KnownGiB += i.SizeGiB
			}
		}
		return Hosts.Put(tx, h)
	})
}

// counted tells whether what a driver has is counted by the records too.
func counted(r state.Reader, i Info) bool {
	if i.Of != "" {
		s, err := Snapshots.Get(r, i.ID)
		return err == nil && s.State != StateError
	}
	v, err := Volumes.Get(r, i.ID)
	return err == nil && v.State != StateError
}

// Compare makes the host's exports what the records say: what is attached and not exported, as after a restart, is exported; what
// is exported and not attached is ended.
func (a *Agent) Compare(ctx context.Context) error {
	return errors.Join(a.compare(ctx))
}

// compare is Compare; what is wrong with single volumes is told apart from what keeps it from knowing.
func (a *Agent) compare(ctx context.Context) (single, err error) {
	have, err := a.cfg.Exporter.Exports(ctx)
	if err != nil {
		return nil, fmt.Errorf("volume: exports: %w", err)
	}
	// The exports first: what they have and the records then don't was ended, unless it was begun meanwhile, which has a newer epoch.
	there := map[string]uint64{}
	for _, e := range have {
		there[e.VolumeID] = e.Epoch
	}
	var missing []string
	wanted := map[string]uint64{}
	err = a.cfg.Store.View(func(v *state.View) error {
		for at := range Attachments.By(v, "host", a.cfg.HostID) {
			wanted[at.VolumeID] = at.Epoch
			if epoch, ok := there[at.VolumeID]; at.Ready && !at.Ending && (!ok || epoch != at.Epoch) {
				missing = append(missing, at.VolumeID)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for id, epoch := range there {
		if want, ok := wanted[id]; !ok || epoch < want {
			a.cfg.Logger.Warn("volume: an export that no record names is ended", "volume", id, "epoch", epoch)
			single = errors.Join(single, a.unexport(ctx, &work{VolumeID: id, Epoch: epoch}))
		}
	}
	for _, id := range missing {
		if unlock, ok := a.locks.TryLock(id); ok { // else something is being done to it, which may take long; the next look finds it
			single = errors.Join(single, a.exportAgain(ctx, id))
			unlock()
		}
	}
	return single, nil
}

// exportAgain exports what is attached, if it still is. The volume is locked.
func (a *Agent) exportAgain(ctx context.Context, id string) error {
	at, found, err := a.attachment(id)
	if err != nil || !found || !at.Ready || at.Ending {
		return err
	}
	target, err := a.exportNow(ctx, at)
	if err != nil {
		return fmt.Errorf("volume %s: exporting it again: %w", id, err)
	}
	if target == at.Target {
		return nil
	}
	// The consumer was told another address; whoever connects from now on is told this one.
	return a.cfg.Store.Update(ctx, func(tx *state.Tx) error {
		_, now, err := held(tx, id, at.Epoch)
		if err != nil {
			return ignoreMissing(err)
		}
		now.Target = target
		return Attachments.Put(tx, now)
	})
}

// Difference says, in words for an operator, where what the host has is not what the records say. It changes nothing.
func (a *Agent) Difference(ctx context.Context) ([]string, error) {
	all, err := a.cfg.Driver.List(ctx)
	if err != nil {
		return nil, err
	}
	exports, err := a.cfg.Exporter.Exports(ctx)
	if err != nil {
		return nil, err
	}
	var found []string
	report := func(format string, args ...any) { found = append(found, fmt.Sprintf(format, args...)) }
	err = a.cfg.Store.View(func(r *state.View) error {
		have := map[string]Info{}
		for _, i := range all {
			have[i.ID] = i
			if !counted(r, i) {
				report("volume %s of %d GiB: no record wants it", i.ID, i.SizeGiB)
			}
		}
		for v := range Volumes.By(r, "host", a.cfg.HostID) {
			i, ok := have[v.ID]
			switch {
			case v.State == StateError:
			case !ok:
				report("volume %s is %s, and has no device", v.ID, v.State)
			case i.SizeGiB != v.SizeGiB || i.Of != "":
				report("volume %s has %d GiB, its record %d", v.ID, i.SizeGiB, v.SizeGiB)
			}
		}
		for s := range Snapshots.By(r, "host", a.cfg.HostID) {
			if i, ok := have[s.ID]; s.State != StateError && (!ok || i.Of != s.VolumeID) {
				report("snapshot %s is %s, and has no device", s.ID, s.State)
			}
		}
		there := map[string]uint64{}
		for _, e := range exports {
			there[e.VolumeID] = e.Epoch
			if at, err := Attachments.Get(r, e.VolumeID); err != nil || at.Epoch != e.Epoch {
				report("volume %s is exported with epoch %d: no record wants it", e.VolumeID, e.Epoch)
			}
		}
		for at := range Attachments.By(r, "host", a.cfg.HostID) {
			if _, ok := there[at.VolumeID]; at.Ready && !at.Ending && !ok {
				report("volume %s is attached to %s and not exported", at.VolumeID, at.Consumer)
			}
		}
		return nil
	})
	return found, err
}

func (a *Agent) volume(id string) (v Volume, err error) {
	err = a.cfg.Store.View(func(r *state.View) error { v, err = Volumes.Get(r, id); return err })
	return v, err
}

func (a *Agent) attachment(id string) (at Attachment, found bool, err error) {
	err = a.cfg.Store.View(func(r *state.View) error {
		at, err = Attachments.Get(r, id)
		return err
	})
	if errdefs.IsNotFound(err) {
		return at, false, nil
	}
	return at, err == nil, err
}

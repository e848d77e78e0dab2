package state

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/dewpoint-cloud/dewpoint/state/internal/feed"
	memdb "github.com/hashicorp/go-memdb"
)

// Config is what a [Store] is made of.
type Config struct {
	Log    Log      // required; the store uses it but does not close it
	Schema []Schema // required: every table and sum that the program uses

	// History is how many revisions a watcher may fall behind before it has to read the whole state again; 0: 4096.
	History int

	Logger *slog.Logger // nil: silent
}

// Store is a cloud's records, in memory and indexed, over a log. All methods are safe for concurrent use.
type Store struct {
	log    Log
	schema *schema
	db     *memdb.MemDB
	logger *slog.Logger
	feed   *feed.Feed[Changes]
	submit chan *update

	ctx  context.Context // ends with Close; the only context kept, and it belongs to the two goroutines below
	stop context.CancelFunc
	done sync.WaitGroup

	mu      sync.Mutex // held, too, while a batch comes into db and feed, so that all three are at one revision
	applied Revision
	moved   chan struct{} // closed and replaced when applied moves or the follower ends
	failed  error         // why the follower ended
}

// Open loads the state from the log and follows it. It returns when the tables hold what the log held at the call, and
// starts two goroutines, one that follows and one that commits; Close ends them. Opening one log several times, in
// one process or in several, is what it is made for.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	if cfg.Log == nil {
		return nil, fmt.Errorf("state: Config.Log is required: %w", errdefs.ErrInvalidArgument)
	}
	if cfg.History == 0 {
		cfg.History = 4096
	}
	if cfg.History < 0 {
		return nil, fmt.Errorf("state: Config.History is %d, must be at least 0: %w", cfg.History, errdefs.ErrInvalidArgument)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	schema, err := newSchema(cfg.Schema)
	if err != nil {
		return nil, err
	}
	db, err := memdb.NewMemDB(schema.db)
	if err != nil {
		return nil, fmt.Errorf("state: %w", err)
	}
	if err := schema.prepare(db); err != nil {
		return nil, fmt.Errorf("state: %w", err)
	}
	s := &Store{
		log: cfg.Log, schema: schema, db: db, logger: cfg.Logger, feed: feed.New[Changes](cfg.History),
		submit: make(chan *update), moved: make(chan struct{}),
	}
	s.ctx, s.stop = context.WithCancel(context.Background())
	loaded := make(chan error, 1)
	s.done.Go(func() { s.follow(loaded) })
	select {
	case err = <-loaded:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		s.stop()
		s.done.Wait()
		return nil, err
	}
	s.done.Go(s.commit)
	return s, nil
}

// Close ends the store's goroutines, its watches and its waiting updates. It does not close the log. A second
// Close does nothing.
func (s *Store) Close() error {
	s.stop()
	s.done.Wait()
	s.feed.Close()
	return nil
}

// View runs fn on the state as it is now.
func (s *Store) View(fn func(v *View) error) error {
	s.mu.Lock()
	v := &View{s.schema, s.db.Txn(false), s.applied}
	s.mu.Unlock()
	defer v.rows.Abort()
	return fn(v)
}

// Revision returns the revision of what View shows.
func (s *Store) Revision() Revision {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.applied
}

// Update runs fn on a private copy of the state and commits what it changed: all of it, or nothing if fn returns an
// error, which Update then returns as it is. When Update returns nil, the change is durable and every View of this store
// shows it.
//
// If a record that fn read through tx has been changed by someone else meanwhile, fn is run again on newer data, so it
// must have no effect but on tx and on variables that it sets anew in each run. It must not call Update. Updates of
// many goroutines are run one after the other and committed together, so fn should not block either.
//
// If ctx ends while the update still waits for its turn, nothing has happened and ctx's error is returned. An error
// of the log that leaves the outcome open is under [ErrUnknown], and so is a log that does not answer, or does not show what
// was committed, within 30 seconds.
func (s *Store) Update(ctx context.Context, fn func(tx *Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	u := &update{ctx: ctx, fn: fn, result: make(chan error, 1)}
	select {
	case s.submit <- u:
	case <-ctx.Done():
		return ctx.Err()
	case <-s.ctx.Done():
		return s.ended()
	}
	err := <-u.result
	if u.panicked != nil {
		panic(u.panicked)
	}
	return err
}

// ended is the error of what a store that follows no more is asked to do.
func (s *Store) ended() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed != nil {
		return s.failed
	}
	return ErrClosed
}

// Reached waits until View shows what the log committed up to a revision, for one that heard of it by another way than the log, such as
// a message. It returns the error of ctx if that ends before, and ErrClosed when the store is closed.
func (s *Store) Reached(ctx context.Context, rev Revision) error {
	err := s.reached(ctx, rev)
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// reached waits until rev has been applied, or until ctx ends.
func (s *Store) reached(ctx context.Context, rev Revision) error {
	for {
		s.mu.Lock()
		applied, moved, failed := s.applied, s.moved, s.failed
		s.mu.Unlock()
		switch {
		case applied >= rev:
			return nil
		case failed != nil:
			return failed
		}
		select {
		case <-moved:
		case <-ctx.Done():
			if s.ctx.Err() != nil {
				return s.ended()
			}
			return fmt.Errorf("%w: revision %d is committed and was not seen within %v", ErrUnknown, rev, commitTimeout)
		}
	}
}

// end notes why the follower ended.
func (s *Store) end(failed error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failed = failed
	s.move()
}

// move wakes those who wait for a revision; the mutex is held.
func (s *Store) move() {
	close(s.moved)
	s.moved = make(chan struct{})
}

// watchError is a follower's error in the words of this package.
func (s *Store) watchError(err error) error {
	if errors.Is(err, feed.ErrBehind) {
		return ErrResync
	}
	return s.ended()
}

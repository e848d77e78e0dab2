package bolt

import (
	"errors"
	"fmt"
	"hash/crc64"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"go.etcd.io/bbolt"

	"github.com/dewpoint-cloud/dewpoint/state"
	"github.com/dewpoint-cloud/dewpoint/state/internal/feed"
)

// Config is what a [Log] is made of.
type Config struct {
	// Path is the file's, required. It is made, with mode 0600, if it is not there; its directory must be.
	Path string

	// History is how many batches a follower may fall behind before it is given a snapshot; 0: 1024. They are kept in
	// memory, and forgotten when the log is closed.
	History int
}

// Log implements state.Log.
type Log struct {
	path  string
	file  *os.File // bbolt's, which has the lock
	db    *bbolt.DB
	table *crc64.Table
	feed  *feed.Feed[state.Batch]

	turn    sync.Mutex
	waiting []*write // in the order in which they came
	busy    bool     // a goroutine commits what waits
	closing bool
	done    sync.WaitGroup // that goroutine; Add only under turn while not closing

	close  sync.Once
	closed error // what Close returns

	// mu is held for writing while a group of batches becomes visible, so that what is read under it is the same in the
	// file, in the head and in the feed.
	mu     sync.RWMutex
	head   head
	failed error // why nothing can be committed any more
}

// Open opens the file, or makes it, and checks it as the package says. A file that another process, or another Log, has
// open is refused at once as Unavailable.
func Open(cfg Config) (*Log, error) {
	switch {
	case cfg.Path == "":
		return nil, fmt.Errorf("state/bolt: Config.Path is required: %w", errdefs.ErrInvalidArgument)
	case cfg.History < 0:
		return nil, fmt.Errorf("state/bolt: Config.History is %d, must be at least 0: %w", cfg.History, errdefs.ErrInvalidArgument)
	case cfg.History == 0:
		cfg.History = 1024
	}
	l := &Log{path: cfg.Path, table: crc64.MakeTable(crc64.ECMA), feed: feed.New[state.Batch](cfg.History)}
	if err := l.open(); err != nil {
		return nil, fmt.Errorf("state/bolt: open %s: %w", cfg.Path, err)
	}
	l.feed.Reset(uint64(l.head.rev))
	return l, nil
}

// open opens, locks and checks the file, and only then hands it to bbolt.
func (l *Log) open() (err error) {
	f, err := os.OpenFile(l.path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		if err = create(l.path); err == nil {
			f, err = os.OpenFile(l.path, os.O_RDWR, 0)
		}
	}
	if err != nil {
		return foreign(err)
	}
	defer func() {
		if err != nil {
			_ = f.Close() // bbolt may have done so
		}
	}()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("it is not a regular file: %w", errdefs.ErrInvalidArgument)
	}
	if err := lock(f); err != nil {
		return err
	}
	if info, err = f.Stat(); err != nil { // whoever had the lock may have grown it
		return err
	}
	if l.head, err = check(f, info.Size()); err != nil {
		return err
	}
	l.file = f
	return guarded(func() (err error) {
		l.db, err = bbolt.Open(l.path, 0o600, options(f))
		return err
	})
}

// options are those of a file that is open and locked. The list of free pages is not written, which makes commits cheaper:
// Open reads all pages anyway.
func options(f *os.File) *bbolt.Options {
	return &bbolt.Options{NoFreelistSync: true, FreelistType: bbolt.FreelistMapType, NoStatistics: true, Timeout: time.Millisecond,
		InitialMmapSize: 1 << 28, OpenFile: func(string, int, os.FileMode) (*os.File, error) { return f, nil }}
}

// create makes an empty log. It is made under another name and gets its own when it is complete, so that a file by that name
// is never half made; if someone else was faster, theirs stays.
func create(path string) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, filepath.Base(path)+".new-*") // with mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	db, err := bbolt.Open(f.Name(), 0o600, options(f))
	if err != nil {
		return err
	}
	table := crc64.MakeTable(crc64.ECMA)
	for range 2 { // so that neither meta page leads to the list of free pages that bbolt begins with
		err = errors.Join(err, db.Update(func(tx *bbolt.Tx) error {
			about, err := tx.CreateBucketIfNotExists([]byte(aboutBucket))
			if err != nil {
				return err
			}
			_, err = tx.CreateBucketIfNotExists([]byte(rowsBucket))
			return errors.Join(err, about.Put([]byte(formatKey), encodeFormat(table, version)), about.Put([]byte(headKey), head{}.encode(table)))
		}))
	}
	if err = errors.Join(err, db.Close()); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// foreign gives the errors of the file system their classes.
func foreign(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: %w", err, errdefs.ErrNotFound)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: %w", err, errdefs.ErrPermissionDenied)
	}
	return err
}

// Close implements state.Log. It waits for the batches that are being written, and gives up the file.
func (l *Log) Close() error {
	l.close.Do(func() {
		l.turn.Lock()
		l.closing = true
		l.turn.Unlock()
		l.done.Wait()
		l.feed.Close()
		l.mu.Lock()
		defer l.mu.Unlock()
		failed := l.failed
		l.failed = state.ErrClosed
		if failed != nil {
			l.closed = l.file.Close() // bbolt may be in the middle of something; the mapping stays
			return
		}
		l.closed = l.db.Close()
	})
	return l.closed
}

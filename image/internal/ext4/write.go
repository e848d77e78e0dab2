package ext4

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"time"

	"github.com/containerd/errdefs"
)

// Config says where the programs are.
type Config struct {
	Debugfs string // the program of e2fsprogs. "": debugfs in PATH
	Prlimit string // the program of util-linux. "": prlimit in PATH

	Logger *slog.Logger // gets what debugfs says when it fails. nil: silent
}

// Writer writes files. It keeps nothing between calls and is safe for concurrent use.
type Writer struct{ cfg Config }

// New returns a writer. It does not look for the programs: a missing one is the error of the first call.
func New(cfg Config) *Writer {
	if cfg.Debugfs == "" {
		cfg.Debugfs = "debugfs"
	}
	if cfg.Prlimit == "" {
		cfg.Prlimit = "prlimit"
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Writer{cfg}
}

// MaxContent is how long a file may be, in bytes.
const MaxContent = 1 << 20

// names are paths in a file system that debugfs takes as they are: no blank, quote or "..".
var names = regexp.MustCompile(`^(/[A-Za-z0-9_-][A-Za-z0-9._-]*)+$`)

// Write makes a file of the disk's root file system, which is the first that has the file's directory, or replaces it. The file is root's,
// with mode 0644. What it wrote it has read back.
//
// A name with other characters than letters, digits and ._-, a content that is too long, and a disk without such a file system or
// directory are InvalidArgument; a file system that was not unmounted, and a program that is not installed, FailedPrecondition; all
// else is Internal. After an error, and when ctx ends, the disk may be damaged: throw it away.
func (w *Writer) Write(ctx context.Context, disk, name string, content []byte) error {
	switch {
	case !names.MatchString(name) || path.Clean(name) != name || path.Dir(name) == "/":
		return fmt.Errorf("ext4: file name %.80q must be absolute, in a directory, of letters, digits and ._-: %w", name, errdefs.ErrInvalidArgument)
	case len(content) > MaxContent:
		return fmt.Errorf("ext4: content of %s has %d bytes, at most %d are possible: %w", name, len(content), MaxContent, errdefs.ErrInvalidArgument)
	case !filepath.IsAbs(disk) || strings.ContainsAny(disk, "?\n"):
		return fmt.Errorf("ext4: path of a disk must be absolute, without a question mark: %w", errdefs.ErrInvalidArgument)
	}
	f, err := os.Open(disk)
	if err != nil {
		return err
	}
	all, err := find(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("ext4: %w", err)
	}
	dir, err := os.MkdirTemp("", "dewpoint-ext4-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	source := filepath.Join(dir, "content")
	if err := os.WriteFile(source, content, 0o600); err != nil {
		return err
	}
	for _, at := range all {
		where := fmt.Sprintf("%s?offset=%d", disk, at.offset)
		stat, err := w.run(ctx, dir, false, where, "stat "+path.Dir(name))
		if err != nil {
			return err
		}
		if !bytes.Contains(stat, []byte("Type: directory")) {
			continue
		}
		base := path.Base(name)
		if _, err := w.run(ctx, dir, true, where, "cd "+path.Dir(name), "rm "+base, "write content "+base, "sif "+base+" mode 0100644",
			"sif "+base+" uid 0", "sif "+base+" gid 0"); err != nil {
			return err
		}
		back := filepath.Join(dir, "back")
		if _, err := w.run(ctx, dir, false, where, "dump "+name+" back"); err != nil {
			return err
		}
		got, err := os.ReadFile(back)
		if err != nil || !bytes.Equal(got, content) {
			return fmt.Errorf("ext4: %s is not what was written: is the file system full? %w", name, errdefs.ErrInternal)
		}
		return nil
	}
	return fmt.Errorf("ext4: no file system of the disk has the directory %s: %w", path.Dir(name), errdefs.ErrInvalidArgument)
}

// callTime bounds one call; it moves a few blocks.
const callTime = time.Minute

// run runs debugfs in a directory. A command that fails does not make it fail: what it did must be looked at.
func (w *Writer) run(ctx context.Context, dir string, write bool, where string, commands ...string) ([]byte, error) {
	script := filepath.Join(dir, "script")
	if err := os.WriteFile(script, []byte(strings.Join(commands, "\n")+"\n"), 0o600); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	argv := []string{"--as=1073741824", "--cpu=30:31", "--core=0", "--", w.cfg.Debugfs, "-f", "script"}
	if write {
		argv = append(argv, "-w")
	}
	runtime.LockOSThread() // the child is told of the end of the thread
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(ctx, w.cfg.Prlimit, append(argv, where)...)
	cmd.Env = []string{"LC_ALL=C", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "DEBUGFS_PAGER=cat"}
	cmd.Dir = dir
	cmd.SysProcAttr = childOfThisThread()
	cmd.WaitDelay = 2 * time.Second
	var said bytes.Buffer
	out, err := &bytes.Buffer{}, error(nil)
	cmd.Stdout, cmd.Stderr = limit(out), limit(&said)
	if err = cmd.Run(); err == nil {
		return out.Bytes(), nil
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	w.cfg.Logger.WarnContext(ctx, "debugfs failed", "commands", commands, "error", err, "said", said.String())
	var exit *exec.ExitError
	if !errors.As(err, &exit) || strings.Contains(said.String(), "failed to execute") {
		return nil, fmt.Errorf("ext4: debugfs could not be started: are e2fsprogs and util-linux installed? %w", errdefs.ErrFailedPrecondition)
	}
	return nil, fmt.Errorf("ext4: debugfs failed, the log says why: %w", errdefs.ErrInternal)
}

// limited keeps the beginning of what a program says.
type limited struct{ to *bytes.Buffer }

func limit(to *bytes.Buffer) limited { return limited{to} }

const saidBytes = 64 << 10

func (l limited) Write(p []byte) (int, error) {
	l.to.Write(p[:min(len(p), saidBytes-l.to.Len())])
	return len(p), nil
}

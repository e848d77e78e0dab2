package libvirtd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// process is one that was found by its pid file and can't be mistaken for another that has its number later.
type process struct{ pid, fd int }

// open returns the process that a pid file names, if it is the one that is meant: its command line must contain word. NotFound
// if there is none.
func open(pidFile, word string) (process, error) {
	none := fmt.Errorf("libvirtd: no process of %s: %w", pidFile, errdefs.ErrNotFound)
	text, err := os.ReadFile(pidFile)
	if errors.Is(err, fs.ErrNotExist) {
		return process{}, none
	}
	if err != nil {
		return process{}, fmt.Errorf("libvirtd: %w", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || pid <= 1 {
		return process{}, none
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return process{}, none
	}
	p := process{pid: pid, fd: fd}
	// The file descriptor is open: if it is still that process now, it stays so.
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || !bytes.Contains(line, []byte(word)) || p.ended() {
		p.close()
		return process{}, none
	}
	return p, nil
}

// find returns the process of a daemon: the one that was told to write this pid file.
func (d *Daemon) find(name string) (process, error) { return open(d.pidFile(name), d.pidFile(name)) }

func (p process) close() { _ = unix.Close(p.fd) }

func (p process) ended() bool {
	fds := []unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n > 0
}

// end sends a signal and waits until the process has ended; when ctx ends first, it is killed.
func (p process) end(ctx context.Context, signal unix.Signal) error {
	if err := unix.PidfdSendSignal(p.fd, signal, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("libvirtd: process %d: %w", p.pid, err)
	}
	for !p.ended() {
		select {
		case <-ctx.Done():
			_ = unix.PidfdSendSignal(p.fd, unix.SIGKILL, nil, 0)
			return ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
	return nil
}

// Stop ends libvirtd and virtlogd; guests run on. Daemons that don't end before ctx are killed, and ctx's error is returned.
// Daemons that don't run are success.
func (d *Daemon) Stop(ctx context.Context) error {
	return errors.Join(d.end(ctx, "libvirtd", unix.SIGTERM), d.end(ctx, "virtlogd", unix.SIGTERM))
}

// Kill ends libvirtd alone, in the middle of whatever it does, as a crash would. [Start] brings it back.
func (d *Daemon) Kill(ctx context.Context) error { return d.end(ctx, "libvirtd", unix.SIGKILL) }

func (d *Daemon) end(ctx context.Context, name string, signal unix.Signal) error {
	p, err := d.find(name)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer p.close()
	return p.end(ctx, signal)
}

// KillGuests kills every QEMU process of the daemon, whether the daemon runs or not, and returns when they have ended. To
// tests it is what is left to do after a failure.
func (d *Daemon) KillGuests(ctx context.Context) error {
	files, err := filepath.Glob(filepath.Join(d.cfg.Dir, "run", "qemu", "*.pid"))
	if err != nil {
		return err
	}
	var all error
	for _, file := range files {
		p, err := open(file, "guest="+strings.TrimSuffix(filepath.Base(file), ".pid"))
		if errdefs.IsNotFound(err) {
			continue
		}
		if err == nil {
			err = p.end(ctx, unix.SIGKILL)
			p.close()
		}
		all = errors.Join(all, err)
	}
	return all
}

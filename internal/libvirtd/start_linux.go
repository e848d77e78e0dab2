package libvirtd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Daemon is a private libvirtd with its virtlogd.
type Daemon struct {
	cfg     Config
	adopted bool
}

// Start starts the daemons in cfg.Dir, or adopts those that run there already, and returns when libvirtd takes
// connections. ctx bounds the start alone. Errors: InvalidArgument for a bad Config, Unavailable with the end of the log if
// a daemon ends or does not answer.
func Start(ctx context.Context, cfg Config) (*Daemon, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	for _, dir := range []string{cfg.Dir, cfg.CacheDir, filepath.Join(cfg.Dir, "etc"), filepath.Join(cfg.Dir, "lib"),
		filepath.Join(cfg.Dir, "log"), filepath.Join(cfg.Dir, "run")} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return nil, fmt.Errorf("libvirtd: %w", err)
		}
	}
	unlock, err := lock(ctx, filepath.Join(cfg.Dir, "lock"))
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := cfg.writeFiles(); err != nil {
		return nil, fmt.Errorf("libvirtd: %w", err)
	}
	d := &Daemon{cfg: cfg}
	if _, err := d.run(ctx, "virtlogd", filepath.Join(cfg.Dir, "run", "virtlogd-sock")); err != nil {
		return nil, err
	}
	if d.adopted, err = d.run(ctx, "libvirtd", Socket(cfg.Dir)); err != nil {
		return nil, err
	}
	cfg.Logger.Info("libvirtd: ready", "dir", cfg.Dir, "pid", d.PID(), "adopted", d.adopted)
	return d, nil
}

// Socket returns the path of libvirtd's socket.
func (d *Daemon) Socket() string { return Socket(d.cfg.Dir) }

// URI returns what virsh and other clients of libvirt take to connect.
func (d *Daemon) URI() string { return "qemu+unix:///system?socket=" + d.Socket() }

// Adopted tells whether libvirtd ran already when Start was called.
func (d *Daemon) Adopted() bool { return d.adopted }

// PID returns libvirtd's process id, or 0 if it does not run.
func (d *Daemon) PID() int {
	p, err := d.find("libvirtd")
	if err != nil {
		return 0
	}
	defer p.close()
	return p.pid
}

// run starts one of the daemons unless it runs, and waits until its socket takes connections.
func (d *Daemon) run(ctx context.Context, name, socket string) (adopted bool, err error) {
	p, err := d.find(name)
	if err == nil {
		defer p.close()
		return true, d.answers(ctx, name, socket, p.ended)
	}
	if !errdefs.IsNotFound(err) {
		return false, err
	}
	_ = os.Remove(socket) // of one that was killed
	if name == "libvirtd" {
		if err := d.forgetHalfStarted(ctx); err != nil {
			return false, fmt.Errorf("libvirtd: %w", err)
		}
	}
	cmd, err := d.command(name)
	if err != nil {
		return false, err
	}
	err = inNamespaces(d.cfg, cmd.Start)
	_ = cmd.Stdout.(*os.File).Close() // the daemon has it
	if err != nil {
		return false, fmt.Errorf("libvirtd: starting %s: %w", name, err)
	}
	// It may outlive this process; while this process lives, its end must be taken note of.
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait()
	}()
	return false, d.answers(ctx, name, socket, func() bool {
		select {
		case <-ended:
			return true
		default:
			return false
		}
	})
}

// command makes the command line of a daemon, in a session of its own.
func (d *Daemon) command(name string) (*exec.Cmd, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		if path, err = exec.LookPath("/usr/sbin/" + name); err != nil {
			return nil, fmt.Errorf("libvirtd: %s is not installed: %w", name, errdefs.ErrUnavailable)
		}
	}
	out, err := os.OpenFile(d.logFile(name), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("libvirtd: %w", err)
	}
	argv := append(append([]string(nil), d.cfg.Reaper...), path, "-f", "/etc/libvirt/"+name+".conf", "-p", d.pidFile(name))
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = "/", out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return cmd, nil
}

// answers waits until the socket takes connections.
func (d *Daemon) answers(ctx context.Context, name, socket string, ended func() bool) error {
	for {
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
		if err == nil {
			return conn.Close()
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if ended() {
			return fmt.Errorf("libvirtd: %s ended: %s: %w", name, tail(d.logFile(name), 2000), errdefs.ErrUnavailable)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func (d *Daemon) logFile(name string) string { return filepath.Join(d.cfg.Dir, "log", name+".out") }
func (d *Daemon) pidFile(name string) string { return filepath.Join(d.cfg.Dir, "run", name+".pid") }

// tail returns the end of a file, as far as it can be read.
func tail(path string, max int64) string {
	f, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	if size, err := f.Seek(0, io.SeekEnd); err == nil {
		_, _ = f.Seek(-min(size, max), io.SeekEnd)
	}
	text, _ := io.ReadAll(f)
	return string(text)
}

// lock takes the lock that starting in a directory needs, and frees it at the latest when the process ends.
func lock(ctx context.Context, path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("libvirtd: %w", err)
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return func() { _ = f.Close() }, nil
		case !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR):
			_ = f.Close()
			return nil, fmt.Errorf("libvirtd: locking %s: %w", path, err)
		}
		select {
		case <-ctx.Done():
			_ = f.Close()
			return nil, ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

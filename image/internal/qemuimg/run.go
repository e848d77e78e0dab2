package qemuimg

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/image/inspect"
)

// call is one run of qemu-img. It has no form without a format.
type call struct {
	verb      string
	format    inspect.Format // of the file that is read, or made if none is
	cpu       time.Duration
	fileBytes int64 // the largest file it may write
	args      []string
}

// argv is the whole command line. prlimit sets the limits on itself and then becomes qemu-img under the same process
// id, so there is no moment at which qemu-img runs without them, and killing the child kills qemu-img.
func (r *Runner) argv(c call) []string {
	seconds := max(1, int64(c.cpu/time.Second))
	argv := []string{
		r.cfg.Prlimit,
		fmt.Sprintf("--as=%d", r.cfg.AddressSpace),
		fmt.Sprintf("--cpu=%d:%d", seconds, seconds+1),
		fmt.Sprintf("--fsize=%d", c.fileBytes),
		fmt.Sprintf("--stack=%d", stackBytes),
		"--core=0",
		"--", r.cfg.QemuImg, c.verb, "-q", "-f", string(c.format),
	}
	return append(argv, c.args...)
}

// On a slow disk qemu-img has up to 64 threads, and aborts when it can't make one. Each reserves the largest stack of the process, 8 MiB unless it is told
// otherwise, and an arena of malloc, 64 MiB each and as many as eight for each processor: more than the address space that it may have.
const (
	stackBytes = 2 << 20
	arenas     = "MALLOC_ARENA_MAX=2"
)

// run starts the call and waits for it. The thread is locked for as long as the child lives: the kernel sends
// Pdeathsig when the thread that made the child ends, not the process, and Go ends threads.
func (r *Runner) run(ctx context.Context, c call) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	argv := r.argv(c)
	said := &beginning{}
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = []string{"LC_ALL=C", arenas, "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = said, said
	cmd.SysProcAttr = childOfThisThread()
	cmd.WaitDelay = 2 * time.Second
	err := cmd.Run()
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	err = r.translate(c, err, said.String())
	r.cfg.Logger.WarnContext(ctx, "qemu-img failed", "verb", c.verb, "args", c.args, "error", err, "said", said.String())
	return err
}

// What programs say, in the C locale, and how they end.
const (
	saidNoSpace    = "No space left on device"
	saidTooLarge   = "too large"         // EFBIG, where qemu-img met the file size limit itself
	saidNotFound   = "failed to execute" // prlimit, of a program that is not there
	exitCorruption = 2                   // qemu-img check
	exitLeaks      = 3
)

// translate gives a failure its class, and a text that names no file of the host.
func (r *Runner) translate(c call, err error, said string) error {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return fmt.Errorf("qemu-img %s could not be started: is util-linux (prlimit) installed? %w", c.verb,
			errdefs.ErrFailedPrecondition)
	}
	status, _ := exit.Sys().(syscall.WaitStatus)
	switch {
	case status.Signaled() && status.Signal() == syscall.SIGXCPU:
		return fmt.Errorf("qemu-img %s used more than %v of processor time: %w", c.verb, c.cpu, errdefs.ErrResourceExhausted)
	case status.Signaled() && status.Signal() == syscall.SIGXFSZ, strings.Contains(strings.ToLower(said), saidTooLarge):
		return fmt.Errorf("qemu-img %s would have written a file of more than %d bytes: %w", c.verb, c.fileBytes,
			errdefs.ErrResourceExhausted)
	case status.Signaled():
		return fmt.Errorf("qemu-img %s ended by signal %q: %w", c.verb, status.Signal(), errdefs.ErrInternal)
	case strings.Contains(said, saidNoSpace):
		return fmt.Errorf("qemu-img %s: no space left on the host's disk: %w", c.verb, errdefs.ErrResourceExhausted)
	case strings.Contains(said, saidNotFound):
		return fmt.Errorf("qemu-img is not installed (Debian: qemu-utils): %w", errdefs.ErrFailedPrecondition)
	case c.verb == "check" && exit.ExitCode() == exitLeaks:
		return nil
	case c.verb == "check" && exit.ExitCode() == exitCorruption:
		return fmt.Errorf("the disk's qcow2 tables are damaged: %w", errdefs.ErrDataLoss)
	}
	return fmt.Errorf("qemu-img %s failed with exit status %d; the log says why: %w", c.verb, exit.ExitCode(),
		errdefs.ErrInternal)
}

// beginning keeps the first kilobytes of what a program says.
type beginning struct {
	buf bytes.Buffer
}

const saidBytes = 4 << 10

func (t *beginning) Write(p []byte) (int, error) {
	t.buf.Write(p[:min(len(p), saidBytes-t.buf.Len())])
	return len(p), nil
}

func (t *beginning) String() string { return strings.TrimSpace(t.buf.String()) }

// Package qemuimg runs the program qemu-img: the four things this library asks of it, each with the format of every
// file given, under resource limits.
//
// qemu-img is large and reads what strangers wrote, so it gets as little as possible: content that package
// inspect has passed, absolute paths, explicit formats (CVE-2026-24708 was one call without), bounded memory, processor
// time and file size, an empty environment, and a death with its caller's context or process. What it says on its
// standard error names files of the host: it goes to the logger, never into an error.
package qemuimg

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/image/inspect"
)

// Config says where the programs are and what they may use.
type Config struct {
	QemuImg string // the program. "": qemu-img in PATH
	Prlimit string // the program of util-linux that sets limits before it becomes qemu-img. "": prlimit in PATH

	AddressSpace int64         // bytes of address space. 0: 1 GiB
	CPU          time.Duration // processor time of one call, in whole seconds. 0: 30 s
	ConvertCPU   time.Duration // the same for Convert, which moves all the content. 0: 1 h

	Logger *slog.Logger // gets what qemu-img says when it fails. nil: silent
}

// Runner runs qemu-img. It keeps nothing between calls and is safe for concurrent use.
//
// The errors of all methods: a bad argument is InvalidArgument; a program that is not installed is
// FailedPrecondition; a limit that was reached, or a full disk, is ResourceExhausted; any other failure of qemu-img is
// Internal. When the context ends, qemu-img is killed and the context's error returned; the file it was making is then
// half made.
type Runner struct {
	cfg Config
}

// New returns a runner. It does not look for the programs: a missing one is the error of the first call.
func New(cfg Config) *Runner {
	if cfg.QemuImg == "" {
		cfg.QemuImg = "qemu-img"
	}
	if cfg.Prlimit == "" {
		cfg.Prlimit = "prlimit"
	}
	if cfg.AddressSpace <= 0 {
		cfg.AddressSpace = 1 << 30
	}
	if cfg.CPU <= 0 {
		cfg.CPU = 30 * time.Second
	}
	if cfg.ConvertCPU <= 0 {
		cfg.ConvertCPU = time.Hour
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Runner{cfg: cfg}
}

// metadataBytes is more than the metadata of any qcow2 file without content: a disk of 16 TiB has an L1 table of 256 KiB.
const metadataBytes = 64 << 20

// CreateOverlay makes the qcow2 file path, a disk of size bytes whose content is that of backing until it is
// written to. backing is never written.
func (r *Runner) CreateOverlay(ctx context.Context, path string, size int64, backing string, backingFormat inspect.Format) error {
	if err := firstError(checkPath(path), checkPath(backing), checkFormat(backingFormat), checkSize(size)); err != nil {
		return err
	}
	return r.run(ctx, call{"create", inspect.QCOW2, r.cfg.CPU, metadataBytes,
		[]string{"-F", string(backingFormat), "-b", backing, path, strconv.FormatInt(size, 10)}})
}

// Resize makes the disk in path larger, to size bytes. A smaller size is refused by qemu-img.
func (r *Runner) Resize(ctx context.Context, path string, format inspect.Format, size int64) error {
	if err := firstError(checkPath(path), checkFormat(format), checkSize(size)); err != nil {
		return err
	}
	return r.run(ctx, call{"resize", format, r.cfg.CPU, size + metadataBytes, []string{path, strconv.FormatInt(size, 10)}})
}

// Convert writes the content of the disk in src to the new, self-contained file dst, which may become maxBytes large,
// and flushes it. The format of a backing file of src is the one that src records: CreateOverlay always does.
func (r *Runner) Convert(ctx context.Context, src string, srcFormat inspect.Format, dst string, dstFormat inspect.Format, maxBytes int64) error {
	if err := firstError(checkPath(src), checkPath(dst), checkFormat(srcFormat), checkFormat(dstFormat),
		checkSize(maxBytes)); err != nil {
		return err
	}
	return r.run(ctx, call{"convert", srcFormat, r.cfg.ConvertCPU, maxBytes,
		[]string{"-t", "writeback", "-O", string(dstFormat), src, dst}})
}

// Check reads the tables of the qcow2 disk in path, which nothing may have open for writing. A disk that is
// damaged is DataLoss; space that is allocated but not used is no error.
func (r *Runner) Check(ctx context.Context, path string) error {
	if err := checkPath(path); err != nil {
		return err
	}
	return r.run(ctx, call{"check", inspect.QCOW2, r.cfg.CPU, 0, []string{path}})
}

func checkPath(path string) error {
	if !filepath.IsAbs(path) || filepath.Clean(path) != path || strings.ContainsFunc(path, isControl) {
		return fmt.Errorf("path of a disk must be absolute and clean: %w", errdefs.ErrInvalidArgument)
	}
	return nil
}

func isControl(r rune) bool { return r < ' ' || r == 0x7f }

func checkFormat(format inspect.Format) error {
	if !format.Disk() {
		return fmt.Errorf("format of a disk is %.20q, must be raw or qcow2: %w", format, errdefs.ErrInvalidArgument)
	}
	return nil
}

func checkSize(size int64) error {
	if size <= 0 || size > 1<<60 {
		return fmt.Errorf("size of a disk is %d bytes, must be 1 to 2^60: %w", size, errdefs.ErrInvalidArgument)
	}
	return nil
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

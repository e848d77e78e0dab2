package inspect

import (
	"errors"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
)

// Format is how the content of an image is laid out, as its owner declares it.
type Format string

// The formats an image can have.
const (
	Raw     Format = "raw"
	QCOW2   Format = "qcow2"
	Kernel  Format = "aki" // a kernel to boot a machine image with
	Ramdisk Format = "ari" // its initial ramdisk
)

// Disk tells whether images of this format are disks, not kernels or ramdisks.
func (f Format) Disk() bool { return f == Raw || f == QCOW2 }

// Valid tells whether f is one of the formats above.
func (f Format) Valid() bool { return f.Disk() || f == Kernel || f == Ramdisk }

// Limits bound what an image may ask of a host.
type Limits struct {
	// MaxVirtualBytes is the largest disk an image may describe, in bytes. 0: 16 TiB.
	MaxVirtualBytes int64
	// MaxBootBytes is the largest kernel or ramdisk, in bytes. 0: 1 GiB.
	MaxBootBytes int64
}

// The limits where [Limits] has none.
const (
	DefaultMaxVirtualBytes = 16 << 40
	DefaultMaxBootBytes    = 1 << 30
)

func (l Limits) withDefaults() Limits {
	if l.MaxVirtualBytes <= 0 {
		l.MaxVirtualBytes = DefaultMaxVirtualBytes
	}
	if l.MaxBootBytes <= 0 {
		l.MaxBootBytes = DefaultMaxBootBytes
	}
	return l
}

// Info is what an accepted image turned out to be.
type Info struct {
	Format Format
	// VirtualBytes is the size of the disk that a guest sees, a multiple of 512; for a kernel or ramdisk, its size.
	VirtualBytes int64
}

// Refusal is the error of an image whose content is not acceptable. Its class is InvalidArgument. Neither text
// repeats anything that stands in the image.
type Refusal struct {
	Declared Format
	Problem  string // what is wrong: "it has a backing file"
	Remedy   string // what its owner can do about it
}

func (r *Refusal) Error() string {
	return fmt.Sprintf("image declared %s is refused: %s; %s", r.Declared, r.Problem, r.Remedy)
}

// Unwrap makes a refusal an InvalidArgument.
func (r *Refusal) Unwrap() error { return errdefs.ErrInvalidArgument }

// Check looks at content of size bytes that was declared to be of a format, and returns what it is.
//
// Content that is empty, of another format, or dangerous is a [*Refusal]. An unknown format is InvalidArgument. Any
// other error is one of reading r. Check keeps nothing of r; it may run in parallel with other readers of it.
func Check(declared Format, r io.ReaderAt, size int64, limits Limits) (Info, error) {
	if !declared.Valid() {
		return Info{}, fmt.Errorf("image format %.20q is unknown: must be raw, qcow2, aki or ari: %w", declared,
			errdefs.ErrInvalidArgument)
	}
	if size <= 0 {
		return Info{}, &Refusal{declared, "it is empty (0 bytes)", "upload its content again"}
	}
	limits = limits.withDefaults()
	found, err := Detect(r, size)
	if err != nil {
		return Info{}, err
	}
	switch declared {
	case QCOW2:
		if found != "qcow2" {
			return Info{}, &Refusal{declared, "its content is not qcow2 but " + describe(found),
				"declare the format that it has, or convert it with qemu-img convert -O qcow2"}
		}
		return checkQCOW2(r, size, limits)
	case Raw:
		return checkRaw(r, size, found, limits)
	default:
		return checkBoot(declared, size, found, limits)
	}
}

// checkRaw takes everything that no program could mistake for more than the bytes of a disk.
func checkRaw(r io.ReaderAt, size int64, found string, limits Limits) (Info, error) {
	if found != "" {
		return Info{}, &Refusal{Raw, "its content is " + describe(found),
			"declare the format that it has, or convert it with qemu-img convert -O raw"}
	}
	packed, err := detectPacked(r, size)
	if err != nil {
		return Info{}, err
	}
	if packed != "" {
		return Info{}, &Refusal{Raw, "its content is " + describe(packed), "unpack it and upload the disk inside"}
	}
	if size > limits.MaxVirtualBytes {
		return Info{}, tooLarge(Raw, uint64(size), limits.MaxVirtualBytes)
	}
	return Info{Format: Raw, VirtualBytes: roundUp(size, sector)}, nil
}

func checkBoot(declared Format, size int64, found string, limits Limits) (Info, error) {
	if found != "" {
		return Info{}, &Refusal{declared, "its content is a disk image: " + describe(found),
			"declare it raw or qcow2, or upload the bare kernel or ramdisk"}
	}
	if size > limits.MaxBootBytes {
		return Info{}, &Refusal{declared, fmt.Sprintf("it has %d bytes, over the limit of %d for a kernel or ramdisk", size,
			limits.MaxBootBytes), "upload a smaller one"}
	}
	return Info{Format: declared, VirtualBytes: size}, nil
}

func tooLarge(declared Format, virtual uint64, limit int64) error {
	return &Refusal{declared, fmt.Sprintf("its disk has %d bytes, over the limit of %d", virtual, limit),
		"make the disk smaller"}
}

func describe(found string) string {
	if found == "" {
		return "raw or unknown"
	}
	return found
}

// sector is the unit of a disk's size.
const sector = 512

func roundUp(n, unit int64) int64 { return (n + unit - 1) / unit * unit }

// readUpTo reads at most n bytes at off; less only where the content ends.
func readUpTo(r io.ReaderAt, off int64, n int) ([]byte, error) {
	buf := make([]byte, n)
	got, err := r.ReadAt(buf, off)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("reading the image: %w", err)
	}
	return buf[:got], nil
}

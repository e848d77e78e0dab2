package iscsi

import (
	"errors"
	"io"
	"os"
)

// File is a [Store] in a file, sparse or not, or on a block device.
type File struct {
	f *os.File
}

// OpenFile opens a file or block device for reading and writing.
func OpenFile(path string) (*File, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	return &File{f}, nil
}

// Close closes the file.
func (s *File) Close() error { return s.f.Close() }

// ReadAt reads from an offset.
func (s *File) ReadAt(p []byte, offset int64) (int, error) { return s.f.ReadAt(p, offset) }

// piece is how much one system call writes. Linux makes the units of its page cache, with all that ext4 keeps of each, as large as the call that
// fills them is: after one of 1 MiB every later write of 4 KiB to that place takes four times as long as after eight of these.
const piece = 128 << 10

// WriteAt writes at an offset, 128 KiB at a time.
func (s *File) WriteAt(p []byte, offset int64) (done int, err error) {
	for err == nil && done < len(p) {
		var n int
		n, err = s.f.WriteAt(p[done:min(done+piece, len(p))], offset+int64(done))
		done += n
	}
	return done, err
}

// Size is the length of the file or device.
func (s *File) Size() (int64, error) {
	info, err := s.f.Stat()
	if err != nil {
		return 0, err
	}
	if info.Mode().IsRegular() {
		return info.Size(), nil
	}
	return s.f.Seek(0, io.SeekEnd)
}

// Discard makes a hole where that is possible and writes zeros where it is not.
func (s *File) Discard(offset, length int64) error {
	if length <= 0 {
		return nil
	}
	err := s.punch(offset, length)
	if !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	zeros := make([]byte, min(length, 1<<20))
	for length > 0 {
		n, err := s.f.WriteAt(zeros[:min(length, int64(len(zeros)))], offset)
		if err != nil {
			return err
		}
		offset, length = offset+int64(n), length-int64(n)
	}
	return nil
}

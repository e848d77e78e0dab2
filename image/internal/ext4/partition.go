package ext4

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
)

const (
	sector        = 512
	maxPartitions = 128
)

// fileSystem is where one begins, in bytes from the beginning of the disk.
type fileSystem struct{ offset int64 }

// find returns the file systems of a disk: on the whole of it, or on its partitions in their order (MBR without extended ones, GPT).
func find(r io.ReaderAt) (all []fileSystem, err error) {
	if is, err := superblock(r, 0); err != nil || is {
		return []fileSystem{{0}}, err
	}
	starts, err := partitions(r)
	if err != nil {
		return nil, err
	}
	for _, at := range starts {
		is, err := superblock(r, at)
		if err != nil {
			return nil, err
		}
		if is {
			all = append(all, fileSystem{at})
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("the disk has no ext2, ext3 or ext4 file system: %w", errdefs.ErrInvalidArgument)
	}
	return all, nil
}

// superblock tells whether an ext file system begins there. One that was not unmounted is FailedPrecondition: what its journal has would
// be played over what is written.
func superblock(r io.ReaderAt, at int64) (bool, error) {
	b, err := read(r, at+1024, 1024)
	if err != nil || len(b) < 1024 || binary.LittleEndian.Uint16(b[0x38:]) != 0xef53 {
		return false, err
	}
	const needsRecovery = 4
	if binary.LittleEndian.Uint32(b[0x60:])&needsRecovery != 0 {
		return false, fmt.Errorf("the image's file system was not unmounted, its journal must be played first: %w", errdefs.ErrFailedPrecondition)
	}
	return true, nil
}

// partitions returns where the partitions begin.
func partitions(r io.ReaderAt) (starts []int64, err error) {
	mbr, err := read(r, 0, sector)
	if err != nil || len(mbr) < sector || mbr[510] != 0x55 || mbr[511] != 0xaa {
		return nil, err
	}
	for i := range 4 {
		e := mbr[446+16*i:][:16]
		if e[4] == 0xee {
			return guidPartitions(r)
		}
		if start := int64(binary.LittleEndian.Uint32(e[8:])); e[4] != 0 && start > 0 {
			starts = append(starts, start*sector)
		}
	}
	return starts, nil
}

// guidPartitions reads a GPT (UEFI 2.10 §5.3). Whether its checksums are right is the guest's business.
func guidPartitions(r io.ReaderAt) (starts []int64, err error) {
	header, err := read(r, sector, sector)
	if err != nil || len(header) < sector || string(header[:8]) != "EFI PART" {
		return nil, err
	}
	table, count, size := binary.LittleEndian.Uint64(header[72:]), binary.LittleEndian.Uint32(header[80:]), binary.LittleEndian.Uint32(header[84:])
	if size < 128 || size > 4096 || table > 1<<40 {
		return nil, fmt.Errorf("the disk's partition table is damaged: %w", errdefs.ErrInvalidArgument)
	}
	for i := range int64(min(count, maxPartitions)) {
		e, err := read(r, int64(table)*sector+i*int64(size), 128)
		if err != nil || len(e) < 128 {
			return starts, err
		}
		if start := binary.LittleEndian.Uint64(e[32:]); [16]byte(e[:16]) != [16]byte{} && start > 0 && start < 1<<40 {
			starts = append(starts, int64(start)*sector)
		}
	}
	return starts, nil
}

// read reads n bytes, or fewer at the end.
func read(r io.ReaderAt, at int64, n int) ([]byte, error) {
	b := make([]byte, n)
	got, err := r.ReadAt(b, at)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return b[:got], err
}

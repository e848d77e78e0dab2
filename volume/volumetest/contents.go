package volumetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
)

const (
	gib   = 1 << 30
	block = 64 << 10 // written and read at a time
)

// places returns where the suite writes to and reads from a volume: at both ends, where drivers cut, and between.
func places(size int64) []int64 {
	all := []int64{0, size - block}
	for at := int64(gib) / 16; at < size; at += gib / 16 {
		all = append(all, at, at-block)
	}
	return all
}

// open opens a volume's file or device, and returns its size.
func (e *rig) open(ctx context.Context, id string) (*os.File, int64, error) {
	path, err := e.Driver.Path(ctx, id)
	if err != nil {
		return nil, 0, fmt.Errorf("path of %s: %w", id, err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, 0, err
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, size, nil
}

// pattern is what a text looks like at a place: no two alike.
func pattern(text string, at int64) []byte {
	if text == "" {
		return make([]byte, block)
	}
	unit := fmt.Appendf(nil, "%s at %d; ", text, at)
	return bytes.Repeat(unit, block/len(unit)+1)[:block]
}

// write fills a volume with a text.
func (e *rig) write(ctx context.Context, id, text string) error {
	f, size, err := e.open(ctx, id)
	if err != nil {
		return err
	}
	for _, at := range places(size) {
		if _, err := f.WriteAt(pattern(text, at), at); err != nil {
			return errors.Join(err, f.Close())
		}
	}
	return errors.Join(f.Sync(), f.Close())
}

// holds checks that a volume is of a size, that its first GiBs hold the text ("": zeros), and that the rest is zeros.
func (e *rig) holds(ctx context.Context, id, text string, textGiB, sizeGiB int) error {
	f, size, err := e.open(ctx, id)
	if err != nil {
		return err
	}
	defer f.Close()
	if size != int64(sizeGiB)*gib {
		return fmt.Errorf("volume %s has %d bytes, want %d GiB", id, size, sizeGiB)
	}
	got := make([]byte, block)
	for _, at := range places(size) {
		if _, err := f.ReadAt(got, at); err != nil {
			return fmt.Errorf("reading volume %s: %w", id, err)
		}
		want := pattern("", at)
		if at < int64(textGiB)*gib {
			want = pattern(text, at)
		}
		if !bytes.Equal(got, want) {
			return fmt.Errorf("volume %s holds %.40q at %d, want %.40q", id, got, at, want)
		}
	}
	return nil
}

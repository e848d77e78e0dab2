package initramfs

import (
	"bytes"
	"fmt"
	"io"
	"path"
	"slices"
)

// Archive is the content of a ramdisk: files by their path in it, which begins with a slash.
type Archive struct {
	entries map[string]entry
}

// entry is one file of an archive.
type entry struct {
	mode         uint32 // type and permissions, as in stat(2)
	major, minor uint32 // of a device
	content      []byte // of a file; what a symbolic link points at
}

// The types of files, as in stat(2).
const (
	modeChar = 0o020000
	modeDir  = 0o040000
	modeFile = 0o100000
	modeLink = 0o120000
)

// NewArchive returns an archive with the console alone, which the kernel opens for the first program before that can mount anything.
func NewArchive() *Archive {
	a := &Archive{entries: map[string]entry{}}
	a.Dir("/dev")
	a.entries["/dev/console"] = entry{mode: modeChar | 0o600, major: 5, minor: 1}
	return a
}

// Dir puts a directory into the archive, with those above it.
func (a *Archive) Dir(name string) {
	for ; name != "/"; name = path.Dir(name) {
		a.entries[name] = entry{mode: modeDir | 0o755}
	}
}

// File puts a file into the archive, with the directories above it.
func (a *Archive) File(name string, permissions uint32, content []byte) {
	a.Dir(path.Dir(name))
	a.entries[name] = entry{mode: modeFile | permissions, content: content}
}

// Link puts a symbolic link into the archive, with the directories above it.
func (a *Archive) Link(name, target string) {
	a.Dir(path.Dir(name))
	a.entries[name] = entry{mode: modeLink | 0o777, content: []byte(target)}
}

// Write writes the cpio archive that the kernel unpacks at boot: the "newc" format of the kernel's
// Documentation/driver-api/early-userspace/buffer-format.rst. All belongs to root and is of no particular time, so that the same content is
// the same bytes.
func (a *Archive) Write(w io.Writer) error {
	var names []string
	for name := range a.entries {
		names = append(names, name)
	}
	slices.Sort(names) // directories before what is in them
	var header bytes.Buffer
	for inode, name := range append(names, "/TRAILER!!!") {
		e := a.entries[name]
		header.Reset()
		header.WriteString("070701")
		for _, field := range []uint32{
			uint32(inode + 1), e.mode, 0, 0, 1, 0, // inode, mode, uid, gid, links, time
			uint32(len(e.content)),
			0, 0, e.major, e.minor, // of the file system it came from, and of the device that it is
			uint32(len(name)), 0, // name without its slash and with its zero; checksum, unused
		} {
			fmt.Fprintf(&header, "%08X", field)
		}
		header.WriteString(name[1:] + "\x00")
		for header.Len()%4 != 0 { // header and name together, and the content, fill up words
			header.WriteByte(0)
		}
		for _, part := range [][]byte{header.Bytes(), e.content, make([]byte, -len(e.content)&3)} {
			if _, err := w.Write(part); err != nil {
				return err
			}
		}
	}
	return nil
}

package guest

import (
	"bytes"
	"fmt"
	"io"
)

// entry is one file of an archive.
type entry struct {
	name         string // without a leading slash
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

// writeArchive writes entries as the cpio archive that the kernel unpacks at boot: the "newc" format of the kernel's
// Documentation/driver-api/early-userspace/buffer-format.rst. All belong to root and are of no particular time, so that the
// same entries are the same bytes.
func writeArchive(w io.Writer, entries []entry) error {
	var header bytes.Buffer
	for i, e := range append(entries, entry{name: "TRAILER!!!"}) {
		inode, links := i+1, 1
		if e.mode == 0 { // the trailer
			inode = 0
		}
		header.Reset()
		header.WriteString("070701")
		for _, field := range []uint32{
			uint32(inode), e.mode, 0, 0, uint32(links), 0, // inode, mode, uid, gid, links, time
			uint32(len(e.content)),
			0, 0, e.major, e.minor, // of the file system it came from, and of the device that it is
			uint32(len(e.name) + 1), 0, // name with its zero; checksum, unused
		} {
			fmt.Fprintf(&header, "%08X", field)
		}
		header.WriteString(e.name)
		header.WriteByte(0)
		for header.Len()%4 != 0 { // header and name together, and the content, fill up words
			header.WriteByte(0)
		}
		padding := make([]byte, -len(e.content)&3)
		for _, part := range [][]byte{header.Bytes(), e.content, padding} {
			if _, err := w.Write(part); err != nil {
				return err
			}
		}
	}
	return nil
}

package inspect

import (
	"bytes"
	"io"
)

// signature is a byte string that tells a format by its place.
type signature struct {
	name string
	off  int64
	mark string
}

// heads are the marks near the start of a file by which QEMU, or a tool that reads disks of other hypervisors, knows
// a container. QEMU's list is what the *_probe functions in its block directory accept.
func heads() []signature {
	return []signature{
		{"qcow2", 0, "QFI\xfb"}, // version 1, an older format with the same mark, is told apart by Detect
		{"qed", 0, "QED\x00"},
		{"vmdk", 0, "KDMV"},
		{"vmdk", 0, "COWD"},
		{"vmdk", 0, "\xbe\xba\xfe\xca\x00\x00\x00\x00"},
		{"vdi", 64, "\x7f\x10\xda\xbe"},
		{"vhd", 0, "conectix"},
		{"vhdx", 0, "vhdxfile"},
		{"parallels", 0, "WithoutFreeSpace"},
		{"parallels", 0, "WithouFreSpacExt"},
		{"luks", 0, "LUKS\xba\xbe"},
		{"bochs", 0, "Bochs Virtual HD Image"},
		{"cloop", 0, "#!/bin/sh\n#V2.0 Format\n"},
		{"dmg", 0, "koly"},
	}
}

// packed are the marks of archives and compressed files, which people upload in place of the disk inside.
func packed() []signature {
	return []signature{
		{"gzip", 0, "\x1f\x8b\x08"},
		{"xz", 0, "\xfd7zXZ\x00"},
		{"zstd", 0, "\x28\xb5\x2f\xfd"},
		{"bzip2", 0, "BZh"},
		{"lz4", 0, "\x04\x22\x4d\x18"},
		{"zip", 0, "PK\x03\x04"},
		{"7z", 0, "7z\xbc\xaf\x27\x1c"},
		{"tar", 257, "ustar"},
	}
}

// headBytes is how much of the start is looked at: far more than the 512 bytes that QEMU probes, because other
// tools read on through the comments of a VMDK descriptor.
const headBytes = 64 << 10

// Detect names the container that content of size bytes is: qcow, qcow2, qed, vmdk, vdi, vhd, vhdx, parallels, luks,
// bochs, cloop or dmg, or "" if it carries the mark of none, as a raw disk does. It judges nothing beyond the mark.
func Detect(r io.ReaderAt, size int64) (string, error) {
	head, err := readUpTo(r, 0, int(min(size, headBytes)))
	if err != nil {
		return "", err
	}
	if name := match(head, heads()); name == "qcow2" && bytes.HasPrefix(head[4:], []byte{0, 0, 0, 1}) {
		return "qcow", nil
	} else if name != "" {
		return name, nil
	}
	if isVMDKDescriptor(head) {
		return "vmdk", nil
	}
	return detectTail(r, size)
}

// detectTail finds the formats whose mark stands in the last sector: VHD of a fixed size (512 bytes, 511 in files of
// Virtual PC before 2004) and DMG.
func detectTail(r io.ReaderAt, size int64) (string, error) {
	tail, err := readUpTo(r, max(0, size-sector), int(min(size, sector)))
	if err != nil {
		return "", err
	}
	switch {
	case bytes.HasPrefix(tail, []byte("koly")):
		return "dmg", nil
	case bytes.HasPrefix(tail, []byte("conectix")), len(tail) > 1 && bytes.HasPrefix(tail[1:], []byte("conectix")):
		return "vhd", nil
	}
	return "", nil
}

func detectPacked(r io.ReaderAt, size int64) (string, error) {
	head, err := readUpTo(r, 0, int(min(size, sector)))
	if err != nil {
		return "", err
	}
	return match(head, packed()), nil
}

func match(head []byte, list []signature) string {
	for _, s := range list {
		if int64(len(head)) > s.off && bytes.HasPrefix(head[s.off:], []byte(s.mark)) {
			return s.name
		}
	}
	return ""
}

// isVMDKDescriptor recognises the text file that names the extents of a VMDK. QEMU takes one whose first line that is
// neither a comment nor blank is version=1, 2 or 3; other tools take the title line alone. Both are refused, in any case.
func isVMDKDescriptor(head []byte) bool {
	for line := range bytes.Lines(head) {
		line = bytes.ToLower(bytes.TrimSpace(line))
		switch {
		case bytes.HasPrefix(line, []byte("# disk descriptorfile")):
			return true
		case len(line) == 0, line[0] == '#':
			continue
		default:
			name, _, found := bytes.Cut(line, []byte("="))
			return found && string(bytes.TrimSpace(name)) == "version"
		}
	}
	return false
}

package nodevm

import (
	"bytes"
	"debug/elf"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
)

// The types of files, as in stat(2).
const (
	modeDir  = 0o040000
	modeFile = 0o100000
	modeChar = 0o020000
)

// archive is the content of a ramdisk: files by their path in it.
type archive struct {
	files map[string][]byte
	modes map[string]uint32
}

func newArchive() *archive {
	return &archive{files: map[string][]byte{}, modes: map[string]uint32{}}
}

// add puts a file into the archive, with the directories above it.
func (a *archive) add(name string, content []byte) {
	a.dir(path.Dir(name))
	a.files[name], a.modes[name] = content, modeFile|0o755
}

func (a *archive) dir(name string) {
	for ; name != "/"; name = path.Dir(name) {
		a.modes[name] = modeDir | 0o755
	}
}

// copy puts a file of this machine into the archive, under its own path.
func (a *archive) copy(file string) error {
	content, err := os.ReadFile(file)
	if err == nil {
		a.add(file, content)
	}
	return err
}

// program puts a program into the archive with all the libraries that it is linked with.
func (a *archive) program(file string) error {
	if _, there := a.files[file]; there {
		return nil
	}
	if err := a.copy(file); err != nil {
		return err
	}
	f, err := elf.Open(file)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			loader, err := io.ReadAll(p.Open())
			if err != nil {
				return fmt.Errorf("%s: %w", file, err)
			}
			if err := a.copy(string(bytes.TrimRight(loader, "\x00"))); err != nil {
				return err
			}
		}
	}
	libraries, err := f.ImportedLibraries()
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	for _, name := range libraries {
		found := slices.IndexFunc(libraryDirs, func(dir string) bool { _, err := os.Stat(filepath.Join(dir, name)); return err == nil })
		if found < 0 {
			return fmt.Errorf("%s needs %s, which is nowhere in %q", file, name, libraryDirs)
		}
		if err := a.program(filepath.Join(libraryDirs[found], name)); err != nil {
			return err
		}
	}
	return nil
}

var libraryDirs = []string{"/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib"}

// write writes the archive in the format that the kernel unpacks at boot: "newc", of the kernel's
// Documentation/driver-api/early-userspace/buffer-format.rst.
func (a *archive) write(w io.Writer) error {
	var names []string
	for name := range a.modes {
		names = append(names, name)
	}
	slices.Sort(names) // directories before what is in them
	for inode, name := range append(names, "/TRAILER!!!") {
		content, mode := a.files[name], a.modes[name]
		var header bytes.Buffer
		var major, minor uint32
		if mode&^0o777 == modeChar {
			major, minor = 5, 1 // the console
		}
		header.WriteString("070701")
		for _, field := range []uint32{uint32(inode + 1), mode, 0, 0, 1, 0, uint32(len(content)), 0, 0, major, minor, uint32(len(name)), 0} {
			fmt.Fprintf(&header, "%08X", field)
		}
		header.WriteString(name[1:] + "\x00")
		for header.Len()%4 != 0 {
			header.WriteByte(0)
		}
		for _, part := range [][]byte{header.Bytes(), content, make([]byte, -len(content)&3)} {
			if _, err := w.Write(part); err != nil {
				return err
			}
		}
	}
	return nil
}

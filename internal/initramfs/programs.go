package initramfs

import (
	"bytes"
	"debug/elf"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Program puts a program of this machine into the archive, under its own path, with all the libraries that it is linked with.
func (a *Archive) Program(file string) error {
	if _, there := a.entries[file]; there {
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
	own, err := f.DynString(elf.DT_RUNPATH)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	dirs := libraryDirs
	for _, list := range own {
		dirs = append(strings.Split(strings.ReplaceAll(list, "$ORIGIN", filepath.Dir(file)), ":"), dirs...)
	}
	for _, name := range libraries {
		found := slices.IndexFunc(dirs, func(dir string) bool { _, err := os.Stat(filepath.Join(dir, name)); return err == nil })
		if found < 0 {
			return fmt.Errorf("%s needs %s, which is nowhere in %q", file, name, dirs)
		}
		if err := a.Program(filepath.Join(dirs[found], name)); err != nil {
			return err
		}
	}
	return nil
}

// copy puts a file of this machine into the archive, under its own path.
func (a *Archive) copy(file string) error {
	content, err := os.ReadFile(file)
	if err == nil {
		a.File(file, 0o755, content)
	}
	return err
}

var libraryDirs = []string{"/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib"}

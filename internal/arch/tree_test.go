package arch

import (
	"bytes"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// source is one parsed file of the tree.
type source struct {
	pkg   string // its directory in the module, "." for the root
	name  string // its path in the module
	lines int
	*ast.File
}

func (s source) test() bool { return strings.HasSuffix(s.name, "_test.go") }

// tree is all Go files of the module, and the others as text.
type tree struct {
	fset  *token.FileSet
	files []source
	texts map[string]string // of all files that are text, by path in the module
}

// where tells the place of a node.
func (t *tree) where(n ast.Node) string { return t.fset.Position(n.Pos()).String() }

// packages are the directories with Go files.
func (t *tree) packages() map[string]bool {
	all := map[string]bool{}
	for _, f := range t.files {
		all[f.pkg] = true
	}
	return all
}

// readTree reads the tree below root. What git ignores is not part of it.
func readTree(t *testing.T, root fs.FS) *tree {
	t.Helper()
	all := &tree{fset: token.NewFileSet(), texts: map[string]string{}}
	err := fs.WalkDir(root, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			if name == ".git" || name == "bin" || name == ".cache" || path.Base(name) == "testdata" {
				return fs.SkipDir
			}
			return nil
		}
		if name == ".git" { // of a further worktree
			return nil
		}
		content, err := fs.ReadFile(root, name)
		if errors.Is(err, fs.ErrNotExist) { // an editor's temporary file
			return nil
		}
		if err != nil {
			return err
		}
		if bytes.IndexByte(content, 0) >= 0 {
			return nil // a binary
		}
		all.texts[name] = string(content)
		if path.Ext(name) != ".go" {
			return nil
		}
		file, err := parser.ParseFile(all.fset, name, content, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		all.files = append(all.files, source{pkg: path.Dir(name), name: name, lines: bytes.Count(content, []byte("\n")), File: file})
		return nil
	})
	require.NoError(t, err)
	require.NotEmpty(t, all.files)
	return all
}

// project is the root of the module.
func project(t *testing.T) fs.FS {
	t.Helper()
	dir, err := os.Getwd()
	require.NoError(t, err)
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return os.DirFS(dir)
		}
		require.NotEqual(t, "/", dir, "no go.mod above")
		dir = filepath.Dir(dir)
	}
}

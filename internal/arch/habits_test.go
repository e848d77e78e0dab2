package arch

import (
	"fmt"
	"go/ast"
	"go/token"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestHabits(t *testing.T) {
	problems := badHabits(readTree(t, project(t)))
	require.Empty(t, problems, strings.Join(problems, "\n"))
}

// longest is how many lines a file may have: past it, a file holds two ideas.
const longest = 600

var (
	// vague are names that say nothing about what is inside.
	vague = []string{"util", "utils", "common", "types", "models", "helper", "helpers", "misc", "base", "shared"}
	// unfinished marks work left for later; foreign are paths that mean nothing on another machine.
	unfinished = regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME)\b`)
	foreign    = regexp.MustCompile(`(^|[^A-Za-z0-9_.])/(wo` + `rk|far` + `m|ho` + `me/[a-z]+)/`)
)

// badHabits lists what a tree does that no file here does.
func badHabits(all *tree) []string {
	var problems []string
	report := func(where, format string, args ...any) {
		problems = append(problems, where+": "+fmt.Sprintf(format, args...))
	}
	described := map[string]bool{}
	for _, file := range all.files {
		if file.lines > longest {
			report(file.name, "has %d lines, more than %d: it holds two ideas", file.lines, longest)
		}
		stem := strings.TrimSuffix(strings.TrimSuffix(path.Base(file.name), ".go"), "_test")
		for _, name := range []string{path.Base(file.pkg), strings.TrimSuffix(file.Name.Name, "_test"), stem} {
			if slices.Contains(vague, name) {
				report(file.name, "the name %s says nothing about what is inside", name)
			}
		}
		if file.Doc != nil {
			described[file.pkg] = true
		}
		for _, found := range badCode(all, file) {
			report(found[0], "%s", found[1])
		}
	}
	for pkg := range all.packages() {
		for _, where := range assignedGlobals(all, pkg) {
			report(where, "changes a variable of a package: two of everything must work in one process")
		}
		if !described[pkg] {
			report(pkg, "no comment says what this package is")
		}
	}
	for name, text := range all.texts {
		for i, row := range strings.Split(text, "\n") {
			where := fmt.Sprintf("%s:%d", name, i+1)
			if unfinished.MatchString(row) {
				report(where, "left for later: %s", strings.TrimSpace(row))
			}
			if foreign.MatchString(row) {
				report(where, "a path of somebody's machine: %s", strings.TrimSpace(row))
			}
		}
	}
	slices.Sort(problems)
	return problems
}

// badCode lists places in one file, each with what is wrong there.
func badCode(all *tree, file source) (found [][2]string) {
	report := func(n ast.Node, what string) { found = append(found, [2]string{all.where(n), what}) }
	program := file.Name.Name == "main"
	for _, decl := range file.Decls {
		switch d := decl.(type) {
		case *ast.FuncDecl:
			if d.Recv == nil && d.Name.Name == "init" {
				report(d, "init: nothing happens because a package was imported")
			}
		case *ast.GenDecl:
			if d.Tok == token.VAR && !file.test() {
				for _, spec := range d.Specs {
					if v, ok := spec.(*ast.ValueSpec); ok && lives(v) {
						report(v, v.Names[0].Name+" is state of the package: two of everything must work in one process")
					}
				}
			}
		}
	}
	ast.Inspect(file.File, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.SelectorExpr:
			switch pkg, _ := n.X.(*ast.Ident); {
			case n.Sel.Name == "FlushRuleset":
				report(n, "FlushRuleset empties what others have in the packet filter: delete your own tables")
			case pkg == nil:
			case pkg.Name == "os" && n.Sel.Name == "Exit" && !program && !file.test():
				report(n, "os.Exit: only a program may end the process")
			case pkg.Name == "slog" && (n.Sel.Name == "Default" || n.Sel.Name == "SetDefault") && !program:
				report(n, "slog."+n.Sel.Name+": the logger comes in by Config")
			case pkg.Name == "context" && n.Sel.Name == "TO"+"DO":
				report(n, "a context that nobody decided on")
			}
		}
		return true
	})
	return found
}

// lives tells whether a variable of a package is there to change: a lock, a counter, a pool, a channel, a map that starts
// empty.
func lives(v *ast.ValueSpec) bool {
	alive := func(e ast.Expr) bool {
		switch e := e.(type) {
		case *ast.ChanType, *ast.MapType:
			return true
		case *ast.SelectorExpr:
			pkg, ok := e.X.(*ast.Ident)
			return ok && (pkg.Name == "sync" || pkg.Name == "atomic")
		case *ast.IndexExpr: // atomic.Pointer[T]
			sel, ok := e.X.(*ast.SelectorExpr)
			if !ok {
				return false
			}
			pkg, ok := sel.X.(*ast.Ident)
			return ok && pkg.Name == "atomic"
		}
		return false
	}
	if len(v.Values) == 0 {
		return v.Type != nil && alive(v.Type)
	}
	for _, value := range v.Values {
		switch value := value.(type) {
		case *ast.CompositeLit:
			if len(value.Elts) == 0 && value.Type != nil && alive(value.Type) {
				return true
			}
		case *ast.CallExpr:
			if f, ok := value.Fun.(*ast.Ident); ok && f.Name == "make" {
				return true
			}
		}
	}
	return false
}

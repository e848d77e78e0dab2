package arch

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestImports(t *testing.T) {
	problems := badImports(readTree(t, project(t)))
	require.Empty(t, problems, "see internal/arch/table_test.go:\n"+strings.Join(problems, "\n"))
}

// badImports compares a tree with the table.
func badImports(all *tree) []string {
	lines := map[string]line{}
	for _, l := range house {
		lines[l.path] = l
	}
	var problems []string
	for pkg := range all.packages() {
		if _, ok := lines[pkg]; !ok {
			problems = append(problems, fmt.Sprintf("%s has no line in the table: where in the house does it belong?", pkg))
		}
	}
	for _, file := range all.files {
		l, ok := lines[file.pkg]
		if !ok {
			continue
		}
		for _, spec := range file.Imports {
			target, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				continue // the parser has seen to it
			}
			if reason := refuse(l, file.test(), target); reason != "" {
				problems = append(problems, fmt.Sprintf("%s: %s may not import %s: %s", all.where(spec), file.pkg, target, reason))
			}
			if spec.Name != nil && spec.Name.Name == "_" && !strings.HasPrefix(target, "embed") {
				problems = append(problems, fmt.Sprintf("%s: blank import of %s: nothing registers itself here", all.where(spec), target))
			}
		}
	}
	slices.Sort(problems)
	return problems
}

// refuse says why a package may not import target, or "".
func refuse(l line, test bool, target string) string {
	if target == module || strings.HasPrefix(target, module+"/") {
		ours := strings.TrimPrefix(strings.TrimPrefix(target, module), "/")
		if ours == "" {
			ours = "."
		}
		// A test may use any fake, suite and rig, in whatever direction.
		if test || slices.Contains(l.ours, ours) {
			return ""
		}
		return "its line in the table does not name it"
	}
	if first, _, _ := strings.Cut(target, "/"); !strings.Contains(first, ".") {
		rule, ok := standard[target]
		if !ok || test && target != "C" || covered(l.path, rule.may) {
			return ""
		}
		return rule.reason
	}
	if named(everywhere, target) || named(l.outside, target) || test && named(inTests, target) {
		return ""
	}
	if named(inTests, target) {
		return "it is for tests only"
	}
	return "its line in the table does not name it; a new library needs a reason"
}

// named tells whether a table has target or what target is below.
func named(table map[string]string, target string) bool {
	for p := range table {
		if covered(target, []string{p}) {
			return true
		}
	}
	return false
}

// covered tells whether one of the paths is p or above it.
func covered(p string, paths []string) bool {
	return slices.ContainsFunc(paths, func(above string) bool { return p == above || strings.HasPrefix(p, above+"/") })
}

// TestTable checks that the table itself is a house: imports run downwards, drivers know only their interface, and each library
// from outside is there for a reason.
func TestTable(t *testing.T) {
	below := map[string]bool{}
	for _, l := range house {
		require.False(t, below[l.path], "%s has two lines", l.path)
		for _, ours := range l.ours {
			require.True(t, below[ours], "%s names %s, which is not below it", l.path, ours)
			parent := path.Dir(l.path)
			if slices.Contains(rooms, parent) && !slices.Contains(parts, l.path) {
				require.True(t, ours == parent || covered(ours, []string{parent + "/internal", l.path + "/internal", "internal"}) ||
					slices.Contains(parts, ours) && covered(ours, []string{parent}),
					"%s is a driver, fake or suite of %s and imports nothing else of ours, but names %s", l.path, parent, ours)
			}
		}
		for target, reason := range l.outside {
			require.NotEmpty(t, reason, "%s: why %s?", l.path, target)
		}
		below[l.path] = true
	}
}

func TestRefuse(t *testing.T) {
	driver := line{path: "compute/libvirt", ours: []string{"compute"}, outside: map[string]string{"example.org/a/b": "why"}}
	for target, want := range map[string]bool{ // in the code, not in its tests
		"context":                             true,
		"os/exec":                             false,
		"net/http":                            false,
		"net/http/httptest":                   true, // only what is named is restricted
		module + "/compute":                   true,
		module + "/compute/fakecompute":       false,
		module + "/network":                   false,
		module:                                false,
		"example.org/a/b":                     true,
		"example.org/a/b/c":                   true,
		"example.org/a":                       false,
		"example.org/a/bc":                    false,
		"github.com/containerd/errdefs":       true,
		"github.com/stretchr/testify/require": false,
	} {
		reason := refuse(driver, false, target)
		require.Equal(t, want, reason == "", "%s: %s", target, reason)
	}
	for target, want := range map[string]bool{ // in its tests
		"os/exec":                             true,
		"C":                                   false,
		module + "/compute/computetest":       true,
		"github.com/stretchr/testify/require": true,
		"github.com/stretchr/testify/assert":  false,
		"example.org/a":                       false,
	} {
		reason := refuse(driver, true, target)
		require.Equal(t, want, reason == "", "%s: %s", target, reason)
	}
}

package arch

import (
	"strings"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"
)

// TestBrokenHouse checks the checks: each file breaks one rule, and exactly that is found.
func TestBrokenHouse(t *testing.T) {
	long := strings.Repeat("\n", longest+1)
	for name, c := range map[string]struct {
		file, text string
		want       string // "" for nothing
	}{
		"fine":                    {"queue/a.go", "import \"sync\"\nvar limits = map[string]int{\"a\": 1}\nfunc f() { x := 1; x++; var mu sync.Mutex; mu.Lock() }", ""},
		"no line":                 {"queue/kafka/a.go", "", "queue/kafka has no line"},
		"upwards":                 {"state/a.go", "import _ \"" + module + "/compute\"", "state may not import"},
		"to the side":             {"compute/libvirt/a.go", "import x \"" + module + "/network/linux\"", "compute/libvirt may not import"},
		"a library unasked":       {"queue/a.go", "import x \"example.org/x\"", "needs a reason"},
		"a library of tests":      {"queue/a.go", "import x \"github.com/stretchr/testify/require\"", "for tests only"},
		"assert in tests":         {"queue/a_test.go", "import x \"github.com/stretchr/testify/assert\"", "needs a reason"},
		"cgo":                     {"queue/a.go", "import \"C\"", "without a C compiler"},
		"flags":                   {"network/dhcp/a.go", "import \"flag\"", "no command line"},
		"blank import":            {"examples/minicloud/a.go", "import _ \"sync\"", "blank import"},
		"long file":               {"queue/a.go", long, "two ideas"},
		"vague file":              {"queue/helpers.go", "", "the name helpers"},
		"init":                    {"queue/a.go", "func init() {}", "nothing happens because"},
		"method named init":       {"queue/a.go", "type T int\nfunc (T) init() {}", ""},
		"exit":                    {"queue/a.go", "import \"os\"\nfunc f() { os.Exit(1) }", "only a program"},
		"exit in tests":           {"queue/a_test.go", "import \"os\"\nfunc f() { os.Exit(1) }", ""},
		"flush":                   {"queue/a_test.go", "func f(c interface{ FlushRuleset() }) { c.FlushRuleset() }", "packet filter"},
		"default logger":          {"queue/a.go", "import \"log/slog\"\nfunc f() { slog.Default() }", "comes in by Config"},
		"a lock for all":          {"queue/a.go", "import \"sync\"\nvar mu sync.Mutex", "state of the package"},
		"a counter for all":       {"queue/a.go", "import \"sync/atomic\"\nvar n atomic.Int64", "state of the package"},
		"a pointer for all":       {"queue/a.go", "import \"sync/atomic\"\nvar p atomic.Pointer[int]", "state of the package"},
		"a registry":              {"queue/a.go", "var all = map[string]int{}", "state of the package"},
		"a made registry":         {"queue/a.go", "var all = make(map[string]int)", "state of the package"},
		"assigned":                {"queue/a.go", "var n int\nfunc f() { n = 1 }", "changes a variable"},
		"counted":                 {"queue/a.go", "var n int\nfunc f() { n++ }", "changes a variable"},
		"an element assigned":     {"queue/a.go", "var n = []int{1}\nfunc f() { n[0] = 1 }", "changes a variable"},
		"another package changed": {"queue/a.go", "import \"os\"\nfunc f() { os.Args = nil }", "changes a variable"},
		"shadowed":                {"queue/a.go", "var n = 1\nfunc f() { n := n; n = 2; _ = n }", ""},
		"left for later":          {"queue/a.go", "// TO" + "DO: this", "left for later"},
		"somebody's path":         {"README.md", "see /wo" + "rk/notes", "somebody's machine"},
		"somebody's path in code": {"queue/a.go", "const p = \"/ho" + "me/me/x\"", "somebody's machine"},
		"a path like it":          {"README.md", "lib/wo" + "rk/notes", ""},
	} {
		t.Run(name, func(t *testing.T) {
			text := c.text
			files := fstest.MapFS{"queue/doc.go": {Data: []byte("// Package queue is here so that the tree is never empty.\npackage queue\n")}}
			if strings.HasSuffix(c.file, ".go") {
				dir := c.file[:strings.LastIndex(c.file, "/")]
				text = "// Package x is fine.\npackage " + dir[strings.LastIndex(dir, "/")+1:] + "\n" + text
			}
			files[c.file] = &fstest.MapFile{Data: []byte(text)}
			all := readTree(t, files)
			problems := append(badImports(all), badHabits(all)...)
			if c.want == "" {
				require.Empty(t, problems)
				return
			}
			require.Contains(t, strings.Join(problems, "\n"), c.want)
		})
	}

	all := readTree(t, fstest.MapFS{"queue/a.go": {Data: []byte("package queue\n")}})
	require.Contains(t, strings.Join(badHabits(all), "\n"), "no comment says what this package is")
}

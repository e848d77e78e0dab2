package dewpoint_test

import (
	"fmt"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The program in the README is the one that is compiled.
func TestTheREADMEsProgramIsTheQuickstart(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	_, after, found := strings.Cut(string(readme), "```go\n")
	require.True(t, found)
	program, _, found := strings.Cut(after, "```\n")
	require.True(t, found)
	source, err := os.ReadFile("examples/quickstart/main.go")
	require.NoError(t, err)
	_, source2, found := strings.Cut(string(source), "package main\n")
	require.True(t, found)
	require.Equal(t, "package main\n"+source2, program)
}

// The code in the package's documentation is that of an example which runs.
func TestTheDocumentationsCodeIsAnExample(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "doc.go", nil, parser.ParseComments)
	require.NoError(t, err)
	example, err := os.ReadFile("example_test.go")
	require.NoError(t, err)
	var code []string
	for _, c := range file.Doc.List {
		if line, ok := strings.CutPrefix(c.Text, "//\t"); ok && !strings.HasPrefix(line, "     ") {
			code = append(code, line)
		}
	}
	text := strings.Join(code, "\n")
	begin := strings.Index(text, "cloud, err :=")
	require.Positive(t, begin)
	body := strings.ReplaceAll(string(example), "\n\n", "\n")
	for _, line := range strings.Split(text[begin:], "\n") {
		require.Contains(t, body, "\n\t"+line+"\n", "a line of doc.go that the example does not have")
	}
}

// Each behaviour of Nova's networks has its line in docs/nova-parity.md, and a test that the document names is one that there is.
func TestTheParityDocumentIsWhole(t *testing.T) {
	document, err := os.ReadFile("docs/nova-parity.md")
	require.NoError(t, err)
	for kind, rows := range map[string]int{"NET": 8, "MOD": 10, "DHCP": 3, "FW": 7, "MD": 6} {
		for n := range rows {
			require.Equal(t, 1, strings.Count(string(document), fmt.Sprintf("\n| %s-%02d ", kind, n+1)), "%s-%02d", kind, n+1)
		}
	}
	tests := map[string]bool{}
	function := regexp.MustCompile(`(?m)^func (Test\w+)\(`)
	require.NoError(t, filepath.WalkDir(".", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".go") {
			return err
		}
		source, err := os.ReadFile(path)
		for _, name := range function.FindAllSubmatch(source, -1) {
			tests[string(name[1])] = true
		}
		return err
	}))
	named := regexp.MustCompile("`(Test\\w+)`").FindAllSubmatch(document, -1)
	require.Greater(t, len(named), 50)
	for _, name := range named {
		require.True(t, tests[string(name[1])], "%s is no test", name[1])
	}
}

package dewpoint_test

import (
	"go/parser"
	"go/token"
	"os"
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

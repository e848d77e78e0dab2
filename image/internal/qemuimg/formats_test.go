package qemuimg

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// qemu-img is started at one place, which always gives a format; nothing else in the library may start it. The
// source is read, so that a new call is found before anyone has to run it.
func TestNoCallOfQemuImgLacksAFormat(t *testing.T) {
	root := filepath.Join("..", "..", "..")
	starts := map[string]int{} // file: calls of exec.Command or exec.CommandContext that may run qemu-img
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return nil // a file that does not parse does not build either
		}
		own := strings.Contains(path, filepath.Join("internal", "qemuimg"))
		ast.Inspect(file, func(n ast.Node) bool {
			c, ok := n.(*ast.CallExpr)
			if ok && isExec(c) && (own || namesQemuImg(c)) {
				starts[filepath.Base(path)]++
			}
			return true
		})
		return nil
	})
	require.NoError(t, err)
	require.Equal(t, map[string]int{"run.go": 1}, starts)

	for _, verb := range []string{"create", "resize", "convert", "check"} {
		argv := strings.Join(New(Config{}).argv(call{verb: verb, format: "raw"}), " ")
		require.Contains(t, argv, " qemu-img "+verb+" -q -f raw")
	}
}

func isExec(c *ast.CallExpr) bool {
	fun, ok := c.Fun.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	pkg, ok := fun.X.(*ast.Ident)
	return ok && (pkg.Name == "exec" || pkg.Name == "os" && fun.Sel.Name == "StartProcess") &&
		strings.Contains("Command CommandContext StartProcess", fun.Sel.Name)
}

func namesQemuImg(c *ast.CallExpr) bool {
	found := false
	ast.Inspect(c, func(n ast.Node) bool {
		if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
			text, _ := strconv.Unquote(lit.Value)
			found = found || strings.Contains(text, "qemu-img")
		}
		return true
	})
	return found
}

// The test above must be able to fail.
func TestTheSearchFindsACall(t *testing.T) {
	expr, err := parser.ParseExpr(`exec.Command("sh", "-c", "qemu-img info disk")`)
	require.NoError(t, err)
	require.True(t, isExec(expr.(*ast.CallExpr)) && namesQemuImg(expr.(*ast.CallExpr)))
}

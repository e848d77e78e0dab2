package arch

import (
	"errors"
	"go/ast"
	"go/token"
	"go/types"
)

// assignedGlobals are the places where code of a package, not its tests, assigns to a variable of a package, or to a part
// of one. The type checker tells which names those are; that it sees no other package does not matter for it.
func assignedGlobals(all *tree, pkg string) []string {
	var files []*ast.File
	for _, file := range all.files {
		if file.pkg == pkg && !file.test() {
			files = append(files, file.File)
		}
	}
	info := types.Info{Uses: map[*ast.Ident]types.Object{}}
	alone := types.Config{Importer: nobody{}, Error: func(error) {}}
	checked, err := alone.Check(pkg, all.fset, files, &info)
	_ = err // without the other packages nearly everything is an error

	global := func(e ast.Expr) bool {
		for {
			switch x := e.(type) {
			case *ast.SelectorExpr:
				e = x.X
			case *ast.IndexExpr:
				e = x.X
			case *ast.StarExpr:
				e = x.X
			case *ast.ParenExpr:
				e = x.X
			case *ast.Ident:
				switch object := info.Uses[x].(type) {
				case *types.PkgName: // a variable of another package
					return true
				case *types.Var:
					return object.Parent() == checked.Scope()
				}
				return false
			default:
				return false
			}
		}
	}
	var places []string
	for _, file := range files {
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.AssignStmt:
				for _, left := range n.Lhs {
					if n.Tok != token.DEFINE && global(left) {
						places = append(places, all.where(left))
					}
				}
			case *ast.IncDecStmt:
				if global(n.X) {
					places = append(places, all.where(n))
				}
			}
			return true
		})
	}
	return places
}

// nobody imports nothing.
type nobody struct{}

func (nobody) Import(string) (*types.Package, error) { return nil, errors.New("not looked at") }

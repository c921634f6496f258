package arch

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const modulePath = "github.com/distributedcache/cache"

// file is one parsed Go file of the module.
type file struct {
	path   string // from the root of the module, with slashes
	pkg    string // its directory, "." for the root
	test   bool   // _test.go
	syntax *ast.File
	lines  int
	pos    func(token.Pos) token.Position
}

// loadModule parses every Go file of the module, whatever its build tags.
func loadModule(t *testing.T) []*file {
	t.Helper()
	root := moduleRoot(t)
	fset := token.NewFileSet()
	var files []*file
	err := filepath.WalkDir(root, func(full string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, full)
		if err != nil {
			return err
		}
		if d.IsDir() {
			return enterDir(full, rel)
		}
		if !strings.HasSuffix(full, ".go") {
			return nil
		}
		src, err := os.ReadFile(full)
		if err != nil {
			return err
		}
		f, err := parse(fset, filepath.ToSlash(rel), src)
		if err == nil {
			files = append(files, f)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// enterDir returns filepath.SkipDir for directories that hold no code of this
// module.
func enterDir(full, rel string) error {
	name := filepath.Base(rel)
	if rel == "." {
		return nil
	}
	if strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_") || slices.Contains([]string{"testdata", "bin", "data", "vendor"}, name) {
		return filepath.SkipDir
	}
	if _, err := os.Stat(filepath.Join(full, "go.mod")); err == nil {
		return filepath.SkipDir
	}
	return nil
}

func parse(fset *token.FileSet, name string, src []byte) (*file, error) {
	syntax, err := parser.ParseFile(fset, name, src, parser.ParseComments)
	if err != nil {
		return nil, err
	}
	return &file{
		path:   name,
		pkg:    path.Dir(name),
		test:   strings.HasSuffix(name, "_test.go"),
		syntax: syntax,
		lines:  bytes.Count(src, []byte("\n")),
		pos:    fset.Position,
	}, nil
}

// moduleRoot returns the directory of go.mod above the working directory.
func moduleRoot(t *testing.T) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			t.Fatal("no go.mod above the working directory")
		}
		dir = parent
	}
}

// generated reports whether the file says that it was generated.
func (f *file) generated() bool { return ast.IsGenerated(f.syntax) }

// example reports whether the file belongs to a program of examples.
func (f *file) example() bool { return under(f.pkg, "examples") }

// at returns "file:line" of a node.
func (f *file) at(n ast.Node) string {
	return f.path + ":" + strconv.Itoa(f.pos(n.Pos()).Line)
}

// imports returns the import paths of the file.
func (f *file) imports() []string {
	paths := make([]string, 0, len(f.syntax.Imports))
	for _, spec := range f.syntax.Imports {
		if p, err := strconv.Unquote(spec.Path.Value); err == nil {
			paths = append(paths, p)
		}
	}
	return paths
}

// qualified returns, for an expression like log.Fatal, the import path of the
// package and the name: "log", "Fatal". ok is false for anything else, such as
// a method of a variable that is called log.
func (f *file) qualified(e ast.Expr) (pkg, name string, ok bool) {
	sel, isSel := e.(*ast.SelectorExpr)
	if !isSel {
		return "", "", false
	}
	ident, isIdent := sel.X.(*ast.Ident)
	if !isIdent || ident.Obj != nil { // Obj: declared in this file, so no package
		return "", "", false
	}
	for _, spec := range f.syntax.Imports {
		p, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			continue
		}
		local := path.Base(p)
		if spec.Name != nil {
			local = spec.Name.Name
		}
		if local == ident.Name {
			return p, sel.Sel.Name, true
		}
	}
	return "", "", false
}

// inModule returns the directory of an import path of this module, "." for the
// root package.
func inModule(importPath string) (dir string, ok bool) {
	if importPath == modulePath {
		return ".", true
	}
	return strings.CutPrefix(importPath, modulePath+"/")
}

// under reports whether dir is tree or below it.
func under(dir, tree string) bool {
	return dir == tree || strings.HasPrefix(dir, tree+"/")
}

// underAny reports whether dir is under one of the trees.
func underAny(dir string, trees []string) bool {
	return slices.ContainsFunc(trees, func(tree string) bool { return under(dir, tree) })
}

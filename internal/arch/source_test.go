package arch

import (
	"fmt"
	"go/ast"
	"go/token"
	"slices"
	"strings"
)

// allowedVars lists package-level variables that may be what the rule against
// them forbids. Each needs a reason.
var allowedVars = map[string]string{
	"internal/testkit.seedFlag":             "a flag has to exist before the tests run",
	"replication/internal/hostlog.attached": "the loggers of dragonboat belong to the process and can be set only once",
}

// checkInterfacesOnly reports uses of a package beyond the identifiers that
// interfacesOnly grants.
func checkInterfacesOnly(f *file) (faults []string) {
	ast.Inspect(f.syntax, func(n ast.Node) bool {
		e, ok := n.(ast.Expr)
		if !ok {
			return true
		}
		p, name, ok := f.qualified(e)
		if !ok {
			return true
		}
		if granted, limited := interfacesOnly[p][f.pkg]; limited && !slices.Contains(granted, name) {
			faults = append(faults, fmt.Sprintf("%s: %s may use %v of %s, not %s", f.at(n), f.pkg, granted, p, name))
		}
		return true
	})
	return faults
}

// checkGlobals reports init functions and package-level variables that could
// change.
func checkGlobals(files []*file) (faults []string) {
	for _, f := range files {
		if f.test || f.generated() {
			continue
		}
		for _, decl := range f.syntax.Decls {
			switch d := decl.(type) {
			case *ast.FuncDecl:
				if d.Recv == nil && d.Name.Name == "init" {
					faults = append(faults, f.at(d)+": init function")
				}
			case *ast.GenDecl:
				if d.Tok == token.VAR {
					faults = append(faults, f.mutableVars(d)...)
				}
			}
		}
	}
	return faults
}

// mutableVars returns a fault for each variable of a package-level declaration
// that is not a constant in all but name.
func (f *file) mutableVars(d *ast.GenDecl) (faults []string) {
	for _, spec := range d.Specs {
		v, ok := spec.(*ast.ValueSpec)
		if !ok {
			continue
		}
		for i, name := range v.Names {
			if name.Name == "_" || allowedVars[f.pkg+"."+name.Name] != "" || f.embedded(d, v) {
				continue
			}
			if i < len(v.Values) && len(v.Values) == len(v.Names) && f.fixedValue(name.Name, v.Values[i]) {
				continue
			}
			faults = append(faults, fmt.Sprintf("%s: package-level variable %s", f.at(name), name.Name))
		}
	}
	return faults
}

// fixedValue reports whether nobody has a reason to assign to a variable of
// this value: a sentinel error, an alias of one, a compiled regular
// expression, a checksum table.
func (f *file) fixedValue(name string, value ast.Expr) bool {
	if p, target, ok := f.qualified(value); ok {
		_, ours := inModule(p)
		return ours && strings.HasPrefix(name, "Err") && strings.HasPrefix(target, "Err")
	}
	call, ok := value.(*ast.CallExpr)
	if !ok {
		return false
	}
	p, fn, ok := f.qualified(call.Fun)
	if !ok {
		return false
	}
	switch p + "." + fn {
	case "errors.New", "fmt.Errorf":
		return strings.HasPrefix(strings.ToLower(name), "err")
	case "regexp.MustCompile", "hash/crc32.MakeTable", "hash/crc64.MakeTable":
		return true
	}
	return false
}

// embedded reports whether the variable is filled by a go:embed directive.
func (f *file) embedded(d *ast.GenDecl, v *ast.ValueSpec) bool {
	for _, doc := range []*ast.CommentGroup{d.Doc, v.Doc} {
		if doc == nil {
			continue
		}
		for _, c := range doc.List {
			if strings.HasPrefix(c.Text, "//go:embed ") {
				return true
			}
		}
	}
	return false
}

// banned lists what a library must not do to its process: import path, then
// names; "*" stands for every one.
var banned = map[string][]string{
	"os":        {"Exit", "Stdout", "Stderr", "Stdin"},
	"log":       {"*"},
	"fmt":       {"Print", "Printf", "Println"},
	"os/signal": {"*"},
	"log/slog":  {"SetDefault", "Default", "SetLogLoggerLevel", "Debug", "Info", "Warn", "Error", "Log", "DebugContext", "InfoContext", "WarnContext", "ErrorContext"},
	"net/http":  {"DefaultServeMux", "Handle", "HandleFunc", "DefaultClient", "DefaultTransport"},
	"expvar":    {"*"},
	"flag":      {"*"},
	"github.com/prometheus/client_golang/prometheus":          {"MustRegister", "Register", "Unregister", "DefaultRegisterer", "DefaultGatherer"},
	"github.com/prometheus/client_golang/prometheus/promauto": {"*"},
	"runtime/debug": {"SetGCPercent", "SetMemoryLimit", "SetMaxThreads"},
}

// checkBanned reports uses of what is banned, outside tests and examples.
func checkBanned(files []*file) (faults []string) {
	for _, f := range files {
		if f.test || f.example() || slices.Contains(testOnly, f.pkg) {
			continue
		}
		ast.Inspect(f.syntax, func(n ast.Node) bool {
			if what := f.bannedUse(n); what != "" {
				faults = append(faults, fmt.Sprintf("%s: %s; a library leaves the process alone", f.at(n), what))
			}
			return true
		})
	}
	return faults
}

func (f *file) bannedUse(n ast.Node) string {
	switch e := n.(type) {
	case *ast.SelectorExpr:
		p, name, ok := f.qualified(e)
		if list := banned[p]; ok && (slices.Contains(list, "*") || slices.Contains(list, name)) {
			return p + "." + name
		}
	case *ast.CallExpr:
		if id, ok := e.Fun.(*ast.Ident); ok && id.Obj == nil && (id.Name == "print" || id.Name == "println") {
			return id.Name
		}
		p, name, ok := f.qualified(e.Fun)
		if ok && p == "runtime" && name == "GOMAXPROCS" {
			if lit, isLit := e.Args[0].(*ast.BasicLit); !isLit || lit.Value != "0" {
				return "setting runtime.GOMAXPROCS"
			}
		}
	}
	return ""
}

// checkStateMachines reports imports of the dragonboat root package by state
// machine packages: calling a NodeHost from a state machine deadlocks.
func checkStateMachines(files []*file) (faults []string) {
	machines := []string{"replication/internal/fsm", "replication/internal/kvfsm"}
	for _, f := range files {
		if f.test || !underAny(f.pkg, machines) {
			continue
		}
		if slices.Contains(f.imports(), "github.com/lni/dragonboat/v4") {
			faults = append(faults, f.path+": a state machine may not import the dragonboat root package")
		}
	}
	return faults
}

// checkDocs reports exported symbols and packages without a doc comment.
func checkDocs(files []*file) (faults []string) {
	documented := map[string]bool{}
	for _, f := range files {
		if f.test || f.generated() {
			continue
		}
		documented[f.pkg] = documented[f.pkg] || f.syntax.Doc != nil
		for _, decl := range f.syntax.Decls {
			faults = append(faults, f.undocumented(decl)...)
		}
	}
	for pkg, ok := range documented {
		if !ok {
			faults = append(faults, pkg+": no package comment")
		}
	}
	return faults
}

func (f *file) undocumented(decl ast.Decl) (faults []string) {
	fault := func(n *ast.Ident) {
		faults = append(faults, fmt.Sprintf("%s: %s has no doc comment", f.at(n), n.Name))
	}
	switch d := decl.(type) {
	case *ast.FuncDecl:
		if d.Name.IsExported() && d.Doc == nil && (d.Recv == nil || exportedReceiver(d.Recv)) {
			fault(d.Name)
		}
	case *ast.GenDecl:
		for _, spec := range d.Specs {
			switch s := spec.(type) {
			case *ast.TypeSpec:
				if s.Name.IsExported() && d.Doc == nil && s.Doc == nil && s.Comment == nil {
					fault(s.Name)
				}
			case *ast.ValueSpec:
				for _, name := range s.Names {
					if name.IsExported() && d.Doc == nil && s.Doc == nil && s.Comment == nil {
						fault(name)
					}
				}
			}
		}
	}
	return faults
}

// exportedReceiver reports whether a method belongs to an exported type.
func exportedReceiver(recv *ast.FieldList) bool {
	t := recv.List[0].Type
	for {
		switch x := t.(type) {
		case *ast.StarExpr:
			t = x.X
		case *ast.IndexExpr:
			t = x.X
		case *ast.IndexListExpr:
			t = x.X
		case *ast.Ident:
			return x.IsExported()
		default:
			return false
		}
	}
}

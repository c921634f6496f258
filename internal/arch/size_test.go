package arch

import (
	"bufio"
	"cmp"
	"fmt"
	"go/ast"
	"os"
	"slices"
	"strings"
)

// The limits of size, in lines. Tests count for functions and files, not for
// packages.
const (
	maxFuncLines    = 70
	maxFileLines    = 800
	maxPackageLines = 5000
)

// ratchetFile lists what is over a limit, as "kind name lines".
const ratchetFile = "testdata/ratchet.txt"

// thing is something that has a size.
type thing struct{ kind, name string }

func (x thing) limit() int {
	switch x.kind {
	case "func":
		return maxFuncLines
	case "file":
		return maxFileLines
	default:
		return maxPackageLines
	}
}

// sizes measures every function, file and package. Of several functions of one
// name in one file, such as methods of different types, the receiver tells
// them apart.
func sizes(files []*file) map[thing]int {
	got := map[thing]int{}
	for _, f := range files {
		if f.generated() {
			continue
		}
		got[thing{"file", f.path}] = f.lines
		if !f.test {
			got[thing{"package", f.pkg}] += f.lines
		}
		for _, decl := range f.syntax.Decls {
			if fn, ok := decl.(*ast.FuncDecl); ok {
				x := thing{"func", f.path + ":" + funcName(fn)}
				got[x] = max(got[x], f.pos(fn.End()).Line-f.pos(fn.Pos()).Line+1)
			}
		}
	}
	return got
}

func funcName(fn *ast.FuncDecl) string {
	if fn.Recv == nil {
		return fn.Name.Name
	}
	name := ""
	ast.Inspect(fn.Recv.List[0].Type, func(n ast.Node) bool {
		if id, ok := n.(*ast.Ident); ok && name == "" {
			name = id.Name
		}
		return true
	})
	return name + "." + fn.Name.Name
}

// checkSizes compares the sizes with the limits and the ratchet. It returns
// the faults and the ratchet as it should be: shrunken entries lowered, those
// within the limit dropped, nothing added.
func checkSizes(got, ratchet map[thing]int) (faults []string, next map[thing]int) {
	next = map[thing]int{}
	for x, lines := range got {
		listed, ok := ratchet[x]
		switch {
		case lines <= x.limit():
		case !ok:
			faults = append(faults, fmt.Sprintf("%s %s has %d lines, at most %d are allowed", x.kind, x.name, lines, x.limit()))
		case lines > listed:
			faults = append(faults, fmt.Sprintf("%s %s grew from %d to %d lines; what is over the limit may only shrink", x.kind, x.name, listed, lines))
			next[x] = listed
		default:
			next[x] = lines
		}
	}
	for x, listed := range ratchet {
		if now, ok := next[x]; !ok || now != listed {
			faults = append(faults, fmt.Sprintf("%s %s shrank from %d lines; run go test ./internal/arch -update and commit the result", x.kind, x.name, listed))
		}
	}
	return faults, next
}

func readRatchet() (map[thing]int, error) {
	f, err := os.Open(ratchetFile)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	ratchet := map[thing]int{}
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		line := strings.TrimSpace(sc.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		var x thing
		var lines int
		if _, err := fmt.Sscan(line, &x.kind, &x.name, &lines); err != nil {
			return nil, fmt.Errorf("%s: %q: %w", ratchetFile, line, err)
		}
		ratchet[x] = lines
	}
	return ratchet, sc.Err()
}

func writeRatchet(ratchet map[thing]int) error {
	var b strings.Builder
	b.WriteString("# What is over a size limit, and how large it may be: kind name lines.\n")
	b.WriteString("# Entries may only shrink; go test ./internal/arch -update lowers them. Adding one is a decision: do it by hand.\n")
	things := make([]thing, 0, len(ratchet))
	for x := range ratchet {
		things = append(things, x)
	}
	slices.SortFunc(things, func(a, b thing) int {
		return cmp.Or(cmp.Compare(a.kind, b.kind), cmp.Compare(a.name, b.name))
	})
	for _, x := range things {
		fmt.Fprintln(&b, x.kind, x.name, ratchet[x])
	}
	return os.WriteFile(ratchetFile, []byte(b.String()), 0o644)
}

package cache_test

import (
	"bufio"
	"bytes"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// The options are sealed: each compiles only where it means something. These
// snippets are type-checked against the compiled package.
func TestOptionsFitOnlyTheirCalls(t *testing.T) {
	compile := newCompiler(t)
	good := []string{
		`c.Get(ctx, k, cache.Linearizable())`,
		`c.Get(ctx, k, cache.Stale(time.Second), cache.KeysOnly())`,
		`c.RangeScan(ctx, cache.All(), cache.Limit(1), cache.Reverse(), cache.From(""), cache.After(k))`,
		`c.Put(ctx, k, nil, cache.TTL(time.Second), cache.IfVersion(1), cache.WithRequestID(id))`,
		`c.Delete(ctx, k, cache.IfPresent())`,
		`c.MultiPut(ctx, []cache.Op{cache.PutOp(k, nil, cache.IfAbsent())}, cache.Independent(), cache.WithRequestID(id))`,
		`c.Update(ctx, nil, cache.MaxAttempts(3), cache.WithRequestID(id))`,
		`var o cache.WriteTxOption = cache.WithRequestID(id); var _ cache.WriteOption = o; var _ cache.TxOption = o`,
	}
	for _, body := range good {
		if err := compile(body); err != nil {
			t.Errorf("%s: %v", body, err)
		}
	}
	bad := []string{
		`c.Get(ctx, k, cache.TTL(time.Second))`,
		`c.Get(ctx, k, cache.IfAbsent())`,
		`c.Get(ctx, k, cache.WithRequestID(id))`,
		`c.MultiGet(ctx, nil, cache.Independent())`,
		`c.RangeScan(ctx, cache.All(), cache.MaxAttempts(1))`,
		`c.Put(ctx, k, nil, cache.Limit(1))`,
		`c.Put(ctx, k, nil, cache.Stale(time.Second))`,
		`c.Put(ctx, k, nil, cache.Independent())`,
		`c.Delete(ctx, k, cache.Reverse())`,
		`c.MultiPut(ctx, nil, cache.TTL(time.Second))`,
		`c.MultiPut(ctx, nil, cache.IfVersion(1))`,
		`c.Update(ctx, nil, cache.Linearizable())`,
		`c.View(ctx, nil, cache.IfPresent())`,
		`cache.CheckOp(k, 1, cache.IfVersion(1))`,
		`cache.PutOp(k, nil, cache.Limit(1))`,
		`type mine struct{}; var _ cache.ReadOption = mine{}`,
		`type mine struct{}; var _ cache.WriteOption = mine{}`,
		`type mine struct{}; var _ cache.TxOption = mine{}`,
	}
	for _, body := range bad {
		if err := compile(body); err == nil {
			t.Errorf("%s: compiles", body)
		}
	}
}

// newCompiler returns a function that type-checks statements in which c is a
// *cache.Cache, ctx a context, k a key and id a request id.
func newCompiler(t *testing.T) func(body string) error {
	t.Helper()
	exports := exportData(t)
	fset := token.NewFileSet()
	imp := importer.ForCompiler(fset, "gc", func(path string) (io.ReadCloser, error) {
		file, ok := exports[path]
		if !ok {
			return nil, fmt.Errorf("no export data of %s", path)
		}
		return os.Open(file)
	})
	return func(body string) error {
		src := `package p
import ("context"; "time"; "github.com/distributedcache/cache")
var _ = time.Second
func f(ctx context.Context, c *cache.Cache, k cache.Key, id cache.RequestID) { ` + body + ` }`
		file, err := parser.ParseFile(fset, "snippet.go", src, 0)
		if err != nil {
			return err
		}
		conf := types.Config{Importer: imp}
		_, err = conf.Check("p", fset, []*ast.File{file}, nil)
		return err
	}
}

// exportData returns the files with the types of the root package and of
// everything it imports.
func exportData(t *testing.T) map[string]string {
	t.Helper()
	out, err := exec.Command("go", "list", "-export", "-deps", "-f", "{{.ImportPath}}\t{{.Export}}", ".").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	exports := map[string]string{}
	for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
		if path, file, ok := strings.Cut(lines.Text(), "\t"); ok && file != "" {
			exports[path] = file
		}
	}
	return exports
}

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// codeBlocks returns the contents of the fenced blocks of a language.
func codeBlocks(t *testing.T, file, language string) (blocks []string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile("(?ms)^```"+language+"\n(.*?)^```$").FindAllStringSubmatch(string(text), -1) {
		blocks = append(blocks, m[1])
	}
	return blocks
}

// snippetHeader makes functions of the blocks that are no programs.
const snippetHeader = `package main

import (
	"context"
	"errors"
	"log"
	"time"

	"github.com/distributedcache/cache"
)

var _ = []any{errors.New, log.Print, time.Now, context.Background, cache.K}

func main() {}
`

// TestReadme compiles every Go block of the documents, runs the programs among
// them, and wants them to print the text block of the same number.
func TestReadme(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"README.md", "README.zh-CN.md"} {
		t.Run(name, func(t *testing.T) {
			printed := codeBlocks(t, filepath.Join(root, name), "text")
			snippets := strings.Builder{}
			programs := 0
			for i, code := range codeBlocks(t, filepath.Join(root, name), "go") {
				if !strings.HasPrefix(code, "package main\n") {
					fmt.Fprintf(&snippets, "\nfunc snippet%d(ctx context.Context, c *cache.Cache, annVersion, bobVersion cache.Version) error {\n%s\nreturn nil\n}\n", i, code)
					continue
				}
				out := runProgram(t, root, code)
				if programs >= len(printed) || out != printed[programs] {
					t.Errorf("program %d prints %q, the document says otherwise", programs, out)
				}
				programs++
			}
			if programs == 0 {
				t.Error("there is no program")
			}
			compile(t, root, snippetHeader+snippets.String())
		})
	}
}

// compile builds a program in the module at root and returns the binary.
func compile(t *testing.T, root, code string) string {
	t.Helper()
	dir := t.TempDir()
	source, binary := filepath.Join(dir, "main.go"), filepath.Join(dir, "program")
	if err := os.WriteFile(source, []byte(code), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", binary, source)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s\n%s", err, out, code)
	}
	return binary
}

// runProgram returns what a program prints in an empty directory.
func runProgram(t *testing.T, root, code string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), compile(t, root, code))
	cmd.Dir = t.TempDir()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return string(out)
}

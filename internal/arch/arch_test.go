package arch

import (
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"
)

var update = flag.Bool("update", false, "lower the entries of the size ratchet to the present sizes")

// rules are the checks that look at the whole module.
var rules = map[string]func([]*file) []string{
	"table":         checkTable,
	"imports":       checkImports,
	"owners":        checkOwners,
	"globals":       checkGlobals,
	"banned":        checkBanned,
	"statemachines": checkStateMachines,
	"docs":          checkDocs,
}

func TestRules(t *testing.T) {
	files := loadModule(t)
	if len(files) < 10 {
		t.Fatalf("only %d files found", len(files))
	}
	for name, rule := range rules {
		t.Run(name, func(t *testing.T) { report(t, rule(files)) })
	}
}

func TestSizes(t *testing.T) {
	ratchet, err := readRatchet()
	if err != nil {
		t.Fatal(err)
	}
	faults, next := checkSizes(sizes(loadModule(t)), ratchet)
	if *update {
		if err := writeRatchet(next); err != nil {
			t.Fatal(err)
		}
		faults, _ = checkSizes(sizes(loadModule(t)), next)
	}
	report(t, faults)
}

// TestGoMod wants no replace directive, which does not work in a library, and
// no direct use of the first Pebble, whose later releases do not build with
// the raft engine.
func TestGoMod(t *testing.T) {
	mod, err := os.ReadFile(filepath.Join(moduleRoot(t), "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	report(t, checkGoMod(string(mod)))
}

func checkGoMod(mod string) (faults []string) {
	if regexp.MustCompile(`(?m)^\s*replace\b`).MatchString(mod) {
		faults = append(faults, "go.mod: replace directive")
	}
	if m := regexp.MustCompile(`(?m)^.*github\.com/cockroachdb/pebble v.*$`).FindString(mod); m != "" && !regexp.MustCompile(`// indirect`).MatchString(m) {
		faults = append(faults, "go.mod: direct requirement of Pebble v1")
	}
	return faults
}

func report(t *testing.T, faults []string) {
	t.Helper()
	slices.Sort(faults)
	for _, fault := range faults {
		t.Error(fault)
	}
}

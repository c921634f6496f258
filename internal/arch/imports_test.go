package arch

import (
	"fmt"
	"slices"
	"strings"
)

// layers lists the packages of the product from the bottom to the top. A
// package may import those of lower layers, never its own or a higher one.
// Packages that do not exist yet are in it because their place is decided.
var layers = [][]string{
	{"internal/base"},
	{"internal/invariants"},
	{"internal/diskio", "internal/keyenc", "internal/mux", "internal/wire"},
	{"shard", "security", "metrics"},
	{"storage"},
	{"replication"},
	{"cluster"},
	{"internal/node"},
	{"."},
	{"examples"},
}

// parts lists the packages inside a package of layers, which share its layer.
// They may be imported by the tree they belong to only. Whether they import
// one another is the tree's own business; Go forbids cycles.
var parts = map[string][]string{
	"storage": {"storage/internal/archive", "storage/internal/stream"},
	"replication": {
		"replication/internal/ask", "replication/internal/command", "replication/internal/far", "replication/internal/fsm",
		"replication/internal/kvfsm",
		"replication/internal/hostfs", "replication/internal/hostlog", "replication/internal/inflight", "replication/internal/latch", "replication/internal/logstore", "replication/internal/near",
		"replication/internal/rafthost", "replication/internal/sololog", "replication/internal/tasks", "replication/internal/transport",
	},
	"cluster": {
		"cluster/internal/catalog", "cluster/internal/founding", "cluster/internal/gossip", "cluster/internal/peer",
	},
	"examples": {
		"examples/quickstart", "examples/bank", "examples/server", "examples/cachectl", "examples/loadgen",
		"examples/client",
	},
}

// forbidden lists imports that the layers would allow. The reason is shown.
var forbidden = []struct{ from, to, why string }{
	{"cluster", "storage", "data moves between nodes only through replication"},
	{"storage", "security", "the store knows no principals"},
	{"storage", "metrics", "the store is observed from above"},
	{"storage", "shard", "the store is told the shard"},
	{"examples", "internal", "an example shows what a user can write"},
	{"examples", "storage", "an example shows what a user can write"},
	{"examples", "replication", "an example shows what a user can write"},
	{"examples", "cluster", "an example shows what a user can write"},
}

// testOnly lists packages that serve tests. They may import anything, and only
// tests and they themselves may import them.
var testOnly = []string{
	"internal/arch", "internal/harness", "internal/metamorphic", "internal/testkit", "internal/testkit/faultnet", "replication/internal/logtest",
}

// owners lists the third-party modules and the trees that may import them
// outside tests; "*" stands for all.
var owners = map[string][]string{
	"github.com/cespare/xxhash/v2":            {"*"},
	"github.com/cockroachdb/pebble/v2":        {"storage", "replication/internal/logstore", "replication/internal/hostfs", "internal/diskio"},
	"github.com/maypok86/otter/v2":            {"storage"},
	"github.com/HdrHistogram/hdrhistogram-go": {"examples"},
	"github.com/lni/dragonboat/v4":            {"replication"},
	"github.com/lni/vfs":                      {"replication"},
	"github.com/hashicorp/memberlist":         {"cluster"},
	"github.com/prometheus/client_golang":     {"metrics", "examples"},
	"golang.org/x/sync":                       {"*"},
	"golang.org/x/sys":                        {"storage", "security"},
	"google.golang.org/grpc":                  {"cluster", "examples"},
	"google.golang.org/protobuf":              {"cluster", "examples"},
	"go.yaml.in/yaml/v3":                      {"examples"},
	"gopkg.in/yaml.v3":                        {"examples"},
	"github.com/klauspost/compress":           {"storage", "replication", "cluster"},
	"golang.org/x/crypto":                     {"security"},
	"golang.org/x/time":                       {"*"},
}

// interfacesOnly lists imports that are allowed to a package for the sake of
// the named identifiers.
var interfacesOnly = map[string]map[string][]string{
	"github.com/prometheus/client_golang/prometheus": {
		".":             {"Registerer"},
		"internal/node": {"Registerer"},
	},
}

// checkTable reports packages that are not in the tables.
func checkTable(files []*file) (faults []string) {
	seen := map[string]bool{}
	for _, f := range files {
		if seen[f.pkg] {
			continue
		}
		seen[f.pkg] = true
		if _, ok := layerOf(f.pkg); !ok && !slices.Contains(testOnly, f.pkg) && !onlyTests(files, f.pkg) {
			faults = append(faults, fmt.Sprintf("%s: package is not in the table of internal/arch; decide where it belongs", f.pkg))
		}
	}
	return faults
}

// onlyTests reports whether the directory has no product code, such as a
// directory of tests.
func onlyTests(files []*file, pkg string) bool {
	return !slices.ContainsFunc(files, func(f *file) bool { return f.pkg == pkg && !f.test })
}

// layerOf returns the layer of a package.
func layerOf(pkg string) (int, bool) {
	owner := pkg
	for tree, list := range parts {
		if slices.Contains(list, pkg) {
			owner = tree
		}
	}
	for i, layer := range layers {
		if slices.Contains(layer, owner) {
			return i, true
		}
	}
	return 0, false
}

// checkImports reports imports of this module that the tables do not allow.
func checkImports(files []*file) (faults []string) {
	for _, f := range files {
		if f.test || slices.Contains(testOnly, f.pkg) {
			continue
		}
		for _, p := range f.imports() {
			if to, ok := inModule(p); ok {
				if why := mayImport(f.pkg, to); why != "" {
					faults = append(faults, fmt.Sprintf("%s: %s may not import %s: %s", f.path, f.pkg, to, why))
				}
			}
		}
	}
	return faults
}

// mayImport returns why the package from may not import to, or "".
func mayImport(from, to string) string {
	if slices.Contains(testOnly, to) {
		return "only tests may"
	}
	fromLayer, ok1 := layerOf(from)
	toLayer, ok2 := layerOf(to)
	if !ok1 || !ok2 {
		return "one of them is not in the table"
	}
	if sameTree(from, to) {
		return ""
	}
	for _, rule := range forbidden {
		if under(from, rule.from) && under(to, rule.to) {
			return rule.why
		}
	}
	for tree, list := range parts {
		if slices.Contains(list, to) && tree != "examples" {
			return "it belongs to " + tree
		}
	}
	if toLayer >= fromLayer {
		return "imports point from higher layers to lower ones"
	}
	return ""
}

// sameTree reports whether both belong to one entry of parts.
func sameTree(a, b string) bool {
	for tree := range parts {
		if under(a, tree) && under(b, tree) {
			return true
		}
	}
	return false
}

// checkOwners reports third-party imports outside their owner.
func checkOwners(files []*file) (faults []string) {
	for _, f := range files {
		if f.test || slices.Contains(testOnly, f.pkg) {
			continue
		}
		for _, p := range f.imports() {
			if first, _, _ := strings.Cut(p, "/"); !strings.Contains(first, ".") {
				continue // the standard library
			}
			if _, ok := inModule(p); ok {
				continue
			}
			if why := mayUse(f.pkg, p); why != "" {
				faults = append(faults, fmt.Sprintf("%s: %s imports %s: %s", f.path, f.pkg, p, why))
			}
		}
		faults = append(faults, checkInterfacesOnly(f)...)
	}
	return faults
}

// mayUse returns why the package may not import the third-party path, or "".
func mayUse(pkg, importPath string) string {
	if _, ok := interfacesOnly[importPath][pkg]; ok {
		return ""
	}
	module := ""
	for m := range owners {
		if under(importPath, m) && len(m) > len(module) {
			module = m
		}
	}
	if module == "" {
		return "no owner is listed in internal/arch; a new dependency is a decision"
	}
	if trees := owners[module]; !slices.Contains(trees, "*") && !underAny(pkg, trees) {
		return fmt.Sprintf("it belongs to %v", trees)
	}
	return ""
}

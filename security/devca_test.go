package security_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/security"
)

func TestDevCA(t *testing.T) {
	ca := newCA(t)
	first := issue(t, ca, "a", "a.example")
	again, err := security.OpenDevCA(ca.Dir())
	if err != nil {
		t.Fatal(err)
	}
	second := issue(t, again, "b", "10.0.0.2")
	for _, f := range []security.CertFiles{first, second} {
		if f.CAFile != first.CAFile {
			t.Error(f)
		}
		if _, err := security.LoadTLS(trio(f)); err != nil {
			t.Error(err)
		}
	}
	entries, err := os.ReadDir(ca.Dir())
	if err != nil || len(entries) != 6 {
		t.Errorf("%v, %v", entries, err)
	}
	for _, e := range entries {
		if info, err := e.Info(); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", e.Name(), info.Mode(), err)
		}
	}

	// A second certificate takes the place of the first, whatever its mode was.
	before := read(t, first.CertFile)
	if err := os.Chmod(first.KeyFile, 0o644); err != nil {
		t.Fatal(err)
	}
	if issue(t, ca, "a", "a.example"); string(before) == string(read(t, first.CertFile)) {
		t.Error("it is the same")
	}
	if _, err := security.LoadTLS(trio(first)); err != nil {
		t.Error(err)
	}
	if info, err := os.Stat(first.KeyFile); err != nil || info.Mode().Perm() != 0o600 {
		t.Error(info.Mode(), err)
	}
}

func TestDevCARefuses(t *testing.T) {
	ca := newCA(t)
	if _, err := security.NewDevCA(ca.Dir(), "shop"); !errors.Is(err, base.ErrInvalid) {
		t.Errorf("a second CA: %v", err)
	}
	for _, cluster := range []string{"", "../x", "a b", "a/b", ".", strings.Repeat("x", 65)} {
		if _, err := security.NewDevCA(t.TempDir(), cluster); !errors.Is(err, base.ErrInvalid) {
			t.Errorf("cluster %q: %v", cluster, err)
		}
	}
	for _, node := range []string{"", "ca", "../ca", "a/b", "..", "-x", "ü", strings.Repeat("x", 65)} {
		if _, err := ca.Issue(node, "h"); !errors.Is(err, base.ErrInvalid) {
			t.Errorf("node %q: %v", node, err)
		}
	}
	for _, hosts := range [][]string{nil, {""}, {"h:1"}, {"[::1]"}, {"a b"}, make([]string, 100)} {
		if _, err := ca.Issue("n", hosts...); !errors.Is(err, base.ErrInvalid) {
			t.Errorf("hosts %q: %v", hosts, err)
		}
	}
	if _, err := security.OpenDevCA(t.TempDir()); !errors.Is(err, base.ErrInvalid) {
		t.Errorf("no CA: %v", err)
	}
	node := issue(t, ca, "n", "h")
	dir := t.TempDir()
	for from, to := range map[string]string{node.CertFile: "ca.pem", node.KeyFile: "ca.key"} {
		if err := os.WriteFile(filepath.Join(dir, to), read(t, from), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := security.OpenDevCA(dir); !errors.Is(err, base.ErrInvalid) {
		t.Errorf("a node as CA: %v", err)
	}
	if entries, err := os.ReadDir(ca.Dir()); err != nil || len(entries) != 4 {
		t.Errorf("%v, %v", entries, err)
	}
}

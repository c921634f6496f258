package storage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/keyenc"
	"github.com/distributedcache/cache/internal/testkit"
)

// closedDir makes a data directory with data in data files and, unless it is
// closed in good order, in the log.
func closedDir(t testing.TB, fill func(s *Store)) string {
	t.Helper()
	dir := t.TempDir()
	s := openStream(t, Config{Dir: dir})
	fill(s)
	mustClose(t, s)
	return dir
}

// mustCheck checks a directory twice: that it can be, and that checking
// changes nothing.
func mustCheck(t testing.TB, dir string) base.CheckReport {
	t.Helper()
	before := dirContents(t, dir)
	report, err := Check(testkit.Context(t), dir)
	if err != nil {
		t.Fatal(err)
	}
	after := dirContents(t, dir)
	for name, data := range before {
		if after[name] != data {
			t.Errorf("the check changed %s", name)
		}
	}
	for name := range after {
		if _, ok := before[name]; !ok && filepath.Base(name) != lockFile {
			t.Errorf("the check made %s", name)
		}
	}
	return report
}

func dirContents(t testing.TB, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		files[path] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestCheckOfSoundDirectory(t *testing.T) {
	r := testkit.Rand(t)
	var want base.CheckReport
	dir := closedDir(t, func(s *Store) {
		fillStream(t, s, r, 3000)
		for key, value := range physical(t, streamSnapshot(t, s)) {
			want.Bytes += int64(len(key) + len(value))
			switch keyenc.Space(key[2]) {
			case keyenc.SpaceRecord:
				want.Records++
			case keyenc.SpaceExpiry:
				want.Expiries++
			case keyenc.SpaceRequest:
				want.Requests++
			}
		}
	})
	got := mustCheck(t, dir)
	if len(got.Problems) > 0 {
		t.Fatalf("a sound directory has %q", got.Problems)
	}
	if got.Records == 0 || got.Records != want.Records || got.Expiries != want.Expiries ||
		got.Requests != want.Requests || got.Bytes != want.Bytes {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// TestCheckReadsTheLog checks what a crash leaves: the data is in the log only.
func TestCheckReadsTheLog(t *testing.T) {
	mem := vfs.NewCrashableMem()
	s := openStream(t, memConfig(mem))
	fillStream(t, s, testkit.Rand(t), 500)
	want := int64(0)
	for key := range physical(t, streamSnapshot(t, s)) {
		if keyenc.Space(key[2]) == keyenc.SpaceRecord {
			want++
		}
	}
	report, err := CheckFS(testkit.Context(t), "/db", crashClone(mem))
	if err != nil || len(report.Problems) > 0 || report.Records != want {
		t.Fatalf("%+v, %v; want %d records", report, err, want)
	}
}

// TestCheckFindsBadEntries writes entries through the batch that nobody could
// read.
func TestCheckFindsBadEntries(t *testing.T) {
	record, expiry := Kind(keyenc.SpaceRecord), Kind(keyenc.SpaceExpiry)
	good := keyenc.AppendRecordKey(nil, 1, base.K("p", "s"))[keyenc.PrefixLen:]
	for _, c := range []struct {
		name string
		fill func(b *Batch)
		says string
	}{
		{"record", func(b *Batch) { b.Set(1, record, good, []byte("junk")) }, "shard 1: corrupt data: entry"},
		{"record of another format", func(b *Batch) { b.Set(1, record, good, append([]byte{9}, recordOf(7)[1:]...)) }, "unknown format 9"},
		{"record key", func(b *Batch) { b.Set(2, record, []byte("no end"), recordOf(7)) }, "shard 2"},
		{"expiry key", func(b *Batch) { b.Set(3, expiry, []byte("x"), nil) }, "shard 3"},
		{"expiry value", func(b *Batch) { b.Set(3, expiry, append(make([]byte, 8), good...), []byte("x")) }, "expiry entry with a value of 1 bytes"},
		{"space", func(b *Batch) { b.Set(0, Kind(0x99), []byte("x"), nil) }, "unknown space 0x99"},
		{"shard", func(b *Batch) { b.Put(9, base.K("p", "s"), Record{Version: 1}) }, "belongs to no shard"},
		{"far shard", func(b *Batch) { b.Put(0xFFFE, base.K("p", "s"), Record{Version: 1}) }, "belongs to no shard"},
		{"no expiry entry", func(b *Batch) {
			b.Put(1, base.K("p", "s"), Record{Version: 5, ExpiresAt: 77})
			b.DropExpiry(1, Expired{Key: base.K("p", "s"), At: 77})
		}, "record p:s expires, but is not in the expiry index"},
		{"expiry entry of another version", func(b *Batch) {
			b.Put(1, base.K("p", "s"), Record{Version: 5, ExpiresAt: 77})
			b.Set(1, expiry, keyenc.AppendExpiryKey(nil, 1, 77, base.K("p", "s"))[keyenc.PrefixLen:], make([]byte, 8))
		}, "version 5, but 0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := testkit.Rand(t)
			dir := closedDir(t, func(s *Store) {
				fillStream(t, s, r, 100)
				mustWrite(t, s, c.fill)
			})
			report := mustCheck(t, dir)
			if len(report.Problems) != 1 || !strings.Contains(report.Problems[0], c.says) {
				t.Fatalf("problems %q, want one that says %q", report.Problems, c.says)
			}
		})
	}
}

func TestCheckBoundsItsList(t *testing.T) {
	dir := closedDir(t, func(s *Store) {
		mustWrite(t, s, func(b *Batch) {
			for i := range 3 * maxProblems {
				b.Set(1, Kind(0x99), fmt.Appendf(nil, "%d", i), nil)
			}
		})
	})
	report := mustCheck(t, dir)
	if n := len(report.Problems); n != maxProblems+1 || report.Problems[n-1] != fmt.Sprintf("and %d more", 2*maxProblems) {
		t.Fatalf("%d problems, the last %q", n, report.Problems[n-1])
	}
}

// TestCheckFindsFlips flips bytes all over the data files, one at a time.
func TestCheckFindsFlips(t *testing.T) {
	r := testkit.Rand(t)
	dir := closedDir(t, func(s *Store) {
		fillStream(t, s, r, 3000)
		if err := s.Compact(testkit.Context(t), nil); err != nil {
			t.Fatal(err)
		}
	})
	tables, err := filepath.Glob(filepath.Join(dir, dataDir, "*"+tableSuffix))
	if err != nil || len(tables) == 0 {
		t.Fatal(tables, err)
	}
	rounds := 100
	if testing.Short() {
		rounds = 20
	}
	for range rounds {
		path := tables[r.IntN(len(tables))]
		sound, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		bad := append([]byte{}, sound...)
		at := r.IntN(len(bad))
		bad[at] ^= 1 << r.IntN(8)
		if err := os.WriteFile(path, bad, 0o644); err != nil {
			t.Fatal(err)
		}
		report, err := Check(testkit.Context(t), dir)
		if err != nil {
			t.Fatalf("byte %d of %d: %v", at, len(bad), err)
		}
		if all := strings.Join(report.Problems, "\n"); !strings.Contains(all, filepath.Base(path)) {
			t.Errorf("flip of byte %d of %d in %s: problems %q", at, len(bad), filepath.Base(path), all)
		}
		if err := os.WriteFile(path, sound, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if report := mustCheck(t, dir); len(report.Problems) > 0 {
		t.Fatalf("after all was repaired: %q", report.Problems)
	}
}

// TestCheckFindsDamage damages the other files of a directory.
func TestCheckFindsDamage(t *testing.T) {
	find := func(t *testing.T, dir, pattern string) string {
		t.Helper()
		found, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil || len(found) == 0 {
			t.Fatalf("no %s: %v", pattern, err)
		}
		return found[0]
	}
	for _, c := range []struct {
		name, pattern string
		edit          func(path string) error
		says          string
	}{
		{"identity flipped", identityFile, func(path string) error { return flipByte(path, 0.5) }, identityFile},
		{"identity missing", identityFile, os.Remove, identityFile + " is missing"},
		{"data file missing", "data/*.sst", os.Remove, ""},
		{"data file cut", "data/*.sst", func(path string) error { return os.Truncate(path, 100) }, ".sst"},
		{"data file emptied", "data/*.sst", func(path string) error { return os.Truncate(path, 0) }, ".sst"},
		{"engine manifest flipped", "data/MANIFEST-*", func(path string) error { return flipByte(path, 0.1) }, ""},
		{"engine manifest missing", "data/MANIFEST-*", os.Remove, ""},
		{"engine manifest cut", "data/MANIFEST-*", func(path string) error { return os.Truncate(path, 10) }, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := testkit.Rand(t)
			dir := closedDir(t, func(s *Store) { fillStream(t, s, r, 300) })
			if err := c.edit(find(t, dir, c.pattern)); err != nil {
				t.Fatal(err)
			}
			report := mustCheck(t, dir)
			if len(report.Problems) == 0 || !strings.Contains(strings.Join(report.Problems, "\n"), c.says) {
				t.Fatalf("problems %q, want one that says %q", report.Problems, c.says)
			}
		})
	}
}

func TestCheckArguments(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	empty := t.TempDir()
	for _, dir := range []string{"", file, empty, filepath.Join(empty, "missing")} {
		_, err := Check(testkit.Context(t), dir)
		wantErr(t, fmt.Sprintf("check of %q", dir), err, base.ErrInvalid)
	}
	if names := must(os.ReadDir(empty)); len(names) > 0 {
		t.Errorf("the check made %v", names)
	}
	dir := closedDir(t, func(s *Store) {
		_, err := Check(testkit.Context(t), s.cfg.Dir)
		wantErr(t, "check of an open directory", err, base.ErrInUse)
		fillStream(t, s, testkit.Rand(t), 3000)
	})
	ctx, cancel := context.WithCancel(testkit.Context(t))
	cancel()
	if _, err := Check(ctx, dir); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	newer := Identity{Format: FormatVersion + 1, NodeID: "n", Shards: 4}
	if err := writeIdentity(vfs.Default, dir, newer); err != nil {
		t.Fatal(err)
	}
	_, err := Check(testkit.Context(t), dir)
	wantErr(t, "check of a newer format", err, base.ErrInvalid)
}

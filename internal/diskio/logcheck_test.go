package diskio

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/wal"

	"github.com/distributedcache/cache/internal/base"
)

// soundLog returns a log as an engine writes it, with some syncs, and its number.
func soundLog(t testing.TB) (log []byte, number uint32) {
	t.Helper()
	fsys := vfs.NewMem()
	db, err := pebble.Open("/db", &pebble.Options{FS: fsys, FormatMajorVersion: pebble.FormatNewest})
	if err == nil {
		err = db.Flush() // the first log has no marks
	}
	for i := byte(0); err == nil && i < 20; i++ {
		err = db.Set([]byte{i}, []byte("value"), pebble.Sync)
	}
	if err != nil {
		t.Fatal(err)
	}
	names, err := fsys.List("/db")
	if err != nil {
		t.Fatal(err)
	}
	newest := ""
	for _, name := range names {
		if num, _, ok := wal.ParseLogFilename(name); ok && name > newest {
			newest, number = name, uint32(num)
		}
	}
	f, err := fsys.Open("/db/" + newest)
	if err == nil {
		log, err = io.ReadAll(f)
	}
	if err = errors.Join(err, f.Close(), db.Close()); err != nil {
		t.Fatal(err)
	}
	return log, number
}

func TestCheckLog(t *testing.T) {
	log, number := soundLog(t)
	length := len(bytes.TrimRight(log, "\x00"))
	for name, c := range map[string]struct {
		damage  func(b []byte) []byte
		corrupt bool
	}{
		"sound":           {func(b []byte) []byte { return b }, false},
		"flipped":         {func(b []byte) []byte { b[length/3] ^= 4; return b }, true},
		"zeroed":          {func(b []byte) []byte { clear(b[length/3 : length/3+40]); return b }, true},
		"a byte taken":    {func(b []byte) []byte { return append(b[:length/3], b[length/3+1:]...) }, true},
		"cut":             {func(b []byte) []byte { return b[:length/3] }, false}, // how a log ends that was not synced
		"flipped at last": {func(b []byte) []byte { b[length-1] ^= 4; return b }, false},
		"empty":           {func([]byte) []byte { return nil }, false},
	} {
		err := checkLog(bytes.NewReader(c.damage(bytes.Clone(log))), number)
		if errors.Is(err, base.ErrCorrupt) != c.corrupt || err != nil && !c.corrupt {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRemoveOldLogs(t *testing.T) {
	fsys := vfs.NewMem()
	for _, name := range []string{"000009.log", "000010.log", "1000000.log", "000011.sst"} {
		f, err := fsys.Create(name, vfs.WriteCategoryUnspecified)
		if err = errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	RemoveOldLogs(fsys, "")
	names, err := fsys.List("")
	if got := strings.Join(names, " "); err != nil || len(names) != 2 || !strings.Contains(got, "1000000.log") || !strings.Contains(got, ".sst") {
		t.Errorf("left: %v, %v", names, err)
	}
}

// FuzzCheckLog: no bytes may make it panic.
func FuzzCheckLog(f *testing.F) {
	log, number := soundLog(f)
	f.Add(log, number)
	f.Add(append(log[:100:100], log[101:]...), number)
	f.Add(make([]byte, logBlockBytes+1), uint32(0))
	f.Fuzz(func(t *testing.T, data []byte, number uint32) {
		if err := checkLog(bytes.NewReader(data), number); err != nil && !errors.Is(err, base.ErrCorrupt) {
			t.Fatal(err)
		}
	})
}

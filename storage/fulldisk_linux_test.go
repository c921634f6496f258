package storage

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/testkit"
)

// mountSmall mounts a file system of so many bytes, where that is possible.
func mountSmall(t *testing.T, bytes int) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", bytes)); err != nil {
		t.Skipf("cannot mount a small file system: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	return dir
}

// TestBackupOntoFullFileSystem does the same with a file system that is really
// full, where the test may mount one.
func TestBackupOntoFullFileSystem(t *testing.T) {
	small := mountSmall(t, 256<<10)
	s := openStream(t, Config{Dir: t.TempDir()})
	fillStream(t, s, testkit.Rand(t), 5000)
	dir := filepath.Join(small, "backup")
	err := Backup(testkit.Context(t), streamSnapshot(t, s), dir, nil)
	wantErr(t, "backup onto a full disk", err, base.ErrNoSpace)
	if names := must(os.ReadDir(small)); len(names) > 0 {
		t.Errorf("left behind %v", names)
	}
	good := backUp(t, s)
	target := filepath.Join(small, "target")
	err = RestoreBackup(testkit.Context(t), good, Config{Dir: target, DiskReserveBytes: -1}, nil)
	wantErr(t, "restore onto a full disk", err, base.ErrNoSpace)
	if names := must(os.ReadDir(small)); len(names) > 0 {
		t.Errorf("left behind %v", names)
	}
	if err := s.Err(); err != nil {
		t.Errorf("the store was fenced: %v", err)
	}
}

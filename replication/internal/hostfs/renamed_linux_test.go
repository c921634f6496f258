package hostfs

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// TestRenamedMachine runs itself in processes that see other host names.
func TestRenamedMachine(t *testing.T) {
	if dir := os.Getenv("HOSTFS_DIR"); dir != "" {
		renamedMachine(t, dir)
		return
	}
	dir := t.TempDir()
	for i, name := range []string{"first", "second"} {
		cmd := exec.Command(os.Args[0], "-test.run=^TestRenamedMachine$", "-test.v")
		cmd.Env = append(os.Environ(), "HOSTFS_DIR="+dir, "HOSTFS_NAME="+name, "HOSTFS_EARLIER="+strconv.Itoa(i))
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUTS}
		out, err := cmd.CombinedOutput()
		if errors.Is(err, fs.ErrPermission) {
			t.Skip("may not make a namespace for a host name:", err)
		}
		if err != nil {
			t.Fatalf("%s: %v\n%s", name, err, out)
		}
	}
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if strings.Contains(path, "/first") || strings.Contains(path, "/second") {
			t.Error("the name of the machine is in the path", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func renamedMachine(t *testing.T, dir string) {
	if err := syscall.Sethostname([]byte(os.Getenv("HOSTFS_NAME"))); err != nil {
		t.Skip(err)
	}
	earlier, err := strconv.Atoi(os.Getenv("HOSTFS_EARLIER"))
	if err != nil {
		t.Fatal(err)
	}
	run(t, New(vfs.Default, Config{Root: dir, OnError: failOnError(t)}), dir, earlier)
}

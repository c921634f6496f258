package main

import (
	"fmt"
	"syscall"
)

// memoryDir is where a Linux system has a file system in memory.
const memoryDir = "/dev/shm"

// tmpfsMagic is TMPFS_MAGIC of statfs(2).
const tmpfsMagic = 0x01021994

// checkMemory wants dir to be on a tmpfs with so many bytes free.
func checkMemory(dir string, free uint64) error {
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	if int64(s.Type) != tmpfsMagic {
		return fmt.Errorf("%s is no tmpfs: all nodes would wait for one disk, and that would be measured; name a directory on a tmpfs with --dir", dir)
	}
	if have := s.Bavail * uint64(s.Bsize); have < free {
		return fmt.Errorf("%s has %d MiB free; it wants %d; name another tmpfs with --dir", dir, have>>20, free>>20)
	}
	return nil
}

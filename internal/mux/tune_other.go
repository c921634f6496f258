//go:build !linux

package mux

import "syscall"

// tune does nothing where there is no TCP_USER_TIMEOUT.
func tune(syscall.RawConn) error { return nil }

package mux

import "syscall"

// tcpUserTimeout is TCP_USER_TIMEOUT, which package syscall does not have.
const tcpUserTimeout = 0x12

// tune sets deadPeerAfter on a socket before it connects or listens; what is
// accepted has it from the listener.
func tune(raw syscall.RawConn) error {
	var failed error
	err := raw.Control(func(fd uintptr) {
		failed = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpUserTimeout, int(deadPeerAfter.Milliseconds()))
	})
	if err != nil {
		return err
	}
	return failed
}

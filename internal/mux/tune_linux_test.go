package mux

import (
	"net"
	"syscall"
	"testing"
)

// TestTuned: both sides of a connection notice a peer that does not acknowledge.
func TestTuned(t *testing.T) {
	m, err := Listen(Config{Listen: "127.0.0.1:0", Insecure: true})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	conns := make(chan net.Conn, 2)
	release := make(chan struct{})
	defer close(release)
	if _, err := m.Serve(KindRPC, func(c net.Conn) { conns <- c; <-release }); err != nil {
		t.Fatal(err)
	}
	c, err := m.Dial(t.Context(), m.Addr(), KindRPC)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	conns <- c
	for range 2 {
		raw, err := (<-conns).(*net.TCPConn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		got := 0
		if err := raw.Control(func(fd uintptr) { got, err = syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpUserTimeout) }); err != nil {
			t.Error(err)
		}
		if err != nil || got != int(deadPeerAfter.Milliseconds()) {
			t.Errorf("%d ms, %v", got, err)
		}
	}
}

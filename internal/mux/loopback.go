package mux

import (
	"fmt"
	"net/netip"
	"syscall"

	"github.com/distributedcache/cache/internal/base"
)

// control runs on each socket before it listens or connects. The address is the
// one that names were resolved to, so there is nothing between the check and the
// use.
func (c *Config) control(_, address string, raw syscall.RawConn) error {
	if c.Insecure && !c.InsecureAnywhere && !isLoopback(address) {
		return fmt.Errorf("%w: %s is not a loopback address, and Insecure allows no other; "+
			"configure TLS certificates, or stay on 127.0.0.1 or ::1", base.ErrInvalid, address)
	}
	return tune(raw)
}

// isLoopback reports whether an address with a port is in 127.0.0.0/8 or ::1.
// "Everywhere" is not, and neither is what cannot be parsed.
func isLoopback(address string) bool {
	ap, err := netip.ParseAddrPort(address)
	return err == nil && ap.Addr().Unmap().IsLoopback()
}

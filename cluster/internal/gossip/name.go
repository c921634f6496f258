package gossip

import (
	"crypto/sha256"
	"net"
	"strconv"
	"strings"

	"github.com/hashicorp/memberlist"
)

// name is what a memberlist name says.
type name struct {
	id    string
	epoch uint64
	addr  string
}

// String returns the name as memberlist knows it.
func (n name) String() string {
	return n.id + "-" + strconv.FormatUint(n.epoch, 10) + "@" + n.addr
}

// parseName reads what String wrote. Only the form that String writes is
// accepted, so that equal names are equal strings.
func parseName(s string) (name, bool) {
	at := strings.LastIndexByte(s, '@')
	if at < 0 {
		return name{}, false
	}
	dash := strings.LastIndexByte(s[:at], '-')
	if dash < 1 || dash > MaxNodeIDBytes {
		return name{}, false
	}
	epoch, err := strconv.ParseUint(s[dash+1:at], 10, 64)
	n := name{id: s[:dash], epoch: epoch, addr: s[at+1:]}
	if err != nil || !validAddress(n.addr) || n.String() != s {
		return name{}, false
	}
	return n, true
}

// placeholderPort is the port of every placeholder.
const placeholderPort = 1

// placeholder returns the IP address that stands for an advertised one. It is
// of the unique local addresses, so that none that is in use is ever meant.
func placeholder(addr string) net.IP {
	sum := sha256.Sum256([]byte(addr))
	return append(net.IP{0xfd}, sum[:net.IPv6len-1]...)
}

// joinTarget returns the address for memberlist.Join that leads to addr, with
// a name that has nothing but the address.
func joinTarget(addr string) string {
	return "@" + addr + "/" + net.JoinHostPort(placeholder(addr).String(), strconv.Itoa(placeholderPort))
}

// destination returns where to send what memberlist sends to a: the address in
// the name. Without a name a is what a packet said about its sender.
func destination(a memberlist.Address) (string, bool) {
	if at := strings.LastIndexByte(a.Name, '@'); at >= 0 {
		addr := a.Name[at+1:]
		return addr, validAddress(addr)
	}
	return a.Addr, a.Name == "" && validAddress(a.Addr)
}

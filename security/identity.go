package security

import (
	"fmt"
	"net/url"
	"strings"

	"github.com/distributedcache/cache/internal/base"
)

// NodeURI returns the identity of a node as its certificate has it among the
// alternative names: spiffe://<cluster>/node/<node>.
func NodeURI(cluster, node string) *url.URL {
	return &url.URL{Scheme: "spiffe", Host: cluster, Path: "/node/" + node}
}

// maxNameBytes is the longest name of a cluster or node in a certificate; the
// common name has no room for more.
const maxNameBytes = 64

// checkName wants a name that can stand in a URI and in the name of a file.
func checkName(what, name string) error {
	if isName(name, maxNameBytes) {
		return nil
	}
	return fmt.Errorf("%w: %q cannot be the name of a %s in a certificate: it takes 1 to %d letters, digits, and - . _ after the first",
		base.ErrInvalid, name, what, maxNameBytes)
}

func isName(s string, maxBytes int) bool {
	return len(s) > 0 && len(s) <= maxBytes && s[0] != '.' && s[0] != '-' &&
		strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._") == ""
}

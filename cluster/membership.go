package cluster

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/cespare/xxhash/v2"

	"github.com/distributedcache/cache/internal/base"
)

// The files of a node that is, or is about to be, in a cluster.
const (
	membershipFile = "MEMBERSHIP" // which cluster this directory belongs to
	foundingFile   = "FOUNDING"   // what the node has promised while one was founded
	catalogFile    = "CATALOG"    // the catalog as it was last seen
)

// membershipVersion is the version of the membership file.
const membershipVersion = 1

// membership is what a data directory knows of the cluster it belongs to. It is
// written before anything is done that depends on it.
type membership struct {
	Version   int    `json:"version"`
	Directory string `json:"directory"` // random id of the data directory
	Node      string `json:"node"`
	Boot      uint64 `json:"boot"` // rises with each start
	// Cluster is empty until the node has founded a cluster or was taken into one.
	Cluster string `json:"cluster,omitempty"`
	Shards  int    `json:"shards,omitempty"`
	// Founders are the nodes that founded the cluster, if this is one of them.
	Founders []founder `json:"founders,omitempty"`
	// Founded says when, so that every founder says the same.
	Founded int64 `json:"founded_us,omitempty"`
}

// founder is a node that founds a cluster.
type founder struct {
	ID        string `json:"id"`
	Directory string `json:"directory"`
	Addr      string `json:"addr"`
	Zone      string `json:"zone,omitempty"`
}

// encode returns one line of JSON and one with its xxhash64.
func (m *membership) encode() []byte {
	m.Version = membershipVersion
	body, err := json.Marshal(m)
	if err != nil {
		panic(err) // a struct of strings and numbers
	}
	return fmt.Appendf(body, "\n%016x\n", xxhash.Sum64(body))
}

// decodeMembership is the inverse of encode.
func decodeMembership(buf []byte) (*membership, error) {
	corrupt := func(why string) (*membership, error) {
		return nil, fmt.Errorf("%w: %s: %s", base.ErrCorrupt, membershipFile, why)
	}
	body, sum, found := bytes.Cut(buf, []byte("\n"))
	if !found || len(sum) != 17 || sum[16] != '\n' {
		return corrupt("not two lines")
	}
	if want, err := strconv.ParseUint(string(sum[:16]), 16, 64); err != nil || want != xxhash.Sum64(body) {
		return corrupt("checksum does not match")
	}
	var m membership
	if err := json.Unmarshal(body, &m); err != nil {
		return corrupt("not JSON")
	}
	if m.Version > membershipVersion {
		return nil, fmt.Errorf("%w: %s has version %d; this version knows up to %d", base.ErrInvalid, membershipFile, m.Version, membershipVersion)
	}
	if m.Version < 1 || len(m.Directory) != 32 || m.Node == "" || (m.Cluster != "" && (m.Shards < 1 || m.Shards > base.MaxShards)) {
		return corrupt("impossible values")
	}
	return &m, nil
}

// loadMembership returns what the directory knows, or the beginning of it. The node
// is the one that is asked for, if any is.
func loadMembership(files Files, node string) (*membership, error) {
	buf, err := files.Load(membershipFile)
	if err != nil {
		return nil, err
	}
	if buf == nil {
		if node == "" {
			node = "node-" + randomID()[:12]
		}
		return &membership{Directory: randomID(), Node: node}, nil
	}
	m, err := decodeMembership(buf)
	if err == nil && node != "" && node != m.Node {
		return nil, fmt.Errorf("%w: the data directory belongs to node %q, not %q", base.ErrInvalid, m.Node, node)
	}
	return m, err
}

// randomID returns 16 random bytes in hexadecimal.
func randomID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

package storage

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"strings"

	"github.com/cespare/xxhash/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/diskio"
)

// The layout of a data directory.
const (
	identityFile = "IDENTITY"
	lockFile     = "LOCK"
	dataDir      = "data"
)

// maxNodeIDBytes bounds node ids, which travel in every gossip message.
const maxNodeIDBytes = 128

// maxIdentityBytes bounds what is read of an identity file.
const maxIdentityBytes = 4096

// Identity says what a data directory is. ClusterID is "" for a directory
// that never was part of a cluster.
type Identity struct {
	Format    int    `json:"format"`
	NodeID    string `json:"node_id"`
	ClusterID string `json:"cluster_id,omitempty"`
	Shards    int    `json:"shards"`
}

// encode returns the identity as it is stored: one line of JSON, one line
// with its xxhash64 in hexadecimal. Later formats keep that frame, so that a
// newer file can be told from a damaged one.
func (id Identity) encode() []byte {
	body, err := json.Marshal(id)
	if err != nil {
		panic(err) // a struct of strings and ints
	}
	return fmt.Appendf(body, "\n%016x\n", xxhash.Sum64(body))
}

// decodeIdentity is the inverse of encode.
func decodeIdentity(buf []byte) (Identity, error) {
	corrupt := func(why string) (Identity, error) {
		return Identity{}, fmt.Errorf("%w: %s: %s", base.ErrCorrupt, identityFile, why)
	}
	if string(buf) == unfinishedIdentity {
		return corrupt(strings.TrimSpace(unfinishedIdentity))
	}
	body, sum, found := bytes.Cut(buf, []byte("\n"))
	if !found || len(sum) != 17 || sum[16] != '\n' {
		return corrupt("not two lines")
	}
	want, err := strconv.ParseUint(string(sum[:16]), 16, 64)
	if err != nil || want != xxhash.Sum64(body) || !bytes.Equal(sum, bytes.ToLower(sum)) {
		return corrupt("checksum does not match")
	}
	var id Identity
	if err := json.Unmarshal(body, &id); err != nil {
		return corrupt("not JSON")
	}
	if id.Format > FormatVersion {
		return Identity{}, fmt.Errorf("%w: the data directory has format %d; this version knows formats up to %d",
			base.ErrInvalid, id.Format, FormatVersion)
	}
	if id.Format < 1 || id.Shards < 1 || id.Shards > base.MaxShards || id.NodeID == "" || len(id.NodeID) > maxNodeIDBytes {
		return corrupt("impossible values")
	}
	return id, nil
}

// readIdentity reads the identity of a directory. The error wraps
// fs.ErrNotExist if there is none.
func readIdentity(fsys vfs.FS, dir string) (Identity, error) {
	f, err := fsys.Open(fsys.PathJoin(dir, identityFile))
	if err != nil {
		return Identity{}, err
	}
	defer func() { _ = f.Close() }()
	buf, err := io.ReadAll(io.LimitReader(f, maxIdentityBytes+1))
	if err != nil {
		return Identity{}, err
	}
	return decodeIdentity(buf)
}

// writeIdentity replaces the identity of a directory atomically.
func writeIdentity(fsys vfs.FS, dir string, id Identity) error {
	return swapFile(fsys, fsys.PathJoin(dir, identityFile), id.encode())
}

// identify reads the identity of the directory, checks it against the config,
// or makes a new one. fresh says that it must still be written.
func identify(fsys vfs.FS, cfg Config) (id Identity, fresh bool, err error) {
	id, err = readIdentity(fsys, cfg.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return newIdentity(cfg), true, nil
	}
	if err != nil {
		return Identity{}, false, diskio.Typed("read "+identityFile, err)
	}
	if cfg.Shards != 0 && cfg.Shards != id.Shards {
		return Identity{}, false, fmt.Errorf("%w: the data directory has %d shards, not %d; the number never changes",
			base.ErrInvalid, id.Shards, cfg.Shards)
	}
	if cfg.NodeID != "" && cfg.NodeID != id.NodeID {
		return Identity{}, false, fmt.Errorf("%w: the data directory belongs to node %q, not %q",
			base.ErrInvalid, id.NodeID, cfg.NodeID)
	}
	switch {
	case id.ClusterID == cfg.ClusterID || id.ClusterID == "":
		return id, false, nil
	case cfg.ClusterID == "":
		return Identity{}, false, fmt.Errorf("%w: the data directory belongs to a node of cluster %s; open it with the cluster options",
			base.ErrInvalid, id.ClusterID)
	default:
		return Identity{}, false, fmt.Errorf("%w: the data directory belongs to cluster %s, not %s", base.ErrInvalid, id.ClusterID, cfg.ClusterID)
	}
}

// SetCluster makes the directory one of a cluster, for ever. What the store has of
// a time without one must have been brought into the form that a cluster needs.
func (s *Store) SetCluster(id string) error {
	next := s.id
	next.ClusterID = id
	if err := writeIdentity(s.fs, s.cfg.Dir, next); err != nil {
		return diskio.Typed("write "+identityFile, err)
	}
	s.id = next
	return nil
}

func newIdentity(cfg Config) Identity {
	id := Identity{Format: FormatVersion, NodeID: cfg.NodeID, Shards: cfg.Shards, ClusterID: cfg.ClusterID}
	if id.Shards == 0 {
		id.Shards = DefaultShards
	}
	if id.NodeID == "" {
		id.NodeID = "node-" + base.NewRequestID().String()[:12]
	}
	return id
}

package catalog

import (
	"fmt"
	"time"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/wire"
)

// recordVersion is the first byte of each value.
const recordVersion = 1

func encodeSettings(s *Settings) []byte {
	buf := wire.AppendString([]byte{recordVersion}, s.ClusterID)
	buf = wire.AppendString(buf, s.Name)
	buf = wire.AppendUvarint(buf, uint64(s.Shards))
	buf = wire.AppendUvarint(buf, uint64(s.Replication))
	buf = wire.AppendUvarint(buf, uint64(s.Format))
	return wire.AppendUvarint(buf, microseconds(s.Founded))
}

func decodeSettings(buf []byte) (Settings, error) {
	r, err := open("settings", buf)
	if err != nil {
		return Settings{}, err
	}
	s := Settings{
		ClusterID: r.String(directoryDigits), Name: r.String(MaxNameBytes),
		Shards: number(r, base.MaxShards), Replication: number(r, MaxReplication),
		Format: uint32(number(r, 1<<31-1)), Founded: readTime(r),
	}
	return s, shut("settings", r, s.fault)
}

func encodeNode(n *NodeRecord) []byte {
	buf := wire.AppendString([]byte{recordVersion}, n.ID)
	buf = wire.AppendString(buf, n.Directory)
	buf = wire.AppendString(buf, n.Addr)
	buf = wire.AppendString(buf, n.Zone)
	buf = append(buf, byte(n.State))
	buf = wire.AppendUvarint(buf, microseconds(n.Joined))
	buf = wire.AppendUvarint(buf, microseconds(n.Changed))
	buf = wire.AppendUvarint(buf, uint64(len(n.Past)))
	for _, past := range n.Past {
		buf = wire.AppendString(buf, past)
	}
	return buf
}

func decodeNode(buf []byte) (NodeRecord, error) {
	r, err := open("node record", buf)
	if err != nil {
		return NodeRecord{}, err
	}
	n := NodeRecord{
		ID: r.String(MaxIDBytes), Directory: r.String(directoryDigits),
		Addr: r.String(MaxAddrBytes), Zone: r.String(MaxZoneBytes), State: NodeState(r.Byte()),
		Joined: readTime(r), Changed: readTime(r),
	}
	for range r.Count(MaxPast, 1+directoryDigits) {
		n.Past = append(n.Past, r.String(directoryDigits))
	}
	return n, shut("node record", r, n.fault)
}

func encodeShard(s *ShardRecord) []byte {
	buf := wire.AppendUvarint([]byte{recordVersion}, uint64(s.Shard))
	buf = wire.AppendUvarint(buf, s.Next)
	return appendReplicas(appendReplicas(buf, s.Founders), s.Replicas)
}

func appendReplicas(buf []byte, list []Replica) []byte {
	buf = wire.AppendUvarint(buf, uint64(len(list)))
	for _, replica := range list {
		buf = wire.AppendUvarint(buf, replica.ID)
		buf = wire.AppendString(buf, replica.Node)
		buf = wire.AppendString(buf, replica.Directory)
	}
	return buf
}

func decodeShard(buf []byte) (ShardRecord, error) {
	r, err := open("shard record", buf)
	if err != nil {
		return ShardRecord{}, err
	}
	s := ShardRecord{
		Shard: base.ShardID(number(r, int(CatalogShard))), Next: r.Uvarint(),
		Founders: readReplicas(r), Replicas: readReplicas(r),
	}
	return s, shut("shard record", r, s.fault)
}

func readReplicas(r *wire.Reader) (list []Replica) {
	for range r.Count(MaxReplicas, 3+directoryDigits) {
		list = append(list, Replica{ID: r.Uvarint(), Node: r.String(MaxIDBytes), Directory: r.String(directoryDigits)})
	}
	return list
}

// readTime reads microseconds since the Unix epoch; 0 is the zero Time.
func readTime(r *wire.Reader) time.Time {
	return base.Version(number(r, int(base.PendingVersion))).Time()
}

// number reads one of at most limit.
func number(r *wire.Reader, limit int) int {
	v := r.Uvarint()
	if v > uint64(limit) {
		r.Fail("%d is over the limit", v)
		return 0
	}
	return int(v)
}

// open returns a reader behind the version of a value.
func open(what string, buf []byte) (*wire.Reader, error) {
	r := wire.NewReader(buf)
	switch v := r.Byte(); {
	case r.Err() != nil || v == 0:
		return nil, corrupt("%s has no version", what)
	case v > recordVersion:
		return nil, invalid("a newer version of the cache wrote the %s (format %d, this one knows up to %d); update this node", what, v, recordVersion)
	}
	return r, nil
}

// shut ends a value: all of it was read and it says nothing impossible.
func shut(what string, r *wire.Reader, fault func() string) error {
	if err := r.Close(); err != nil {
		return corrupt("%s: %w", what, err)
	}
	if f := fault(); f != "" {
		return corrupt("%s: %s", what, f)
	}
	return nil
}

func corrupt(format string, args ...any) error {
	return fmt.Errorf("%w: catalog: %w", base.ErrCorrupt, fmt.Errorf(format, args...))
}

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{base.ErrInvalid}, args...)...)
}

package transport

import (
	"bytes"
	"maps"
	"path"
	"slices"

	"github.com/lni/dragonboat/v4/raftpb"

	"github.com/distributedcache/cache/internal/wire"
)

// The payload of a chunk is its format and then the fields of raftpb.Chunk in
// the order of appendChunk, numbers in variable length, sets sorted.
const chunkFormat = 1

const (
	flagFileInfo = 1 << 0
	flagWitness  = 1 << 1
)

// Limits on what a chunk says about itself.
const (
	// maxPathBytes is the longest path of Linux; of the sender's paths only
	// the last element is used.
	maxPathBytes = 4096
	// maxMetadataBytes is for what a state machine says about a file.
	maxMetadataBytes = 64 << 10
	// maxMembers bounds each set of a membership. Removed replicas stay in
	// theirs for ever.
	maxMembers = 1 << 16
)

func appendChunk(b []byte, c *raftpb.Chunk) []byte {
	var flags byte
	if c.HasFileInfo {
		flags |= flagFileInfo
	}
	if c.Witness {
		flags |= flagWitness
	}
	b = append(b, chunkFormat, flags)
	b = wire.AppendUvarint(b, uint64(c.BinVer))
	for _, v := range chunkNumbers(c) {
		b = wire.AppendUvarint(b, *v)
	}
	b = wire.AppendString(b, c.Filepath)
	b = appendMembership(b, &c.Membership)
	if c.HasFileInfo {
		b = wire.AppendString(b, c.FileInfo.Filepath)
		b = wire.AppendUvarint(b, c.FileInfo.FileSize)
		b = wire.AppendUvarint(b, c.FileInfo.FileId)
		b = wire.AppendBytes(b, c.FileInfo.Metadata)
	}
	return wire.AppendBytes(b, c.Data)
}

// chunkNumbers lists the numbers of a chunk in their order.
func chunkNumbers(c *raftpb.Chunk) [13]*uint64 {
	return [...]*uint64{
		&c.DeploymentId, &c.ShardID, &c.ReplicaID, &c.From, &c.Index, &c.Term, &c.OnDiskIndex,
		&c.ChunkId, &c.ChunkCount, &c.ChunkSize, &c.FileChunkId, &c.FileChunkCount, &c.FileSize,
	}
}

func appendMembership(b []byte, m *raftpb.Membership) []byte {
	b = wire.AppendUvarint(b, m.ConfigChangeId)
	for _, set := range []map[uint64]string{m.Addresses, m.NonVotings, m.Witnesses} {
		b = wire.AppendUvarint(b, uint64(len(set)))
		for _, id := range slices.Sorted(maps.Keys(set)) {
			b = wire.AppendString(wire.AppendUvarint(b, id), set[id])
		}
	}
	b = wire.AppendUvarint(b, uint64(len(m.Removed)))
	for _, id := range slices.Sorted(maps.Keys(m.Removed)) {
		b = wire.AppendUvarint(b, id)
	}
	return b
}

// decodeChunk decodes a payload. The chunk does not alias it: dragonboat keeps
// the first chunk of a snapshot. An error wraps wire.ErrMalformed.
func decodeChunk(payload []byte) (raftpb.Chunk, error) {
	r := wire.NewReader(payload)
	if format := r.Byte(); format != chunkFormat {
		r.Fail("chunk format %d, only %d can be read", format, chunkFormat)
	}
	flags := r.Byte()
	if flags&^(flagFileInfo|flagWitness) != 0 {
		r.Fail("chunk flags %#x", flags)
	}
	var c raftpb.Chunk
	c.HasFileInfo, c.Witness = flags&flagFileInfo != 0, flags&flagWitness != 0
	c.BinVer = decodeUint32(r)
	for _, v := range chunkNumbers(&c) {
		*v = r.Uvarint()
	}
	c.Filepath = r.String(maxPathBytes)
	decodeMembership(r, &c.Membership)
	if c.HasFileInfo {
		c.FileInfo.Filepath = r.String(maxPathBytes)
		c.FileInfo.FileSize = r.Uvarint()
		c.FileInfo.FileId = r.Uvarint()
		c.FileInfo.Metadata = clone(r.Bytes(maxMetadataBytes))
	}
	data := r.Bytes(wire.MaxFrameBytes)
	if base := path.Base(c.Filepath); base == "." || base == ".." || base == "/" {
		r.Fail("path %q names no file", c.Filepath)
	}
	if err := r.Close(); err != nil {
		return raftpb.Chunk{}, err
	}
	c.Data = clone(data)
	return c, nil
}

// clone is bytes.Clone but nil for no bytes.
func clone(b []byte) []byte {
	if len(b) == 0 {
		return nil
	}
	return bytes.Clone(b)
}

func decodeMembership(r *wire.Reader, m *raftpb.Membership) {
	m.ConfigChangeId = r.Uvarint()
	for _, set := range []*map[uint64]string{&m.Addresses, &m.NonVotings, &m.Witnesses} {
		decodeMembers(r, r.Count(maxMembers, 2), func(id uint64) {
			if *set == nil {
				*set = map[uint64]string{}
			}
			(*set)[id] = r.String(maxAddressBytes)
		})
	}
	decodeMembers(r, r.Count(maxMembers, 1), func(id uint64) {
		if m.Removed == nil {
			m.Removed = map[uint64]bool{}
		}
		m.Removed[id] = true
	})
}

// decodeMembers reads n replica ids in rising order.
func decodeMembers(r *wire.Reader, n int, add func(id uint64)) {
	for last, i := uint64(0), 0; i < n && r.Err() == nil; i++ {
		id := r.Uvarint()
		if id <= last {
			r.Fail("replica %d after %d", id, last)
			return
		}
		last = id
		add(id)
	}
}

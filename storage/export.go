package storage

import (
	"context"
	"encoding/binary"
	"io"
	"time"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/keyenc"
	"github.com/distributedcache/cache/storage/internal/stream"
)

// exportPageBytes is how much is read from the engine at a time: enough that
// opening an iterator for it costs nothing, little enough that a slow reader
// of the stream pins no data files and that Close does not wait for it.
const exportPageBytes = 1 << 20

// shardPrefixLen is how much of a physical key a stream leaves out: it names
// its shard in the header.
const shardPrefixLen = 2

// StreamInfo describes a whole shard snapshot stream.
type StreamInfo struct {
	Shard        base.ShardID
	Shards       int
	Created      time.Time
	Entries      int64
	PayloadBytes int64    // of all keys and values
	StreamBytes  int64    // of the whole stream
	Digest       [32]byte // of the contents: equal entries of a shard have equal digests
}

func streamInfo(info stream.Info) StreamInfo {
	return StreamInfo{
		Shard:        info.Shard,
		Shards:       int(info.Shards),
		Created:      time.UnixMicro(int64(info.Created)).UTC(),
		Entries:      int64(info.Entries),
		PayloadBytes: int64(info.PayloadBytes),
		StreamBytes:  int64(info.StreamBytes),
		Digest:       info.Digest,
	}
}

// Export writes everything that a shard has in the snapshot, all spaces of
// it, to w as one stream, sorted and checksummed. NodeShard exports the
// node's own entries. It holds about a mebibyte in memory, whatever the size
// of the shard, and makes few, large writes. ctx is asked between the writes.
// After an error the stream is incomplete, and no reader takes it for whole.
func (sn *Snapshot) Export(ctx context.Context, shard base.ShardID, w io.Writer) (StreamInfo, error) {
	if err := sn.s.checkShard(shard); err != nil {
		return StreamInfo{}, err
	}
	sw, err := stream.NewWriter(w, stream.Header{
		DataFormat: FormatVersion,
		Shard:      shard,
		Shards:     uint16(sn.s.id.Shards),
		Created:    uint64(time.Now().UnixMicro()),
	})
	if err != nil {
		return StreamInfo{}, err
	}
	page := entryPage{next: keyenc.AppendShardStart(nil, shard)}
	end := keyenc.AppendShardEnd(nil, shard)
	for more := true; more; {
		if ctx.Err() != nil {
			return StreamInfo{}, context.Cause(ctx)
		}
		if more, err = sn.readPage(&page, end); err != nil {
			return StreamInfo{}, err
		}
		if err := sn.valid(shard); err != nil {
			return StreamInfo{}, err
		}
		for key, value := range page.entries {
			if err := sw.Add(key[shardPrefixLen:], value); err != nil {
				return StreamInfo{}, err
			}
		}
	}
	info, err := sw.Close()
	return streamInfo(info), err
}

// entryPage is a run of physical entries in one buffer.
type entryPage struct {
	next []byte // where the next page starts
	buf  []byte // per entry: both lengths as u32, key, value
}

func (p *entryPage) add(key, value []byte) {
	p.buf = binary.BigEndian.AppendUint32(p.buf, uint32(len(key)))
	p.buf = binary.BigEndian.AppendUint32(p.buf, uint32(len(value)))
	p.buf = append(p.buf, key...)
	p.buf = append(p.buf, value...)
}

// entries yields what was added. The slices alias the page.
func (p *entryPage) entries(yield func(key, value []byte) bool) {
	for buf := p.buf; len(buf) > 0; {
		keyEnd := 8 + int(binary.BigEndian.Uint32(buf))
		valueEnd := keyEnd + int(binary.BigEndian.Uint32(buf[4:]))
		if !yield(buf[8:keyEnd], buf[keyEnd:valueEnd]) {
			return
		}
		buf = buf[valueEnd:]
	}
}

// readPage fills p with the entries from p.next on and reports whether there
// may be more before end.
func (sn *Snapshot) readPage(p *entryPage, end []byte) (more bool, err error) {
	p.buf = p.buf[:0]
	err = sn.s.scan(sn.snap, p.next, end, func(key, value []byte) error {
		p.add(key, value)
		if len(p.buf) < exportPageBytes {
			return nil
		}
		p.next = append(append([]byte{}, key...), 0) // the smallest key after this one
		more = true
		return errEnough
	})
	return more, err
}

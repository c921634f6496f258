package storage

import (
	"encoding/binary"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/diskio"
	"github.com/distributedcache/cache/internal/keyenc"
)

// Batch collects writes on any shards and applies them atomically. It is not
// for concurrent use. The order of calls is NewBatch, writes and reads,
// Apply, Wait, Release; a batch that is not wanted any more may be released
// at any point.
type Batch struct {
	s *Store
	b *pebble.Batch
	// touched are the records written, for the read cache.
	touched []touch
	own     overlay
	applied bool
	// synced says that Wait has something to wait for.
	synced bool
}

// physBytes is the room for physical keys on the stack; longer ones are
// allocated.
const physBytes = 128

// retainedTouches bounds what a released batch keeps for the next user.
const retainedTouches = 4096

func newBatch(s *Store) *Batch { return &Batch{s: s, b: s.db.NewBatch()} }

// NewBatch returns an empty batch.
func (s *Store) NewBatch() *Batch { return s.batches.Get().(*Batch) }

// Put writes a record, and an entry in the expiry index if it expires. It
// copies all it is given. The version must not be 0.
func (b *Batch) Put(shard base.ShardID, key base.Key, rec Record) {
	op := b.b.SetDeferred(keyenc.RecordKeyLen(key), recordLen(rec))
	keyenc.AppendRecordKey(op.Key[:0], shard, key)
	appendRecord(op.Value[:0], rec)
	_ = op.Finish() // nothing can fail: the batch is not indexed
	if b.s.reads != nil {
		b.touched = append(b.touched, touch{
			key:   key,
			shard: shard,
			off:   b.b.Len() - len(rec.Value),
			len:   len(rec.Value),
			head:  Head{Version: rec.Version, ExpiresAt: rec.ExpiresAt},
		})
	}
	if rec.ExpiresAt == 0 {
		return
	}
	op = b.b.SetDeferred(keyenc.ExpiryKeyLen(key), expiryValueLen)
	keyenc.AppendExpiryKey(op.Key[:0], shard, rec.ExpiresAt, key)
	binary.BigEndian.PutUint64(op.Value, uint64(rec.Version))
	_ = op.Finish()
}

// Delete removes a record. Its entry in the expiry index stays until whoever
// sweeps the index drops it.
func (b *Batch) Delete(shard base.ShardID, key base.Key) {
	op := b.b.DeleteDeferred(keyenc.RecordKeyLen(key))
	keyenc.AppendRecordKey(op.Key[:0], shard, key)
	_ = op.Finish()
	if b.s.reads != nil {
		b.touched = append(b.touched, touch{key: key, shard: shard, deleted: true})
	}
}

// DropExpiry removes one entry of the expiry index.
func (b *Batch) DropExpiry(shard base.ShardID, e Expired) {
	op := b.b.DeleteDeferred(keyenc.ExpiryKeyLen(e.Key))
	keyenc.AppendExpiryKey(op.Key[:0], shard, e.At, e.Key)
	_ = op.Finish()
}

// Set writes one entry of a space.
func (b *Batch) Set(shard base.ShardID, kind Kind, key, value []byte) {
	op := b.b.SetDeferred(keyenc.PrefixLen+len(key), len(value))
	keyenc.AppendPrefix(op.Key[:0], shard, keyenc.Space(kind))
	copy(op.Key[keyenc.PrefixLen:], key)
	copy(op.Value, value)
	_ = op.Finish()
}

// Unset removes one entry of a space.
func (b *Batch) Unset(shard base.ShardID, kind Kind, key []byte) {
	op := b.b.DeleteDeferred(keyenc.PrefixLen + len(key))
	keyenc.AppendPrefix(op.Key[:0], shard, keyenc.Space(kind))
	copy(op.Key[keyenc.PrefixLen:], key)
	_ = op.Finish()
}

// Head returns the head of a record as the batch would leave it: its own
// writes first, then the store.
func (b *Batch) Head(shard base.ShardID, key base.Key) (Head, error) {
	if b.Empty() {
		return b.s.Space(shard).Head(key)
	}
	var scratch [physBytes]byte
	phys := keyenc.AppendRecordKey(scratch[:0], shard, key)
	switch value, state := b.ownWrite(phys); state {
	case ownSet:
		head, _, err := decodeHead(value)
		return head, err
	case ownDeleted:
		return Head{}, nil
	}
	return b.s.Space(shard).Head(key)
}

// Value returns a copy of one entry of a space as the batch would leave it.
func (b *Batch) Value(shard base.ShardID, kind Kind, key []byte) (value []byte, found bool, err error) {
	if b.Empty() {
		return b.s.Space(shard).Value(kind, key)
	}
	var scratch [physBytes]byte
	phys := append(keyenc.AppendPrefix(scratch[:0], shard, keyenc.Space(kind)), key...)
	switch value, state := b.ownWrite(phys); state {
	case ownSet:
		return clone(value), true, nil
	case ownDeleted:
		return nil, false, nil
	}
	return b.s.Space(shard).Value(kind, key)
}

func (b *Batch) ownWrite(phys []byte) ([]byte, ownState) {
	repr := b.b.Repr()
	b.own.catchUp(repr)
	return b.own.find(repr, phys)
}

// Empty reports whether the batch has no writes.
func (b *Batch) Empty() bool { return b.b.Empty() }

// Bytes returns the size of the batch as it goes to the log.
func (b *Batch) Bytes() int { return b.b.Len() }

// Count returns how many entries the batch writes or removes.
func (b *Batch) Count() int { return int(b.b.Count()) }

// Apply makes all writes of the batch visible, atomically. With Synced it
// also queues the fsync that Wait waits for. It may be called once. After an
// error it is unknown whether the writes will be found after the next Open,
// unless the error wraps ErrClosed: then they will not.
func (b *Batch) Apply() error {
	if b.applied {
		return fmt.Errorf("%w: batch applied twice", base.ErrInvalid)
	}
	if b.Empty() {
		return b.s.usable()
	}
	b.s.admit()
	if err := b.s.enter(); err != nil {
		return err
	}
	defer b.s.leave()
	b.applied = true
	b.s.reads.begin(b.touched)
	err := b.commit()
	b.s.reads.end(b.touched, b.b.Repr(), err == nil)
	return err
}

func (b *Batch) commit() (err error) {
	defer b.crashed(&err)
	if b.s.cfg.Durability == Synced {
		b.synced = true
		err = b.s.db.ApplyNoSyncWait(b.b, pebble.Sync)
	} else {
		err = b.s.db.Apply(b.b, pebble.NoSync)
	}
	if err != nil {
		return b.s.ioError("apply", err)
	}
	return b.s.fence.Err()
}

// crashed fences the store if committing panicked. The engine may have left
// locks behind then, and the fence keeps everybody out.
func (b *Batch) crashed(err *error) {
	if r := recover(); r != nil {
		cause, ok := r.(error)
		if !ok {
			cause = fmt.Errorf("%v", r)
		}
		b.s.cfg.Logger.Error("storage engine panicked", "during", "apply", "panic", r)
		b.s.fence.Trip(diskio.Typed("apply", cause))
		b.synced = false // nobody will ever signal it
		*err = b.s.fence.Err()
	}
}

// Wait returns when the applied batch is as durable as the store promises:
// fsynced with Synced, at once otherwise. Call it once after Apply. After an
// error it is unknown whether the writes will be found after the next Open.
func (b *Batch) Wait() error {
	if b.synced {
		b.synced = false
		if err := b.b.SyncWait(); err != nil {
			b.s.fence.Trip(diskio.Typed("sync the log", err))
		}
	}
	return b.s.fence.Err()
}

// Release gives the batch back. It must not be used afterwards.
func (b *Batch) Release() {
	if b.synced {
		_ = b.Wait() // the log still writes into the batch
	}
	s := b.s
	if b.applied && s.fence.Err() != nil {
		return // the engine may still hold on to it
	}
	b.b.Reset()
	clear(b.touched)
	b.touched = b.touched[:0]
	if cap(b.touched) > retainedTouches {
		b.touched = nil
	}
	b.own.reset()
	b.applied = false
	s.batches.Put(b)
}

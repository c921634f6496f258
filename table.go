package cache

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"time"
)

// Codec turns values of type T into bytes and back. Both methods may be called
// by several goroutines at once. Encode must return a slice that nobody
// changes afterwards, Decode may keep the slice it is given.
type Codec[T any] interface {
	Encode(value T) ([]byte, error)
	Decode(data []byte) (T, error)
}

// JSON returns the codec that stores values as encoding/json does.
func JSON[T any]() Codec[T] { return jsonCodec[T]{} }

type jsonCodec[T any] struct{}

func (jsonCodec[T]) Encode(value T) ([]byte, error) { return json.Marshal(value) }

func (jsonCodec[T]) Decode(data []byte) (value T, err error) {
	err = json.Unmarshal(data, &value)
	return value, err
}

// Entry is an [Item] whose value is a T. Version 0 means that there is no such
// key, and Value is then the zero T.
type Entry[T any] struct {
	Key       Key
	Value     T
	Version   Version
	ExpiresAt time.Time // zero if the entry does not expire
}

// Exists reports whether the entry was found.
func (e Entry[T]) Exists() bool { return e.Version != 0 }

// Cursor returns the string from which [From] resumes a scan right after this
// entry.
func (e Entry[T]) Cursor() string { return Item{Key: e.Key}.Cursor() }

// Table is a typed view of a [Store]: its values are of type T. It keeps no
// state, so any number of tables may share a store. A value that does not
// encode gives [ErrInvalid] and nothing is written; one that does not decode
// gives [ErrCorrupt] naming the key.
type Table[T any] struct {
	store Store
	codec Codec[T]
}

// NewTable returns the typed view of s that encodes values with codec, such as
// [JSON].
func NewTable[T any](s Store, codec Codec[T]) *Table[T] {
	return &Table[T]{store: s, codec: codec}
}

// Get returns the entry at key, or [ErrNotFound]. See [Cache.Get].
func (t *Table[T]) Get(ctx context.Context, key Key, opts ...ReadOption) (Entry[T], error) {
	item, err := t.store.Get(ctx, key, opts...)
	if err != nil {
		return Entry[T]{}, err
	}
	return t.entry("get", item, opts)
}

// MultiGet returns the entries at keys, as many and in the same order. A
// missing key has Version 0. See [Cache.MultiGet].
func (t *Table[T]) MultiGet(ctx context.Context, keys []Key, opts ...ReadOption) ([]Entry[T], error) {
	items, err := t.store.MultiGet(ctx, keys, opts...)
	if err != nil {
		return nil, err
	}
	entries := make([]Entry[T], len(items))
	for i, item := range items {
		if !item.Exists() {
			entries[i].Key = item.Key
			continue
		}
		if entries[i], err = t.entry("multiget", item, opts); err != nil {
			return nil, err
		}
	}
	return entries, nil
}

// RangeScan returns the entries of r ordered by key. See [Cache.RangeScan].
func (t *Table[T]) RangeScan(ctx context.Context, r Range, opts ...ReadOption) iter.Seq2[Entry[T], error] {
	return func(yield func(Entry[T], error) bool) {
		for item, err := range t.store.RangeScan(ctx, r, opts...) {
			var e Entry[T]
			if err == nil {
				e, err = t.entry("rangescan", item, opts)
			}
			if !yield(e, err) || err != nil {
				return
			}
		}
	}
}

// Put stores value at key and returns the version it got. See [Cache.Put].
func (t *Table[T]) Put(ctx context.Context, key Key, value T, opts ...WriteOption) (Version, error) {
	data, err := t.encode(value)
	if err != nil {
		return 0, refused("put", key, err)
	}
	return t.store.Put(ctx, key, data, opts...)
}

// Delete removes the value at key and returns the version that it had. See
// [Cache.Delete].
func (t *Table[T]) Delete(ctx context.Context, key Key, opts ...WriteOption) (Version, error) {
	return t.store.Delete(ctx, key, opts...)
}

// PutOp returns the operation that stores value at key, for [Cache.MultiPut].
// See the function [PutOp].
func (t *Table[T]) PutOp(key Key, value T, opts ...WriteOption) Op {
	data, err := t.encode(value)
	op := PutOp(key, data, opts...)
	if err != nil {
		op.err = err
	}
	return op
}

// GetTx returns the entry at key as tx sees it, or [ErrNotFound].
func (t *Table[T]) GetTx(tx *Tx, key Key) (Entry[T], error) {
	item, err := tx.Get(key)
	if err != nil {
		return Entry[T]{}, err
	}
	return t.entry("get", item, nil)
}

// PutTx buffers a put of value at key in tx. See [Tx.Put].
func (t *Table[T]) PutTx(tx *Tx, key Key, value T, opts ...WriteOption) error {
	data, err := t.encode(value)
	if err != nil {
		return refused("put", key, err)
	}
	return tx.Put(key, data, opts...)
}

// encode returns the stored form of value, or a cause that wraps ErrInvalid.
func (t *Table[T]) encode(value T) ([]byte, error) {
	data, err := t.codec.Encode(value)
	if err != nil {
		return nil, fmt.Errorf("%w: encoding the value: %w", ErrInvalid, err)
	}
	return data, nil
}

// entry returns item with its value decoded, if opts read values.
func (t *Table[T]) entry(op string, item Item, opts []ReadOption) (Entry[T], error) {
	e := Entry[T]{Key: item.Key, Version: item.Version, ExpiresAt: item.ExpiresAt}
	if ro, _ := resolveRead(opts); ro.KeysOnly {
		return e, nil
	}
	value, err := t.codec.Decode(item.Value)
	if err != nil {
		return Entry[T]{}, refused(op, item.Key, fmt.Errorf("%w: decoding the value: %w", ErrCorrupt, err))
	}
	e.Value = value
	return e, nil
}

package main

import (
	"context"
	"fmt"
	"net/http"

	"github.com/distributedcache/cache"
)

// multiGetJSON is the body of POST /api/multiget.
type multiGetJSON struct {
	Keys []keyJSON `json:"keys"`
}

// itemsJSON is its answer, in the order of the keys.
type itemsJSON struct {
	Items []itemJSON `json:"items"`
}

// multiGet answers POST /api/multiget.
func (s *server) multiGet(w http.ResponseWriter, r *http.Request) error {
	q, err := parseQuery(r, "encoding", "consistency", "max_staleness")
	if err != nil {
		return err
	}
	encoded, err := q.base64()
	if err != nil {
		return err
	}
	opts, err := q.consistency()
	if err != nil {
		return err
	}
	ctx, cancel := s.bound(r)
	defer cancel()
	leave, err := s.enterHeavy(ctx)
	if err != nil {
		return err
	}
	defer leave()
	body, err := readBodyBefore(ctx, w, r, maxJSONBytes)
	if err != nil {
		return err
	}
	var in multiGetJSON
	if err := decodeJSON(body, &in); err != nil {
		return err
	}
	keys, err := in.check()
	if err != nil {
		return err
	}
	out, err := s.readItems(ctx, keys, opts, encoded)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, itemsJSON{out})
	return nil
}

// check returns the keys if all of them may be asked for.
func (m *multiGetJSON) check() ([]cache.Key, error) {
	if len(m.Keys) == 0 || len(m.Keys) > maxBatchOps {
		sentinel := cache.ErrInvalid
		if len(m.Keys) > maxBatchOps {
			sentinel = cache.ErrTooLarge
		}
		return nil, refusedf(sentinel, "keys: %d of them; want 1 to %d", len(m.Keys), maxBatchOps)
	}
	keys := make([]cache.Key, len(m.Keys))
	for i, k := range m.Keys {
		if err := k.Validate(); err != nil {
			return nil, fmt.Errorf("keys[%d]: %w", i, err)
		}
		keys[i] = k.Key
	}
	return keys, nil
}

// multiGetChunk is how many keys are read at once, so that an answer that is
// too large is noticed before much of it is in memory.
const multiGetChunk = 16

// readItems reads keys. It refuses to hold more than maxMultiGetBytes.
func (s *server) readItems(ctx context.Context, keys []cache.Key, opts []cache.ReadOption, encoded bool) ([]itemJSON, error) {
	out := make([]itemJSON, 0, len(keys))
	bytes := 0
	for start := 0; start < len(keys); start += multiGetChunk {
		items, err := s.store.MultiGet(ctx, keys[start:min(start+multiGetChunk, len(keys))], opts...)
		if err != nil {
			return nil, err
		}
		for _, item := range items {
			bytes += len(item.Value)
			if bytes > maxMultiGetBytes {
				return nil, refusedf(cache.ErrTooLarge, "the values are more than %d bytes; ask for fewer keys", maxMultiGetBytes)
			}
			out = append(out, newItemJSON(item, encoded, false))
		}
	}
	return out, nil
}

// multiPutJSON is the body of POST /api/multiput.
type multiPutJSON struct {
	Atomic *bool    `json:"atomic"` // default true
	Ops    []opJSON `json:"ops"`
}

// opJSON is one operation of a batch.
type opJSON struct {
	Op        string  `json:"op"` // "put", "delete", "check"
	Key       keyJSON `json:"key"`
	Value     *string `json:"value"`    // put only
	Encoding  *string `json:"encoding"` // of value: "base64"; default: plain text
	TTL       *string `json:"ttl"`      // put only
	IfVersion *uint64 `json:"if_version"`
	IfAbsent  bool    `json:"if_absent"`
	IfPresent bool    `json:"if_present"`
}

// resultJSON is what became of one operation.
type resultJSON struct {
	Key     string     `json:"key"`
	Version uint64     `json:"version"`
	Error   *errorJSON `json:"error,omitempty"`
}

// batchJSON is the answer to a batch.
type batchJSON struct {
	Results []resultJSON `json:"results"`
}

// multiPut answers POST /api/multiput. An atomic batch that is not applied has
// an error status; with "atomic": false the status is 200 and each result has
// its own error.
func (s *server) multiPut(w http.ResponseWriter, r *http.Request) error {
	q, err := parseQuery(r, "encoding")
	if err != nil {
		return err
	}
	encoded, err := q.base64()
	if err != nil {
		return err
	}
	id, given, err := requestID(r)
	if err != nil {
		return err
	}
	ctx, cancel := s.bound(r)
	defer cancel()
	leave, err := s.enterHeavy(ctx)
	if err != nil {
		return err
	}
	defer leave()
	body, err := readBodyBefore(ctx, w, r, maxJSONBytes)
	if err != nil {
		return err
	}
	ops, atomic, err := decodeBatch(body, encoded)
	if err != nil {
		return err
	}
	var opts []cache.TxOption
	if !atomic {
		opts = append(opts, cache.Independent())
	}
	if given {
		opts = append(opts, cache.WithRequestID(id))
	}
	results, err := s.store.MultiPut(ctx, ops, opts...)
	if err != nil {
		return &batchError{cause: err, results: results}
	}
	writeJSON(w, http.StatusOK, batchJSON{resultsJSON(results)})
	return nil
}

// decodeBatch returns the operations of a batch. encoded is the encoding of
// values that name none.
func decodeBatch(body []byte, encoded bool) (ops []cache.Op, atomic bool, err error) {
	var in multiPutJSON
	if err := decodeJSON(body, &in); err != nil {
		return nil, false, err
	}
	if len(in.Ops) == 0 {
		return nil, false, invalidf("ops: want at least one operation")
	}
	if len(in.Ops) > maxBatchOps {
		return nil, false, refusedf(cache.ErrTooLarge, "ops: %d operations, at most %d are allowed", len(in.Ops), maxBatchOps)
	}
	ops = make([]cache.Op, len(in.Ops))
	for i := range in.Ops {
		if ops[i], err = in.Ops[i].op(encoded); err != nil {
			return nil, false, fmt.Errorf("ops[%d]: %w", i, err)
		}
	}
	return ops, in.Atomic == nil || *in.Atomic, nil
}

// op returns the operation that o describes.
func (o *opJSON) op(encoded bool) (cache.Op, error) {
	if err := o.Key.Validate(); err != nil {
		return cache.Op{}, err
	}
	if o.Op != "put" && (o.Value != nil || o.Encoding != nil || o.TTL != nil) {
		return cache.Op{}, invalidf("value, encoding and ttl are for op put only")
	}
	switch o.Op {
	case "put":
		return o.put(encoded)
	case "delete":
		opts, err := o.conditions()
		return cache.DeleteOp(o.Key.Key, opts...), err
	case "check":
		return o.check()
	default:
		return cache.Op{}, invalidf("op %q: want put, delete or check", o.Op)
	}
}

func (o *opJSON) put(encoded bool) (cache.Op, error) {
	opts, err := o.conditions()
	if err != nil {
		return cache.Op{}, err
	}
	if o.TTL != nil {
		ttl, err := parseDuration("ttl", *o.TTL)
		if err != nil {
			return cache.Op{}, err
		}
		opts = append(opts, cache.TTL(ttl))
	}
	if o.Value == nil {
		return cache.Op{}, invalidf("op put needs a value; an empty one is \"\"")
	}
	if o.Encoding != nil {
		if encoded, err = isBase64(*o.Encoding); err != nil {
			return cache.Op{}, err
		}
	}
	value, err := decodeValue(*o.Value, encoded)
	return cache.PutOp(o.Key.Key, value, opts...), err
}

// check reads if_version, or if_absent, which is if_version 0.
func (o *opJSON) check() (cache.Op, error) {
	if o.IfPresent || (o.IfVersion == nil) == !o.IfAbsent {
		return cache.Op{}, invalidf("op check needs if_version or if_absent")
	}
	var want cache.Version
	if o.IfVersion != nil {
		want = cache.Version(*o.IfVersion)
	}
	return cache.CheckOp(o.Key.Key, want), nil
}

func (o *opJSON) conditions() ([]cache.WriteOption, error) {
	var opts []cache.WriteOption
	if o.IfVersion != nil {
		opts = append(opts, cache.IfVersion(cache.Version(*o.IfVersion)))
	}
	if o.IfAbsent {
		opts = append(opts, cache.IfAbsent())
	}
	if o.IfPresent {
		opts = append(opts, cache.IfPresent())
	}
	if len(opts) > 1 {
		return nil, invalidf("want at most one of if_version, if_absent and if_present")
	}
	return opts, nil
}

// resultsJSON returns the JSON of results.
func resultsJSON(results []cache.Result) []resultJSON {
	out := make([]resultJSON, len(results))
	for i, res := range results {
		out[i] = resultJSON{Key: res.Key.String(), Version: uint64(res.Version)}
		if res.Err != nil {
			body, _ := describe(res.Err, true)
			out[i].Error = &body
		}
	}
	return out
}

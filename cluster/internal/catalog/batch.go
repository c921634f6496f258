package catalog

import "github.com/distributedcache/cache/internal/base"

// batch collects the writes of one change.
type batch struct {
	state  *State
	writes []base.Write
}

func (s *State) change() *batch { return &batch{state: s} }

// put writes a record, on the condition that it is as the State has it.
func (b *batch) put(key base.Key, value []byte) *batch {
	return b.add(base.Write{Kind: base.WritePut, Key: key, Value: value})
}

func (b *batch) node(n NodeRecord) *batch   { return b.put(nodeKey(n.ID), encodeNode(&n)) }
func (b *batch) shard(r ShardRecord) *batch { return b.put(shardKey(r.Shard), encodeShard(&r)) }

// check wants a record to be as the State has it. The epoch says the same of
// all records; a check of its own names in the error what has changed.
func (b *batch) check(key base.Key) *batch {
	return b.add(base.Write{Kind: base.WriteCheck, Key: key})
}

func (b *batch) remove(key base.Key) *batch {
	return b.add(base.Write{Kind: base.WriteDelete, Key: key})
}

func (b *batch) add(w base.Write) *batch {
	w.Cond = base.Cond{Kind: base.CondVersion, Version: b.state.versions[w.Key]}
	b.writes = append(b.writes, w)
	return b
}

// done returns the writes, the epoch with them.
func (b *batch) done() []base.Write {
	return b.put(epochKey(), []byte{recordVersion}).writes
}

// foresee returns the State that the writes will lead to, but for its versions.
// What Build would refuse is refused here, before it is written.
func (s *State) foresee(writes []base.Write) (*State, error) {
	results := make([]base.Result, len(writes))
	for i := range results {
		results[i].Version = s.Epoch() + 1
	}
	next, err := s.after(writes, results)
	if err != nil {
		return nil, invalid("the change contradicts the catalog: %v", err)
	}
	return next, nil
}

// after returns the State that the applied writes lead to. results are those
// of the writes.
func (s *State) after(writes []base.Write, results []base.Result) (*State, error) {
	written := make(map[base.Key]int, len(writes))
	for i := range writes {
		if writes[i].Kind != base.WriteCheck {
			written[writes[i].Key] = i
		}
	}
	items := make([]base.Item, 0, len(s.items)+len(writes))
	for _, item := range s.items {
		if _, ok := written[item.Key]; !ok {
			items = append(items, item)
		}
	}
	for key, i := range written {
		if writes[i].Kind == base.WritePut {
			items = append(items, base.Item{Key: key, Value: writes[i].Value, Version: results[i].Version})
		}
	}
	return Build(items)
}

package fsm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/lni/dragonboat/v4/statemachine"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/replication/internal/command"
	"github.com/distributedcache/cache/replication/internal/kvfsm"
	"github.com/distributedcache/cache/storage"
)

// The values of the result of an entry, beside its data.
const (
	// Applied: the data are the results of the commands.
	Applied = 1
	// Superseded: the entry was too old to be applied. Its proposer has given
	// up waiting for it.
	Superseded = 2
	// Failed: the node has failed; whether the entry is applied is decided by
	// the other replicas.
	Failed = 3
)

// Config is what the machine of a shard needs.
type Config struct {
	Store   *storage.Store
	Shard   base.ShardID
	Machine *kvfsm.Machine
	// Fail is called when the storage fails, perhaps more than once. Nothing that
	// the node says afterwards may be heard.
	Fail func(error)
	// Failed reports whether the node has failed, here or elsewhere. What the log
	// hands over then may not be on its disk.
	Failed func() bool
	// Stopped is closed when the node stops; it frees a Sync that has failed.
	Stopped <-chan struct{}
}

// machine implements statemachine.IOnDiskStateMachine.
type machine struct {
	Config
	failed atomic.Bool
}

// New returns the state machine of a shard.
func New(cfg Config) statemachine.IOnDiskStateMachine { return &machine{Config: cfg} }

// fail stops applying for good.
func (m *machine) fail(what string, err error) {
	m.failed.Store(true)
	m.Fail(fmt.Errorf("shard %d: %s: %w", m.Shard, what, err))
}

// ended reports whether nothing may be applied any more.
func (m *machine) ended() bool { return m.failed.Load() || m.Failed() }

// Open implements IOnDiskStateMachine.
func (m *machine) Open(<-chan struct{}) (uint64, error) { return m.Machine.Index(), nil }

// Update implements IOnDiskStateMachine.
func (m *machine) Update(entries []statemachine.Entry) ([]statemachine.Entry, error) {
	if m.ended() {
		return failedResults(entries), nil
	}
	if err := m.apply(entries); err != nil {
		m.fail("apply", err)
		return failedResults(entries), nil
	}
	return entries, nil
}

func failedResults(entries []statemachine.Entry) []statemachine.Entry {
	for i := range entries {
		entries[i].Result = statemachine.Result{Value: Failed}
	}
	return entries
}

// apply runs the entries into one batch, or into several if some entry reads a
// range: that is read from storage, so what is before it goes first.
func (m *machine) apply(entries []statemachine.Entry) error {
	b := m.Store.NewBatch()
	defer func() { b.Release() }()
	for i := range entries {
		e, err := command.DecodeEntry(entries[i].Cmd)
		if err != nil {
			return fmt.Errorf("entry %d: %w", entries[i].Index, err)
		}
		if readsRange(e) && !b.Empty() {
			if err := m.commit(b); err != nil {
				return err
			}
			b.Release()
			b = m.Store.NewBatch()
		}
		results, err := m.Machine.ApplyEntry(b, e, entries[i].Index)
		if err != nil {
			return fmt.Errorf("entry %d: %w", entries[i].Index, err)
		}
		entries[i].Result = statemachine.Result{Value: Applied, Data: results}
		if results == nil {
			entries[i].Result.Value = Superseded
		}
	}
	return m.commit(b)
}

// commit makes visible what has been run so far.
func (m *machine) commit(b *storage.Batch) error {
	if err := b.Apply(); err != nil {
		return err
	}
	m.Machine.Publish()
	return b.Wait()
}

// readsRange reports whether the entry depends on what a range holds. Such a
// command is alone in its entry, since an entry must be in one batch.
func readsRange(e *command.Entry) bool {
	return len(e.Commands) > 0 && len(e.Commands[0].Ranges) > 0
}

// Lookup implements IOnDiskStateMachine. Reads go to storage, not through here.
func (m *machine) Lookup(any) (any, error) { return nil, errors.ErrUnsupported }

// Sync implements IOnDiskStateMachine.
func (m *machine) Sync() error {
	if !m.ended() {
		err := m.Store.Sync()
		if err == nil {
			return nil
		}
		m.fail("sync", err)
	}
	// The log must not be told that what was applied is durable.
	<-m.Stopped
	return nil
}

// PrepareSnapshot implements IOnDiskStateMachine.
func (m *machine) PrepareSnapshot() (any, error) {
	snap, err := m.Store.NewSnapshot()
	if err != nil {
		m.fail("snapshot", err)
		return nil, statemachine.ErrSnapshotStopped
	}
	return snap, nil
}

// SaveSnapshot implements IOnDiskStateMachine: it streams the shard as the
// snapshot has it.
func (m *machine) SaveSnapshot(prepared any, w io.Writer, stop <-chan struct{}) error {
	snap := prepared.(*storage.Snapshot)
	defer snap.Close()
	ctx, cancel := untilClosed(stop)
	defer cancel()
	if _, err := snap.Export(ctx, m.Shard, w); err != nil {
		if ctx.Err() != nil {
			return statemachine.ErrSnapshotStopped
		}
		if m.Store.Err() != nil {
			m.fail("write a snapshot", err)
		}
		return statemachine.ErrSnapshotStreaming
	}
	return nil
}

// RecoverFromSnapshot implements IOnDiskStateMachine: it replaces the shard by
// what the stream holds. A stream that is damaged changes nothing.
func (m *machine) RecoverFromSnapshot(r io.Reader, stop <-chan struct{}) error {
	if m.ended() {
		return statemachine.ErrSnapshotStopped
	}
	ctx, cancel := untilClosed(stop)
	defer cancel()
	_, err := m.Store.Import(ctx, m.Shard, r)
	if err == nil {
		err = m.Machine.Load(0)
	}
	if err != nil {
		if ctx.Err() == nil {
			m.fail("recover from a snapshot", err)
		}
		return statemachine.ErrSnapshotStopped
	}
	return nil
}

// Close implements IOnDiskStateMachine. The store is the node's.
func (m *machine) Close() error { return nil }

// untilClosed returns a context that ends when stop is closed.
func untilClosed(stop <-chan struct{}) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		select {
		case <-stop:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

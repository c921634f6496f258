package node

import (
	"sync"
	"sync/atomic"

	"github.com/distributedcache/cache/internal/base"
)

// lifecycle is whether a node can still serve, and if not, why.
type lifecycle struct {
	onFatal func(error) // may be nil
	done    chan struct{}
	ended   atomic.Bool // set before done is closed; cheaper to ask
	once    sync.Once   // of close
	result  error       // of close

	mu  sync.Mutex // protects err
	err error
}

func (l *lifecycle) init(onFatal func(error)) {
	l.onFatal, l.done = onFatal, make(chan struct{})
}

// end records why the node ends; false if it has ended before.
func (l *lifecycle) end(cause error) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return false
	}
	l.err = cause
	l.ended.Store(true)
	close(l.done)
	return true
}

// fence ends the node because its storage has failed.
func (l *lifecycle) fence(cause error) {
	err := &base.Error{Op: "storage", Shard: -1, Outcome: base.OutcomeNotApplied, Err: cause}
	if l.end(err) && l.onFatal != nil {
		l.onFatal(err)
	}
}

// close ends the node and runs shut, once.
func (l *lifecycle) close(shut func() error) error {
	l.once.Do(func() {
		l.end(base.ErrClosed)
		l.result = shut()
	})
	return l.result
}

func (l *lifecycle) closed() bool { return l.ended.Load() }

func (l *lifecycle) cause() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

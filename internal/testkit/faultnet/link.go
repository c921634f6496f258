package faultnet

import (
	"bytes"
	"container/heap"
	"errors"
	"io"
	"syscall"
	"time"

	"github.com/distributedcache/cache/internal/wire"
)

const (
	// maxPending is how many frames a link holds that are not due yet.
	maxPending = 256
	// maxFrameBytes is the longest frame it looks for; what is longer is
	// passed on as it comes.
	maxFrameBytes = 64 << 20
	// defaultMaxDelay stands for Faults.MaxDelay of zero.
	defaultMaxDelay = 10 * time.Millisecond
)

// link is one direction of a connection: it moves frames from src to dst and
// does to them what the Net says.
type link struct {
	net      *Net
	pair     pair
	kind     byte
	src, dst *buffer
	cut      func() // breaks the connection

	pending pending
	seq     uint64
	lastDue time.Time
}

// piece is a frame, or some bytes that are none.
type piece struct {
	data  []byte
	frame bool
	due   time.Time
	seq   uint64
}

// run returns when the connection has ended or is broken.
func (l *link) run() {
	pieces := make(chan piece)
	quit := make(chan struct{})
	var failed error
	go func() {
		defer close(pieces)
		failed = l.split(pieces, quit)
	}()
	err := l.deliver(pieces)
	close(quit)
	if err != nil { // nobody reads any more
		l.src.fail(syscall.EPIPE)
	}
	for range pieces {
	}
	if err == nil && errors.Is(failed, io.EOF) {
		l.dst.end()
	}
}

// split reads src until it ends and makes pieces of it.
func (l *link) split(pieces chan<- piece, quit <-chan struct{}) error {
	var rest []byte
	raw := false
	read := make([]byte, 64<<10)
	for {
		n, err := l.src.read(read)
		rest = append(rest, read[:n]...)
		for len(rest) > 0 {
			size, whole := len(rest), false
			if !raw {
				size, whole, raw = cutFrame(rest, err != nil)
			}
			if size == 0 {
				break // more is to come
			}
			select {
			case pieces <- piece{data: bytes.Clone(rest[:size]), frame: whole}:
			case <-quit:
				return nil
			}
			rest = rest[size:]
		}
		if err != nil {
			return err
		}
	}
}

// cutFrame returns how many bytes to pass on as one piece: those of a frame,
// none if it is not complete, all if there is no frame or will be none.
func cutFrame(b []byte, last bool) (size int, frame, raw bool) {
	if len(b) >= wire.FrameHeaderBytes {
		size, err := wire.FrameBytes(b)
		switch {
		case err != nil || size > maxFrameBytes:
			return len(b), false, true
		case size <= len(b):
			return size, true, false
		}
	}
	if last {
		return len(b), false, true
	}
	return 0, false, false
}

// deliver writes pieces to dst when they are due, until there are no more or
// dst is broken.
func (l *link) deliver(pieces <-chan piece) error {
	for pieces != nil || len(l.pending) > 0 {
		if len(l.pending) > 0 && !time.Now().Before(l.pending[0].due) {
			if err := l.pass(heap.Pop(&l.pending).(piece)); err != nil {
				return err
			}
			continue
		}
		next := pieces
		if len(l.pending) >= maxPending {
			next = nil
		}
		p, ok, waited := l.await(next)
		switch {
		case waited: // something is due
		case ok:
			l.schedule(p)
		default:
			pieces = nil
			if l.src.isBroken() {
				return nil
			}
		}
	}
	return nil
}

// await waits for a piece or until one is due.
func (l *link) await(next <-chan piece) (p piece, ok, waited bool) {
	var due <-chan time.Time
	if len(l.pending) > 0 {
		timer := time.NewTimer(time.Until(l.pending[0].due))
		defer timer.Stop()
		due = timer.C
	}
	select {
	case p, ok = <-next:
		return p, ok, false
	case <-due:
		return piece{}, false, true
	}
}

// schedule decides what happens to a piece.
func (l *link) schedule(p piece) {
	now := time.Now()
	f := l.net.fate(l.pair, l.kind, p)
	if f.cut {
		l.cut()
	}
	if f.drop || f.cut {
		return
	}
	p.due = now.Add(f.delay)
	if p.due.Before(l.lastDue) {
		p.due = l.lastDue
	}
	l.lastDue = p.due
	p.due = p.due.Add(f.late)
	l.push(p)
	if f.again {
		p.due = p.due.Add(f.againAfter)
		l.push(p)
	}
}

func (l *link) push(p piece) {
	l.seq++
	p.seq = l.seq
	heap.Push(&l.pending, p)
}

// pass writes a piece to dst. A partition swallows messages and halts streams.
func (l *link) pass(p piece) error {
	for {
		l.net.mu.Lock()
		blocked, healed := l.net.blockedLocked(l.pair), l.net.mu.healed
		if blocked && l.kind == KindMessages {
			l.net.mu.stats.Blocked++
		}
		l.net.mu.Unlock()
		if !blocked {
			break
		}
		if l.kind == KindMessages {
			return nil
		}
		changed, broken := l.dst.watch()
		if broken {
			return syscall.EPIPE
		}
		select {
		case <-healed:
		case <-changed:
		}
	}
	if _, err := l.dst.write(p.data); err != nil {
		return err
	}
	if p.frame {
		l.net.count(func(s *Stats) { s.Delivered++ })
	}
	return nil
}

// fate is what happens to one piece.
type fate struct {
	drop, cut, again        bool
	delay, late, againAfter time.Duration
}

// fate draws the same number of random values for each piece, so that what
// happens to one does not depend on the faults of those before it.
func (n *Net) fate(p pair, kind byte, what piece) (f fate) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !what.frame {
		return fate{}
	}
	faults, ok := n.mu.special[p]
	if !ok {
		faults = n.mu.faults
	}
	longest := faults.MaxDelay
	if longest <= 0 {
		longest = defaultMaxDelay
	}
	r := n.randLocked(p)
	hit := func(probability float64) bool { return r.Float64() < probability }
	span := func() time.Duration { return time.Duration(r.Float64() * float64(longest)) }
	drop, delay, again, late, cut := hit(faults.Drop), hit(faults.Delay), hit(faults.Duplicate), hit(faults.Reorder), hit(faults.Cut)
	delayBy, lateBy, againAfter := span(), span(), span()

	s := &n.mu.stats
	s.Frames++
	s.FramesOfKind[kind]++
	message := kind == KindMessages
	switch {
	case cut:
		s.Cut++
		return fate{cut: true}
	case drop && message:
		s.Dropped++
		return fate{drop: true}
	}
	if delay {
		s.Delayed++
		f.delay = delayBy
	}
	if late && message {
		s.Reordered++
		f.late = lateBy
	}
	if again && message {
		s.Duplicated++
		f.again, f.againAfter = true, againAfter
	}
	return f
}

// pending is a heap of pieces, the one due first on top.
type pending []piece

// Len implements heap.Interface.
func (p pending) Len() int { return len(p) }

// Less implements heap.Interface.
func (p pending) Less(i, j int) bool {
	if !p[i].due.Equal(p[j].due) {
		return p[i].due.Before(p[j].due)
	}
	return p[i].seq < p[j].seq
}

// Swap implements heap.Interface.
func (p pending) Swap(i, j int) { p[i], p[j] = p[j], p[i] }

// Push implements heap.Interface.
func (p *pending) Push(x any) { *p = append(*p, x.(piece)) }

// Pop implements heap.Interface.
func (p *pending) Pop() any {
	last := len(*p) - 1
	x := (*p)[last]
	(*p)[last] = piece{}
	*p = (*p)[:last]
	return x
}

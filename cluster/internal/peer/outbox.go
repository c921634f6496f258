package peer

import (
	"sync"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
)

// outbox holds the frames that wait for the goroutine that sends. Its owner's
// mutex protects it; all methods require it.
//
// Short frames are appended to the open batch, which becomes a message as it
// is when the sender comes round, so that nobody waits for company and whoever
// came in the meantime travels together. Long bodies wait in a queue of their
// own and take turns, one piece for each message.
type outbox struct {
	wake    chan struct{} // one slot; filled when there is something to send
	buffers *bufferPool
	open    *[]byte   // the batch that is being filled; nil if empty
	full    []*[]byte // older ones, complete
	taken   uint64    // batches that the sender has taken, ever
	long    []*long   // in turn
	bytes   int       // of the batches, not of the long ones
}

// long is a body on its way in pieces.
type long struct {
	id    uint64
	batch uint64 // its header is in this one
	size  int
	rest  []byte
}

// place is where a frame waits.
type place struct {
	batch  uint64
	offset int
}

func newOutbox(buffers *bufferPool) outbox {
	return outbox{wake: make(chan struct{}, 1), buffers: buffers}
}

// begin returns the batch to append a frame to, and its place. The caller
// appends to it, and calls end.
func (o *outbox) begin() (*[]byte, place) {
	if o.open == nil {
		o.open = o.buffers.Get(0)
		*o.open = append(*o.open, messageVersion)
		o.bytes++
	}
	o.bytes -= len(*o.open)
	return o.open, place{batch: o.taken + uint64(len(o.full)), offset: len(*o.open)}
}

// end completes what begin began and wakes the sender.
func (o *outbox) end() {
	o.bytes += len(*o.open)
	if len(*o.open) >= batchBytes {
		o.full = append(o.full, o.open)
		o.open = nil
	}
	o.signal()
}

func (o *outbox) signal() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// mark appends a frame of a number alone.
func (o *outbox) mark(kind byte, number uint64) {
	batch, _ := o.begin()
	*batch = appendMark(*batch, kind, number)
	o.end()
}

// enqueue adds a long body whose header has just been appended at p.
func (o *outbox) enqueue(id uint64, p place, body []byte) *long {
	l := &long{id: id, batch: p.batch, size: len(body), rest: body}
	o.long = append(o.long, l)
	return l
}

// sent reports whether the sender has taken the batch.
func (o *outbox) sent(batch uint64) bool { return batch < o.taken }

// void takes back the request at p if the sender has not taken it.
func (o *outbox) void(p place) bool {
	if o.sent(p.batch) {
		return false
	}
	batch := o.open
	if i := int(p.batch - o.taken); i < len(o.full) {
		batch = o.full[i]
	}
	(*batch)[p.offset] = frameVoid
	return true
}

// drop takes a long body out of the queue. Nothing of it is read any more.
func (o *outbox) drop(l *long) {
	for i, other := range o.long {
		if other == l {
			o.long = append(o.long[:i], o.long[i+1:]...)
			return
		}
	}
}

// take returns the next message, or nil. finished is the long body whose last
// piece is in it, if any.
func (o *outbox) take() (message *[]byte, finished *long) {
	switch {
	case len(o.full) > 0:
		message = o.full[0]
		o.full = append(o.full[:0], o.full[1:]...)
	case o.open != nil:
		message, o.open = o.open, nil
	case len(o.long) > 0:
		message = o.buffers.Get(0)
		*message = append(*message, messageVersion)
		return message, o.piece(message)
	default:
		return nil, nil
	}
	o.bytes -= len(*message)
	o.taken++
	return message, o.piece(message)
}

// piece appends a piece of the long body whose turn it is. A body whose header
// is still waiting has no turn.
func (o *outbox) piece(message *[]byte) (finished *long) {
	if len(o.long) == 0 || !o.sent(o.long[0].batch) {
		return nil
	}
	l := o.long[0]
	n := min(len(l.rest), pieceBytes)
	*message = appendNumbered(*message, framePiece, l.id, l.rest[:n])
	l.rest = l.rest[n:]
	o.long = append(o.long[:0], o.long[1:]...)
	if len(l.rest) == 0 {
		return l
	}
	o.long = append(o.long, l)
	return nil
}

// bufferPool keeps the buffers of messages. gRPC gives them back when they
// have been written.
type bufferPool struct{ pool sync.Pool }

// newBufferBytes is the first size of a buffer; it holds a batch of some
// short frames.
const newBufferBytes = 8 << 10

// Get returns an empty buffer of at least n bytes.
func (p *bufferPool) Get(n int) *[]byte {
	if b, ok := p.pool.Get().(*[]byte); ok && cap(*b) >= n {
		*b = (*b)[:0]
		return b
	}
	b := make([]byte, 0, max(n, newBufferBytes))
	return &b
}

// Put takes a buffer back, unless one frame has made it longer than any batch.
func (p *bufferPool) Put(b *[]byte) {
	if cap(*b) <= 2*maxBatchBytes {
		p.pool.Put(b)
	}
}

// codec passes bytes through gRPC as they are: what is sent is a
// mem.BufferSlice, what is received an *incoming.
type codec struct{}

var _ encoding.CodecV2 = codec{}

// Name implements encoding.CodecV2.
func (codec) Name() string { return "cache" }

// Marshal implements encoding.CodecV2.
func (codec) Marshal(v any) (mem.BufferSlice, error) {
	return *v.(*mem.BufferSlice), nil
}

// Unmarshal implements encoding.CodecV2.
func (codec) Unmarshal(data mem.BufferSlice, v any) error {
	in := v.(*incoming)
	in.release()
	in.buffer = data.MaterializeToBuffer(mem.DefaultBufferPool())
	return nil
}

// incoming is a received message, valid until the next one or release.
type incoming struct{ buffer mem.Buffer }

func (in *incoming) bytes() []byte { return in.buffer.ReadOnlyData() }

func (in *incoming) release() {
	if in.buffer != nil {
		in.buffer.Free()
		in.buffer = nil
	}
}

package peer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	grpcpeer "google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/invariants"
	"github.com/distributedcache/cache/internal/wire"
)

// session is the serving side of one stream of calls.
type session struct {
	server *Server
	stream grpc.ServerStream
	ctx    context.Context // ends with the stream
	lastID uint64          // of receive
	token  uint64          // names the session

	// mu protects what follows.
	mu      sync.Mutex
	out     outbox
	side    outbox // for long answers, once there is a stream for them
	sided   bool   // there is
	jobs    map[uint64]*job
	held    int // bytes of long requests, as promised
	replies int // bytes of long answers that are being sent
}

// job is one request. It is in session.jobs until it is answered.
type job struct {
	session *session
	id      uint64
	method  uint8
	ctx     context.Context
	cancel  context.CancelFunc
	short   []byte   // the request, if it came as a whole; its array is used again
	long    assembly // the request, if it came in pieces
}

// keepShortBytes is the longest array that a recycled job keeps.
const keepShortBytes = 4 << 10

func (j *job) request() []byte {
	if j.long.size > 0 {
		return j.long.data
	}
	return j.short
}

func newSession(s *Server, stream grpc.ServerStream) *session {
	return &session{
		server: s, stream: stream, ctx: stream.Context(), token: newToken(),
		out: newOutbox(&s.buffers), side: newOutbox(&s.buffers), jobs: map[uint64]*job{},
	}
}

// serve reads messages until the stream ends.
func (s *session) serve() error {
	s.mu.Lock()
	batch, _ := s.out.begin()
	*batch = appendHello(*batch, s.server.cfg.MaxMessageBytes, s.server.cfg.MaxInFlight)
	s.out.end()
	s.out.mark(frameSide, s.token)
	s.mu.Unlock()
	s.server.register(s)
	defer s.server.unregister(s)
	s.server.wg.Go(func() { s.send(s.stream, &s.out) })
	var in incoming
	defer in.release()
	for {
		if err := s.stream.RecvMsg(&in); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		message := in.bytes()
		err := error(nil)
		if len(message) > maxBatchBytes {
			err = fmt.Errorf("%w: message of %d bytes", wire.ErrMalformed, len(message))
		} else {
			err = eachFrame(message, s.handle)
		}
		if err != nil {
			s.server.complain("peer sent malformed bytes", "peer", peerOf(s.ctx), "error", err)
			return status.Error(codes.InvalidArgument, err.Error())
		}
	}
}

// peerOf names the other side of a stream in the log.
func peerOf(ctx context.Context) string {
	if p, ok := grpcpeer.FromContext(ctx); ok && p.Addr != nil {
		return p.Addr.String()
	}
	return "unknown"
}

// send passes the messages of an outbox to a stream until it or the session
// ends.
func (s *session) send(stream grpc.ServerStream, out *outbox) {
	for {
		s.mu.Lock()
		message, finished := out.take()
		if finished != nil {
			s.replies -= finished.size
		}
		s.mu.Unlock()
		if message == nil {
			select {
			case <-out.wake:
				runtime.Gosched() // whoever can run may still get on
				continue
			case <-stream.Context().Done():
				return
			case <-s.ctx.Done():
				return
			}
		}
		data := mem.BufferSlice{mem.NewBuffer(message, &s.server.buffers)}
		if err := stream.SendMsg(&data); err != nil {
			return // the stream has ended, or will: receive sees the same
		}
	}
}

// handle takes in one frame.
func (s *session) handle(f frame) error {
	switch f.kind {
	case frameRequest:
		return s.request(f)
	case frameLong:
		return s.longRequest(f)
	case framePiece:
		return s.piece(f)
	case frameCancel:
		s.cancel(f.id)
	case framePing:
		s.mu.Lock()
		s.out.mark(framePong, f.id)
		s.mu.Unlock()
	case frameVoid:
		return s.nextID(f.id)
	default:
		return fmt.Errorf("%w: frame kind %d from a client", wire.ErrMalformed, f.kind)
	}
	return nil
}

// nextID checks that ids rise.
func (s *session) nextID(id uint64) error {
	if id <= s.lastID {
		return fmt.Errorf("%w: id %d after %d", wire.ErrMalformed, id, s.lastID)
	}
	s.lastID = id
	return nil
}

func (s *session) request(f frame) error {
	if err := s.nextID(f.id); err != nil {
		return err
	}
	if j := s.admit(f, 0); j != nil {
		j.short = append(j.short[:0], f.body...)
		s.submit(j)
	}
	return nil
}

func (s *session) longRequest(f frame) error {
	if err := s.nextID(f.id); err != nil {
		return err
	}
	if err := checkSize(f.size, s.server.cfg.MaxMessageBytes); err != nil {
		return err
	}
	if j := s.admit(f, int(f.size)); j != nil {
		j.long.size = int(f.size)
	}
	return nil
}

// piece adds to a long request. Pieces of one that was refused or cancelled
// may still come and are passed over.
func (s *session) piece(f frame) error {
	s.mu.Lock()
	j := s.jobs[f.id]
	submitted := j != nil && j.long.size == len(j.long.data) // and no longer ours
	s.mu.Unlock()
	if j == nil {
		return nil
	}
	if submitted {
		return fmt.Errorf("%w: more pieces than promised", wire.ErrMalformed)
	}
	complete, err := j.long.add(f.body)
	if complete {
		s.submit(j)
	}
	return err
}

// Long requests and answers of one connection are bounded by what they hold,
// in messages of the greatest length.
const (
	maxHeldMessages  = 4
	maxReplyMessages = 8
)

// admit takes in a request, or refuses it and returns nil.
func (s *session) admit(f frame, size int) *job {
	cfg := &s.server.cfg
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case len(s.jobs) >= cfg.MaxInFlight:
		s.refuseLocked(f.id, "too many requests of this connection are under way")
	case s.held > 0 && s.held+size > maxHeldMessages*cfg.MaxMessageBytes:
		s.refuseLocked(f.id, "too many bytes of requests of this connection are under way")
	case s.replies+s.out.bytes+s.side.bytes > maxReplyMessages*cfg.MaxMessageBytes:
		s.refuseLocked(f.id, "too many bytes of answers wait for this connection")
	default:
		j, ok := s.server.jobs.Get().(*job)
		if !ok {
			j = &job{}
		}
		*j = job{session: s, id: f.id, method: f.method, short: j.short}
		if f.timeout > 0 {
			j.ctx, j.cancel = context.WithTimeout(s.ctx, f.timeout)
		} else {
			j.ctx, j.cancel = context.WithCancel(s.ctx)
		}
		s.jobs[f.id] = j
		s.held += size
		return j
	}
	return nil
}

// retryAfter is what a refused caller is told: about as long as a full queue
// takes.
const retryAfter = 20 * time.Millisecond

func (s *session) refuseLocked(id uint64, why string) {
	s.failLocked(id, &base.Error{
		Op: "call", Shard: -1, Outcome: base.OutcomeNotApplied, RetryAfter: retryAfter,
		Err: fmt.Errorf("%w: %s", base.ErrOverloaded, why),
	})
}

func (s *session) failLocked(id uint64, err error) {
	batch, _ := s.out.begin()
	*batch = appendNumbered(*batch, frameFailure, id, base.AppendError(nil, err))
	s.out.end()
}

// submit has a complete request answered.
func (s *session) submit(j *job) {
	if s.server.workers.submit(j) {
		return
	}
	s.mu.Lock()
	s.removeLocked(j)
	s.refuseLocked(j.id, "too many requests wait for a handler")
	s.mu.Unlock()
	s.recycle(j)
}

// cancel cancels a request. One that is not complete is dropped.
func (s *session) cancel(id uint64) {
	s.mu.Lock()
	j := s.jobs[id]
	incomplete := j != nil && len(j.long.data) < j.long.size
	if incomplete {
		s.removeLocked(j)
	} else if j != nil {
		j.cancel()
	}
	s.mu.Unlock()
	if incomplete {
		s.recycle(j)
	}
}

func (s *session) removeLocked(j *job) {
	delete(s.jobs, j.id)
	s.held -= j.long.size
}

func (s *session) recycle(j *job) {
	j.cancel()
	short := j.short
	if invariants.Enabled { // who kept the request finds out
		clear(short)
	}
	if cap(short) > keepShortBytes {
		short = nil
	}
	*j = job{short: short}
	s.server.jobs.Put(j)
}

// run answers the request, on a goroutine of the workers.
func (j *job) run() {
	s := j.session
	var reply []byte
	err, broken := error(nil), ""
	if j.ctx.Err() != nil {
		err = fmt.Errorf("%w: %w", base.ErrUnavailable, errGivenUp)
	} else {
		broken, err = s.server.guard(func() (err error) {
			reply, err = s.server.handler.Serve(j.ctx, j.method, j.request())
			return err
		})
	}
	if limit := s.server.cfg.MaxMessageBytes; err == nil && len(reply) > limit {
		err = fmt.Errorf("%w: answer of %d bytes, at most %d are allowed", base.ErrTooLarge, len(reply), limit)
	}
	s.mu.Lock()
	s.removeLocked(j)
	switch {
	case s.ctx.Err() != nil: // nobody takes it
	case broken != "":
		batch, _ := s.out.begin()
		*batch = appendNumbered(*batch, frameLost, j.id, []byte(broken))
		s.out.end()
	case err != nil:
		s.failLocked(j.id, err)
	default:
		s.replyLocked(j.id, reply)
	}
	s.mu.Unlock()
	s.recycle(j)
}

func (s *session) replyLocked(id uint64, reply []byte) {
	if len(reply) <= pieceBytes {
		batch, _ := s.out.begin()
		*batch = appendNumbered(*batch, frameReply, id, reply)
		s.out.end()
		return
	}
	out := &s.out
	if s.sided {
		out = &s.side
	}
	batch, p := out.begin()
	*batch = appendLongReply(*batch, id, len(reply))
	out.enqueue(id, p, reply)
	out.end()
	s.replies += len(reply)
}

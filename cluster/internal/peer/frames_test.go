package peer

import (
	"bytes"
	"encoding/hex"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/testkit"
	"github.com/distributedcache/cache/internal/wire"
)

// everyFrame is one message with a frame of each kind.
func everyFrame() []byte {
	b := []byte{messageVersion}
	b = appendHello(b, 16<<20, 1024)
	b = appendRequest(b, 1, 7, 250*time.Millisecond, []byte("body"))
	b = appendCall(b, frameVoid, 2, 8, 0)
	b = wire.AppendBytes(b, nil)
	b = appendLong(b, 300, 255, time.Hour, 100_000)
	b = appendNumbered(b, framePiece, 300, []byte("piece"))
	b = appendMark(b, frameCancel, 300)
	b = appendNumbered(b, frameReply, 1, []byte("answer"))
	b = appendLongReply(b, 4, 1<<20)
	b = appendNumbered(b, frameFailure, 5, base.AppendError(nil, base.ErrOverloaded))
	b = appendNumbered(b, frameLost, 6, []byte("gone"))
	b = appendMark(b, framePing, 9)
	b = appendMark(b, framePong, 9)
	return appendMark(b, frameSide, 1<<63)
}

func TestFramesGolden(t *testing.T) {
	want, err := os.ReadFile("testdata/frames.hex")
	if err != nil {
		t.Fatalf("%v; the bytes are %x", err, everyFrame())
	}
	if got := hex.EncodeToString(everyFrame()); got != strings.TrimSpace(string(want)) {
		t.Errorf("%s, want %s", got, want)
	}
	var got []frame
	if err := eachFrame(everyFrame(), func(f frame) error { got = append(got, f); return nil }); err != nil {
		t.Fatal(err)
	}
	if len(got) != int(frameSide) || got[1].timeout != 250*time.Millisecond || string(got[1].body) != "body" ||
		got[1].method != 7 || got[2].kind != frameVoid || got[3].size != 100_000 || got[3].id != 300 || string(got[6].body) != "answer" {
		t.Errorf("%+v", got)
	}
}

func TestFramesRefuse(t *testing.T) {
	none := func(frame) error { return nil }
	for name, message := range map[string][]byte{
		"empty":              {},
		"other version":      {2},
		"unknown kind":       {1, 99, 1},
		"kind 0":             {1, 0, 1},
		"no id":              {1, framePing},
		"cut":                everyFrame()[:20],
		"body over limit":    append(wire.AppendUvarint([]byte{1, frameReply, 1}, pieceBytes+1), make([]byte, pieceBytes+1)...),
		"length too long":    {1, frameReply, 1, 5, 'x'},
		"timeout too long":   wire.AppendUvarint([]byte{1, frameRequest, 1, 1}, 1<<63),
		"number not minimal": {1, framePing, 0x80, 0},
	} {
		if err := eachFrame(message, none); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	mine := errors.New("mine")
	if err := eachFrame(everyFrame(), func(frame) error { return mine }); err != mine {
		t.Error(err)
	}
}

// encode is the inverse of readFrame.
func (f frame) encode(b []byte) []byte {
	switch f.kind {
	case frameRequest, frameVoid:
		return wire.AppendBytes(appendCall(b, f.kind, f.id, f.method, f.timeout), f.body)
	case frameLong:
		return wire.AppendUvarint(appendCall(b, f.kind, f.id, f.method, f.timeout), f.size)
	case framePiece, frameReply, frameFailure, frameLost:
		return appendNumbered(b, f.kind, f.id, f.body)
	case frameLongReply, frameHello:
		return wire.AppendUvarint(appendMark(b, f.kind, f.id), f.size)
	default:
		return appendMark(b, f.kind, f.id)
	}
}

func FuzzFrames(f *testing.F) {
	f.Add(everyFrame())
	f.Add([]byte{messageVersion})
	f.Fuzz(func(t *testing.T, message []byte) {
		again := []byte{messageVersion}
		err := eachFrame(message, func(f frame) error { again = f.encode(again); return nil })
		switch {
		case err != nil && !errors.Is(err, wire.ErrMalformed):
			t.Fatal(err)
		case err == nil && !bytes.Equal(message, again):
			t.Fatalf("%x -> %x", message, again)
		}
	})
}

func TestAssembly(t *testing.T) {
	r := testkit.Rand(t)
	whole := make([]byte, 1<<20+17)
	for i := range whole {
		whole[i] = byte(r.Uint32())
	}
	a := assembly{size: len(whole)}
	for rest := whole; len(rest) > 0; {
		n := min(1+r.IntN(pieceBytes), len(rest))
		complete, err := a.add(rest[:n])
		rest = rest[n:]
		if err != nil || complete != (len(rest) == 0) {
			t.Fatal(complete, err)
		}
		if have := len(whole) - len(rest); cap(a.data) > max(2*have, growBytes)+4096 {
			t.Fatalf("%d bytes allocated for %d", cap(a.data), have)
		}
	}
	if !bytes.Equal(a.data, whole) {
		t.Error("pieces are not the whole")
	}
	for _, piece := range [][]byte{nil, []byte("x")} {
		if _, err := a.add(piece); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("%q: %v", piece, err)
		}
	}
	for _, size := range []uint64{0, pieceBytes, 1001 << 10, 1 << 63} {
		if err := checkSize(size, 1000<<10); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("size %d: %v", size, err)
		}
	}
}

// TestOutbox sends random frames through an outbox, with some taken back, and
// puts together what comes out.
func TestOutbox(t *testing.T) {
	r := testkit.Rand(t)
	buffers := &bufferPool{}
	o := newOutbox(buffers)
	want, got := map[uint64][]byte{}, map[uint64][]byte{}
	var places []place
	var ids []uint64
	parts := map[uint64]*assembly{}
	takeOne := func() bool {
		message, _ := o.take()
		if message == nil {
			return false
		}
		if len(*message) > maxBatchBytes {
			t.Fatalf("message of %d bytes", len(*message))
		}
		if err := eachFrame(*message, func(f frame) error { return collect(f, got, parts) }); err != nil {
			t.Fatal(err)
		}
		buffers.Put(message)
		return true
	}
	for id := uint64(1); id < 3000; id++ {
		size := r.IntN(300)
		switch r.IntN(40) {
		case 0:
			size = pieceBytes + 1 + r.IntN(5*pieceBytes)
		case 1:
			size = pieceBytes - r.IntN(2)
		}
		body := bytes.Repeat([]byte{byte(id)}, size)
		batch, p := o.begin()
		if size > pieceBytes {
			*batch = appendLong(*batch, id, 1, 0, size)
			o.enqueue(id, p, body)
		} else {
			*batch = appendRequest(*batch, id, 1, 0, body)
			places, ids = append(places, p), append(ids, id)
		}
		o.end()
		want[id] = body
		if i := r.IntN(len(places) + 1); i < len(places) && r.IntN(4) == 0 && o.void(places[i]) {
			delete(want, ids[i])
		}
		for r.IntN(5) == 0 && takeOne() {
		}
	}
	for takeOne() {
	}
	if o.bytes != 0 || len(o.long) != 0 || len(want) != len(got) {
		t.Fatalf("%d bytes, %d long ones left; %d bodies, want %d", o.bytes, len(o.long), len(got), len(want))
	}
	for id, body := range want {
		if !slices.Equal(got[id], body) {
			t.Errorf("body %d differs", id)
		}
	}
}

func collect(f frame, got map[uint64][]byte, parts map[uint64]*assembly) error {
	switch f.kind {
	case frameRequest:
		got[f.id] = bytes.Clone(f.body)
	case frameLong:
		parts[f.id] = &assembly{size: int(f.size)}
	case framePiece:
		complete, err := parts[f.id].add(f.body)
		if complete {
			got[f.id] = parts[f.id].data
		}
		return err
	}
	return nil
}

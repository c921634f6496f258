package gossip

import (
	"fmt"
	"io"

	"github.com/distributedcache/cache/internal/wire"
)

// The kinds of frames. The first on a connection is a hello, which says what
// the connection is for.
const (
	frameHelloPackets byte = 1 // payload: version, advertised address of the sender
	frameHelloStream  byte = 2 // payload: version; memberlist's bytes follow
	framePacket       byte = 3 // payload: a packet of memberlist
	frameTaken        byte = 4 // the answer to packets: they were read; no payload
)

const (
	helloVersion = 1
	// maxFrameBytes is what a UDP packet could have.
	maxFrameBytes = 64 << 10
	// maxHelloBytes holds the longest address.
	maxHelloBytes = wire.FrameHeaderBytes + 8 + MaxAddressBytes
)

// hello is the first frame of a connection.
type hello struct {
	kind byte
	from string // of packets: where to answer
}

func (h hello) frame() []byte {
	buf := append(wire.BeginFrame(nil), helloVersion)
	if h.kind == frameHelloPackets {
		buf = wire.AppendString(buf, h.from)
	}
	return finish(buf, h.kind)
}

// finish completes a frame, which is known to be short.
func finish(frame []byte, kind byte) []byte {
	if err := wire.FinishFrame(frame, kind); err != nil {
		panic(err) // a frame of a gigabyte
	}
	return frame
}

// readHello reads a hello and nothing beyond it.
func readHello(r io.Reader) (h hello, err error) {
	kind, payload, err := wire.NewFrameReader(r, maxHelloBytes).Next()
	if err != nil {
		return hello{}, err
	}
	return decodeHello(kind, payload)
}

// decodeHello reads what hello.frame wrote. Errors wrap wire.ErrMalformed.
func decodeHello(kind byte, payload []byte) (h hello, err error) {
	h.kind = kind
	r := wire.NewReader(payload)
	if v := r.Byte(); v != helloVersion {
		r.Fail("hello of version %d", v)
	}
	switch kind {
	case frameHelloPackets:
		if h.from = r.String(MaxAddressBytes); !validAddress(h.from) {
			r.Fail("no address in a hello")
		}
	case frameHelloStream:
	default:
		r.Fail("frame of kind %d for a hello", kind)
	}
	if err := r.Close(); err != nil {
		return hello{}, fmt.Errorf("hello: %w", err)
	}
	return h, nil
}

package gossip

import "encoding/binary"

// unpacker reads what memberlist packs with msgpack, as far as this package
// has to understand it. The first fault sticks.
type unpacker struct {
	buf   []byte
	short bool // bytes are missing; more may help
	bad   bool // these bytes are not what memberlist writes
}

// item is one value: a number, bytes, or the count of what follows.
type item struct {
	kind itemKind
	n    uint64 // the number, or the count
	b    []byte // aliases the buffer
}

type itemKind uint8

const (
	itemNone   itemKind = iota // nil, a boolean, or no item after a fault
	itemNumber                 // not negative; negative ones have no use here
	itemBytes                  // strings too
	itemArray
	itemMap
)

// maxSkipDepth is deeper than anything that memberlist nests.
const maxSkipDepth = 8

func (u *unpacker) failed() bool { return u.short || u.bad }

// take returns the next n bytes.
func (u *unpacker) take(n uint64) []byte {
	if u.failed() || n > uint64(len(u.buf)) {
		u.short = !u.bad
		return nil
	}
	b := u.buf[:n:n]
	u.buf = u.buf[n:]
	return b
}

// number reads size bytes as a number.
func (u *unpacker) number(size int) uint64 {
	var wide [8]byte
	copy(wide[8-size:], u.take(uint64(size)))
	return binary.BigEndian.Uint64(wide[:])
}

// next reads one item.
func (u *unpacker) next() item {
	first := u.take(1)
	if first == nil {
		return item{}
	}
	switch b := first[0]; {
	case b <= 0x7f:
		return item{kind: itemNumber, n: uint64(b)}
	case b <= 0x8f:
		return item{kind: itemMap, n: uint64(b & 0x0f)}
	case b <= 0x9f:
		return item{kind: itemArray, n: uint64(b & 0x0f)}
	case b <= 0xbf:
		return u.bytes(uint64(b & 0x1f))
	default:
		return u.nextLong(b)
	}
}

// nextLong reads an item whose first byte only says what it is.
func (u *unpacker) nextLong(b byte) item {
	switch b {
	case 0xc0, 0xc2, 0xc3: // nil, false, true
		return item{}
	case 0xcc, 0xcd, 0xce, 0xcf: // unsigned
		return item{kind: itemNumber, n: u.number(1 << (b - 0xcc))}
	case 0xd0, 0xd1, 0xd2, 0xd3: // signed
		size := 1 << (b - 0xd0)
		n := u.number(size)
		if n>>(8*size-1) != 0 {
			u.bad = true
		}
		return item{kind: itemNumber, n: n}
	case 0xc4, 0xc5, 0xc6: // bytes
		return u.bytes(u.number(1 << (b - 0xc4)))
	case 0xd9, 0xda, 0xdb: // string
		return u.bytes(u.number(1 << (b - 0xd9)))
	case 0xdc, 0xdd:
		return item{kind: itemArray, n: u.number(2 << (b - 0xdc))}
	case 0xde, 0xdf:
		return item{kind: itemMap, n: u.number(2 << (b - 0xde))}
	}
	u.bad = true
	return item{}
}

func (u *unpacker) bytes(n uint64) item { return item{kind: itemBytes, b: u.take(n)} }

// skip reads the rest of an item whose head was read.
func (u *unpacker) skip(head item, depth int) {
	n := head.n
	switch head.kind {
	case itemArray:
	case itemMap:
		n *= 2
	default:
		return
	}
	if depth >= maxSkipDepth {
		u.bad = true
	}
	for i := uint64(0); i < n && !u.failed(); i++ {
		u.skip(u.next(), depth+1)
	}
}

// fields reads a map from names to values and calls field for each.
func (u *unpacker) fields(field func(name string, value item)) {
	head := u.next()
	if head.kind != itemMap {
		u.bad = u.bad || !u.short
		return
	}
	for i := uint64(0); i < head.n && !u.failed(); i++ {
		key := u.next()
		value := u.next()
		u.skip(value, 0)
		if key.kind != itemBytes {
			u.bad = u.bad || !u.short
		}
		if !u.failed() {
			field(string(key.b), value)
		}
	}
}

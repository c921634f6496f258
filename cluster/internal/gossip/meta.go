package gossip

import (
	"github.com/cespare/xxhash/v2"

	"github.com/distributedcache/cache/internal/wire"
)

// Meta is what a node tells about itself. It is a hint and may be old.
type Meta struct {
	CatalogEpoch  uint64 // the newest the node knows of
	CatalogMember bool   // it has a replica of the catalog
	Draining      bool   // it wants to be relieved of its replicas
	Load          uint16 // in a unit that all nodes agree on
	Leaders       uint16 // how many shards it leads
}

// announcement is Meta with what cannot change while the node runs, as it
// travels.
//
//	version  1 byte, metaVersion
//	cluster  8 bytes, a hash of the cluster id
//	protocol 4 bytes, the least and the greatest version
//	epoch    8 bytes, of the catalog
//	flags    1 byte
//	load     2 bytes
//	leaders  2 bytes
//	id       1 byte of length, and the node id
type announcement struct {
	cluster                  uint64
	protocolMin, protocolMax uint16
	id                       string
	Meta
}

const (
	metaVersion = 1
	// maxMetaBytes is well below the 512 bytes over which memberlist panics,
	// since every alive message carries it.
	maxMetaBytes = 200

	flagCatalogMember = 1 << 0
	flagDraining      = 1 << 1
	knownFlags        = flagCatalogMember | flagDraining
)

// clusterHash stands for a cluster id in an announcement. The label is what
// keeps clusters apart; this finds a label that was forged or lost.
func clusterHash(id string) uint64 { return xxhash.Sum64String(id) }

// append appends the announcement to buf.
func (a *announcement) append(buf []byte) []byte {
	flags := byte(0)
	if a.CatalogMember {
		flags |= flagCatalogMember
	}
	if a.Draining {
		flags |= flagDraining
	}
	buf = wire.AppendUint64(append(buf, metaVersion), a.cluster)
	buf = wire.AppendUint32(buf, uint32(a.protocolMin)<<16|uint32(a.protocolMax))
	buf = append(wire.AppendUint64(buf, a.CatalogEpoch), flags)
	buf = wire.AppendUint32(buf, uint32(a.Load)<<16|uint32(a.Leaders))
	return wire.AppendString(buf, a.id)
}

// decodeAnnouncement reads what append wrote. Errors wrap wire.ErrMalformed.
// A later version may append fields only together with a new number, which
// this one refuses: it is not sent before all nodes understand it.
func decodeAnnouncement(buf []byte) (a announcement, err error) {
	r := wire.NewReader(buf)
	if len(buf) > maxMetaBytes {
		r.Fail("%d bytes of metadata", len(buf))
	}
	if v := r.Byte(); v != metaVersion {
		r.Fail("metadata of version %d", v)
	}
	a.cluster = r.Uint64()
	protocol := r.Uint32()
	a.protocolMin, a.protocolMax = uint16(protocol>>16), uint16(protocol)
	a.CatalogEpoch = r.Uint64()
	flags := r.Byte()
	a.CatalogMember, a.Draining = flags&flagCatalogMember != 0, flags&flagDraining != 0
	counts := r.Uint32()
	a.Load, a.Leaders = uint16(counts>>16), uint16(counts)
	a.id = r.String(MaxNodeIDBytes)
	switch {
	case flags&^knownFlags != 0:
		r.Fail("unknown flags %x", flags)
	case a.id == "":
		r.Fail("no node id")
	case a.protocolMin > a.protocolMax:
		r.Fail("protocol range [%d, %d]", a.protocolMin, a.protocolMax)
	}
	if err := r.Close(); err != nil {
		return announcement{}, err
	}
	return a, nil
}

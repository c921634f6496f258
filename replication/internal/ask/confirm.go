package ask

import (
	"fmt"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/wire"
)

// Claim is what a Confirm says of one shard.
//
// A leader claims that it leads in Term and wants a voter to bear it out: Replica
// is that voter, on the node that is asked. It agrees if it has voted in no later
// term.
//
// With Arrive, a node that does not lead asks the node that does how far its own
// replica has to come. Replica is its own, which has voted in no term after Term.
type Claim struct {
	Shard   base.ShardID
	Replica uint64
	Term    uint64
	Arrive  bool
}

// maxClaims bounds the claims of one request: one for each shard and for the
// catalog.
const maxClaims = base.MaxShards + 1

// AppendClaims appends count uvarint, then for each claim
//
//	shard uvarint | replica, term u64 | arrive u8
func AppendClaims(buf []byte, claims []Claim) []byte {
	buf = wire.AppendUvarint(buf, uint64(len(claims)))
	for _, c := range claims {
		buf = wire.AppendUvarint(buf, uint64(c.Shard))
		buf = wire.AppendUint64(wire.AppendUint64(buf, c.Replica), c.Term)
		arrive := byte(0)
		if c.Arrive {
			arrive = 1
		}
		buf = append(buf, arrive)
	}
	return buf
}

// DecodeClaims is the inverse of AppendClaims. The error wraps base.ErrInvalid.
func DecodeClaims(buf []byte) ([]Claim, error) {
	r := wire.NewReader(buf)
	n := r.Count(maxClaims, 18)
	claims := make([]Claim, 0, n)
	for range n {
		c := Claim{Shard: readShard(r), Replica: r.Uint64(), Term: r.Uint64()}
		switch arrive := r.Byte(); arrive {
		case 0, 1:
			c.Arrive = arrive == 1
		default:
			r.Fail("flag %d", arrive)
		}
		claims = append(claims, c)
	}
	if err := r.Close(); err != nil {
		return nil, fmt.Errorf("%w: claims: %w", base.ErrInvalid, err)
	}
	return claims, nil
}

// Confirmed is the answer to one claim: whether the node agrees, and with Arrive
// which entry the asking replica must have applied.
type Confirmed struct {
	Yes   bool
	Index uint64
}

// AppendConfirmed appends version u8 | count uvarint | for each: yes u8, index u64.
func AppendConfirmed(buf []byte, answers []Confirmed) []byte {
	buf = wire.AppendUvarint(append(buf, AnswerVersion), uint64(len(answers)))
	for _, a := range answers {
		yes := byte(0)
		if a.Yes {
			yes = 1
		}
		buf = wire.AppendUint64(append(buf, yes), a.Index)
	}
	return buf
}

// DecodeConfirmed is the inverse of AppendConfirmed.
func DecodeConfirmed(buf []byte) ([]Confirmed, error) {
	r, err := open(buf)
	if err != nil {
		return nil, err
	}
	n := r.Count(maxClaims, 9)
	answers := make([]Confirmed, 0, n)
	for range n {
		yes := r.Byte()
		if yes > 1 {
			r.Fail("flag %d", yes)
		}
		answers = append(answers, Confirmed{Yes: yes == 1, Index: r.Uint64()})
	}
	return answers, closed(r, "confirmation")
}

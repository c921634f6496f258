package ask

import (
	"fmt"

	"github.com/distributedcache/cache/internal/base"
)

// NotLeaderError says that another node leads the shard. Nothing was applied.
type NotLeaderError struct {
	Shard base.ShardID
	Node  string // that leads the shard, as far as is known here; "" if nobody
}

// Error implements error.
func (e *NotLeaderError) Error() string {
	if e.Node == "" {
		return fmt.Sprintf("shard %d has no leader now", e.Shard)
	}
	return fmt.Sprintf("shard %d is led by node %s", e.Shard, e.Node)
}

// NotLeaderDetails is the kind of the details that a NotLeaderError takes to
// another process: the node that leads.
const NotLeaderDetails = 1

// WireDetails implements base.WireDetailer.
func (e *NotLeaderError) WireDetails() (kind uint8, details []byte) {
	return NotLeaderDetails, []byte(e.Node)
}

// Is makes errors.Is(err, base.ErrUnavailable) true.
func (e *NotLeaderError) Is(target error) bool { return target == base.ErrUnavailable }

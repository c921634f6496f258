package cluster

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/replication"
)

// Protocol is the version of what nodes say to one another, and the oldest that
// this one still understands.
const (
	Protocol       = 1
	OldestProtocol = 1
)

// Files keeps small files of the node beside its data.
type Files interface {
	// Load returns a file; nil if there is none.
	Load(name string) ([]byte, error)
	// Save makes data durable in place of what the file had.
	Save(name string, data []byte) error
}

// Config is what a node needs to be part of a cluster. Whoever fills it in has
// validated it and put in the defaults.
type Config struct {
	NodeID  string // "" = what the directory has, or a new one
	Address string // what other nodes dial
	Zone    string
	Name    string // of the cluster
	Peers   []string
	Expect  int // found the cluster with so many fresh nodes; 0 = alone, or join
	// Shards and Replication are those of a cluster that this node founds. A node
	// that joins takes what the cluster has; Shards 0 = whatever that is.
	Shards      int
	Replication int
	// Holds says that the data directory has data of a node by itself, which makes
	// it the first node of a cluster and nothing else.
	Holds bool

	Network replication.Network
	Files   Files
	Clock   base.Clock
	Logger  *slog.Logger

	DeadNodeGrace  time.Duration
	MaxClockOffset time.Duration
	// Alert raises or clears an alert by its name.
	Alert func(name, message string, active bool)
	// Fast divides the intervals of everything that looks from time to time; 0 = 1.
	Fast float64
}

// every returns an interval as the configuration has it.
func (c *Config) every(d time.Duration) time.Duration {
	if c.Fast > 0 {
		d = time.Duration(float64(d) / c.Fast)
	}
	return max(d, time.Millisecond)
}

// DefaultShards is how many shards a cluster is founded with if nothing else is
// said.
const DefaultShards = 30

func (c *Config) check() error {
	if c.Holds && len(c.Peers) > 0 {
		return fmt.Errorf("%w: the directory has data of a node by itself, and cannot join a cluster with it; "+
			"open it without peers to make it the first node of a cluster, and let the others join that", base.ErrInvalid)
	}
	if c.Expect > 1 && len(c.Peers) == 0 {
		return fmt.Errorf("%w: %d nodes are expected to found the cluster; name them as peers", base.ErrInvalid, c.Expect)
	}
	return nil
}

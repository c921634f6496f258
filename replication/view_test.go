package replication

import (
	"context"
	"fmt"
	"testing"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/testkit"
)

// TestViewSeesThatAKeyWasThere looks at two shards; between its two looks a key
// comes and goes.
func TestViewSeesThatAKeyWasThere(t *testing.T) {
	c := newCluster(t, 1)
	c.startAll()
	ctx := testkit.Context(t)
	h := c.leader(0).host
	if err := h.Barrier(ctx); err != nil {
		t.Fatal(err)
	}
	keys := make(map[base.ShardID]base.Key)
	for i := 0; len(keys) < 2; i++ {
		key := base.K(fmt.Sprint("key/", i), "")
		keys[h.shardOf(key)] = key
	}
	write := func(ctx context.Context, w base.Write) {
		t.Helper()
		if _, err := h.Write(ctx, &w, base.RequestID{}); err != nil {
			t.Fatal(err)
		}
	}
	for _, meddle := range []bool{false, true} {
		tx, err := h.newTx(ctx, base.DefaultLimits(), true)
		if err != nil {
			t.Fatal(err)
		}
		var flicker base.Key
		for _, key := range keys {
			if _, err := tx.MultiGet([]base.Key{key}); err != nil {
				t.Fatal(err)
			}
			flicker = key
		}
		if meddle {
			write(ctx, base.Write{Key: flicker, Value: []byte("v")})
			write(ctx, base.Write{Kind: base.WriteDelete, Key: flicker})
		}
		if again, err := tx.conclude(nil); err != nil || again != meddle {
			t.Errorf("meddled %v: again %v, %v", meddle, again, err)
		}
		tx.close()
	}
}

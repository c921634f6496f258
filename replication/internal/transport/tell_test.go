package transport

import (
	"testing"

	"github.com/lni/dragonboat/v4/raftpb"
)

func TestTell(t *testing.T) {
	saved := uint64(10)
	tr := New(Config{Saved: func(group, replica uint64) uint64 {
		if group != 3 || replica != 7 {
			t.Errorf("asked for replica %d of group %d", replica, group)
		}
		return saved
	}})
	send := func(kind raftpb.MessageType, commit uint64) uint64 {
		batch := []raftpb.Message{{Type: kind, ShardID: 3, From: 7, Commit: commit}}
		tr.tell(batch)
		return batch[0].Commit
	}
	for _, c := range []struct {
		kind                     raftpb.MessageType
		saved, commit, sent, now uint64
	}{
		{raftpb.Replicate, 10, 8, 8, 8},
		{raftpb.Heartbeat, 10, 5, 5, 8},      // to one that is behind
		{raftpb.Replicate, 10, 12, 10, 10},   // not durable here yet
		{raftpb.Heartbeat, 12, 12, 12, 12},   // now it is
		{raftpb.RequestVote, 12, 90, 90, 12}, // says nothing of what is committed
	} {
		saved = c.saved
		if sent := send(c.kind, c.commit); sent != c.sent || tr.Told(3) != c.now {
			t.Errorf("%+v: sent %d, told %d", c, sent, tr.Told(3))
		}
	}
	tr.tell([]raftpb.Message{{Type: raftpb.Replicate, ShardID: maxGroups, Commit: 1}})
	if tr.Told(maxGroups) != 0 {
		t.Error("a group that cannot be")
	}
}

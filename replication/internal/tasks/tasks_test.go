package tasks

import (
	"testing"
	"time"

	"github.com/distributedcache/cache/internal/testkit"
)

func TestMain(m *testing.M) { testkit.VerifyNoLeaks(m) }

func TestGroup(t *testing.T) {
	var g Group
	free, ran := make(chan struct{}), make(chan struct{})
	if !g.Spawn(func() { <-free; close(ran) }) || !g.Enter() {
		t.Fatal("refused before Close")
	}
	g.CloseWithin(time.Millisecond) // in vain
	if g.Spawn(func() { t.Error("spawned after Close") }) || g.Enter() {
		t.Error("accepted after Close")
	}
	g.Leave()
	close(free)
	g.Close()
	select {
	case <-ran:
	default:
		t.Error("Close did not wait")
	}
}

package peer

import (
	"time"
)

// keeper watches over one link: whether the peer still answers, whether
// anybody uses it, how old it is.
type keeper struct {
	link      *link
	lastTick  time.Time
	pings     uint64
	uses      uint64    // at lastUse
	lastUse   time.Time // when it was seen to be in use
	drainedAt time.Time // when it was first seen draining
}

// keep runs until the link ends.
func (l *link) keep() {
	k := keeper{link: l, lastTick: time.Now(), lastUse: time.Now()}
	ticker := time.NewTicker(l.cfg.Heartbeat)
	defer ticker.Stop()
	for {
		select {
		case <-l.ctx.Done():
			return
		case <-ticker.C:
			k.tick(time.Now())
		}
	}
}

func (k *keeper) tick(now time.Time) {
	l := k.link
	late := now.Sub(k.lastTick) > 2*l.cfg.Heartbeat
	k.lastTick = now
	if late {
		// This process was not running. What the peer has said in the
		// meantime is yet to be read.
		l.heard.Store(now.UnixNano())
	}
	if now.Sub(time.Unix(0, l.heard.Load())) > l.cfg.DeadAfter {
		l.fail(errDead)
		return
	}
	k.pings++
	l.mu.Lock()
	l.out.mark(framePing, k.pings)
	busy := len(l.calls) > 0 || l.streams > 0
	if busy || l.uses != k.uses {
		k.uses, k.lastUse = l.uses, now
	}
	idle := !busy && now.Sub(k.lastUse) >= l.cfg.IdleTimeout
	draining := l.draining
	l.mu.Unlock()
	switch {
	case draining:
		k.drain(now, busy)
	case idle:
		l.remote.lost(l, errIdle)
		l.drain() // a call may have slipped in
	case now.Sub(l.born) >= l.cfg.MaxConnAge:
		l.remote.lost(l, errTooOld) // the next call connects anew
		l.drain()
	case now.Sub(l.born) >= l.cfg.MaxConnAge-l.cfg.MaxConnAge/10:
		l.remote.renew()
	}
}

// drain ends a draining link when nothing is under way, or after a while.
func (k *keeper) drain(now time.Time, busy bool) {
	if k.drainedAt.IsZero() {
		k.drainedAt = now
	}
	if !busy || now.Sub(k.drainedAt) >= k.link.cfg.drainTimeout() {
		k.link.fail(errTooOld)
	}
}

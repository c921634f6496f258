package mux

import "time"

// Limits are the limits that tests change.
type Limits struct {
	Greet, Dial, Linger, EvictAfter time.Duration
	MaxGreetings, MaxConns          int
}

// ListenLimits is Listen with other limits; 0 leaves the default.
func ListenLimits(cfg Config, l Limits) (*Mux, error) {
	limits := defaultLimits()
	for _, x := range []struct {
		to   *time.Duration
		from time.Duration
	}{
		{&limits.greetTimeout, l.Greet}, {&limits.dialTimeout, l.Dial}, {&limits.lingerTimeout, l.Linger}, {&limits.evictAfter, l.EvictAfter},
	} {
		if x.from != 0 {
			*x.to = x.from
		}
	}
	if l.MaxGreetings != 0 {
		limits.maxGreetings = l.MaxGreetings
	}
	if l.MaxConns != 0 {
		limits.maxConns = l.MaxConns
	}
	return listen(cfg, limits)
}

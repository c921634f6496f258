// Package hostlog sends what dragonboat logs to the loggers of the nodes that
// are open in this process, and nowhere while none is.
package hostlog

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"

	"github.com/lni/dragonboat/v4/logger"
)

// attached is process-wide because dragonboat's own loggers are: they belong
// to its packages, not to a NodeHost, and their factory can be set only once.
var attached = registry{}

// registry has the loggers of the open nodes. A message does not say which
// NodeHost it is from, so it goes to all of them.
type registry struct {
	install sync.Once

	// mu guards sinks, which are replaced and never changed.
	mu    sync.RWMutex
	sinks []*sink
}

// sink is one Attach.
type sink struct{ logger *slog.Logger }

// Attach sends what dragonboat logs to l, too, until detach is called. Several
// nodes may attach the same logger; it gets each message once. A process that
// has set a logger factory of dragonboat itself keeps it.
func Attach(l *slog.Logger) (detach func()) {
	attached.install.Do(func() {
		defer func() { _ = recover() }() // the panic says that there is a factory
		logger.SetLoggerFactory(func(pkg string) logger.ILogger { return &source{pkg: pkg, to: &attached} })
	})
	return attached.add(l)
}

func (r *registry) add(l *slog.Logger) (remove func()) {
	s := &sink{logger: l}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sinks = append(slices.Clone(r.sinks), s)
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.sinks = slices.DeleteFunc(slices.Clone(r.sinks), func(have *sink) bool { return have == s })
	}
}

// log formats a message if somebody wants it.
func (r *registry) log(level slog.Level, pkg, format string, args []any) {
	r.mu.RLock()
	sinks := r.sinks
	r.mu.RUnlock()
	message := ""
	for i, s := range sinks {
		seen := slices.ContainsFunc(sinks[:i], func(other *sink) bool { return other.logger == s.logger })
		if seen || !s.logger.Enabled(context.Background(), level) {
			continue
		}
		if message == "" {
			message = fmt.Sprintf(format, args...)
		}
		s.logger.Log(context.Background(), level, message, "source", "dragonboat", "package", pkg)
	}
}

// LevelTrace is the level of dragonboat's debug messages: below the debug
// messages of the cache, since there are some for every raft message.
const LevelTrace = slog.LevelDebug - 4

// source is the logger of one package of dragonboat.
type source struct {
	pkg string
	to  *registry
}

// SetLevel implements logger.ILogger. The handlers decide what they want.
func (s *source) SetLevel(logger.LogLevel) {}

// Debugf implements logger.ILogger.
func (s *source) Debugf(format string, args ...any) { s.to.log(LevelTrace, s.pkg, format, args) }

// Infof implements logger.ILogger. What dragonboat tells its developers, such
// as each step of an election, is of use to ours only when they debug.
func (s *source) Infof(format string, args ...any) { s.to.log(slog.LevelDebug, s.pkg, format, args) }

// Warningf implements logger.ILogger. The package raft warns of each message of an
// election, some dozens for every shard, which are no more than steps either.
func (s *source) Warningf(format string, args ...any) {
	level := slog.LevelWarn
	if s.pkg == electionsPackage {
		level = slog.LevelDebug
	}
	s.to.log(level, s.pkg, format, args)
}

// electionsPackage is what dragonboat calls its package of the raft protocol.
const electionsPackage = "raft"

// Errorf implements logger.ILogger.
func (s *source) Errorf(format string, args ...any) { s.to.log(slog.LevelError, s.pkg, format, args) }

// Panicf implements logger.ILogger. dragonboat relies on it not to return.
func (s *source) Panicf(format string, args ...any) {
	s.to.log(slog.LevelError, s.pkg, format, args)
	panic("dragonboat: " + fmt.Sprintf(format, args...))
}

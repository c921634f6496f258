package gossip

import (
	"bytes"
	"context"
	"log/slog"
	"sync"
	"time"
)

const (
	// logEvery and logLines: memberlist writes a line for each failed message
	// of each round, and peers must not be able to fill the log.
	logEvery = 10 * time.Second
	logLines = 10
)

// logWriter is where memberlist's log goes: into a slog.Logger, at most
// logLines in logEvery of each level. What memberlist calls an error is the
// ordinary life of a network to us, so all goes down by one level.
type logWriter struct {
	logger *slog.Logger

	mu     sync.Mutex
	closed bool
	levels map[slog.Level]*budget
}

// budget is what may still be logged of one level.
type budget struct {
	until        time.Time
	left, unsaid int
}

func newLogWriter(logger *slog.Logger) *logWriter {
	return &logWriter{logger: logger, levels: map[slog.Level]*budget{}}
}

// Write implements io.Writer. Each call is a line, of the form
// "date time [LEVEL] memberlist: message".
func (w *logWriter) Write(line []byte) (int, error) {
	if bytes.Contains(line, []byte(listenerName)) {
		return len(line), nil // we talk to ourselves
	}
	level, text := slog.LevelInfo, bytes.TrimSpace(line)
	if open := bytes.IndexByte(line, '['); open >= 0 {
		if end := bytes.IndexByte(line[open:], ']'); end > 0 {
			level = levelOf(string(line[open+1 : open+end]))
			text = bytes.TrimSpace(line[open+end+1:])
		}
	}
	text = bytes.TrimPrefix(text, []byte("memberlist: "))
	w.log(level, string(text), "source", "memberlist")
	return len(line), nil
}

func levelOf(name string) slog.Level {
	switch name {
	case "ERR", "ERROR":
		return slog.LevelWarn
	case "WARN":
		return slog.LevelInfo
	case "INFO":
		return slog.LevelDebug
	}
	return slog.LevelDebug - 4
}

// complain logs a fault of a peer.
func (w *logWriter) complain(message string, args ...any) { w.log(slog.LevelWarn, message, args...) }

func (w *logWriter) log(level slog.Level, message string, args ...any) {
	if !w.logger.Enabled(context.Background(), level) {
		return
	}
	unsaid, ok := w.due(level, time.Now())
	if !ok {
		return
	}
	if unsaid > 0 {
		args = append(args, "unsaid", unsaid)
	}
	w.logger.Log(context.Background(), level, message, args...)
}

// due reports whether to log now, and how many lines were passed over.
func (w *logWriter) due(level slog.Level, now time.Time) (unsaid int, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return 0, false
	}
	b := w.levels[level]
	if b == nil {
		b = &budget{}
		w.levels[level] = b
	}
	if !now.Before(b.until) {
		b.until, b.left = now.Add(logEvery), logLines
	}
	if b.left == 0 {
		b.unsaid++
		return 0, false
	}
	b.left--
	unsaid, b.unsaid = b.unsaid, 0
	return unsaid, true
}

// close silences memberlist, whose timers outlive it.
func (w *logWriter) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
}

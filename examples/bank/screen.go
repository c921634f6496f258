package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"
)

// screen shows what happens: a table that is drawn over itself on a terminal,
// plain lines elsewhere.
type screen struct {
	out   io.Writer
	live  bool // a terminal
	began time.Time

	mu     sync.Mutex // protects out and the fields below
	lines  int        // of the table that is on the terminal
	events []string   // the latest
	before numbers    // at the last drawing
	drawn  time.Time
	rate   float64 // transfers a second
}

const (
	frame     = 250 * time.Millisecond // between two drawings on a terminal
	plainLine = time.Second            // between two lines elsewhere
	maxEvents = 6                      // that stay on the terminal
)

func newScreen(out io.Writer) *screen {
	return &screen{out: out, live: terminal(out), began: time.Now()}
}

// terminal reports whether out is one that can be drawn on.
func terminal(out io.Writer) bool {
	file, ok := out.(*os.File)
	if !ok || os.Getenv("TERM") == "" || os.Getenv("TERM") == "dumb" {
		return false
	}
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0 && file.Name() != os.DevNull
}

// say prints a line.
func (s *screen) say(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, _ = fmt.Fprintf(s.out, format+"\n", args...)
}

// event tells that something happened to a node.
func (s *screen) event(format string, args ...any) {
	line := clock(time.Since(s.began)) + "  " + fmt.Sprintf(format, args...)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events = append(s.events, line)
	if len(s.events) > maxEvents {
		s.events = s.events[1:]
	}
	if !s.live {
		_, _ = fmt.Fprintln(s.out, line)
	}
}

// run shows the bank until ctx ends.
func (s *screen) run(ctx context.Context, b *bank, began time.Time) {
	s.mu.Lock()
	s.began, s.drawn = began, began
	s.mu.Unlock()
	every := plainLine
	if s.live {
		every = frame
	}
	for pause(ctx, every) {
		s.draw(b)
	}
	s.draw(b)
}

func (s *screen) draw(b *bank) {
	now, states := b.counts.numbers(), b.fleet.states()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.measure(now, time.Now())
	if !s.live {
		_, _ = fmt.Fprintln(s.out, s.line(b, now, states))
		return
	}
	table := s.table(b, now, states)
	var text strings.Builder
	if s.lines > 0 {
		fmt.Fprintf(&text, "\x1b[%dA", s.lines) // up, to draw over the last one
	}
	for _, line := range table {
		text.WriteString("\x1b[2K" + line + "\n")
	}
	s.lines = len(table)
	_, _ = io.WriteString(s.out, text.String())
}

// measure keeps the rate of the last second or so.
func (s *screen) measure(now numbers, at time.Time) {
	took := at.Sub(s.drawn).Seconds()
	if took <= 0 {
		return
	}
	latest := float64(now.done+now.refused-s.before.done-s.before.refused) / took
	weight := min(took, 1)
	s.rate = s.rate*(1-weight) + latest*weight
	s.before, s.drawn = now, at
}

// line is one line for those who have no terminal.
func (s *screen) line(b *bank, now numbers, states []memberState) string {
	var leaders []string
	for _, m := range states {
		info, _ := now.node(m.id)
		what := fmt.Sprint(info.Leaders)
		if m.state != up {
			what = m.state
		}
		leaders = append(leaders, m.id+" "+what)
	}
	return fmt.Sprintf("%s  total %d %s | %d done, %d retried, %d refused, %.0f/s | leaders: %s; %d moved | longest pause %v",
		clock(time.Since(s.began)), now.sum.Balance, verdict(now), now.done, now.retried, now.refused, s.rate,
		strings.Join(leaders, ", "), now.moves, round(now.longest))
}

// verdict says whether the money adds up.
func verdict(now numbers) string {
	switch {
	case now.sums == 0:
		return "not read yet"
	case now.wrong > 0:
		return "WRONG"
	default:
		return "adds up"
	}
}

// table is what a terminal shows.
func (s *screen) table(b *bank, now numbers, states []memberState) []string {
	mark, color := "✔", "\x1b[32m"
	if now.wrong > 0 {
		mark, color = "✘", "\x1b[1;31m"
	}
	where := "one process"
	if b.cfg.processes {
		where = fmt.Sprintf("%d processes", len(states))
	}
	lines := []string{
		"",
		fmt.Sprintf("  \x1b[1mA bank on %d nodes\x1b[0m in %s, %d accounts on %d shards      %s of %s",
			len(states), where, b.cfg.accounts, b.cfg.shards, clock(time.Since(s.began)), clock(b.cfg.duration)),
		"",
		fmt.Sprintf("  total      %-12d %s%s %s\x1b[0m   %d sums read, %d wrong", now.sum.Balance, color, mark, verdict(now), now.sums, now.wrong),
		fmt.Sprintf("  transfers  %-12d done, %d retried, %d refused, %d open", now.done, now.retried, now.refused, now.open()),
		fmt.Sprintf("  speed      %-12.0f transfers a second, longest pause %v", s.rate, round(now.longest)),
		"",
		"  node       state      leaders             replicas",
	}
	for _, m := range states {
		info, _ := now.node(m.id)
		style := "\x1b[32m"
		if m.state != up {
			style, info.Leaders = "\x1b[33m", 0
		}
		bar := strings.Repeat("▇", min(info.Leaders, 14))
		lines = append(lines, fmt.Sprintf("  %-10s %s%-10s\x1b[0m %3d %-15s %5d", m.id, style, m.state, info.Leaders, bar, info.Shards))
	}
	lines = append(lines, fmt.Sprintf("  leaders moved %d times", now.moves), "")
	for _, e := range s.events {
		lines = append(lines, "  "+e)
	}
	return lines
}

// clock shows a time of the show, as minutes and seconds.
func clock(d time.Duration) string {
	seconds := int(d.Seconds())
	return fmt.Sprintf("%02d:%02d", seconds/60, seconds%60)
}

func round(d time.Duration) time.Duration { return d.Round(10 * time.Millisecond) }

package hostlog

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/lni/dragonboat/v4/logger"

	"github.com/distributedcache/cache/internal/testkit"
)

func TestMain(m *testing.M) { testkit.VerifyNoLeaks(m) }

func newLogger(level slog.Level) (*slog.Logger, *bytes.Buffer) {
	var out bytes.Buffer
	return slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: level})), &out
}

func TestMessagesGoToThoseAttached(t *testing.T) {
	a, outA := newLogger(slog.LevelDebug)
	b, outB := newLogger(slog.LevelError)
	from := logger.GetLogger("test")
	detachA, detachAgain, detachB := Attach(a), Attach(a), Attach(b)
	from.Infof("one %d", 1)
	from.Errorf("two")
	detachA()
	from.Warningf("three")
	detachAgain()
	from.Errorf("four")
	detachB()
	from.Errorf("five")
	for _, want := range []string{"level=DEBUG msg=\"one 1\" source=dragonboat package=test", "level=ERROR msg=two", "level=WARN msg=three"} {
		if n := strings.Count(outA.String(), want); n != 1 {
			t.Errorf("the first got %q %d times:\n%s", want, n, outA)
		}
	}
	if got := outB.String(); strings.Contains(got, "one") || !strings.Contains(got, "four") {
		t.Errorf("the second got:\n%s", got)
	}
	for _, out := range []*bytes.Buffer{outA, outB} {
		if strings.Contains(out.String(), "five") {
			t.Errorf("got a message after detaching:\n%s", out)
		}
	}
}

func TestLevels(t *testing.T) {
	var r registry
	var got []slog.Level
	r.add(slog.New(recordLevels{to: &got}))
	s := &source{pkg: "p", to: &r}
	s.SetLevel(logger.CRITICAL)
	for _, log := range []func(string, ...any){s.Debugf, s.Infof, s.Warningf, s.Errorf} {
		log("message")
	}
	want := []slog.Level{LevelTrace, slog.LevelDebug, slog.LevelWarn, slog.LevelError}
	for i := range want {
		if i >= len(got) || got[i] != want[i] {
			t.Fatalf("levels %v, want %v", got, want)
		}
	}
}

// recordLevels is a handler that keeps the levels.
type recordLevels struct {
	slog.Handler
	to *[]slog.Level
}

func (h recordLevels) Enabled(context.Context, slog.Level) bool { return true }

func (h recordLevels) Handle(_ context.Context, r slog.Record) error {
	*h.to = append(*h.to, r.Level)
	return nil
}

func TestPanicfPanicsWithNobodyAttached(t *testing.T) {
	Attach(slog.New(slog.DiscardHandler))() // installs the factory
	defer func() {
		if got := recover(); got != "dragonboat: lost 7" {
			t.Errorf("recovered %v", got)
		}
	}()
	logger.GetLogger("test").Panicf("lost %d", 7)
}

func TestAttachIsConcurrent(t *testing.T) {
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 100 {
				detach := Attach(slog.New(slog.DiscardHandler))
				logger.GetLogger("test").Errorf("message")
				detach()
			}
		})
	}
	wg.Wait()
	if n := len(attached.sinks); n != 0 {
		t.Errorf("%d loggers are left", n)
	}
}

// What raft warns of is the course of an election; others warn of what matters.
func TestElectionsAreNoWarnings(t *testing.T) {
	var text bytes.Buffer
	r := registry{}
	defer r.add(slog.New(slog.NewTextHandler(&text, nil)))()
	(&source{pkg: "raft", to: &r}).Warningf("became candidate")
	(&source{pkg: "transport", to: &r}).Warningf("cannot reach %s", "n1")
	if got := text.String(); strings.Contains(got, "candidate") || !strings.Contains(got, "cannot reach n1") {
		t.Errorf("logged %s", got)
	}
}

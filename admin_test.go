package cache

import (
	"context"
	"errors"
	"testing"
)

func TestWorkReportsAndEnds(t *testing.T) {
	var stages []int64
	seq := work(t.Context(), "test", func(_ context.Context, report func(Progress)) error {
		for i := range 1000 {
			report(Progress{Done: int64(i)})
		}
		return nil
	})
	for range 2 { // the iterator runs the work anew each time
		stages = stages[:0]
		for p, err := range seq {
			if err != nil {
				t.Fatal(err)
			}
			stages = append(stages, p.Done)
		}
		last := int64(-1)
		for _, s := range stages {
			if s <= last {
				t.Fatalf("reports out of order: %v", stages)
			}
			last = s
		}
		if last != 999 {
			t.Fatalf("the last report was %d, want 999", last)
		}
	}
}

func TestWorkYieldsItsErrorLast(t *testing.T) {
	broken := errors.New("broken")
	var pairs int
	var last error
	for _, err := range work(t.Context(), "test", func(_ context.Context, report func(Progress)) error {
		report(Progress{Done: 1})
		return broken
	}) {
		pairs++
		last = err
	}
	if pairs != 2 || !errors.Is(last, broken) {
		t.Fatalf("%d pairs, the last with %v", pairs, last)
	}
}

func TestLeavingTheLoopCancelsTheWork(t *testing.T) {
	ended := false // written by the work, read after the iterator returned: the race detector checks the order
	run := func(leave func() bool) {
		ended = false
		for range work(t.Context(), "test", func(ctx context.Context, report func(Progress)) error {
			report(Progress{Done: 1})
			<-ctx.Done()
			ended = true
			return ctx.Err()
		}) {
			if leave() {
				return
			}
		}
	}
	run(func() bool { return true })
	if !ended {
		t.Fatal("the work still runs after a break")
	}
	func() {
		defer func() { _ = recover() }()
		run(func() bool { panic("in the loop body") })
	}()
	if !ended {
		t.Fatal("the work still runs after a panic in the loop body")
	}
}

func TestWorkStopsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var last error
	for _, err := range work(ctx, "test", func(ctx context.Context, report func(Progress)) error {
		report(Progress{Done: 1})
		<-ctx.Done()
		return ctx.Err()
	}) {
		cancel()
		last = err
	}
	if !errors.Is(last, context.Canceled) {
		t.Fatalf("the last error is %v", last)
	}
}

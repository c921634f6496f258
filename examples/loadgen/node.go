package main

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"time"
)

// nodeCommand is the argument with which the program is one node.
const nodeCommand = "node"

// request is what a node in a process of its own is asked for: one of the
// fields, as a line of JSON on its stdin. The first is always Open.
type request struct {
	Open    *place `json:"open,omitempty"`
	Preload *order `json:"preload,omitempty"`
	Prepare *order `json:"prepare,omitempty"`
	// Load is when what is measured begins. All processes are on one machine,
	// with one clock.
	Load  *time.Time `json:"load,omitempty"`
	Books bool       `json:"books,omitempty"`
	Look  bool       `json:"look,omitempty"`
}

// answer is the line on its stdout that answers a request. They come in the
// order of the requests.
type answer struct {
	Error string `json:"error,omitempty"`
	Tally *tally `json:"tally,omitempty"`
	Books *books `json:"books,omitempty"`
	Look  *sight `json:"look,omitempty"`
}

// startTimeout is many times what a start takes on a slow machine, callTimeout
// what a call takes that is no load.
const (
	startTimeout = 2 * time.Minute
	callTimeout  = time.Minute
)

// runNode opens a node, does what comes from stdin and closes the node when
// stdin ends, which it does when the parent ends in whatever way.
func runNode(stdin io.Reader, stdout, stderr io.Writer) int {
	signal.Ignore(os.Interrupt) // Ctrl-C is for the parent, which then closes stdin
	ctx, cancel := context.WithCancel(context.Background())
	requests := make(chan request)
	go func() { // ends with stdin
		defer close(requests)
		defer cancel()
		lines := json.NewDecoder(bufio.NewReader(stdin))
		for {
			var q request
			if err := lines.Decode(&q); err != nil {
				return
			}
			requests <- q
		}
	}()
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	out := json.NewEncoder(stdout)
	var node peer
	for q := range requests {
		a := answer{}
		var err error
		if q.Open != nil {
			node, err = openNode(ctx, *q.Open, log)
		} else {
			a, err = answerTo(ctx, node, q)
		}
		if err != nil {
			a = answer{Error: err.Error()}
		}
		_ = out.Encode(a) // if the parent is gone, stdin ends too
		if node == nil {
			return exitFailed
		}
	}
	if node == nil {
		return exitFine
	}
	if err := node.close(); err != nil {
		log.Error("close", "error", err)
		return exitFailed
	}
	return exitFine
}

func openNode(ctx context.Context, p place, log *slog.Logger) (peer, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	return openLocal(ctx, p, log)
}

func answerTo(ctx context.Context, node peer, q request) (a answer, err error) {
	switch {
	case q.Preload != nil:
		err = node.preload(ctx, *q.Preload)
	case q.Prepare != nil:
		err = node.prepare(ctx, *q.Prepare)
	case q.Load != nil:
		var got tally
		got, err = node.load(ctx, *q.Load)
		a.Tally = &got
	case q.Books:
		var got books
		ctx, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		got, err = node.books(ctx)
		a.Books = &got
	case q.Look:
		var got sight
		ctx, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		got, err = node.look(ctx)
		a.Look = &got
	}
	return a, err
}

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"sync"
	"time"

	"github.com/distributedcache/cache"
)

// nodeCommand is the argument with which the program is one node, for a bank
// with --processes.
const nodeCommand = "node"

// maxCalls is how many requests a node works on at once: all tellers may be at
// the same node, with the auditor and whoever looks.
const maxCalls = maxWorkers + 16

// runNode opens a node, answers what comes from stdin and closes the node when
// stdin ends, which it does when the bank ends in whatever way.
func runNode(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	signal.Ignore(os.Interrupt) // Ctrl-C is for the bank, which then closes stdin
	p, err := parsePlace(args, stderr)
	if err != nil {
		return exitUsage
	}
	out := &answers{enc: json.NewEncoder(stdout)}
	opts := p.options()
	opts.Observe.Logger = slog.New(slog.NewTextHandler(stderr, nil))
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	c, err := cache.OpenContext(ctx, opts)
	if err != nil {
		out.send(answer{Error: err.Error()})
		return exitFailed
	}
	out.send(answer{})
	serveLines(local{c}, stdin, out)
	if err := c.Close(); err != nil {
		_, _ = fmt.Fprintln(stderr, "close:", err)
		return exitFailed
	}
	return exitFine
}

func parsePlace(args []string, stderr io.Writer) (place, error) {
	var p place
	fs := flag.NewFlagSet(nodeCommand, flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.StringVar(&p.id, "id", "", "`name` of the node")
	fs.StringVar(&p.dir, "dir", "", "data `directory`")
	fs.StringVar(&p.addr, "addr", "", "`address` to listen on")
	fs.IntVar(&p.expect, "expect", 0, "`number` of nodes that found the cluster")
	fs.IntVar(&p.shards, "shards", 0, "`number` of shards")
	peers := fs.String("peers", "", "`addresses` of the others, with commas between")
	err := fs.Parse(args)
	p.peers = strings.Split(*peers, ",")
	return p, err
}

// serveLines answers requests until there are no more, and returns when all are
// answered.
func serveLines(node branch, stdin io.Reader, out *answers) {
	var calls sync.WaitGroup
	defer calls.Wait()
	places := make(chan struct{}, maxCalls)
	lines := json.NewDecoder(bufio.NewReader(stdin))
	for {
		var q request
		if err := lines.Decode(&q); err != nil {
			return
		}
		places <- struct{}{}
		calls.Go(func() {
			defer func() { <-places }()
			ctx, cancel := context.WithTimeout(context.Background(), time.Duration(q.TimeoutMS)*time.Millisecond)
			defer cancel()
			out.send(answerTo(ctx, node, q))
		})
	}
}

func answerTo(ctx context.Context, node branch, q request) answer {
	a := answer{N: q.N}
	var err error
	switch {
	case q.Open != nil:
		err = node.open(ctx, q.Open[0], q.Open[1])
	case q.Move != nil:
		a.Refused, err = node.move(ctx, *q.Move)
	case q.Sum:
		var got total
		got, err = node.sum(ctx)
		a.Sum = &got
	case q.Look:
		var got sight
		got, err = node.look(ctx)
		a.Look = &got
	}
	if err != nil {
		a = answer{N: q.N, Error: err.Error()}
	}
	return a
}

// answers sends one line at a time.
type answers struct {
	mu  sync.Mutex
	enc *json.Encoder
}

func (a *answers) send(line answer) {
	a.mu.Lock()
	defer a.mu.Unlock()
	_ = a.enc.Encode(line) // if the bank is gone, stdin ends too
}

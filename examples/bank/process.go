package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"
)

// remote is a branch in a process of its own. Requests and answers are lines of
// JSON on its stdin and stdout.
type remote struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	gone  chan struct{} // closed when the process has ended

	writing sync.Mutex // one request at a time on stdin

	mu      sync.Mutex // protects the fields below
	next    int
	waiting map[int]chan answer // nil when there will be no answers any more
}

// request is what the process is asked for.
type request struct {
	N         int       `json:"n"`
	TimeoutMS int64     `json:"timeout_ms"`
	Open      *[2]int   `json:"open,omitempty"`
	Move      *transfer `json:"move,omitempty"`
	Sum       bool      `json:"sum,omitempty"`
	Look      bool      `json:"look,omitempty"`
}

// answer is what it says. N is 0 for the first, which says that it is up.
type answer struct {
	N       int    `json:"n"`
	Error   string `json:"error,omitempty"`
	Refused bool   `json:"refused,omitempty"`
	Sum     *total `json:"sum,omitempty"`
	Look    *sight `json:"look,omitempty"`
}

var errGone = errors.New("the process has ended")

// startProcess starts a node in a process of its own and waits until it is up.
func startProcess(ctx context.Context, p place) (branch, error) {
	binary, err := os.Executable()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(p.dir, 0o700); err != nil {
		return nil, err
	}
	log, err := os.OpenFile(p.dir+".log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }() // the process has its own
	r := &remote{gone: make(chan struct{}), waiting: map[int]chan answer{}}
	r.cmd = exec.Command(binary, nodeCommand, "--id", p.id, "--dir", p.dir, "--addr", p.addr,
		"--peers", strings.Join(p.peers, ","), "--expect", strconv.Itoa(p.expect), "--shards", strconv.Itoa(p.shards))
	r.cmd.Stderr = log
	stdout, err := r.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if r.stdin, err = r.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	isUp := make(chan answer, 1)
	r.waiting[0] = isUp
	if err := r.cmd.Start(); err != nil {
		return nil, err
	}
	go r.receive(stdout)
	select {
	case a := <-isUp:
		if a.Error != "" {
			<-r.gone
			return nil, fmt.Errorf("%s; its log is %s.log", a.Error, p.dir)
		}
		return r, nil
	case <-ctx.Done():
		r.kill()
		return nil, ctx.Err()
	}
}

// receive hands answers to those who wait for them, until the process ends.
func (r *remote) receive(stdout io.Reader) {
	defer close(r.gone)
	lines := json.NewDecoder(bufio.NewReader(stdout))
	for {
		var a answer
		if err := lines.Decode(&a); err != nil {
			break
		}
		r.mu.Lock()
		if w := r.waiting[a.N]; w != nil {
			w <- a // has room for one, and gets one
			delete(r.waiting, a.N)
		}
		r.mu.Unlock()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, w := range r.waiting {
		w <- answer{Error: errGone.Error()}
	}
	r.waiting = nil
	_ = r.cmd.Wait() // whoever ended it knows how
}

// ask sends a request and waits for the answer, or for the end of either side.
func (r *remote) ask(ctx context.Context, q request) (answer, error) {
	got := make(chan answer, 1)
	r.mu.Lock()
	if r.waiting == nil {
		r.mu.Unlock()
		return answer{}, errGone
	}
	r.next++
	q.N = r.next
	r.waiting[q.N] = got
	r.mu.Unlock()
	if deadline, ok := ctx.Deadline(); ok {
		q.TimeoutMS = max(time.Until(deadline).Milliseconds(), 1)
	}
	r.writing.Lock()
	err := json.NewEncoder(r.stdin).Encode(q)
	r.writing.Unlock()
	if err != nil {
		err = fmt.Errorf("%w: %w", errGone, err)
	}
	var a answer
	if err == nil {
		select {
		case a = <-got:
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	r.mu.Lock()
	delete(r.waiting, q.N) // if it was not answered
	r.mu.Unlock()
	if err == nil && a.Error != "" {
		err = errors.New(a.Error)
	}
	return a, err
}

func (r *remote) open(ctx context.Context, from, to int) error {
	_, err := r.ask(ctx, request{Open: &[2]int{from, to}})
	return err
}

func (r *remote) move(ctx context.Context, t transfer) (bool, error) {
	a, err := r.ask(ctx, request{Move: &t})
	return a.Refused, err
}

func (r *remote) sum(ctx context.Context) (total, error) {
	a, err := r.ask(ctx, request{Sum: true})
	if err != nil || a.Sum == nil {
		return total{}, errors.Join(err, missing(a.Sum == nil))
	}
	return *a.Sum, nil
}

func (r *remote) look(ctx context.Context) (sight, error) {
	a, err := r.ask(ctx, request{Look: true})
	if err != nil || a.Look == nil {
		return sight{}, errors.Join(err, missing(a.Look == nil))
	}
	return *a.Look, nil
}

func missing(is bool) error {
	if is {
		return errors.New("the answer is empty")
	}
	return nil
}

// kill sends SIGKILL: the process has no chance to do anything about it.
func (r *remote) kill() {
	_ = r.cmd.Process.Kill()
	<-r.gone
}

// close ends the process in order, by closing its stdin.
func (r *remote) close() error {
	r.writing.Lock()
	err := r.stdin.Close()
	r.writing.Unlock()
	select {
	case <-r.gone:
		return err
	case <-time.After(startTimeout):
		r.kill()
		return errors.New("a node did not stop when asked")
	}
}

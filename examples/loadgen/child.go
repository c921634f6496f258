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
	"sync"
	"time"
)

// child is a peer in a process of its own. It ends when its stdin is closed,
// which the system does when this process ends in whatever way.
type child struct {
	id    string
	cmd   *exec.Cmd
	stdin io.WriteCloser
	said  *tail // on stderr

	asking  sync.Mutex // one request at a time
	answers chan answer
	gone    chan struct{} // closed when the process has ended
}

var errGone = errors.New("the process has ended")

// startChild starts a process, which waits for its place before it opens
// anything.
func startChild(id string) (*child, error) {
	binary, err := os.Executable()
	if err != nil {
		return nil, err
	}
	c := &child{id: id, said: &tail{}, answers: make(chan answer, 1), gone: make(chan struct{})}
	c.cmd = exec.Command(binary, nodeCommand)
	c.cmd.Stderr = c.said
	stdout, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if c.stdin, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	go c.receive(stdout)
	return c, nil
}

// receive hands over answers until the process ends.
func (c *child) receive(stdout io.Reader) {
	defer close(c.gone)
	lines := json.NewDecoder(bufio.NewReader(stdout))
	for {
		var a answer
		if err := lines.Decode(&a); err != nil {
			break
		}
		c.answers <- a // has room: no request is sent before the last is answered
	}
	_ = c.cmd.Wait() // whoever ended it knows how
}

// ask sends a request and waits for the answer. When ctx ends first the process
// is of no more use, and told to end.
func (c *child) ask(ctx context.Context, q request) (answer, error) {
	c.asking.Lock()
	defer c.asking.Unlock()
	if err := json.NewEncoder(c.stdin).Encode(q); err != nil {
		return answer{}, c.failed(fmt.Errorf("%w: %w", errGone, err))
	}
	select {
	case a := <-c.answers:
		if a.Error != "" {
			return a, c.failed(errors.New(a.Error))
		}
		return a, nil
	case <-c.gone:
		return answer{}, c.failed(errGone)
	case <-ctx.Done():
		_ = c.stdin.Close()
		return answer{}, ctx.Err()
	}
}

// failed adds the node and what its process said last.
func (c *child) failed(err error) error {
	err = fmt.Errorf("%s: %w", c.id, err)
	if text := c.said.String(); text != "" {
		err = fmt.Errorf("%w; it said last:\n%s", err, text)
	}
	return err
}

func (c *child) open(ctx context.Context, p place) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	_, err := c.ask(ctx, request{Open: &p})
	return err
}

func (c *child) preload(ctx context.Context, o order) error {
	_, err := c.ask(ctx, request{Preload: &o})
	return err
}

func (c *child) prepare(ctx context.Context, o order) error {
	_, err := c.ask(ctx, request{Prepare: &o})
	return err
}

func (c *child) load(ctx context.Context, from time.Time) (tally, error) {
	a, err := c.ask(ctx, request{Load: &from})
	return value(a.Tally, err)
}

func (c *child) books(ctx context.Context) (books, error) {
	a, err := c.ask(ctx, request{Books: true})
	return value(a.Books, err)
}

func (c *child) look(ctx context.Context) (sight, error) {
	a, err := c.ask(ctx, request{Look: true})
	return value(a.Look, err)
}

// value returns what an answer has, which a wrong one has not.
func value[T any](got *T, err error) (T, error) {
	if got == nil {
		var none T
		return none, errors.Join(err, errors.New("the answer is empty"))
	}
	return *got, err
}

func (c *child) pid() int { return c.cmd.Process.Pid }

// close ends the process in order, or after a while by force.
func (c *child) close() error {
	_ = c.stdin.Close()
	timer := time.NewTimer(startTimeout)
	defer timer.Stop()
	for {
		select {
		case <-c.gone:
			if code := c.cmd.ProcessState.ExitCode(); code != exitFine {
				return c.failed(fmt.Errorf("the process ended with %d", code))
			}
			return nil
		case <-c.answers: // to a request that nobody waits for any more
		case <-timer.C:
			_ = c.cmd.Process.Kill()
			<-c.gone
			return c.failed(errors.New("the process did not end when asked"))
		}
	}
}

// tail is a writer that keeps the end of what it is given.
type tail struct {
	mu   sync.Mutex // protects text
	text []byte
}

const maxTail = 2 << 10

// Write implements io.Writer.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, p...)
	if over := len(t.text) - maxTail; over > 0 {
		t.text = append(t.text[:0], t.text[over:]...)
	}
	return len(p), nil
}

// String returns what it has kept.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.text)
}

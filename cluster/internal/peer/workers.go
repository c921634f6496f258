package peer

import "sync"

// keepIdle is how many goroutines wait for the next request. More end when
// they have nothing to do.
const keepIdle = 64

// workers runs jobs on a bounded number of goroutines, which it starts when
// they are needed, and queues a bounded number of jobs beyond.
type workers struct {
	limit int
	next  chan *job // to a goroutine that was counted as idle
	wg    sync.WaitGroup

	// mu protects what follows.
	mu     sync.Mutex
	n      int    // goroutines
	idle   int    // of those, how many wait and have nothing coming
	queue  []*job // only if n == limit
	closed bool
}

func newWorkers(limit int) *workers {
	return &workers{limit: limit, next: make(chan *job, keepIdle)}
}

// submit has a job run, or returns false if too many are waiting.
func (w *workers) submit(j *job) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.closed:
		return false
	case w.idle > 0:
		w.idle--
		w.next <- j // has room: at most keepIdle are idle
	case w.n < w.limit:
		w.n++
		w.wg.Go(func() { w.work(j) })
	case len(w.queue) < w.limit:
		w.queue = append(w.queue, j)
	default:
		return false
	}
	return true
}

func (w *workers) work(j *job) {
	for j != nil {
		j.run()
		j = w.more()
	}
}

// more returns the next job, or nil if the goroutine should end.
func (w *workers) more() *job {
	w.mu.Lock()
	if len(w.queue) > 0 {
		j := w.queue[0]
		w.queue[0] = nil
		w.queue = w.queue[1:]
		w.mu.Unlock()
		return j
	}
	if w.closed || w.idle >= keepIdle {
		w.n--
		w.mu.Unlock()
		return nil
	}
	w.idle++
	w.mu.Unlock()
	return <-w.next
}

// close waits for all jobs. Later ones are refused.
func (w *workers) close() {
	w.mu.Lock()
	if !w.closed {
		w.closed = true
		close(w.next)
	}
	w.mu.Unlock()
	w.wg.Wait()
}

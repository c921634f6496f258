package harness

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/distributedcache/cache/internal/base"
)

// ErrUndecided says that the time was not enough to check a key. That is no
// proof of a fault, but the check has failed.
var ErrUndecided = errors.New("linearizability was not decided in time")

// LinearError says that no order of the operations on one key explains them.
type LinearError struct {
	Key base.Key
	// Op is the operation whose return made it so: up to the moment before,
	// there was an order.
	Op *Op
	// Dir has the history, and a picture of the operations on the key until
	// then; "" if none was asked for.
	Dir string
}

// Error names the key and the operation.
func (e *LinearError) Error() string {
	msg := fmt.Sprintf("key %v is not linearizable, at %v: %v", e.Key, e.Op.Return, e.Op)
	if e.Dir != "" {
		msg += "; see " + e.Dir
	}
	return msg
}

// LinearConfig bounds a check and says where to write what was found.
type LinearConfig struct {
	Timeout time.Duration // for all keys together; 0 = 1 minute
	Dir     string        // "" = nowhere
}

// CheckLinear returns nil if each key is linearizable, a *LinearError for one
// that is not, and else an error that wraps ErrUndecided and names the keys.
func CheckLinear(h History, cfg LinearConfig) error {
	if cfg.Timeout == 0 {
		cfg.Timeout = time.Minute
	}
	deadline := time.Now().Add(cfg.Timeout)
	keys := h.byKey()
	illegal, undecided := checkKeys(keys, deadline)
	switch {
	case illegal != nil:
		return explain(h, *illegal, keys[*illegal], cfg.Dir)
	case len(undecided) > 0:
		return errors.Join(fmt.Errorf("%w: %v", ErrUndecided, undecided), write(h, nil, porcupine.LinearizationInfo{}, cfg.Dir))
	}
	return nil
}

// checkKeys checks the keys until one is found illegal.
func checkKeys(keys map[base.Key][]*Op, deadline time.Time) (illegal *base.Key, undecided []base.Key) {
	var (
		mu      sync.Mutex // guards the results
		found   atomic.Bool
		workers sync.WaitGroup
		queue   = make(chan base.Key)
	)
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for key := range queue {
				if found.Load() {
					continue
				}
				result := check(keys[key], time.Until(deadline))
				mu.Lock()
				switch result {
				case porcupine.Illegal:
					illegal = &key
					found.Store(true)
				case porcupine.Unknown:
					undecided = append(undecided, key)
				case porcupine.Ok:
				}
				mu.Unlock()
			}
		})
	}
	for key := range keys {
		queue <- key
	}
	close(queue)
	workers.Wait()
	slices.SortFunc(undecided, base.Key.Compare)
	return illegal, undecided
}

// check decides the operations of one key.
func check(ops []*Op, timeout time.Duration) porcupine.CheckResult {
	if timeout <= 0 {
		return porcupine.Unknown
	}
	return porcupine.CheckOperationsTimeout(model(), operations(ops), timeout)
}

// operations translates the operations of one key.
func operations(ops []*Op) []porcupine.Operation {
	var list []porcupine.Operation
	for _, op := range decidable(ops) {
		list = append(list, porcupine.Operation{
			ClientId: max(op.Client, 0), Input: op, Call: int64(op.Call), Return: int64(op.Return),
		})
	}
	return list
}

func model() porcupine.Model {
	return porcupine.Model{
		Init: func() any { return register{} },
		Step: func(state, input, _ any) (bool, any) {
			next, ok := state.(register).step(input.(*Op))
			return ok, next
		},
		DescribeOperation: func(input, _ any) string { return input.(*Op).String() },
		DescribeState: func(state any) string {
			r := state.(register)
			switch r.version {
			case 0:
				return fmt.Sprintf("absent, above %d", r.floor)
			case pending:
				return fmt.Sprintf("%q, version not known, above %d", r.value, r.floor)
			default:
				return fmt.Sprintf("%q, version %d", r.value, r.version)
			}
		},
	}
}

// explainTimeout bounds each check on the way to an explanation, which is not
// worth more.
const explainTimeout = 10 * time.Second

// explain finds the moment at which the operations of a key stop being
// linearizable and draws them until then.
func explain(h History, key base.Key, ops []*Op, dir string) error {
	ends := slices.DeleteFunc(slices.Clone(ops), func(op *Op) bool { return op.Return == Forever })
	slices.SortFunc(ends, func(a, b *Op) int { return cmp.Compare(a.Return, b.Return) })
	at, _ := slices.BinarySearchFunc(ends, true, func(op *Op, _ bool) int {
		if check(until(ops, op.Return), explainTimeout) == porcupine.Illegal {
			return 1
		}
		return -1
	})
	at = min(at, len(ends)-1)
	fault := &LinearError{Key: key, Op: ends[at], Dir: dir}
	if dir == "" {
		return fault
	}
	_, info := porcupine.CheckOperationsVerbose(model(), operations(until(ops, ends[at].Return)), explainTimeout)
	return errors.Join(fault, write(h, &key, info, dir))
}

// until returns the operations as they were known at a moment.
func until(ops []*Op, moment time.Duration) (known []*Op) {
	for _, op := range ops {
		if op.Call > moment {
			continue
		}
		if op.Return > moment {
			open := *op
			open.Return, open.Outcome, open.Output = Forever, Unknown, Output{}
			op = &open
		}
		known = append(known, op)
	}
	return known
}

// write puts the history and, if there is a key, its picture into a directory.
func write(h History, key *base.Key, info porcupine.LinearizationInfo, dir string) error {
	if dir == "" {
		return nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	err := h.Dump(filepath.Join(dir, "history.jsonl"))
	if key != nil {
		err = errors.Join(err, porcupine.VisualizePath(model(), info, filepath.Join(dir, "linearizability.html")))
	}
	return err
}

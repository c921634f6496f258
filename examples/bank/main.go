// Command bank shows what a cluster of caches guarantees: it moves money
// between accounts while nodes are killed, started again and added, and shows
// that the total always adds up.
//
//	go run ./examples/bank
//
// starts three nodes in this process, in temporary directories. With
// --processes the nodes are processes of their own, which get SIGKILL.
//
// Exit codes: 0 if every sum was right and every transfer is in the books
// exactly once, 1 if not or if the bank could not work, 2 for a bad flag.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// config is what the flags say.
type config struct {
	nodes, accounts, workers, shards int
	duration                         time.Duration
	processes                        bool
	dir                              string
}

// Bounds of the flags. One scan of all accounts is read again and again, so
// that more of them only make it slow; a node costs a store and its raft groups.
const (
	minNodes, maxNodes       = 3, 7 // fewer cannot lose one
	minAccounts, maxAccounts = 2, 100_000
	maxWorkers               = 256
	maxShards                = 120
)

const (
	exitFine   = 0
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == nodeCommand {
		os.Exit(runNode(os.Args[2:], os.Stdin, os.Stdout, os.Stderr))
	}
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// run is main without the process.
func run(args []string, stdout, stderr io.Writer) int {
	cfg, err := parse(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return exitFine
	}
	if err != nil {
		_, _ = fmt.Fprintln(stderr, "bank:", err)
		return exitUsage
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// A second signal ends the process at once.
	defer context.AfterFunc(ctx, stop)()
	if err := show(ctx, cfg, stdout); err != nil {
		_, _ = fmt.Fprintln(stderr, "bank:", err)
		return exitFailed
	}
	return exitFine
}

func parse(args []string, stderr io.Writer) (config, error) {
	var cfg config
	fs := flag.NewFlagSet("bank", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.IntVar(&cfg.nodes, "nodes", 3, "`number` of nodes to begin with; one more is added on the way")
	fs.IntVar(&cfg.accounts, "accounts", 1000, "`number` of accounts; each begins with 100")
	fs.DurationVar(&cfg.duration, "for", 30*time.Second, "for how `long` money is moved")
	fs.IntVar(&cfg.workers, "workers", 16, "`number` of tellers that move money at once")
	fs.IntVar(&cfg.shards, "shards", 12, "`number` of shards that the accounts are spread over")
	fs.BoolVar(&cfg.processes, "processes", false, "run each node in a process of its own, and kill it with SIGKILL")
	fs.StringVar(&cfg.dir, "dir", "", "`directory` for the data and logs of the nodes, which is kept; default: a temporary one")
	if err := fs.Parse(args); err != nil {
		return cfg, err
	}
	var faults []error
	within := func(name string, n, low, high int) {
		if n < low || n > high {
			faults = append(faults, fmt.Errorf("--%s is %d; want %d to %d", name, n, low, high))
		}
	}
	within("nodes", cfg.nodes, minNodes, maxNodes)
	within("accounts", cfg.accounts, minAccounts, maxAccounts)
	within("workers", cfg.workers, 1, maxWorkers)
	within("shards", cfg.shards, 1, maxShards)
	if cfg.duration <= 0 {
		faults = append(faults, fmt.Errorf("--for is %v; want more than 0", cfg.duration))
	}
	if fs.NArg() > 0 {
		faults = append(faults, fmt.Errorf("unexpected argument %q", fs.Arg(0)))
	}
	return cfg, errors.Join(faults...)
}

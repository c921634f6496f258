// Command loadgen puts load on the cache and tells how much it took, how long
// calls lasted and what they cost: on one node, on several in one process, or on
// several processes with the generator inside the first, as an application would
// be.
//
//	go run ./examples/loadgen --topology processes --nodes 3 --mix get=80,put=20
//
// Further commands: scale runs the same load per node on 1, 3, 5 and 10 nodes
// that are each held to the same share of CPU; compare sets two result files
// beside one another, with confidence intervals; plot draws one. README.md beside
// this file has them all.
//
// Exit codes: 0 if it could measure, however slow; 1 if it could not, was
// interrupted, or found that money was lost; 2 for bad flags.
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
)

const (
	exitFine   = 0
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == nodeCommand {
		os.Exit(runNode(os.Stdin, os.Stdout, os.Stderr))
	}
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// usageError is the fault of whoever typed the command.
type usageError struct{ error }

// run is main without the process.
func run(args []string, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// A second signal ends the process at once.
	defer context.AfterFunc(ctx, stop)()
	name := ""
	if len(args) > 0 && len(args[0]) > 0 && args[0][0] != '-' {
		name, args = args[0], args[1:]
	}
	var err error
	switch name {
	case "":
		err = commandRun(ctx, args, stdout, stderr)
	case "scale":
		err = commandScale(ctx, args, stdout, stderr)
	case "compare":
		err = commandCompare(args, stdout, stderr)
	case "plot":
		err = commandPlot(args, stdout, stderr)
	default:
		err = usageError{fmt.Errorf("there is no command %q; there are scale, compare, plot, and none for a plain run", name)}
	}
	var usage usageError
	switch {
	case err == nil || errors.Is(err, flag.ErrHelp):
		return exitFine
	case errors.As(err, &usage):
		_, _ = fmt.Fprintln(stderr, "loadgen:", err)
		return exitUsage
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
		_, _ = fmt.Fprintln(stderr, "loadgen: interrupted")
		return exitFailed
	default:
		_, _ = fmt.Fprintln(stderr, "loadgen:", err)
		return exitFailed
	}
}

// parseFlags parses args, flags and others in any order, and returns the others.
func parseFlags(fs *flag.FlagSet, args []string) (rest []string, err error) {
	for {
		if err := fs.Parse(args); err != nil {
			if !errors.Is(err, flag.ErrHelp) {
				err = usageError{err}
			}
			return nil, err
		}
		if fs.NArg() == 0 {
			return rest, nil
		}
		rest, args = append(rest, fs.Arg(0)), fs.Args()[1:]
	}
}

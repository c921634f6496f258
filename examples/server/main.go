// Command server is the stand-alone form of the cache: one process that opens
// a data directory and serves it over HTTP with JSON.
//
//	go run ./examples/server
//
// starts one node on ./data, the API on 127.0.0.1:8080 and Prometheus metrics
// on 127.0.0.1:9090. README.md beside this file has the flags and the routes.
//
// Exit codes: 0 after a graceful stop, 1 when the server could not start or
// could not go on, 2 for a bad flag or environment variable.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
)

const (
	exitStopped = 0
	exitFailed  = 1
	exitUsage   = 2
)

func main() { os.Exit(run(os.Args[1:], os.LookupEnv, os.Stderr)) }

// run is main without the process: arguments and environment in, exit code
// out, everything it has to say on stderr.
func run(args []string, lookupEnv func(string) (string, bool), stderr io.Writer) int {
	cfg, err := parseConfig(args, lookupEnv)
	switch {
	case errors.Is(err, flag.ErrHelp):
		_, _ = io.WriteString(stderr, usage())
		return exitStopped
	case err != nil:
		_, _ = fmt.Fprintf(stderr, "server: %v\n", err)
		return exitUsage
	}
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: cfg.logLevel}))

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// After the first signal the default action is back in place, so that a
	// second one ends a stop that hangs.
	defer context.AfterFunc(ctx, stop)()

	if err := serve(ctx, cfg, log, func(ports) {}); err != nil {
		log.Error("stopped", "error", err)
		return exitFailed
	}
	log.Info("stopped")
	return exitStopped
}

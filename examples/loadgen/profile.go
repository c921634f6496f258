package main

import (
	"context"
	"errors"
	"os"
	"runtime/pprof"
	"time"
)

// profile writes a CPU profile of this process over the window, unless no name is
// given.
func profile(ctx context.Context, name string, w window) error {
	if name == "" || !pause(ctx, time.Until(w.from)) {
		return nil
	}
	out, err := os.Create(name)
	if err != nil {
		return err
	}
	if err := pprof.StartCPUProfile(out); err != nil {
		return errors.Join(err, out.Close())
	}
	pause(ctx, time.Until(w.to))
	pprof.StopCPUProfile()
	return out.Close()
}

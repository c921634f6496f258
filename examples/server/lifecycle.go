package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/distributedcache/cache"
)

// Timeouts of the HTTP servers. They keep a slow or silent peer from holding
// one of the connections for ever; the largest body, 8 MiB, passes in time at
// 300 KiB/s. Long work (compaction, backup) lifts the write timeout for itself.
const (
	readHeaderTimeout = 5 * time.Second
	readTimeout       = 30 * time.Second
	writeTimeout      = 60 * time.Second
	idleTimeout       = 2 * time.Minute
	// maxHeaderBytes has room for the longest pair of percent-encoded range
	// bounds and a cursor.
	maxHeaderBytes = 64 << 10
	// drainTimeout bounds how long a stop waits for requests under way.
	drainTimeout = 10 * time.Second
	// metricsConnections is plenty for scrapers.
	metricsConnections = 32
	// slowOp is from when on an operation is listed as slow.
	slowOp = 100 * time.Millisecond
)

// addresses are what the server listens on.
type addresses struct{ rest, metrics net.Addr }

// serve opens the cache and serves it until ctx ends or the cache can no
// longer serve, which is an error. It calls started once both ports answer.
func serve(ctx context.Context, cfg config, log *slog.Logger, started func(addresses)) (err error) {
	instruments := newInstruments()
	backups, err := openBackupRoot(cfg.backupRoot)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, backups.Close()) }()

	// The ports come before the directory: a taken port is found out without
	// having touched any data.
	var lc net.ListenConfig
	rest, err := lc.Listen(ctx, "tcp", cfg.address(cfg.port))
	if err != nil {
		return fmt.Errorf("listen for the API: %w", err)
	}
	defer closeQuietly(rest)
	metrics, err := lc.Listen(ctx, "tcp", cfg.address(cfg.metricsPort))
	if err != nil {
		return fmt.Errorf("listen for metrics: %w", err)
	}
	defer closeQuietly(metrics)

	store, err := cache.OpenContext(ctx, cacheOptions(cfg, instruments, log))
	if err != nil {
		return fmt.Errorf("open %s: %w", cfg.dataDir, err)
	}
	defer func() { err = errors.Join(err, store.Close()) }()

	srv := &server{
		store: store, admin: store.Admin(), done: store.Done(), backups: backups,
		instruments: instruments, log: log,
		requestTimeout: cfg.requestTimeout, loopback: cfg.loopback(),
		heavy: make(chan struct{}, maxHeavyRequests),
	}
	api := newHTTPServer(srv.handler(), log)
	scrape := newHTTPServer(instruments.handler(), log)
	failed := make(chan error, 2)
	go func() { failed <- api.Serve(limitListener(rest, cfg.maxConnections)) }()
	go func() { failed <- scrape.Serve(limitListener(metrics, metricsConnections)) }()

	announce(log, cfg, rest.Addr(), metrics.Addr())
	started(addresses{rest.Addr(), metrics.Addr()})
	stopped := 0
	select {
	case <-ctx.Done():
		log.Info("stopping", "drain", drainTimeout)
	case <-store.Done():
		err = fmt.Errorf("the cache can no longer serve: %w", store.Err())
	case err = <-failed:
		stopped++
	}
	srv.draining.Store(true)
	err = errors.Join(err, drain(api, scrape))
	for ; stopped < 2; stopped++ {
		if serveErr := <-failed; !errors.Is(serveErr, http.ErrServerClosed) {
			err = errors.Join(err, serveErr)
		}
	}
	return err
}

// cacheOptions returns the options of the cache that cfg asks for.
func cacheOptions(cfg config, in *instruments, log *slog.Logger) cache.Options {
	return cache.Options{
		Dir:    cfg.dataDir,
		NodeID: cfg.nodeID,
		Limits: cache.LimitOptions{
			MaxValueBytes: maxValueBytes, MaxBatchOps: maxBatchOps, MaxBatchBytes: maxBatchBytes,
		},
		Observe: cache.ObserveOptions{Logger: log, Registerer: in.registry, SlowOp: slowOp},
	}
}

func newHTTPServer(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: readHeaderTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
}

// announce says where the server can be reached.
func announce(log *slog.Logger, cfg config, rest, metrics net.Addr) {
	log.Info("serving", "api", "http://"+rest.String(), "metrics", "http://"+metrics.String()+"/metrics",
		"data_dir", cfg.dataDir, "backup_root", cfg.backupRoot, "pid", os.Getpid())
	if !cfg.loopback() {
		log.Warn("this version has no authentication: whoever reaches this address may read and write everything",
			"listen_address", cfg.listenAddress)
	}
}

// drain stops the servers: no new connections, requests under way may finish
// within drainTimeout, what is left then is cut off.
func drain(servers ...*http.Server) error {
	ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	var errs []error
	for _, s := range servers {
		err := s.Shutdown(ctx)
		if errors.Is(err, context.DeadlineExceeded) {
			err = s.Close() // a graceful stop is bounded; that is no failure
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// closeQuietly closes a listener that its http.Server may have closed already.
func closeQuietly(l net.Listener) { _ = l.Close() }

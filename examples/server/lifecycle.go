package main

import (
	"context"
	"crypto/rand"
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

// ports are what the server listens on.
type ports struct{ rest, metrics net.Listener }

// listen opens both ports.
func listen(ctx context.Context, cfg config) (ports, error) {
	var lc net.ListenConfig
	rest, err := lc.Listen(ctx, "tcp", cfg.address(cfg.port))
	if err != nil {
		return ports{}, fmt.Errorf("listen for the API: %w", err)
	}
	metrics, err := lc.Listen(ctx, "tcp", cfg.address(cfg.metricsPort))
	if err != nil {
		return ports{}, errors.Join(fmt.Errorf("listen for metrics: %w", err), rest.Close())
	}
	return ports{rest, metrics}, nil
}

// close closes what an http.Server may have closed already.
func (p ports) close() {
	_ = p.rest.Close()
	_ = p.metrics.Close()
}

// serve opens the cache and serves it until ctx ends or the cache can no
// longer serve, which is an error. It calls started once both ports answer.
func serve(ctx context.Context, cfg config, log *slog.Logger, started func(ports)) (err error) {
	backups, err := openBackupRoot(cfg.backupRoot)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, backups.Close()) }()

	// The ports come before the directory: a taken port is found out without
	// having touched any data.
	p, err := listen(ctx, cfg)
	if err != nil {
		return err
	}
	defer p.close()

	s := &server{
		backups: backups, instruments: newInstruments(), log: log, nodeID: cfg.nodeID, runID: rand.Text(),
		requestTimeout: cfg.requestTimeout, loopback: cfg.loopback(),
		heavy: make(chan struct{}, maxHeavyRequests),
	}
	if cfg.clustered() {
		if s.clusterAddr, err = cfg.clusterAddress(p.rest.Addr()); err != nil {
			return err
		}
	}
	var store *cache.Cache
	open := func(ctx context.Context) (err error) { store, err = s.open(ctx, cfg); return err }
	err = s.run(ctx, p, cfg.maxConnections, open, func() {
		announce(log, cfg, p, s.clusterAddr)
		started(p)
	})
	if store != nil {
		err = errors.Join(err, store.Close())
	}
	return err
}

// open opens the cache, which, in a cluster, may have to wait for others.
func (s *server) open(ctx context.Context, cfg config) (*cache.Cache, error) {
	opts := cacheOptions(cfg, s.instruments, s.log)
	var find *finder
	if s.clusterAddr != "" {
		find = newFinder(cfg, s.log)
		peers, err := find.find(ctx, s.runID)
		if err != nil {
			return nil, err
		}
		opts.Cluster, opts.Security = cfg.cluster.options(s.clusterAddr, peers)
	}
	store, err := cache.OpenContext(ctx, opts)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", cfg.dataDir, err)
	}
	if find != nil {
		find.keep()
	}
	s.store, s.admin, s.ready, s.done, s.cause = store, store.Admin(), store.Ready, store.Done(), store.Err
	s.opened.Store(true)
	return store, nil
}

// run opens the cache and serves p until ctx ends, which is no error, or the
// cache is fenced. Both HTTP servers have stopped when it returns.
func (s *server) run(ctx context.Context, p ports, maxConnections int, open func(ctx context.Context) error, started func()) (err error) {
	api := newHTTPServer(s.handler(), s.log)
	scrape := newHTTPServer(s.instruments.handler(), s.log)
	ended := make(chan error, 2)
	go func() { ended <- api.Serve(limitListener(p.rest, maxConnections)) }()
	go func() { ended <- scrape.Serve(limitListener(p.metrics, metricsConnections)) }()

	running := 2
	opening, cancel := context.WithCancel(ctx)
	defer cancel()
	opened := make(chan error, 1)
	go func() { opened <- open(opening) }()
	select {
	case err = <-opened:
	case err = <-ended:
		running--
		cancel()
		err = errors.Join(err, <-opened)
	}
	if err == nil {
		started()
		select {
		case <-ctx.Done():
		case <-s.done:
			err = fmt.Errorf("the cache can no longer serve: %w", s.cause())
		case err = <-ended:
			running--
		}
	} else if ctx.Err() != nil {
		err = nil // told to stop before it had started
	}
	if ctx.Err() != nil {
		s.log.Info("stopping", "drain", drainTimeout)
	}
	s.draining.Store(true)
	err = errors.Join(err, drain(api, scrape))
	for ; running > 0; running-- {
		if serveErr := <-ended; !errors.Is(serveErr, http.ErrServerClosed) {
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
		Shards: cfg.shards,
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
func announce(log *slog.Logger, cfg config, p ports, clusterAddr string) {
	log.Info("serving", "api", "http://"+p.rest.Addr().String(), "metrics", "http://"+p.metrics.Addr().String()+"/metrics",
		"data_dir", cfg.dataDir, "backup_root", cfg.backupRoot, "pid", os.Getpid())
	if clusterAddr != "" {
		log.Info("one of a cluster", "cluster", clusterAddr)
	}
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

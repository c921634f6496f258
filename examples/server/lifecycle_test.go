package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/distributedcache/cache"
	"github.com/distributedcache/cache/internal/testkit"
)

// startServe runs serve on free ports and returns its addresses and how to
// stop it.
func startServe(t *testing.T, cfg config) (ports, func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ready := make(chan ports, 1)
	ended := make(chan error, 1)
	go func() {
		ended <- serve(ctx, cfg, slog.New(slog.DiscardHandler), func(p ports) { ready <- p })
	}()
	select {
	case p := <-ready:
		return p, func() error { cancel(); return <-ended }
	case err := <-ended:
		cancel()
		t.Fatal(err)
		return ports{}, nil
	}
}

func testConfig(t *testing.T) config {
	t.Helper()
	dir := t.TempDir()
	return config{
		listenAddress: "127.0.0.1", dataDir: filepath.Join(dir, "data"), backupRoot: filepath.Join(dir, "backups"),
		maxConnections: 10, requestTimeout: 30 * time.Second,
	}
}

func fetch(t *testing.T, client *http.Client, method, url, body string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(data)
}

func TestServeKeepsDataOverRestarts(t *testing.T) {
	cfg := testConfig(t)
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	for run := range 3 {
		at, stop := startServe(t, cfg)
		url := "http://" + at.rest.Addr().String() + "/api/kv/p/s"
		status, body := fetch(t, client, "GET", url, "")
		if run == 0 && status != 404 || run > 0 && (status != 200 || body != string(rune('a'+run-1))) {
			t.Fatalf("run %d: %d %s", run, status, body)
		}
		if status, body := fetch(t, client, "PUT", url, string(rune('a'+run))); status != 200 {
			t.Fatalf("run %d: %d %s", run, status, body)
		}
		status, body = fetch(t, client, "GET", "http://"+at.metrics.Addr().String()+"/metrics", "")
		if status != 200 || !strings.Contains(body, "cache_http_requests_total") || !strings.Contains(body, "cache_operations_total") {
			t.Errorf("metrics: %d, %d bytes", status, len(body))
		}
		if err := stop(); err != nil {
			t.Fatalf("run %d: %v", run, err)
		}
	}
}

func TestServeReportsWhatItCannotOpen(t *testing.T) {
	cfg := testConfig(t)
	at, stop := startServe(t, cfg)
	defer func() { _ = stop() }()
	log := slog.New(slog.DiscardHandler)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	never := func(ports) { t.Error("it started"); cancel() }

	if err := serve(ctx, cfg, log, never); !errors.Is(err, cache.ErrInUse) {
		t.Errorf("a directory in use: %v", err)
	}
	taken := testConfig(t)
	taken.port = port(at.rest.Addr().(*net.TCPAddr).Port)
	if err := serve(ctx, taken, log, never); err == nil || !strings.Contains(err.Error(), "listen for the API") {
		t.Errorf("a port in use: %v", err)
	}
	taken.port, taken.metricsPort = 0, port(at.metrics.Addr().(*net.TCPAddr).Port)
	if err := serve(ctx, taken, log, never); err == nil || !strings.Contains(err.Error(), "listen for metrics") {
		t.Errorf("a metrics port in use: %v", err)
	}
}

func TestConnectionsAreBounded(t *testing.T) {
	cfg := testConfig(t)
	cfg.maxConnections = 2
	at, stop := startServe(t, cfg)
	var conns []net.Conn
	answered := func(c net.Conn) bool {
		_ = c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		_, err := c.Read(make([]byte, 1))
		return err == nil
	}
	for range 3 {
		c, err := net.Dial("tcp", at.rest.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		if _, err := io.WriteString(c, "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
		if len(conns) <= cfg.maxConnections {
			testkit.Eventually(t, 10*time.Second, "an answer", func() bool { return answered(c) })
		}
	}
	if answered(conns[2]) {
		t.Error("the third connection of two was served")
	}
	_ = conns[0].Close()
	testkit.Eventually(t, 10*time.Second, "the waiting connection to be served", func() bool { return answered(conns[2]) })
	if err := stop(); err != nil {
		t.Error(err)
	}
}

func TestFencedCacheEndsTheServer(t *testing.T) {
	done := make(chan struct{})
	cause := errors.New("the disk failed")
	a := newAPI(t, func(s *server) { s.done, s.cause = done, func() error { return cause } })
	p, err := listen(t.Context(), testConfig(t))
	if err != nil {
		t.Fatal(err)
	}
	open := func(context.Context) error { return nil }
	err = a.server.run(t.Context(), p, 1, open, func() { close(done) })
	if !errors.Is(err, cause) {
		t.Errorf("the end of the server says %v", err)
	}
}

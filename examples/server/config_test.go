package main

import (
	"bytes"
	"errors"
	"flag"
	"log/slog"
	"strings"
	"testing"
	"time"
)

func environment(pairs ...string) func(string) (string, bool) {
	env := map[string]string{}
	for i := 0; i < len(pairs); i += 2 {
		env[pairs[i]] = pairs[i+1]
	}
	return func(name string) (string, bool) { v, ok := env[name]; return v, ok }
}

func TestConfig(t *testing.T) {
	cfg, err := parseConfig(nil, environment())
	want := config{
		listenAddress: "127.0.0.1", port: 8080, metricsPort: 9090, dataDir: "./data", backupRoot: "./backups",
		logLevel: slog.LevelInfo, maxConnections: 1000, requestTimeout: 5 * time.Second,
	}
	if err != nil || cfg != want {
		t.Errorf("defaults %+v: %v", cfg, err)
	}
	cfg, err = parseConfig([]string{"--port", "1", "-data-dir=d", "--node-id", "n"},
		environment("CACHE_PORT", "2", "CACHE_METRICS_PORT", "3", "CACHE_LOG_LEVEL", "debug", "CACHE_REQUEST_TIMEOUT", "1s", "CACHE_OTHER", "x"))
	if err != nil || cfg.port != 1 || cfg.metricsPort != 3 || cfg.dataDir != "d" || cfg.nodeID != "n" ||
		cfg.logLevel != slog.LevelDebug || cfg.requestTimeout != time.Second {
		t.Errorf("flags beat environment: %+v: %v", cfg, err)
	}
	if _, err := parseConfig([]string{"--port", "0", "--metrics-port", "0"}, environment()); err != nil {
		t.Errorf("both ports free to choose: %v", err)
	}
	if _, err := parseConfig([]string{"--help"}, environment()); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("--help: %v", err)
	}
}

func TestBadConfigExitsWithTwo(t *testing.T) {
	for _, c := range []struct {
		args []string
		env  []string
		want string
	}{
		{args: []string{"--seeds", "a:1"}, want: "certificates"},
		{args: []string{"--seeds", "a", "--insecure"}, want: "no address"},
		{args: []string{"--seeds", "a:0", "--insecure"}, want: "no address"},
		{args: []string{"--seeds", ":1", "--insecure"}, want: "no address"},
		{args: []string{"--expect", "3", "--insecure"}, want: "--expect needs --seeds"},
		{args: []string{"--insecure", "--listen-address", "0.0.0.0"}, want: "loopback"},
		{args: []string{"--insecure", "--tls-cert", "x"}, want: "name all three"},
		{args: []string{"--insecure", "--tls-cert", "x", "--tls-key", "y", "--tls-ca", "z"}, want: "contradicts"},
		{args: []string{"--insecure", "--cluster-port", "8080"}, want: "--cluster-port"},
		{args: []string{"--shards", "2000"}, want: "--shards"},
		{args: []string{"--config", "x.yaml"}, want: "config"},
		{args: []string{"serve"}, want: `"serve"`},
		{args: []string{"--port", "65536"}, want: "port from 0 to 65535"},
		{args: []string{"--port", "-1"}, want: "port from 0 to 65535"},
		{args: []string{"--port"}, want: "needs an argument"},
		{args: []string{"--port", "9090"}, want: "both 9090"},
		{args: []string{"--log-level", "loud"}, want: "loud"},
		{args: []string{"--data-dir", ""}, want: "--data-dir is empty"},
		{args: []string{"--listen-address", ""}, want: "--listen-address is empty"},
		{args: []string{"--backup-root", ""}, want: "--backup-root is empty"},
		{args: []string{"--max-connections", "0"}, want: "want 1 to"},
		{args: []string{"--request-timeout", "0s"}, want: "--request-timeout"},
		{args: []string{"--request-timeout", "5"}, want: "request-timeout"},
		{env: []string{"CACHE_PORT", "x", "CACHE_LOG_LEVEL", "y"}, want: "CACHE_PORT"},
		{env: []string{"CACHE_PORT", "x", "CACHE_LOG_LEVEL", "y"}, want: "CACHE_LOG_LEVEL"},
	} {
		var stderr bytes.Buffer
		code := run(c.args, environment(c.env...), &stderr)
		if code != exitUsage || !strings.Contains(stderr.String(), c.want) {
			t.Errorf("%v %v: exit code %d, %s", c.args, c.env, code, stderr.String())
		}
	}
	var stderr bytes.Buffer
	if code := run([]string{"-h"}, environment(), &stderr); code != 0 || !strings.Contains(stderr.String(), "-backup-root") {
		t.Errorf("help: exit code %d, %s", code, stderr.String())
	}
}

func TestLoopback(t *testing.T) {
	for address, want := range map[string]bool{
		"127.0.0.1": true, "127.1.2.3": true, "::1": true, "localhost": true, "0.0.0.0": false, "::": false, "10.0.0.1": false, "cache.example": false,
	} {
		if got := (&config{listenAddress: address}).loopback(); got != want {
			t.Errorf("%s: %v", address, got)
		}
	}
}

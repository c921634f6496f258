package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/distributedcache/cache"
)

// config is what the flags and the environment said, checked.
type config struct {
	listenAddress  string
	port           port
	metricsPort    port
	dataDir        string
	nodeID         string
	backupRoot     string
	logLevel       slog.Level
	maxConnections int
	requestTimeout time.Duration
	shards         int
	cluster        clusterConfig
}

// Bounds of the settings. A connection costs some 20 KiB idle and up to one
// value while it is used; 100,000 of them are more than one node can serve.
const (
	defaultMaxConnections = 1000
	hardMaxConnections    = 100_000
	defaultRequestTimeout = 5 * time.Second
	maxRequestTimeout     = 10 * time.Minute
)

// port is a TCP port; 0 lets the system choose one.
type port uint16

func (p *port) String() string { return strconv.Itoa(int(*p)) }

// Set implements flag.Value.
func (p *port) Set(s string) error {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil {
		return errors.New("want a port from 0 to 65535; 0 takes any that is free")
	}
	*p = port(n)
	return nil
}

// flags returns the flag set that fills cfg, which it sets to the defaults.
func flags(cfg *config) *flag.FlagSet {
	*cfg = config{port: 8080, metricsPort: 9090}
	fs := flag.NewFlagSet("server", flag.ContinueOnError)
	fs.SetOutput(io.Discard) // parseConfig says what is wrong in one line
	fs.Var(&cfg.port, "port", "`port` of the API; 0 takes any that is free")
	fs.StringVar(&cfg.listenAddress, "listen-address", "127.0.0.1", "`address` to listen on; 0.0.0.0 or :: for all")
	fs.StringVar(&cfg.dataDir, "data-dir", "./data", "data `directory`; created if it does not exist")
	fs.StringVar(&cfg.nodeID, "node-id", "", "`name` of this node; default: generated once and kept in the data directory")
	fs.Var(&cfg.metricsPort, "metrics-port", "`port` of /metrics; 0 takes any that is free")
	fs.StringVar(&cfg.backupRoot, "backup-root", "./backups", "`directory` that all backups are written under")
	fs.TextVar(&cfg.logLevel, "log-level", slog.LevelInfo, "`level`: debug, info, warn or error")
	fs.IntVar(&cfg.maxConnections, "max-connections", defaultMaxConnections, "`number` of API connections open at once")
	fs.IntVar(&cfg.shards, "shards", 0, "`number` of shards, fixed when the data directory or the cluster is made; default: 30")
	cc := &cfg.cluster
	fs.Var(&cc.seeds, "seeds", "`addresses` of the APIs of other servers of the cluster, such as node1:8080,node2:8080; may name this one")
	fs.Var(&cc.port, "cluster-port", "`port` for the other servers of the cluster; default: that of the API + 1000; 0 takes any that is free")
	fs.IntVar(&cc.expect, "expect", 0, "`number` of servers with empty data directories that make a cluster together, with all of them as --seeds")
	fs.StringVar(&cc.zone, "zone", "", "`name` of what may fail as one, such as a rack; replicas are spread over zones")
	fs.IntVar(&cc.replication, "replication-factor", 0, "`number` of nodes that each shard is on; default: 3")
	fs.BoolVar(&cc.insecure, "insecure", false, "plaintext between the servers, on loopback addresses only")
	fs.StringVar(&cc.tls.cert, "tls-cert", "", "`file` with the certificate for the other servers, in PEM")
	fs.StringVar(&cc.tls.key, "tls-key", "", "`file` with its private key")
	fs.StringVar(&cc.tls.ca, "tls-ca", "", "`file` with the CAs of the servers' certificates")
	fs.DurationVar(&cfg.requestTimeout, "request-timeout", defaultRequestTimeout, "longest `duration` of one request to the store")
	return fs
}

// envName returns the environment variable that stands in for a flag.
func envName(flagName string) string {
	return "CACHE_" + strings.ToUpper(strings.ReplaceAll(flagName, "-", "_"))
}

// usage returns the help text.
func usage() string {
	var b strings.Builder
	b.WriteString("server serves a cache over HTTP: one directory, or its part of a cluster.\n\n")
	fs := flags(new(config))
	fs.SetOutput(&b)
	fs.PrintDefaults()
	b.WriteString("\nEach flag can be given as an environment variable too: --data-dir as CACHE_DATA_DIR.\n" +
		"A flag beats its variable.\n")
	return b.String()
}

// parseConfig reads flags and environment. It returns flag.ErrHelp if help was
// asked for, and otherwise an error that names the flag or variable at fault.
func parseConfig(args []string, lookupEnv func(string) (string, bool)) (config, error) {
	var cfg config
	fs := flags(&cfg)
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return cfg, err
		}
		return cfg, fmt.Errorf("%w; run with --help for all flags", err)
	}
	if fs.NArg() > 0 {
		return cfg, fmt.Errorf("unexpected argument %q; run with --help for all flags", fs.Arg(0))
	}
	given := map[string]bool{}
	fs.Visit(func(f *flag.Flag) { given[f.Name] = true })
	var err error
	fs.VisitAll(func(f *flag.Flag) {
		value, found := lookupEnv(envName(f.Name))
		if !found || given[f.Name] {
			return
		}
		if setErr := fs.Set(f.Name, value); setErr != nil {
			err = errors.Join(err, fmt.Errorf("%s=%q: %w", envName(f.Name), value, setErr))
		}
	})
	return cfg, errors.Join(err, cfg.validate())
}

// validate reports all faults at once, each naming its flag.
func (c *config) validate() error {
	var errs []error
	fault := func(bad bool, format string, args ...any) {
		if bad {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	fault(c.listenAddress == "", "--listen-address is empty; 0.0.0.0 or :: listens on all addresses")
	fault(c.port == c.metricsPort && c.port != 0, "--port and --metrics-port are both %d", c.port)
	fault(c.dataDir == "", "--data-dir is empty")
	fault(c.backupRoot == "", "--backup-root is empty")
	fault(c.maxConnections < 1 || c.maxConnections > hardMaxConnections,
		"--max-connections is %d; want 1 to %d", c.maxConnections, hardMaxConnections)
	fault(c.requestTimeout <= 0 || c.requestTimeout > maxRequestTimeout,
		"--request-timeout is %v; want more than 0 and at most %v", c.requestTimeout, maxRequestTimeout)
	c.validateCluster(fault)
	return errors.Join(errs...)
}

// validateCluster checks what the library cannot: its errors name its options,
// not our flags.
func (c *config) validateCluster(fault func(bad bool, format string, args ...any)) {
	cc := &c.cluster
	fault(c.shards < 0 || c.shards > cache.MaxShards, "--shards is %d; want 1 to %d", c.shards, cache.MaxShards)
	files := cc.tls != tlsFiles{}
	fault(files && (cc.tls.cert == "" || cc.tls.key == "" || cc.tls.ca == ""), "--tls-cert, --tls-key and --tls-ca go together; name all three")
	fault(files && cc.insecure, "--insecure contradicts the certificates; leave out one of them")
	fault(c.clustered() && !files && !cc.insecure,
		"the servers of a cluster know one another by certificates: --tls-cert, --tls-key, --tls-ca; on loopback addresses --insecure does without")
	fault(cc.insecure && !c.loopback(), "--insecure is for loopback addresses, --listen-address is %s", c.listenAddress)
	fault(cc.expect > 1 && cc.seeds == "", "--expect needs --seeds: the servers that make the cluster")
	fault(cc.expect < 0, "--expect is %d; it must not be negative", cc.expect)
	fault(cc.replication < 0, "--replication-factor is %d; it must not be negative", cc.replication)
	fault(cc.port.given && cc.port.port != 0 && (cc.port.port == c.port || cc.port.port == c.metricsPort),
		"--cluster-port %d is --port or --metrics-port", cc.port.port)
}

// loopback reports whether only programs on this machine can connect.
func (c *config) loopback() bool {
	if c.listenAddress == "localhost" {
		return true
	}
	ip := net.ParseIP(c.listenAddress)
	return ip != nil && ip.IsLoopback()
}

// address returns what to listen on for p.
func (c *config) address(p port) string {
	return net.JoinHostPort(c.listenAddress, p.String())
}

package main

import (
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/distributedcache/cache"
)

// clusterConfig is what the flags say about the cluster.
type clusterConfig struct {
	seeds       seedList
	port        clusterPort
	expect      int
	zone        string
	replication int
	insecure    bool
	tls         tlsFiles
}

// tlsFiles are the files of a node's certificate.
type tlsFiles struct{ cert, key, ca string }

// clusterPort is a port that may be left out.
type clusterPort struct {
	port
	given bool
}

// Set implements flag.Value.
func (p *clusterPort) Set(s string) error {
	p.given = true
	return p.port.Set(s)
}

// String implements flag.Value.
func (p *clusterPort) String() string {
	if !p.given {
		return ""
	}
	return p.port.String()
}

// portDistance is from the port of the API to that of the cluster.
const portDistance = 1000

// maxSeeds is more than anybody needs: a few that are usually there are enough.
const maxSeeds = 32

// seedList is other servers, by the addresses of their APIs, with commas between.
type seedList string

// String implements flag.Value.
func (l *seedList) String() string { return string(*l) }

// Set implements flag.Value.
func (l *seedList) Set(s string) error {
	*l = seedList(s)
	if n := len(l.list()); n > maxSeeds {
		return fmt.Errorf("%d seeds; want at most %d", n, maxSeeds)
	}
	for _, seed := range l.list() {
		host, p, err := net.SplitHostPort(seed)
		n, numErr := strconv.ParseUint(p, 10, 16)
		if err != nil || numErr != nil || n == 0 || host == "" {
			return fmt.Errorf("%q is no address of a server; want host:port, such as node1:8080", seed)
		}
	}
	return nil
}

func (l *seedList) list() []string {
	if *l == "" {
		return nil
	}
	return strings.Split(string(*l), ",")
}

// clustered reports whether the server is one of a cluster: any of the flags
// that only mean something then makes it so.
func (c *config) clustered() bool { return c.cluster != clusterConfig{} }

// clusterAddress returns what to listen on for the other nodes, for a server
// whose API is at rest.
func (c *config) clusterAddress(rest net.Addr) (string, error) {
	p := int(c.cluster.port.port)
	if !c.cluster.port.given {
		if p = rest.(*net.TCPAddr).Port + portDistance; p > 65535 {
			return "", fmt.Errorf("--cluster-port would be %d; name another", p)
		}
	}
	if p == 0 { // others have to be told before the cache listens
		l, err := net.Listen("tcp", net.JoinHostPort(c.listenAddress, "0"))
		if err != nil {
			return "", err
		}
		p = l.Addr().(*net.TCPAddr).Port
		if err := l.Close(); err != nil {
			return "", err
		}
	}
	return net.JoinHostPort(c.listenAddress, strconv.Itoa(p)), nil
}

// options returns the options of the cache for one that listens on addr and
// knows peers.
func (c *clusterConfig) options(addr string, peers []string) (cache.ClusterOptions, cache.SecurityOptions) {
	tls := cache.TLSOptions{CertFile: c.tls.cert, KeyFile: c.tls.key, CAFile: c.tls.ca}
	return cache.ClusterOptions{
		Addr: addr, Peers: peers, Expect: c.expect, Zone: c.zone, ReplicationFactor: c.replication, Insecure: c.insecure,
	}, cache.SecurityOptions{TLS: tls}
}

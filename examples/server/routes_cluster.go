package main

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/distributedcache/cache"
)

// The routes of the cluster. Those that change it have a part to fill in.
const (
	addressPattern = "/api/cluster/address"
	nodePrefix     = "/api/cluster/nodes/"
	nodePattern    = "/api/cluster/nodes/{id}"
	drainPattern   = "/api/cluster/nodes/{id}/drain"
	shardPrefix    = "/api/cluster/shards/"
	leaderPattern  = "/api/cluster/shards/{n}/leader"
)

// clusterTimeout bounds what changes the cluster: it asks all nodes, of which
// some may be slow to answer or dead.
const clusterTimeout = 30 * time.Second

// clusterPatternOf returns the pattern of a path below /api/cluster, or the path.
func clusterPatternOf(path string) string {
	if rest, ok := strings.CutPrefix(path, nodePrefix); ok {
		switch id, what, deeper := strings.Cut(rest, "/"); {
		case id == "":
		case !deeper:
			return nodePattern
		case what == "drain":
			return drainPattern
		}
	}
	if rest, ok := strings.CutPrefix(path, shardPrefix); ok {
		if n, what, _ := strings.Cut(rest, "/"); n != "" && what == "leader" {
			return leaderPattern
		}
	}
	return path
}

// nodeFromPath returns the id in a path of nodePattern or drainPattern.
func nodeFromPath(r *http.Request) (string, error) {
	part, _, _ := strings.Cut(strings.TrimPrefix(r.URL.EscapedPath(), nodePrefix), "/")
	id, err := url.PathUnescape(part)
	if err != nil {
		return "", invalidf("node: %v", err)
	}
	return id, nil
}

// address answers GET /api/cluster/address, for servers that have this one as a
// seed. It answers while the cache is still opened: that may wait for just those.
func (s *server) address(w http.ResponseWriter, r *http.Request) error {
	if err := emptyRequest(r); err != nil {
		return err
	}
	if s.clusterAddr == "" {
		return httpErrorf(http.StatusNotFound, "no_cluster", "this server is not one of a cluster; start it with --cluster-port")
	}
	host, port, err := net.SplitHostPort(s.clusterAddr)
	if err != nil {
		return err
	}
	// Who listens on all addresses is reached where it was asked.
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		if local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
			host, _, err = net.SplitHostPort(local.String())
		}
	}
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, addressJSON{NodeID: s.nodeID, Address: net.JoinHostPort(host, port), Run: s.runID})
	return nil
}

// rebalance answers POST /api/cluster/rebalance with cache.Plan: what moves now.
func (s *server) rebalance(w http.ResponseWriter, r *http.Request) error {
	return s.change(w, r, func(ctx context.Context) (any, error) {
		plan, err := s.admin.Rebalance(ctx)
		plan.Moves = orEmpty(plan.Moves)
		return plan, err
	})
}

// removeNode answers DELETE /api/cluster/nodes/{id}.
func (s *server) removeNode(w http.ResponseWriter, r *http.Request) error {
	id, err := nodeFromPath(r)
	if err != nil {
		return err
	}
	return s.change(w, r, func(ctx context.Context) (any, error) { return okJSON{true}, s.admin.Remove(ctx, id) })
}

// change answers with what do returns for a request that has no body.
func (s *server) change(w http.ResponseWriter, r *http.Request, do func(ctx context.Context) (any, error)) error {
	if err := emptyRequest(r); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), clusterTimeout)
	defer cancel()
	out, err := do(ctx)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, out)
	return nil
}

// leaderJSON is the body of POST /api/cluster/shards/{n}/leader.
type leaderJSON struct {
	Node string `json:"node"`
}

// moveLeader answers POST /api/cluster/shards/{n}/leader once the node leads.
func (s *server) moveLeader(w http.ResponseWriter, r *http.Request) error {
	if _, err := parseQuery(r); err != nil {
		return err
	}
	part, _, _ := strings.Cut(strings.TrimPrefix(r.URL.EscapedPath(), shardPrefix), "/")
	shard, err := strconv.Atoi(part)
	if err != nil {
		return invalidf("shard %q: want a number", part)
	}
	body, err := readBody(w, r, 16<<10)
	if err != nil {
		return err
	}
	var in leaderJSON
	if err := decodeJSON(body, &in); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), clusterTimeout)
	defer cancel()
	if err := s.admin.TransferLeader(ctx, shard, in.Node); err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, okJSON{true})
	return nil
}

// drainLine is one line of the answer of a drain. The last has ok or an error.
type drainLine struct {
	Progress *cache.Progress `json:"progress,omitempty"`
	OK       bool            `json:"ok,omitempty"`
	Error    *errorJSON      `json:"error,omitempty"`
}

// drain answers POST /api/cluster/nodes/{id}/drain with a line of JSON for each
// report. The node goes on draining when the client goes away.
func (s *server) drain(w http.ResponseWriter, r *http.Request) error {
	if err := emptyRequest(r); err != nil {
		return err
	}
	id, err := nodeFromPath(r)
	if err != nil {
		return err
	}
	unlimited(w)
	begun := false
	line := func(l drainLine) {
		if !begun {
			w.Header().Set("Content-Type", "application/x-ndjson")
			w.WriteHeader(http.StatusOK)
			begun = true
		}
		_ = json.NewEncoder(w).Encode(l)          // who went away does not listen
		_ = http.NewResponseController(w).Flush() // nor does one without a connection
	}
	for progress, err := range s.admin.Drain(r.Context(), id) {
		switch {
		case err == nil:
			line(drainLine{Progress: &progress})
		case !begun:
			return err
		default: // the status has been sent
			described, _ := describe(err, false)
			line(drainLine{Error: &described})
			return nil
		}
	}
	line(drainLine{OK: true})
	return nil
}

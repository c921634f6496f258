package cluster

import (
	"fmt"
	"time"

	"github.com/distributedcache/cache/cluster/internal/catalog"
)

const (
	// silentAlarm is how long a node may be silent before somebody should know: a
	// restart takes less.
	silentAlarm = 10 * time.Second
	// thinAlarm is how long shards may have too few replicas that work.
	thinAlarm = time.Minute
	// alertThin is raised while shards have had too few replicas for long, and
	// alertSilent with the id of a node behind it while that is silent.
	alertThin   = "under_replicated"
	alertSilent = "node_silent:"
)

// alarm is what the node that leads the catalog has raised. Others raise nothing of
// this, so that one fault is one alert.
type alarm struct {
	raised map[string]string // message by name
	thin   time.Time         // since when replicas are missing; zero = they are not
}

// set raises an alert, if that says something new.
func (a *alarm) set(tell func(name, message string, active bool), name, message string) {
	if a.raised == nil {
		a.raised = map[string]string{}
	}
	if a.raised[name] != message {
		a.raised[name] = message
		tell(name, message, true)
	}
}

// unset clears an alert that was raised.
func (a *alarm) unset(tell func(name, message string, active bool), name string) {
	if _, raised := a.raised[name]; raised {
		delete(a.raised, name)
		tell(name, "", false)
	}
}

// clear clears all that was raised.
func (a *alarm) clear(tell func(name, message string, active bool)) {
	for name := range a.raised {
		a.unset(tell, name)
	}
	a.thin = time.Time{}
}

// raise raises or clears alerts, by what was observed.
func (c *Cluster) raise(o *observation, p plan) {
	a := &c.repair.alarm
	silent := map[string]bool{}
	for _, n := range o.state.Members() {
		if !o.silent(n.ID) || !c.repair.silences.longer(n.ID, c.cfg.every(silentAlarm)) {
			continue
		}
		silent[alertSilent+n.ID] = true
		a.set(c.cfg.Alert, alertSilent+n.ID, fmt.Sprintf("node %s at %s does not answer", n.ID, n.Addr))
	}
	for name := range a.raised {
		if name != alertThin && !silent[name] {
			a.unset(c.cfg.Alert, name)
		}
	}
	thin := thinGroups(o, p)
	switch {
	case thin == 0:
		a.thin = time.Time{}
		a.unset(c.cfg.Alert, alertThin)
	case a.thin.IsZero():
		a.thin = time.Now()
	case time.Since(a.thin) >= min(c.cfg.DeadNodeGrace, c.cfg.every(thinAlarm)):
		a.set(c.cfg.Alert, alertThin, fmt.Sprintf("%d shards have fewer working replicas than they should", thin))
	}
}

// thinGroups counts the shards with fewer working voters than the settings ask for
// with the nodes that there should be.
func thinGroups(o *observation, p plan) (thin int) {
	nodes := 0
	for _, n := range o.state.Members() {
		if n.State == catalog.Active {
			nodes++
		}
	}
	for _, g := range p.groups {
		working := 0
		for _, r := range g.Replicas {
			if _, answers := o.answers[r.Node]; answers && r.Member && r.Voter && !r.Lost && !r.Orphan {
				working++
			}
		}
		if working < wanted(g.Factor, nodes) {
			thin++
		}
	}
	return thin
}

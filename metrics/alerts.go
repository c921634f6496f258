package metrics

import (
	"cmp"
	"log/slog"
	"slices"
	"sync"

	"github.com/distributedcache/cache/internal/base"
)

// maxAlerts bounds the active alerts. Their names are constants of the code,
// some with the number of a shard in them; more than this many at once tell an
// operator nothing more.
const maxAlerts = 256

// alerts holds the active alerts and tells one listener of every change.
type alerts struct {
	logger *slog.Logger
	clock  base.Clock
	notify func(base.Alert) // may be nil

	// mu protects the fields below. It is not held while notify runs.
	mu      sync.Mutex
	active  map[string]base.Alert
	pending []base.Alert // changes not yet told, in order
	telling bool         // a goroutine is telling them
}

func (a *alerts) init(logger *slog.Logger, clock base.Clock, notify func(base.Alert)) {
	a.logger, a.clock, a.notify = logger, clock, notify
	a.active = map[string]base.Alert{}
}

func (a *alerts) raise(name, message string) {
	a.mu.Lock()
	alert, known := a.active[name]
	if !known && len(a.active) >= maxAlerts {
		a.mu.Unlock()
		return
	}
	alert.Message = message
	if !known {
		alert.Name, alert.Since, alert.Active = name, a.clock(), true
		a.pending = append(a.pending, alert)
	}
	a.active[name] = alert
	a.tellLocked()
}

func (a *alerts) clear(name string) {
	a.mu.Lock()
	if alert, known := a.active[name]; known {
		delete(a.active, name)
		alert.Active = false
		a.pending = append(a.pending, alert)
	}
	a.tellLocked()
}

// tellLocked tells the pending changes unless another goroutine is about it.
// So the listener hears of one change at a time, in order, and may itself
// raise and clear alerts. It releases mu.
func (a *alerts) tellLocked() {
	if a.telling {
		a.mu.Unlock()
		return
	}
	a.telling = true
	for len(a.pending) > 0 {
		changes := a.pending
		a.pending = nil
		a.mu.Unlock()
		for _, alert := range changes {
			a.tell(alert)
		}
		a.mu.Lock()
	}
	a.telling = false
	a.mu.Unlock()
}

func (a *alerts) tell(alert base.Alert) {
	if alert.Active {
		a.logger.Warn("alert raised", "alert", alert.Name, "message", alert.Message)
	} else {
		a.logger.Info("alert cleared", "alert", alert.Name, "since", alert.Since)
	}
	if a.notify != nil {
		a.notify(alert)
	}
}

func (a *alerts) list() []base.Alert {
	a.mu.Lock()
	list := make([]base.Alert, 0, len(a.active))
	for _, alert := range a.active {
		list = append(list, alert)
	}
	a.mu.Unlock()
	slices.SortFunc(list, func(x, y base.Alert) int {
		return cmp.Or(x.Since.Compare(y.Since), cmp.Compare(x.Name, y.Name))
	})
	return list
}

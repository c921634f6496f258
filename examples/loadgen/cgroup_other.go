//go:build !linux

package main

import (
	"errors"
	"time"
)

// quotas do not exist on this system.
type quotas struct{}

func newQuotas(float64, time.Duration) (*quotas, error) {
	return nil, errors.New("only Linux has them")
}

func (q *quotas) hold(string, int) error { return nil }
func (q *quotas) periods(string) periods { return periods{} }
func (q *quotas) release() error         { return nil }
func (q *quotas) close() error           { return nil }

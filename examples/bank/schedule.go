package main

import (
	"context"
	"fmt"
	"time"
)

const (
	maxBetween = 6 * time.Second // between two things that happen
	maxDown    = 3 * time.Second // how long a killed node is away
)

// misfortunes kills nodes and starts them again, and adds one, until ctx ends.
// When it returns all nodes are up, unless one could not be started.
func (b *bank) misfortunes(ctx, last context.Context) error {
	between := min(b.cfg.duration/5, maxBetween)
	for n := 0; pause(ctx, between); n++ {
		var err error
		if n == 1 {
			err = b.grow(last)
		} else {
			err = b.killOne(ctx, last, min(between/2, maxDown))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// killOne kills the node that leads most, and starts it again after a while.
func (b *bank) killOne(ctx, last context.Context, down time.Duration) error {
	victim := b.leadsMost()
	b.fleet.kill(victim)
	b.screen.event("%s was killed", victim.place.id)
	pause(ctx, down)
	began := time.Now()
	if err := b.launch(last, victim); err != nil {
		return err
	}
	b.screen.event("%s is back, started in %v", victim.place.id, round(time.Since(began)))
	return nil
}

func (b *bank) launch(ctx context.Context, m *member) error {
	return within(ctx, startTimeout, func(ctx context.Context) error { return b.fleet.launch(ctx, m) })
}

func (b *bank) grow(ctx context.Context) error {
	began := time.Now()
	var m *member
	err := within(ctx, startTimeout, func(ctx context.Context) (err error) {
		m, err = b.fleet.add(ctx)
		return err
	})
	if err != nil {
		return fmt.Errorf("add a node: %w", err)
	}
	b.screen.event("%s has joined, started in %v", m.place.id, round(time.Since(began)))
	return nil
}

// leadsMost returns the node whose loss hurts most.
func (b *bank) leadsMost() (most *member) {
	now := b.counts.numbers()
	leaders := -1
	for _, m := range b.fleet.up() {
		if info, _ := now.node(m.place.id); info.Leaders > leaders {
			most, leaders = m, info.Leaders
		}
	}
	return most
}

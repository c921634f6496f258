//go:build !linux

package main

import "time"

// usageOf does not know how to ask this system.
func usageOf(int) usage { return usage{} }

func busyCPU() time.Duration { return 0 }

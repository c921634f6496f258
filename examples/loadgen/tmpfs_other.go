//go:build !linux

package main

import "errors"

// memoryDir is where this system has a file system in memory: nowhere known.
const memoryDir = "/"

func checkMemory(string, uint64) error { return errors.New("only Linux has tmpfs") }

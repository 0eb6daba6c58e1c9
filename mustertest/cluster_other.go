//go:build unix && !linux

package mustertest

import "syscall"

// Elsewhere a server outlives a test that was killed, and backends end when they
// notice that the server did.
func dieWithParent(*syscall.SysProcAttr) {}

func childrenOf(int) ([]int, error) { return nil, nil }

//go:build !linux

package main

import "net"

// turnAway leaves connections that wait to Accept.
func turnAway(net.Listener, func() bool) (turned uint64) { return 0 }

package main

import (
	"net"
	"syscall"
)

// turnAway closes connections that wait to be accepted, as long as none is to be let
// in, and returns how many. Go would first make each ready to be used, with ten system
// calls in place of two.
func turnAway(listener net.Listener, full func() bool) (turned uint64) {
	socket, ok := listener.(syscall.Conn)
	if !ok {
		return 0
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return 0
	}
	_ = raw.Control(func(fd uintptr) { // fails when the listener is closed, as Accept will
		for full() {
			conn, _, err := syscall.Accept4(int(fd), syscall.SOCK_CLOEXEC)
			if err != nil {
				return // none waits, or Accept will say why
			}
			_ = syscall.Close(conn)
			turned++
		}
	})
	return turned
}

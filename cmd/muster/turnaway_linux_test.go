package main

import (
	"net"
	"testing"
	"time"

	"muster/handshake"
)

// TestTurnAway has more connections wait than are to be let in: the first are closed,
// and the others stay.
func TestTurnAway(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	var clients []net.Conn
	for range 5 {
		client, err := net.Dial("tcp", listener.Addr().String())
		must(t, err)
		defer func() { _ = client.Close() }()
		clients = append(clients, client)
	}
	excess := 3
	full := func() bool { excess--; return excess >= 0 }
	if turned := turnAway(listener, full); turned != 3 {
		t.Fatalf("%d were turned away", turned)
	}
	for n, client := range clients {
		must(t, client.SetReadDeadline(time.Now().Add(patience)))
		if n < 3 {
			if _, err := client.Read(make([]byte, 1)); !handshake.CutOff(err) {
				t.Errorf("connection %d ends with %v", n+1, err)
			}
			continue
		}
		conn, err := listener.Accept()
		must(t, err)
		_, err = conn.Write([]byte{1})
		must(t, err)
		if _, err := client.Read(make([]byte, 1)); err != nil {
			t.Errorf("connection %d: %v", n+1, err)
		}
		must(t, conn.Close())
	}
	always := func() bool { return true }
	if turned := turnAway(listener, always); turned != 0 {
		t.Errorf("%d of none were turned away", turned)
	}
	must(t, listener.Close())
	if turned := turnAway(listener, always); turned != 0 {
		t.Errorf("%d were turned away from a closed listener", turned)
	}
}

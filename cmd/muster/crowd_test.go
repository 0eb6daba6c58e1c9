package main

import (
	"context"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"muster"
	"muster/handshake"
	"muster/mef"
)

func TestThreshold(t *testing.T) {
	t.Parallel()
	var door threshold
	from := func(network byte, host int) net.Addr {
		return &net.TCPAddr{IP: net.IPv4(192, 0, network, byte(host)), Port: 1024 + host}
	}
	var leave func()
	for host := range maxFromNetwork {
		var ok bool
		if leave, ok = door.enter(from(1, host)); !ok {
			t.Fatalf("handshake %d of a network was shed", host)
		}
	}
	if _, ok := door.enter(from(1, 200)); ok {
		t.Error("a network has more than its share")
	}
	leave()
	if _, ok := door.enter(from(1, 200)); !ok {
		t.Error("a handshake that ended still counts")
	}
	entered := maxFromNetwork
	for network := range 255 {
		for host := range maxFromNetwork {
			if network == 1 {
				continue
			}
			if _, ok := door.enter(from(byte(network), host)); ok {
				entered++
			}
		}
	}
	if entered != maxHandshakes {
		t.Errorf("%d handshakes entered, not %d", entered, maxHandshakes)
	}
}

// heard is a connection that tells whether it was closed.
type heard struct {
	net.Conn
	closed bool
}

func (h *heard) Close() error { h.closed = true; return nil }

func TestCrowdBoundsEachPeer(t *testing.T) {
	t.Parallel()
	var c crowd
	join := func(identity string) (*handshake.Conn, *heard, net.Conn) {
		socket := &heard{}
		conn := &handshake.Conn{Conn: socket, Session: muster.NewSession(muster.Peer{PSKIdentity: identity}, nil)}
		return conn, socket, c.join(conn)
	}
	const identity = "0123456789abcdef0123456789abcdef@maf.example.com"
	first, firstSocket, _ := join(identity)
	second, secondSocket, _ := join(identity)
	for range maxSessions - 2 {
		if _, _, oldest := join(strings.ToUpper(identity)); oldest != nil {
			t.Fatal("a connection within the bound closes another")
		}
	}
	if _, _, oldest := join("another"); oldest != nil {
		t.Error("one peer closes the connection of another")
	}
	_, _, oldest := join(identity)
	if oldest == nil || oldest.Close() != nil || !firstSocket.closed {
		t.Fatal("beyond the bound the oldest connection is not closed")
	}
	if err := first.Close(); err != nil { // by its server, which sees the end
		t.Error(err)
	}
	if err := second.Close(); err != nil || !secondSocket.closed {
		t.Errorf("a connection does not close: %v", err)
	}
	if _, _, oldest := join(identity); oldest != nil {
		t.Error("a connection that was closed still counts")
	}
	if _, _, oldest := join(identity); oldest == nil {
		t.Error("closing twice counts twice")
	}
}

// TestAPanicEndsOneConnection has a fault in what follows a handshake.
func TestAPanicEndsOneConnection(t *testing.T) {
	t.Parallel()
	for _, via := range []transport{overTLS, overDTLS} {
		t.Run(string(via), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, 1)
			var enrolments atomic.Int32
			s, err := startMEF(context.Background(), w.mef, newLogger(w.mefLog), observer{enrolled: func(mef.Enrolment) {
				if enrolments.Add(1) == 1 {
					panic("a fault in an observer")
				}
			}})
			must(t, err)
			w.stopper(s)
			w.mefAddresses = listenConfig{TLS: s.tls.Addr().String(), DTLS: s.dtls.Addr().String()}
			config := w.deviceConfig(0, via)
			config.Handshake.Timeout = patience
			device := w.device(config)
			// The device knows nothing of the end of a DTLS association that met a fault.
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			if _, err := device.Enrol(ctx); err == nil {
				t.Error("the MEF answered in spite of the fault")
			}
			if _, err := device.Enrol(t.Context()); err != nil {
				t.Errorf("the MEF serves no more: %v", err)
			}
		})
	}
}

// TestRenewalIsNotRepeated waits for a MAF that says nothing.
func TestRenewalIsNotRepeated(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	w.startMEF()
	silent, err := net.ListenPacket("udp", "127.0.0.1:0")
	must(t, err)
	defer silent.Close()
	w.mafAddress = silent.LocalAddr().String()
	config := w.deviceConfig(0, overTLS)
	config.Handshake.Timeout = 500 * time.Millisecond
	if _, err := attach(t.Context(), w.device(config), true, 2*time.Second); exitCode(err) != exitUnreachable {
		t.Errorf("attached to a MAF that says nothing: %v", err)
	}
	if n := w.count(w.mef.Store, "enrolment"); n != 1 {
		t.Errorf("the device enrolled %d times", n)
	}
}

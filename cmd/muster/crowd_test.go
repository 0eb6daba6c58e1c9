package main

import (
	"context"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"muster"
	"muster/handshake"
	"muster/mef"
)

// heard is a connection that tells whether it was closed.
type heard struct {
	net.Conn
	from   net.Addr
	closed bool
}

func (h *heard) RemoteAddr() net.Addr { return h.from }

func (h *heard) Close() error { h.closed = true; return nil }

// comes lets a host of a network, of 192.0.0.0/16, enter.
func (t *threshold) comes(network byte, host int) (conn *heard, leave func(), ok bool) {
	conn = &heard{from: &net.TCPAddr{IP: net.IPv4(192, 0, network, byte(host)), Port: 1024 + host}}
	leave, ok = t.enter(conn)
	return conn, leave, ok
}

func TestThreshold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var door threshold
		var leave func()
		for host := range maxFromNetwork {
			var ok bool
			if _, leave, ok = door.comes(1, host); !ok {
				t.Fatalf("handshake %d of a network was shed", host)
			}
		}
		if _, _, ok := door.comes(1, 200); ok {
			t.Error("a network has more than its share")
		}
		leave()
		leave()
		if _, _, ok := door.comes(1, 200); !ok {
			t.Error("a handshake that ended still counts")
		}
		entered := maxFromNetwork
		for network := range 255 {
			for host := range maxFromNetwork {
				if network == 1 {
					continue
				}
				if _, _, ok := door.comes(byte(network), host); ok {
					entered++
				}
			}
		}
		if entered != maxHandshakes || door.count() != maxHandshakes {
			t.Errorf("%d handshakes entered, %d are counted, not %d", entered, door.count(), maxHandshakes)
		}
	})
}

// TestOldestGivesWay has all places taken, in a network and altogether.
func TestOldestGivesWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var door threshold
		first, leave, _ := door.comes(1, 0)
		time.Sleep(leastStay)
		for host := 1; host < maxFromNetwork; host++ {
			door.comes(1, host)
		}
		if _, _, ok := door.comes(1, 201); !ok || !first.closed {
			t.Error("the oldest of a network does not give way")
		}
		leave() // as its handshake fails
		if _, _, ok := door.comes(1, 202); ok {
			t.Error("one that came just now gives way, or what gave way is counted twice")
		}
		if door.count() != maxFromNetwork || door.shedCount() != 2 {
			t.Errorf("%d are counted, %d were shed", door.count(), door.shedCount())
		}
		for n := door.count(); n < maxHandshakes; n++ {
			door.comes(byte(2+n/maxFromNetwork), n)
		}
		if _, _, ok := door.comes(100, 1); ok {
			t.Error("there are more than all")
		}
		time.Sleep(leastStay)
		if _, _, ok := door.comes(100, 1); !ok {
			t.Error("the oldest of all does not give way")
		}
	})
}

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

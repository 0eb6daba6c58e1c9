package dtls12_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"muster"
	"muster/handshake"
	"muster/handshake/dtls12"
)

func listen(t testing.TB, limits dtls12.Limits) *dtls12.Listener {
	t.Helper()
	listener, err := dtls12.Listen("127.0.0.1:0", limits)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	return listener
}

// serve runs every handshake of a listener and reports how each ended.
func serve(t testing.TB, listener *dtls12.Listener, server *dtls12.Server) <-chan result {
	t.Helper()
	ended := make(chan result, 100)
	go func() {
		for {
			conn, peer, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				conn, err := server.Handshake(t.Context(), conn, peer)
				ended <- result{conn, err}
			}()
		}
	}()
	return ended
}

// dial lets client shake hands with a listener from a new socket.
func dial(t testing.TB, client *dtls12.Client, to net.Addr) result {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done, err := client.Handshake(t.Context(), conn, to)
	return result{done, err}
}

// firstHello returns the datagram that opens a handshake of client.
func firstHello(t testing.TB, client *dtls12.Client) []byte {
	t.Helper()
	sink, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Close()
	var wg sync.WaitGroup
	defer wg.Wait()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	wg.Go(func() { _, _ = client.Handshake(t.Context(), conn, sink.LocalAddr()) })
	octets := make([]byte, 2048)
	n, _, err := sink.ReadFrom(octets)
	if err != nil {
		t.Fatal(err)
	}
	return octets[:n]
}

func send(t testing.TB, from net.PacketConn, to net.Addr, datagram []byte) {
	t.Helper()
	if _, err := from.WriteTo(datagram, to); err != nil {
		t.Fatal(err)
	}
}

func socket(t testing.TB) net.PacketConn {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func TestListener(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	listener := listen(t, dtls12.Limits{})
	ended := serve(t, listener, newServer(t, p.config(t, serverName)))
	client := newClient(t, p.config(t, "device.example.com"))
	const clients = 5
	exports := make(chan []byte, clients)
	for range clients {
		go func() {
			r := dial(t, client, listener.Addr())
			if r.err != nil {
				t.Error(r.err)
				exports <- nil
				return
			}
			defer r.conn.Close()
			octets, _ := r.conn.Session.Export(label, nil, exported)
			exports <- octets
			_, _ = r.conn.Read(make([]byte, 10)) // until the server closes
		}()
	}
	var atServer, atClients [][]byte
	var conns []*handshake.Conn
	for range clients {
		atClients = append(atClients, <-exports)
		r := <-ended
		atServer = append(atServer, export(t, r))
		conns = append(conns, r.conn)
	}
	for _, octets := range atServer {
		if !containsOctets(atClients, octets) {
			t.Error("a server's export is no client's")
		}
	}
	if err := listener.Close(); err != nil {
		t.Error(err)
	}
	if _, _, err := listener.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept after Close returned %v", err)
	}
	select {
	case <-listener.Done():
		t.Error("the socket was closed under open associations")
	default:
	}
	for _, conn := range conns {
		_ = conn.Close()
	}
	<-listener.Done()
}

func containsOctets(all [][]byte, octets []byte) bool {
	for _, other := range all {
		if bytes.Equal(other, octets) {
			return true
		}
	}
	return false
}

// accepted returns how many remotes a listener hands out until a marker, which a
// fresh client's first hello is: datagrams on loopback keep their order.
func accepted(t testing.TB, listener *dtls12.Listener, marker net.Addr) (remotes []net.PacketConn) {
	t.Helper()
	for {
		conn, peer, err := listener.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if peer.String() == marker.String() {
			_ = conn.Close()
			return remotes
		}
		remotes = append(remotes, conn)
	}
}

func TestOnlyFirstHelloCreatesState(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	listener := listen(t, dtls12.Limits{})
	hello := firstHello(t, newClient(t, p.config(t, "device.example.com")))
	edit := func(at int, value byte) []byte {
		octets := bytes.Clone(hello)
		octets[at] = value
		return octets
	}
	for name, datagram := range map[string][]byte{
		"nothing":           {},
		"an octet":          {22},
		"garbage":           bytes.Repeat([]byte{0xa5}, 200),
		"zeros":             make([]byte, 200),
		"application data":  edit(0, 23),
		"an alert":          edit(0, 21),
		"TLS":               edit(1, 3),
		"a later epoch":     edit(4, 1),
		"a short record":    hello[:len(hello)-1],
		"a ServerHello":     edit(13, 2),
		"a later message":   edit(18, 1),
		"a later fragment":  edit(21, 1),
		"a body of TLS":     edit(25, 3),
		"a long session id": edit(25+34, 33),
		"a cookie":          edit(25+35, 20),
	} {
		send(t, socket(t), listener.Addr(), datagram)
		marker := socket(t)
		send(t, marker, listener.Addr(), hello)
		if n := len(accepted(t, listener, marker.LocalAddr())); n != 0 {
			t.Errorf("%s created state", name)
		}
	}
}

func TestHalfOpenLimits(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	hello := firstHello(t, newClient(t, p.config(t, "device.example.com")))
	for name, limits := range map[string]dtls12.Limits{
		"global":       {HalfOpen: 3},
		"per prefix":   {HalfOpenPerPrefix: 3},
		"associations": {Associations: 3},
	} {
		listener := listen(t, limits)
		clients := make([]net.PacketConn, 10)
		for i := range clients {
			clients[i] = socket(t)
			send(t, clients[i], listener.Addr(), hello)
		}
		var held []net.PacketConn
		for range 3 {
			conn, _, err := listener.Accept()
			if err != nil {
				t.Fatal(err)
			}
			held = append(held, conn)
		}
		// What arrives for an admitted client has followed all hellos above.
		send(t, clients[1], listener.Addr(), []byte("probe"))
		for octets := make([]byte, 2048); ; {
			if n, _, err := held[1].ReadFrom(octets); err != nil || string(octets[:n]) == "probe" {
				break
			}
		}
		// When one goes, one more is admitted, and counted once.
		_, _ = held[0].Close(), held[0].Close()
		marker := socket(t)
		send(t, marker, listener.Addr(), hello)
		if n := len(accepted(t, listener, marker.LocalAddr())); n != 0 {
			t.Errorf("%s: %d handshakes over the limit were admitted", name, n)
		}
	}
}

func TestQueueIsBounded(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	listener := listen(t, dtls12.Limits{Queue: 4})
	hello := firstHello(t, newClient(t, p.config(t, "device.example.com")))
	from := socket(t)
	for range 50 {
		send(t, from, listener.Addr(), hello)
	}
	marker := socket(t)
	send(t, marker, listener.Addr(), hello)
	conn := accepted(t, listener, marker.LocalAddr())[0]
	_ = conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	n := 0
	for {
		if _, _, err := conn.ReadFrom(make([]byte, 2048)); err != nil {
			break
		}
		n++
	}
	if n != 4 {
		t.Errorf("%d datagrams waited, not 4", n)
	}
}

func TestCookieTimeout(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	config := p.config(t, serverName)
	hello := firstHello(t, newClient(t, p.config(t, "device.example.com")))
	config.CookieTimeout = 50 * time.Millisecond
	listener := listen(t, dtls12.Limits{HalfOpen: 1})
	ended := serve(t, listener, newServer(t, config))
	send(t, socket(t), listener.Addr(), hello)
	r := <-ended
	wantCode(t, r.err, "handshake-timeout")
	// What it held is free again.
	send(t, socket(t), listener.Addr(), hello)
	<-ended
}

func TestCookieTimeoutEndsWithTheCookie(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	config := p.config(t, serverName)
	config.CookieTimeout = 500 * time.Millisecond
	verify := config.Verify
	config.Verify = func(chain []*x509.Certificate) (peer muster.Peer, err error) {
		time.Sleep(2 * config.CookieTimeout) // a status check over the network
		return verify(chain)
	}
	listener := listen(t, dtls12.Limits{})
	ended := serve(t, listener, newServer(t, config))
	r := dial(t, newClient(t, p.config(t, "device.example.com")), listener.Addr())
	if !bytes.Equal(export(t, r), export(t, <-ended)) {
		t.Error("the exports differ")
	}
}

// TestReassociation begins again from the address of an association, as a device
// with a fixed port does after a restart.
func TestReassociation(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	listener := listen(t, dtls12.Limits{})
	config := p.config(t, serverName)
	config.CookieTimeout = 2 * time.Second
	ended := serve(t, listener, newServer(t, config))
	client := newClient(t, p.config(t, "device.example.com"))
	near := socket(t)
	shake := func() (result, *device) {
		d := &device{PacketConn: near}
		conn, err := client.Handshake(t.Context(), d, listener.Addr())
		return result{conn, err}, d
	}
	first, d := shake()
	old := <-ended
	if first.err != nil || old.err != nil {
		t.Fatal(first.err, old.err)
	}
	// A hello alone, which anyone can forge, leaves the association as it is.
	send(t, near, listener.Addr(), firstHello(t, client))
	if _, err := first.conn.Write([]byte("still here")); err != nil {
		t.Fatal(err)
	}
	octets := make([]byte, 100)
	if n, err := old.conn.Read(octets); err != nil || string(octets[:n]) != "still here" {
		t.Fatalf("the association read %q, %v", octets[:n], err)
	}
	wantCode(t, (<-ended).err, muster.CodeHandshakeTimeout)
	// The device loses its state and says nothing of it.
	d.dead.Store(true)
	_ = first.conn.Close()
	near = rebind(t, near)
	second, _ := shake()
	if second.err != nil {
		t.Fatal(second.err)
	}
	if !bytes.Equal(export(t, <-ended), export(t, second)) {
		t.Error("the exports differ")
	}
	if _, err := old.conn.Read(octets); err == nil {
		t.Error("the association goes on beside its successor")
	}
}

// TestBeginsAgain has a client begin anew from the address of a handshake that it has
// left, as a device with a fixed port does that lost its power: it gets through. If it
// takes the cookie of the former one for its own, it hears nothing, and can come again.
func TestBeginsAgain(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	listener := listen(t, dtls12.Limits{})
	ended := serve(t, listener, newServer(t, p.config(t, serverName)))
	config := p.config(t, "device.example.com")
	near := socket(t)
	send(t, near, listener.Addr(), firstHello(t, newClient(t, config)))
	request := make([]byte, 100)
	n, _, err := near.ReadFrom(request)
	if err != nil {
		t.Fatal(err)
	}
	late := &device{PacketConn: near, before: request[:n], from: listener.Addr()}
	config.Timeout = time.Second
	_, err = newClient(t, config).Handshake(t.Context(), late, listener.Addr())
	wantCode(t, err, muster.CodeHandshakeTimeout)
	config.Timeout = 0
	conn, err := newClient(t, config).Handshake(t.Context(), rebind(t, near), listener.Addr())
	if err != nil {
		t.Fatal(err)
	}
	left, begun := <-ended, <-ended
	if left.err == nil { // nothing says which of them is told first
		left, begun = begun, left
	}
	if left.err == nil {
		t.Error("the handshake that was left has succeeded")
	}
	if !bytes.Equal(export(t, begun), export(t, result{conn, nil})) {
		t.Error("the exports differ")
	}
}

// A device is a socket whose owner may fall silent, and may read something before all
// else.
type device struct {
	net.PacketConn
	dead   atomic.Bool
	before []byte
	from   net.Addr // of before
}

func (d *device) ReadFrom(b []byte) (int, net.Addr, error) {
	if d.before == nil {
		return d.PacketConn.ReadFrom(b)
	}
	n := copy(b, d.before)
	d.before = nil
	return n, d.from, nil
}

func (d *device) WriteTo(b []byte, to net.Addr) (int, error) {
	if d.dead.Load() {
		return len(b), nil
	}
	return d.PacketConn.WriteTo(b, to)
}

// rebind returns a new socket at the address of an old one.
func rebind(t testing.TB, old net.PacketConn) net.PacketConn {
	t.Helper()
	_ = old.Close()
	conn, err := net.ListenPacket("udp", old.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func TestNoGoroutineLeak(t *testing.T) {
	before := runtime.NumGoroutine()
	p := newPKI(t)
	listener := listen(t, dtls12.Limits{})
	ended := serve(t, listener, newServer(t, p.config(t, serverName)))
	client := newClient(t, p.config(t, "device.example.com"))
	for range 3 {
		r := dial(t, client, listener.Addr())
		s := <-ended
		if r.err != nil || s.err != nil {
			t.Fatal(r.err, s.err)
		}
		_, _ = r.conn.Close(), s.conn.Close()
	}
	_ = listener.Close()
	<-listener.Done()
	for range 1000 {
		if runtime.NumGoroutine() <= before {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	stacks := make([]byte, 1<<16)
	t.Errorf("%d goroutines, %d before\n%s", runtime.NumGoroutine(), before, stacks[:runtime.Stack(stacks, true)])
}

// TestOldHandshakesGiveWay has a flood from addresses that never return with the
// cookie.
func TestOldHandshakesGiveWay(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	const halfOpen = 4
	for name, limits := range map[string]dtls12.Limits{"of all": {HalfOpen: halfOpen}, "of a network": {HalfOpenPerPrefix: halfOpen},
		"for whom there is room": {Room: func() int { return halfOpen }}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			listener := listen(t, limits)
			serve(t, listener, newServer(t, p.config(t, serverName)))
			client := newClient(t, p.config(t, "device.example.com"))
			hello := firstHello(t, client)
			for range halfOpen {
				send(t, socket(t), listener.Addr(), hello)
			}
			// The client's later flights find room, at the cost of one that waits in vain.
			r := dial(t, client, listener.Addr())
			if r.err != nil {
				t.Fatal(r.err)
			}
			defer r.conn.Close()
			if n := listener.Shed(); n == 0 {
				t.Error("no handshake is said to have been shed")
			}
		})
	}
}

// TestWhoWaitsForATurnStays has a client wait longer for this side than clients have to
// return with the cookie, while others come: its place is its own.
func TestWhoWaitsForATurnStays(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	listener := listen(t, dtls12.Limits{HalfOpen: 1})
	config := p.config(t, serverName)
	client := newClient(t, p.config(t, "device.example.com"))
	waited := false
	config.Turn = func(context.Context, handshake.Stage) (func(), error) {
		for range 3 {
			if waited {
				break
			}
			send(t, socket(t), listener.Addr(), firstHello(t, client))
			time.Sleep(200 * time.Millisecond)
		}
		waited = true
		return func() {}, nil
	}
	ended := serve(t, listener, newServer(t, config))
	r := dial(t, client, listener.Addr())
	if r.err != nil {
		t.Fatal(r.err)
	}
	defer r.conn.Close()
	if other := <-ended; other.err != nil || listener.Shed() < 3 {
		t.Errorf("%v; %d were shed", other.err, listener.Shed())
	}
}

// TestHandshakesWithACookieStay has such a flood while a MAF looks for a key.
func TestHandshakesWithACookieStay(t *testing.T) {
	t.Parallel()
	serverConfig, clientConfig := keyConfig(t)
	const halfOpen = 4
	listener := listen(t, dtls12.Limits{HalfOpen: halfOpen, HalfOpenPerPrefix: halfOpen})
	client := newClient(t, clientConfig)
	hello := firstHello(t, client)
	find := serverConfig.PSK
	serverConfig.PSK = func(ctx context.Context, identity string) ([]byte, error) {
		for range 3 {
			for range 2 * halfOpen {
				send(t, socket(t), listener.Addr(), hello)
			}
			time.Sleep(300 * time.Millisecond) // then the ones before may give way
		}
		return find(ctx, identity)
	}
	serve(t, listener, newServer(t, serverConfig))
	r := dial(t, client, listener.Addr())
	if r.err != nil {
		t.Fatal(r.err)
	}
	_ = r.conn.Close()
}

// TestHalfOpenTakesFewOctets has a stranger send far more than a handshake needs:
// what is kept for it is bounded, before the cookie and after.
func TestHalfOpenTakesFewOctets(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	listener := listen(t, dtls12.Limits{Queue: 4096})
	conn := socket(t)
	send(t, conn, listener.Addr(), firstHello(t, newClient(t, p.config(t, "device.example.com"))))
	association, _, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer association.Close()
	sent, taken := 0, 0
	for range 100 {
		n, err := conn.WriteTo(make([]byte, 1000), listener.Addr())
		if err != nil {
			t.Fatal(err)
		}
		sent += n
		_ = association.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		n, _, _ = association.ReadFrom(make([]byte, 8192))
		taken += n
	}
	if taken == 0 || taken > 16<<10 {
		t.Errorf("of %d octets from an address that is not proved, %d were taken in", sent, taken)
	}
}

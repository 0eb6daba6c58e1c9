package main

import (
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"muster"
	"muster/handshake"
)

// Bounds of what one stranger and one peer may occupy, so that the rest remains
// for all others.
const (
	// maxHandshakes bounds the handshakes under way on a stream listener, and
	// maxFromNetwork those of one IPv4 /24 or IPv6 /56. A datagram listener has
	// its own bounds.
	maxHandshakes  = 1024
	maxFromNetwork = 128
	// maxSessions bounds the open connections of one authenticated peer at one
	// listener. It is far above what a device or a MAF needs that loses some
	// connections without a farewell.
	maxSessions = 64
)

// A threshold counts the handshakes under way on a stream listener.
type threshold struct {
	mu       sync.Mutex
	all      int // guarded by mu, as all below
	networks map[netip.Prefix]int
	shed     uint64 // turned away so far
}

// count returns how many handshakes are under way.
func (t *threshold) count() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.all
}

func (t *threshold) shedCount() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.shed
}

// enter counts a handshake until leave is called; ok is false if that exceeds a
// bound.
func (t *threshold) enter(from net.Addr) (leave func(), ok bool) {
	network := networkOf(from)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.all >= maxHandshakes || t.networks[network] >= maxFromNetwork {
		t.shed++
		return nil, false
	}
	if t.networks == nil {
		t.networks = make(map[netip.Prefix]int)
	}
	t.all++
	t.networks[network]++
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.all--
		if t.networks[network]--; t.networks[network] == 0 {
			delete(t.networks, network)
		}
	}, true
}

// networkOf returns the network that is taken as one source.
func networkOf(from net.Addr) netip.Prefix {
	socket, ok := from.(interface{ AddrPort() netip.AddrPort })
	if !ok {
		return netip.Prefix{}
	}
	addr := socket.AddrPort().Addr().Unmap().WithZone("")
	bits := 56
	if addr.Is4() {
		bits = 24
	}
	return netip.PrefixFrom(addr, bits).Masked()
}

// A guest is a peer, however its psk_identity was spelled.
type guest struct {
	name     muster.CertName
	anchor   muster.Digest
	identity string
}

func guestOf(p muster.Peer) guest {
	return guest{p.Name, p.Anchor, strings.ToUpper(p.PSKIdentity)}
}

// A crowd is the connections that are open, from the oldest, by their peers.
type crowd struct {
	mu    sync.Mutex
	conns map[guest][]*countedConn // guarded by mu, as all below
	size  int
}

// count returns how many connections are open.
func (c *crowd) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.size
}

// A countedConn leaves its crowd when it is closed.
type countedConn struct {
	net.Conn
	leave func()
}

func (c *countedConn) Close() error {
	c.leave()
	return c.Conn.Close()
}

// join counts a connection until it is closed. If its peer has maxSessions
// already, the oldest is returned for the caller to close: a device whose
// address changed has left its old connections behind, and must get in.
func (c *crowd) join(conn *handshake.Conn) (oldest net.Conn) {
	who := guestOf(conn.Session.Peer)
	counted := &countedConn{Conn: conn.Conn}
	counted.leave = func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.remove(who, counted)
	}
	conn.Conn = counted
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conns == nil {
		c.conns = make(map[guest][]*countedConn)
	}
	if len(c.conns[who]) >= maxSessions {
		first := c.conns[who][0]
		c.remove(who, first)
		oldest = first
	}
	c.conns[who] = append(c.conns[who], counted)
	c.size++
	return oldest
}

// remove forgets a connection, if it is still known. The caller holds mu.
func (c *crowd) remove(who guest, conn *countedConn) {
	i := slices.Index(c.conns[who], conn)
	if i < 0 {
		return
	}
	c.size--
	if c.conns[who] = slices.Delete(c.conns[who], i, i+1); len(c.conns[who]) == 0 {
		delete(c.conns, who)
	}
}

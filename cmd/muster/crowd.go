package main

import (
	"container/list"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

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
	// leastStay is how long a handshake is let alone where all places are taken. Then
	// the oldest gives way: one that waits for a processor is over sooner.
	leastStay = 3 * time.Second
	// maxSessions bounds the open connections of one authenticated peer at one
	// listener. It is far above what a device or a MAF needs that loses some
	// connections without a farewell.
	maxSessions = 64
)

// A threshold counts the handshakes under way on a stream listener. The zero value
// is ready; it may be used by several goroutines.
type threshold struct {
	mu       sync.Mutex
	comers   list.List // *comer, from the oldest; guarded by mu, as all below
	networks map[netip.Prefix]*list.List
	shed     uint64 // turned away so far, or ended for another
}

// A comer is a connection that counts at a threshold.
type comer struct {
	conn    net.Conn
	came    time.Time
	network netip.Prefix
	places  [2]*list.Element // among all, and in its network; nil when it has left
}

// count returns how many handshakes are under way.
func (t *threshold) count() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.comers.Len()
}

func (t *threshold) shedCount() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.shed
}

// enter counts a handshake on conn until leave is called; ok is false if that
// exceeds a bound. Where it would, the oldest on the same grounds is closed to make
// room, if it has stayed for leastStay.
func (t *threshold) enter(conn net.Conn) (leave func(), ok bool) {
	c := &comer{conn: conn, came: time.Now(), network: networkOf(conn.RemoteAddr())}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.networks == nil {
		t.networks = make(map[netip.Prefix]*list.List)
	}
	if here := t.networks[c.network]; here != nil && here.Len() >= maxFromNetwork && !t.makeRoom(here) ||
		t.comers.Len() >= maxHandshakes && !t.makeRoom(&t.comers) {
		t.shed++
		return nil, false
	}
	here := t.networks[c.network]
	if here == nil {
		here = list.New()
		t.networks[c.network] = here
	}
	c.places = [...]*list.Element{t.comers.PushBack(c), here.PushBack(c)}
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.remove(c)
	}, true
}

// makeRoom closes the oldest of some connections, if it has stayed long enough. The
// caller holds mu.
func (t *threshold) makeRoom(among *list.List) bool {
	oldest := among.Front().Value.(*comer)
	if time.Since(oldest.came) < leastStay {
		return false
	}
	t.shed++
	t.remove(oldest)
	_ = oldest.conn.Close()
	return true
}

// remove forgets a comer, once. The caller holds mu.
func (t *threshold) remove(c *comer) {
	if c.places[0] == nil {
		return
	}
	t.comers.Remove(c.places[0])
	here := t.networks[c.network]
	if here.Remove(c.places[1]); here.Len() == 0 {
		delete(t.networks, c.network)
	}
	c.places = [2]*list.Element{}
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

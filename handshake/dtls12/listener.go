package dtls12

import (
	"cmp"
	"container/list"
	"errors"
	"math"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Defaults of Limits.
const (
	DefaultHalfOpen          = 1024
	DefaultHalfOpenPerPrefix = 128
	DefaultAssociations      = 16384
	DefaultQueue             = 32
)

// leastReturn is the time that a client has in any case to return with the cookie.
// It is enough for most paths, and bounds the handshakes that a flood begins to
// HalfOpen in each such time.
const leastReturn = 250 * time.Millisecond

// maxDatagram is the largest datagram in octets that pion reads; the rest of a
// larger one is lost.
const maxDatagram = 8192

// What a client may send in octets before it has proved its address, and before the
// end of its handshake, all repetitions included: pion keeps what it cannot use yet,
// up to megabytes. The rest is dropped. The largest chain within the caps needs 80
// KiB, if nothing is lost.
const (
	maxUnproved  = 16 << 10
	maxHandshake = 128 << 10
)

// Limits bound what strangers make a Listener spend. Zero fields take the
// defaults. A handshake is half open until the Server that runs it succeeds.
type Limits struct {
	HalfOpen          int // half-open handshakes
	HalfOpenPerPrefix int // half-open handshakes from one IPv4 /24 or IPv6 /56
	Associations      int // remote addresses altogether
	Queue             int // datagrams, of at most 8 KiB, that wait for one reader
	// Room, if set, bounds how many handshakes may wait for the turn to answer their
	// first hello, or for their clients to return with the cookie: as many as would
	// have their turn in time. Without room a first hello is dropped, and its client
	// says it again. It is called for each first hello, by one goroutine, and may not
	// wait.
	Room func() int
}

func (l Limits) withDefaults() Limits {
	return Limits{
		HalfOpen:          cmp.Or(l.HalfOpen, DefaultHalfOpen),
		HalfOpenPerPrefix: cmp.Or(l.HalfOpenPerPrefix, DefaultHalfOpenPerPrefix),
		Associations:      cmp.Or(l.Associations, DefaultAssociations),
		Queue:             cmp.Or(l.Queue, DefaultQueue),
		Room:              l.Room,
	}
}

// A Listener gives each remote address a net.PacketConn of its own over one UDP
// socket. It may be used by several goroutines.
//
// Only a datagram that may begin a handshake creates state, and only within the
// Limits; all else from a stranger is dropped without an answer. pion keeps state
// from the first ClientHello on, so a flood from forged addresses can occupy all
// half-open handshakes, of a prefix or altogether. Then the oldest of them whose
// client has not returned with the cookie gives way to a new one, after a quarter
// of a second at the earliest, in place of the Server's CookieTimeout: most honest
// clients return sooner. The time in which a Server waits for its turn to answer does
// not count.
//
// A client that begins again from the address of an association, as after a
// restart, gets a second, half-open one beside it, which replaces the first only
// when it is established (RFC 6347 4.2.8). One that begins again in the middle of a
// handshake is not heard before that has ended, or, if the client has not returned
// with its cookie, before a quarter of a second has passed.
type Listener struct {
	conn   *net.UDPConn
	limits Limits
	accept chan *remote
	closed chan struct{}
	done   chan struct{} // closed when the socket has been

	mu       sync.Mutex
	draining bool // guarded by mu, as all below
	routes   map[netip.AddrPort]route
	count    int // remotes
	halfOpen int
	prefixes map[netip.Prefix]*network
	shed     uint64    // handshakes that a limit refused or ended
	held     int       // half-open remotes that wait for this side
	unproved list.List // half-open remotes that are to return with the cookie, from the oldest
}

// A network is the half-open remotes of a prefix.
type network struct {
	halfOpen int
	unproved list.List // those that are to return with the cookie, from the oldest
}

// A route is where the datagrams of an address go. At least one is set.
type route struct{ established, pending *remote }

// Listen opens a UDP socket at addr, "host:port".
func Listen(addr string, limits Limits) (*Listener, error) {
	conn, err := net.ListenPacket("udp", addr)
	if err != nil {
		return nil, err
	}
	l, err := NewListener(conn.(*net.UDPConn), limits)
	if err != nil {
		_ = conn.Close()
	}
	return l, err
}

// receiveBuffer is how many octets the system is asked to hold while the reader does
// not get a processor. It may grant less.
const receiveBuffer = 1 << 20

// NewListener returns a Listener over a UDP socket that is its own from then on.
func NewListener(conn *net.UDPConn, limits Limits) (*Listener, error) {
	if limits.HalfOpen < 0 || limits.HalfOpenPerPrefix < 0 || limits.Associations < 0 || limits.Queue < 0 {
		return nil, errors.New("dtls12: negative limit")
	}
	limits = limits.withDefaults()
	_ = conn.SetReadBuffer(receiveBuffer)
	l := &Listener{
		conn:     conn,
		limits:   limits,
		accept:   make(chan *remote, limits.HalfOpen),
		closed:   make(chan struct{}),
		done:     make(chan struct{}),
		routes:   make(map[netip.AddrPort]route),
		prefixes: make(map[netip.Prefix]*network),
	}
	go l.read()
	return l, nil
}

// Accept waits for a new remote address. The caller passes both results to
// Server.Handshake, in a goroutine of its own, and closes what comes out of it.
// After Close the error is net.ErrClosed.
func (l *Listener) Accept() (net.PacketConn, net.Addr, error) {
	select {
	case <-l.closed:
		return nil, nil, net.ErrClosed
	default:
	}
	select {
	case r := <-l.accept:
		return r, r.RemoteAddr(), nil
	case <-l.closed:
		return nil, nil, net.ErrClosed
	}
}

// Addr returns the address of the socket.
func (l *Listener) Addr() net.Addr { return l.conn.LocalAddr() }

// HalfOpen returns how many handshakes are half open.
func (l *Listener) HalfOpen() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.halfOpen
}

// Shed returns how many handshakes a limit has refused or ended so far.
func (l *Listener) Shed() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.shed
}

// Close lets no further handshake begin. What Accept has returned goes on; the
// socket and its goroutine end with the last of them.
func (l *Listener) Close() error {
	l.mu.Lock()
	if l.draining {
		l.mu.Unlock()
		return nil
	}
	l.draining = true
	close(l.closed)
	l.mu.Unlock()
	for {
		select {
		case r := <-l.accept:
			_ = r.Close()
		default:
			l.mu.Lock()
			defer l.mu.Unlock()
			return l.closeIfIdle()
		}
	}
}

// Done is closed when, after Close, the last association has been closed and the
// Listener has no goroutine any more.
func (l *Listener) Done() <-chan struct{} { return l.done }

// closeIfIdle ends a drained Listener. The caller holds mu.
func (l *Listener) closeIfIdle() error {
	if !l.draining || l.count > 0 {
		return nil
	}
	if err := l.conn.Close(); !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

func (l *Listener) read() {
	defer close(l.done)
	buffer := make([]byte, maxDatagram)
	for {
		n, from, err := l.conn.ReadFromUDPAddrPort(buffer)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			l.route(buffer[:n], netip.AddrPortFrom(from.Addr().Unmap(), from.Port()))
		}
	}
}

// route hands a datagram to the remotes of its address, or to a new one.
func (l *Listener) route(datagram []byte, from netip.AddrPort) {
	l.mu.Lock()
	defer l.mu.Unlock()
	known := l.routes[from]
	if hello, ok := beginsHandshake(datagram); ok && (known.pending == nil || known.pending.hello != hello) {
		l.begin(datagram, hello, from)
		return
	}
	for _, r := range []*remote{known.established, known.pending} {
		if r != nil {
			r.queue.push(datagram)
		}
	}
}

// begin hands the first hello of a handshake to a new remote, or drops it. The
// caller holds mu.
func (l *Listener) begin(datagram []byte, hello random, from netip.AddrPort) {
	if pending := l.routes[from].pending; pending != nil {
		if !pending.isStale() {
			return // the client says it again; pion would answer with an alert
		}
		l.forget(pending)
	}
	r := l.admit(from)
	if r == nil {
		return
	}
	r.hello = hello
	known := l.routes[from]
	known.pending = r
	l.routes[from] = known
	r.queue.push(datagram)
	select {
	case l.accept <- r:
	default: // full of those that gave way before they were accepted
		l.forget(r)
	}
}

// admit returns a half-open remote, or nil if that exceeds a limit. The caller
// holds mu.
func (l *Listener) admit(from netip.AddrPort) *remote {
	if l.draining {
		return nil
	}
	prefix := sourcePrefix(from.Addr())
	origin := l.prefixes[prefix]
	full := l.limits.Room != nil && l.unproved.Len()+l.held >= l.limits.Room() && !l.makeRoom(&l.unproved) ||
		origin != nil && origin.halfOpen >= l.limits.HalfOpenPerPrefix && !l.makeRoom(&origin.unproved) ||
		l.halfOpen >= l.limits.HalfOpen && !l.makeRoom(&l.unproved)
	if full || l.count >= l.limits.Associations {
		l.shed++
		return nil
	}
	if origin = l.prefixes[prefix]; origin == nil {
		origin = new(network)
		l.prefixes[prefix] = origin
	}
	l.count++
	l.halfOpen++
	origin.halfOpen++
	r := &remote{listener: l, addr: from, peer: net.UDPAddrFromAddrPort(from), network: origin, queue: newQueue(l.limits.Queue, maxUnproved)}
	l.list(r)
	return r
}

// makeRoom ends the oldest of handshakes whose clients have not returned with the
// cookie, unless it still has time to. The caller holds mu.
func (l *Listener) makeRoom(unproved *list.List) bool {
	oldest := unproved.Front()
	if oldest == nil {
		return false
	}
	r := oldest.Value.(*remote)
	if !r.isStale() {
		return false
	}
	l.forget(r)
	l.shed++
	return true
}

// prove notes that the client of r has returned with the cookie.
func (l *Listener) prove(r *remote) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.unlist(r)
	r.queue.allow(maxHandshake)
}

// list puts r among those that may have to give way. The caller holds mu.
func (l *Listener) list(r *remote) {
	r.since = time.Now()
	r.unproved, r.unprovedHere = l.unproved.PushBack(r), r.network.unproved.PushBack(r)
}

// unlist takes r from those that may have to give way, or wait for this side. The
// caller holds mu.
func (l *Listener) unlist(r *remote) {
	if r.held {
		r.held = false
		l.held--
	}
	if r.unproved != nil {
		l.unproved.Remove(r.unproved)
		r.network.unproved.Remove(r.unprovedHere)
		r.unproved, r.unprovedHere = nil, nil
	}
}

// sourcePrefix returns the network that is taken as one source.
func sourcePrefix(addr netip.Addr) netip.Prefix {
	bits := 56
	if addr.Is4() {
		bits = 24
	}
	return netip.PrefixFrom(addr.WithZone(""), bits).Masked()
}

// settle ends the half-open state of r. The caller holds mu.
func (l *Listener) settle(r *remote) {
	l.unlist(r)
	l.halfOpen--
	if r.network.halfOpen--; r.network.halfOpen == 0 {
		delete(l.prefixes, sourcePrefix(r.addr.Addr()))
	}
	r.network = nil
}

// establish makes r the established remote of its address, in place of another.
func (l *Listener) establish(r *remote) {
	l.mu.Lock()
	known := l.routes[r.addr]
	if known.pending != r { // closed meanwhile
		l.mu.Unlock()
		return
	}
	l.settle(r)
	r.queue.allow(math.MaxInt)
	l.routes[r.addr] = route{established: r}
	l.mu.Unlock()
	if known.established != nil {
		_ = known.established.Close()
	}
}

// remove forgets r, and ends a drained Listener with its last remote.
func (l *Listener) remove(r *remote) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.forget(r)
	_ = l.closeIfIdle()
}

// forget ends r, once. The caller holds mu.
func (l *Listener) forget(r *remote) {
	r.queue.close()
	if r.forgotten {
		return
	}
	r.forgotten = true
	known := l.routes[r.addr]
	switch r {
	case known.pending:
		known.pending = nil
		l.settle(r)
	case known.established:
		known.established = nil
	}
	if known == (route{}) {
		delete(l.routes, r.addr)
	} else {
		l.routes[r.addr] = known
	}
	l.count--
}

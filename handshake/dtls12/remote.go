package dtls12

import (
	"container/list"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"
)

// A remote is the net.PacketConn of one remote address of a Listener.
type remote struct {
	listener *Listener
	addr     netip.AddrPort
	peer     net.Addr // addr
	queue    *queue
	network  *network // of addr, as long as it is half open
	hello    random   // of the ClientHello that it began with

	// Its places among those that are to return with the cookie, of the Listener and
	// of its prefix; nil while it waits for this side, and once it has returned.
	// Guarded by the Listener's mu, as all below.
	unproved, unprovedHere *list.Element
	since                  time.Time // when its time to return began
	held                   bool      // it waits for this side
	forgotten              bool
}

// RemoteAddr returns the address of the client.
func (r *remote) RemoteAddr() net.Addr { return r.peer }

// establish tells the Listener that the handshake has succeeded.
func (r *remote) establish() { r.listener.establish(r) }

// prove tells the Listener that the client has proved its address.
func (r *remote) prove() { r.listener.prove(r) }

// hold stops the client's time to return with the cookie: it is this side's turn.
func (r *remote) hold() {
	l := r.listener
	l.mu.Lock()
	defer l.mu.Unlock()
	if r.unproved != nil {
		l.unlist(r)
		r.held = true
		l.held++
	}
}

// release begins the client's time anew.
func (r *remote) release() {
	l := r.listener
	l.mu.Lock()
	defer l.mu.Unlock()
	if r.held {
		l.unlist(r)
		l.list(r)
	}
}

// isStale reports whether a client that has not returned with the cookie has had its
// time. The caller holds the Listener's mu.
func (r *remote) isStale() bool {
	return r.unproved != nil && time.Since(r.since) >= leastReturn
}

// ReadFrom implements net.PacketConn.
func (r *remote) ReadFrom(b []byte) (int, net.Addr, error) {
	n, err := r.queue.pop(b)
	return n, r.peer, err
}

// WriteTo implements net.PacketConn. It writes to the remote, whatever the address.
func (r *remote) WriteTo(b []byte, _ net.Addr) (int, error) {
	if r.queue.isClosed() {
		return 0, net.ErrClosed
	}
	return r.listener.conn.WriteToUDPAddrPort(b, r.addr)
}

// Close implements net.PacketConn. It may be called more than once.
func (r *remote) Close() error {
	r.listener.remove(r)
	return nil
}

// LocalAddr implements net.PacketConn.
func (r *remote) LocalAddr() net.Addr { return r.listener.Addr() }

// SetDeadline implements net.PacketConn.
func (r *remote) SetDeadline(t time.Time) error { return r.SetReadDeadline(t) }

// SetReadDeadline implements net.PacketConn.
func (r *remote) SetReadDeadline(t time.Time) error {
	r.queue.setDeadline(t)
	return nil
}

// SetWriteDeadline does nothing: a UDP write does not wait.
func (r *remote) SetWriteDeadline(time.Time) error { return nil }

// A queue holds a bounded number of datagrams for a reader. What exceeds it is
// lost, as datagrams are.
type queue struct {
	size int

	mu       sync.Mutex
	room     int // octets that it still takes in; guarded by mu, as all below
	arrived  sync.Cond
	waiting  [][]byte
	closed   bool
	deadline time.Time
	timer    *time.Timer
}

func newQueue(size, room int) *queue {
	q := &queue{size: size, room: room}
	q.arrived.L = &q.mu
	return q
}

func (q *queue) push(datagram []byte) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed || len(q.waiting) >= q.size || len(datagram) > q.room {
		return
	}
	q.room -= len(datagram)
	q.waiting = append(q.waiting, slices.Clone(datagram))
	q.arrived.Signal()
}

// allow sets how many octets are still taken in.
func (q *queue) allow(room int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.room = room
}

func (q *queue) pop(b []byte) (int, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for {
		switch {
		case q.closed:
			return 0, net.ErrClosed
		case !q.deadline.IsZero() && !time.Now().Before(q.deadline):
			return 0, os.ErrDeadlineExceeded
		case len(q.waiting) > 0:
			n := copy(b, q.waiting[0])
			q.waiting = slices.Delete(q.waiting, 0, 1)
			return n, nil
		}
		q.arrived.Wait()
	}
}

func (q *queue) isClosed() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.closed
}

func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed, q.waiting = true, nil
	if q.timer != nil {
		q.timer.Stop()
	}
	q.arrived.Broadcast()
}

func (q *queue) setDeadline(t time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.deadline = t
	if q.timer != nil {
		q.timer.Stop()
		q.timer = nil
	}
	if !t.IsZero() && !q.closed {
		// A past deadline fires at once. The lock orders the wake-up after a
		// reader's decision to wait.
		q.timer = time.AfterFunc(time.Until(t), func() {
			q.mu.Lock()
			defer q.mu.Unlock()
			q.arrived.Broadcast()
		})
	}
}

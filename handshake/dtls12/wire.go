package dtls12

import (
	"bytes"
	"context"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"muster"
	"muster/handshake"
)

const (
	alertBodySize   = 2
	alertLevelFatal = 2
	alertNoCert     = 41 // reserved since TLS 1.0; pion uses it
	alertInsecure   = 71 // insufficient_security; pion uses it where RFC 5246 and RFC 7627 have handshake_failure
)

// A wire is the net.PacketConn under pion. While the handshake lasts it reads the
// peer's hello along, notes when the peer has proved its address, and gives a
// refused handshake the fitting alert: until a ChangeCipherSpec, an alert is a
// plaintext record, whose description may be replaced.
type wire struct {
	net.PacketConn
	peer     net.Addr
	attempt  *attempt
	passing  atomic.Bool // the handshake has ended
	early    [][]byte    // datagrams that await has read, empty until pion asks for more; used by the reader alone, as repeated
	repeated int         // messages of the handshake since its end

	mu       sync.Mutex
	greeting assembly
	random   random // of the client of a server
	cookie   []byte // that a server has sent
	sent     byte   // description of the last fatal alert as pion chose it
	returned func() // called once when a server answers a valid cookie
}

// hello returns the peer's last complete hello.
func (w *wire) hello() (h hello, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.greeting.hello, w.greeting.complete
}

// lastAlert returns the description of the last fatal alert that pion sent, and
// zero without one.
func (w *wire) lastAlert() byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.sent
}

// maxEarly bounds in octets the datagrams that await keeps, but for the last.
const maxEarly = 2 * maxHello

// datagrams lends await its buffer: what it keeps is much smaller.
var datagrams = sync.Pool{New: func() any { return new([maxDatagram]byte) }}

// await reads datagrams until the peer's hello is complete, and keeps them for
// ReadFrom, or until ctx ends. A hello that never completes, or cannot be read, is
// the zero hello: pion will fail on it.
func (w *wire) await(ctx context.Context) (hello, error) {
	stop := context.AfterFunc(ctx, func() { _ = w.PacketConn.SetReadDeadline(time.Unix(1, 0)) })
	lent := datagrams.Get().(*[maxDatagram]byte)
	defer datagrams.Put(lent)
	buffer := lent[:]
	var early [][]byte
	kept := 0
	for h, complete := w.hello(); ; h, complete = w.hello() {
		if complete || kept > maxEarly {
			w.early = early
			if !stop() {
				return hello{}, ctx.Err()
			}
			return h, w.PacketConn.SetReadDeadline(time.Time{})
		}
		n, _, err := w.ReadFrom(buffer)
		if err != nil {
			stop()
			return hello{}, err
		}
		early, kept = append(early, slices.Clone(buffer[:n])), kept+n
	}
}

// ReadFrom implements net.PacketConn. It drops what does not come from the peer,
// since pion takes datagrams from everywhere, and forged records. The turn to answer
// the first hello ends with the next read, for pion may have nothing to answer.
func (w *wire) ReadFrom(b []byte) (int, net.Addr, error) {
	if len(w.early) > 0 {
		n := copy(b, w.early[0])
		w.early = w.early[1:]
		return n, w.peer, nil
	}
	if w.early != nil {
		w.early = nil
		w.attempt.pause()
	}
	for {
		n, from, err := w.PacketConn.ReadFrom(b)
		if err == nil && !sameAddr(from, w.peer) {
			continue
		}
		if err == nil {
			if n = w.withoutForged(b[:n]); n == 0 {
				continue
			}
		}
		if err == nil && !w.passing.Load() {
			w.mu.Lock()
			w.greeting.add(b[:n])
			w.mu.Unlock()
		}
		return n, from, err
	}
}

// maxFinished bounds in octets the body of a record with a Finished, the only
// message of a handshake that means anything after its end, and maxRepeats how
// many such records are taken in: pion keeps what comes there.
const (
	maxFinished = 64
	maxRepeats  = 64
)

// withoutForged moves the records of a datagram together without those that no
// honest peer sends, and returns their size. Anybody who knows two addresses can
// write a record of epoch 0, and pion takes some of them for a fault of the peer:
// it then tells the peer by a fatal alert, whose protection is genuine, and one
// datagram has ended the connection. RFC 6347 4.1.2.7 has such records dropped.
func (w *wire) withoutForged(datagram []byte) (size int) {
	at, established := 0, w.passing.Load()
	for r := range records(datagram) {
		end := at + recordHeader + len(r.body)
		if established && w.repeats(r) || !established && (r.epoch != 0 || r.plausible() && !w.strays(r)) {
			size += copy(datagram[size:], datagram[at:end])
		}
		at = end
	}
	return size
}

// repeats reports whether pion is to see a record after the handshake. A peer whose
// last flight was not answered repeats all of it; its Finished, which is protected,
// is enough to have it answered.
func (w *wire) repeats(r record) bool {
	if r.epoch == 0 || r.kind != recordHandshake {
		return r.epoch != 0
	}
	w.repeated++
	return len(r.body) <= maxFinished && w.repeated <= maxRepeats
}

// plausible reports whether an unprotected record can be the peer's before the end
// of the handshake.
func (r record) plausible() bool {
	switch r.kind {
	case recordHandshake:
		return true
	case recordChange:
		return len(r.body) == 1 && r.body[0] == 1
	case recordAlert:
		return len(r.body) == alertBodySize
	default:
		return false
	}
}

func sameAddr(a, b net.Addr) bool {
	if a == b { // always so where the wire is of a Listener
		return true
	}
	if ua, ok := a.(*net.UDPAddr); ok {
		if ub, ok := b.(*net.UDPAddr); ok {
			return ua.Port == ub.Port && ua.IP.Equal(ub.IP) && ua.Zone == ub.Zone
		}
	}
	return a != nil && b != nil && a.Network() == b.Network() && a.String() == b.String()
}

// WriteTo implements net.PacketConn.
func (w *wire) WriteTo(b []byte, to net.Addr) (int, error) {
	if !w.passing.Load() {
		w.attempt.pause()
		examined := w.examine(b)
		if examined == nil {
			return len(b), nil
		}
		b = examined
	}
	if connected, ok := w.PacketConn.(net.Conn); ok && connected.RemoteAddr() != nil {
		return connected.Write(b)
	}
	return w.PacketConn.WriteTo(b, to)
}

// examine returns what is sent in place of a datagram of the handshake, nil for
// nothing.
func (w *wire) examine(datagram []byte) []byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	at := 0
	for r := range records(datagram) {
		at += recordHeader
		switch {
		case r.epoch != 0:
		case r.kind == recordAlert && len(r.body) == alertBodySize && r.body[0] == alertLevelFatal:
			w.sent = r.body[1]
			if w.attempt.silent() {
				return nil
			}
			datagram = slices.Clone(datagram)
			datagram[at+1] = fitting(r.body[1], w.attempt.reason())
		case w.attempt.abandon != nil: // a server's
			w.noteAnswer(r)
		}
		at += len(r.body)
	}
	return datagram
}

// noteAnswer notes what a server answers to a hello. The caller holds mu.
func (w *wire) noteAnswer(r record) {
	for f := range r.fragments() {
		switch {
		case f.kind == typeHelloVerify && len(f.part) > versionSize: // as small as to be whole
			w.cookie = slices.Clone(f.part[versionSize+1:])
		case f.kind == typeServerHello && w.returned != nil:
			w.returned()
			w.returned = nil
		}
	}
}

// strays reports whether a record has a ClientHello with a cookie of another handshake
// than this: one at the same address that the client has left, or that gave way. pion
// would answer with a fatal alert, and RFC 6347 4.2.1 has an invalid cookie taken for
// none.
func (w *wire) strays(r record) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for f := range r.fragments() {
		which, cookie, ok := f.opening()
		switch {
		case !ok:
		case len(cookie) == 0 && w.cookie == nil:
			w.random = which
		case which != w.random || len(cookie) > 0 && !bytes.Equal(cookie, w.cookie):
			return true
		}
	}
	return false
}

func fitting(chosen byte, reason error) byte {
	switch {
	case reason != nil:
		return byte(handshake.AlertFor(muster.CodeOf(reason)))
	case chosen == alertNoCert || chosen == alertInsecure:
		return byte(handshake.AlertHandshakeFailure)
	default:
		return chosen
	}
}

package dtls12

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"runtime/debug"
	"sync"
	"syscall"

	"github.com/pion/dtls/v3"

	"muster"
	"muster/handshake"
)

// An attempt is one handshake: what its callbacks found, for the alert and for
// the error.
type attempt struct {
	config Config
	ctx    context.Context // ends with the handshake; pion's callbacks have none
	// abandon ends ctx; of a server
	abandon context.CancelCauseFunc

	mu       sync.Mutex
	refusal  error // guarded by mu, as all below; the first reason to refuse
	absent   error // why there was no key for the peer's psk_identity
	peer     muster.Peer
	verified bool
	shown    bool   // our certificate was asked for
	leave    func() // ends the turn to compute; nil without one
}

// enter waits for a turn to compute, which ends when this side sends something,
// or the handshake ends.
func (a *attempt) enter(at handshake.Stage) error {
	if a.config.Turn == nil {
		return nil
	}
	leave, err := a.config.Turn(a.ctx, at)
	if err != nil {
		return a.refuse(err)
	}
	a.mu.Lock()
	a.leave = leave
	a.mu.Unlock()
	if a.ctx.Err() != nil { // nobody waits for the result any more
		a.pause()
		return context.Cause(a.ctx)
	}
	return nil
}

// pause ends the turn to compute, if there is one.
func (a *attempt) pause() {
	a.mu.Lock()
	leave := a.leave
	a.leave = nil
	a.mu.Unlock()
	if leave != nil {
		leave()
	}
}

// refuse records the first reason and returns its argument.
func (a *attempt) refuse(err error) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.refusal == nil {
		a.refusal = err
	}
	return err
}

func (a *attempt) reason() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.refusal
}

// silent reports whether the peer is not told of a failure, since it is to come back:
// this side had no capacity, or no time. It would take a fatal alert for a refusal.
func (a *attempt) silent() bool {
	reason := a.reason()
	return muster.CodeOf(reason).Temporary() || reason == nil && a.ctx.Err() != nil
}

// identity returns our certificate when the handshake needs it.
func (a *attempt) identity() (*tls.Certificate, error) {
	certificate, err := a.config.Identity()
	if err == nil && (certificate == nil || len(certificate.Certificate) == 0) {
		err = errors.New("the identity has no certificate")
	}
	if err != nil {
		return nil, a.refuse(err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.shown = true
	return certificate, nil
}

// verifyPeerCertificate applies the caps and asks Verify. pion calls it once.
func (a *attempt) verifyPeerCertificate(raw [][]byte, _ [][]*x509.Certificate) (err error) {
	defer a.survive(&err)
	chain, err := handshake.ParseChain(raw)
	if err != nil {
		return a.refuse(err)
	}
	if err := a.enter(handshake.Begun); err != nil {
		return err
	}
	peer, err := a.config.Verify(chain)
	if err != nil {
		return a.refuse(err)
	}
	a.settle(peer)
	return nil
}

// survive makes a refusal of a panic in what judges a peer. pion has goroutines
// of its own, in which a panic would end the program and not one handshake.
func (a *attempt) survive(err *error) {
	if fault := recover(); fault != nil {
		*err = a.refuse(fmt.Errorf("panic: %v\n%s", fault, debug.Stack()))
	}
}

func (a *attempt) settle(peer muster.Peer) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.peer, a.verified = peer, true
}

// serverKey is a server's PSK callback. Where there is no key, it returns a
// random one and notes why: the peer then fails as with a wrong key.
func (a *attempt) serverKey(identity []byte) ([]byte, error) {
	err := error(nil)
	var key []byte
	if len(identity) == 0 || len(identity) > muster.MaxPSKIdentity {
		err = muster.Refuse(muster.CodeKeyUnknown, "a psk_identity of %d octets, not 1 to %d", len(identity), muster.MaxPSKIdentity)
	} else if key, err = a.lookUp(string(identity)); err == nil && len(key) < minKey {
		err = muster.Refuse(muster.CodeKeyUnknown, "the key has %d octets, fewer than %d", len(key), minKey)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.peer, a.verified = muster.Peer{PSKIdentity: string(identity)}, err == nil
	if err != nil {
		a.absent = err
		key = make([]byte, muster.KeySize)
		_, _ = rand.Read(key) // it ends the program rather than fail
	}
	return key, nil
}

func (a *attempt) lookUp(identity string) (key []byte, err error) {
	defer a.survive(&err)
	return a.config.PSK(a.ctx, identity)
}

// clientKey is a client's PSK callback. Whoever knows the key is the server.
func (a *attempt) clientKey([]byte) ([]byte, error) {
	key := a.config.PSKKey()
	if len(key) < minKey {
		return nil, a.refuse(fmt.Errorf("the pre-shared key has %d octets, fewer than %d", len(key), minKey))
	}
	a.settle(muster.Peer{PSKIdentity: a.config.PSKIdentity})
	return key, nil
}

// run brings conn through its handshake, or refuses it: then pion has told the
// peer why, run closes the connection and returns an error with a Refusal in its
// tree.
func (a *attempt) run(w *wire, conn *dtls.Conn) (*handshake.Conn, error) {
	err := conn.HandshakeContext(a.ctx)
	a.pause()
	if err == nil || finished(conn) {
		var session *muster.Session
		if session, err = a.session(conn, w); err == nil {
			w.passing.Store(true)
			return &handshake.Conn{Conn: conn, Session: session}, nil
		}
	}
	_ = conn.Close()
	_ = w.PacketConn.Close()
	return nil, fmt.Errorf("handshake with %v: %w", w.peer, a.classify(err, w))
}

// finished reports whether a handshake was complete in spite of its error: pion
// returns the peer's close_notify instead of success if it follows at once. The
// peer that sent it has its Session, so this side has one, too. That a state can
// be marshalled is how pion tells that it is complete.
func finished(conn *dtls.Conn) bool {
	state, ok := conn.ConnectionState()
	if !ok {
		return false
	}
	_, err := state.MarshalBinary()
	return err == nil
}

// session checks what holds after the handshake.
func (a *attempt) session(conn *dtls.Conn, w *wire) (*muster.Session, error) {
	state, ok := conn.ConnectionState()
	h, heard := w.hello()
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case !ok:
		return nil, muster.Refuse(muster.CodeHandshakeFailed, "the connection has no state")
	case !heard || !h.extended:
		return nil, muster.Refuse(muster.CodeNoExtendedMasterSecret, "the peer's hello has no Extended Master Secret")
	case a.absent != nil:
		return nil, a.absent
	case !a.verified:
		return nil, muster.Refuse(muster.CodeNoCertificate, "the peer was not verified")
	case !a.config.usesPSK() && !a.shown:
		return nil, muster.Refuse(muster.CodeHandshakeFailed, "the peer did not ask for a certificate")
	}
	return muster.NewSession(a.peer, state.ExportKeyingMaterial), nil
}

// The causes of contexts that a server has ended before their time.
var (
	errEarly    = errors.New("the client did not return with the cookie")
	errUnproved = errors.New("the client did not prove that it has the key")
)

// classify turns the error of a failed handshake into one that has a Refusal. A
// finding of our own goes first, since it is the cause of what followed. The
// choice between the remaining codes affects no decision.
func (a *attempt) classify(err error, w *wire) error {
	a.mu.Lock()
	reason, absent := a.refusal, a.absent
	a.mu.Unlock()
	if reason == nil {
		reason = absent
	}
	h, heard := w.hello()
	var alert interface{ IsFatalOrCloseNotify() bool } // pion's error for a received alert
	switch {
	case reason != nil && muster.CodeOf(reason) != "":
		return reason
	case reason != nil:
		return muster.Refuse(muster.CodeHandshakeFailed, "%w", reason)
	case muster.CodeOf(err) != "":
		return err
	case errors.As(err, &alert):
		return muster.Refuse(muster.CodePeerAlert, "%w", err)
	case heard && h.version != version12, w.lastAlert() == byte(handshake.AlertProtocolVersion):
		return muster.Refuse(muster.CodeProtocolVersion, "%w", err)
	case heard && !h.extended:
		return muster.Refuse(muster.CodeNoExtendedMasterSecret, "%w", err)
	case w.lastAlert() == alertNoCert:
		return muster.Refuse(muster.CodeNoCertificate, "%w", err)
	case errors.Is(err, syscall.ECONNREFUSED): // a connected socket's peer has no such port
		return muster.Refuse(muster.CodeUnreachable, "%w", err)
	case a.ctx.Err() != nil && !errors.Is(a.ctx.Err(), context.Canceled), context.Cause(a.ctx) == errEarly, context.Cause(a.ctx) == errUnproved:
		return muster.Refuse(muster.CodeHandshakeTimeout, "%w", context.Cause(a.ctx))
	default:
		return muster.Refuse(muster.CodeHandshakeFailed, "%w", err)
	}
}

// newWire returns the wire of an attempt with peer. Its fields end up in pion.
func (a *attempt) newWire(conn net.PacketConn, peer net.Addr, awaited byte) *wire {
	return &wire{PacketConn: conn, peer: peer, attempt: a, greeting: assembly{kind: awaited}}
}

package handshake

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"muster"
)

// extendedMasterSecret is the extension's number (RFC 7627 5.1).
const extendedMasterSecret = 23

// An attempt is one handshake: what its callbacks found, for the alert and for
// the error.
type attempt struct {
	verify func(chain []*x509.Certificate, staple []byte) (muster.Peer, error)
	client bool

	mu       sync.Mutex
	refusal  error // guarded by mu; the first reason to refuse
	peer     muster.Peer
	verified bool
	shown    bool // our certificate was asked for
}

func unstapled(verify Verify) func([]*x509.Certificate, []byte) (muster.Peer, error) {
	return func(chain []*x509.Certificate, _ []byte) (muster.Peer, error) { return verify(chain) }
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

// verifyPeerCertificate applies the caps. crypto/tls calls it before
// verifyConnection, with at least one certificate and no chain built.
func (a *attempt) verifyPeerCertificate(raw [][]byte, _ [][]*x509.Certificate) error {
	if err := checkChain(raw); err != nil {
		return a.refuse(err)
	}
	return nil
}

// verifyConnection asks Verify. It must not export: at this point crypto/tls has
// not recorded yet whether the master secret is an extended one.
func (a *attempt) verifyConnection(state tls.ConnectionState) error {
	switch {
	case state.DidResume:
		return a.refuse(muster.Refuse(muster.CodeResumption, "the peer resumes a session"))
	case len(state.PeerCertificates) == 0:
		return a.refuse(muster.Refuse(muster.CodeNoCertificate, "the peer presented no certificate"))
	}
	peer, err := a.verify(state.PeerCertificates, state.OCSPResponse)
	if err != nil {
		return a.refuse(err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.peer, a.verified = peer, true
	return nil
}

// identity returns our certificate when the handshake needs it.
func (a *attempt) identity(get func() (*tls.Certificate, error)) (*tls.Certificate, error) {
	certificate, err := get()
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

// run brings conn through its handshake, or refuses it: then it tells the peer
// why, closes the connection and returns an error with a Refusal in its tree.
func (a *attempt) run(ctx context.Context, timeout time.Duration, raw net.Conn, engine func(net.Conn, *tls.Config) *tls.Conn, config *tls.Config) (*Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	config.VerifyPeerCertificate = a.verifyPeerCertificate
	config.VerifyConnection = a.verifyConnection
	wire := &alertConn{Conn: raw, attempt: a}
	conn := engine(wire, config)
	err := conn.HandshakeContext(ctx)
	if err == nil {
		var session *muster.Session
		if session, err = a.session(conn); err == nil {
			wire.pass()
			return &Conn{Conn: conn, Session: session, Protocol: conn.ConnectionState().NegotiatedProtocol}, nil
		}
	}
	linger(ctx, raw)
	return nil, fmt.Errorf("handshake with %v: %w", raw.RemoteAddr(), a.classify(err, wire.sent()))
}

// session checks what can be known only after the handshake.
func (a *attempt) session(conn *tls.Conn) (*muster.Session, error) {
	state := conn.ConnectionState()
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case state.Version != tls.VersionTLS12:
		return nil, muster.Refuse(muster.CodeProtocolVersion, "the version is %s", tls.VersionName(state.Version))
	case state.DidResume:
		return nil, muster.Refuse(muster.CodeResumption, "the session was resumed")
	case !a.verified:
		return nil, muster.Refuse(muster.CodeNoCertificate, "the peer was not verified")
	case !a.shown:
		return nil, muster.Refuse(muster.CodeHandshakeFailed, "the peer did not ask for a certificate")
	}
	session := muster.NewSession(a.peer, state.ExportKeyingMaterial)
	// At TLS 1.2 crypto/tls exports from an extended master secret only.
	if _, err := session.Binding(); err != nil {
		return nil, muster.Refuse(muster.CodeNoExtendedMasterSecret, "the session exports nothing: %w", err)
	}
	return session, nil
}

// classify turns the error of a failed handshake into one that has a Refusal. A
// finding of our own goes first, since it is the cause of what followed. The
// choice between the remaining codes affects no decision.
func (a *attempt) classify(err error, sent tls.AlertError) error {
	reason := a.reason()
	var network *net.OpError
	switch {
	case reason != nil && muster.CodeOf(reason) != "":
		return reason
	case reason != nil:
		return muster.Refuse(muster.CodeHandshakeFailed, "%w", reason)
	case muster.CodeOf(err) != "":
		return err
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return muster.Refuse(muster.CodeHandshakeTimeout, "%w", err)
	case errors.As(err, &network) && network.Op == "remote error":
		return muster.Refuse(muster.CodePeerAlert, "%w", err)
	case sent == AlertProtocolVersion:
		return muster.Refuse(muster.CodeProtocolVersion, "%w", err)
	case strings.Contains(err.Error(), "didn't provide a certificate"):
		return muster.Refuse(muster.CodeNoCertificate, "%w", err)
	case a.client && CutOff(err):
		return muster.Refuse(muster.CodeUnreachable, "%w", err)
	default:
		return muster.Refuse(muster.CodeHandshakeFailed, "%w", err)
	}
}

// Package handshake brings connections to the state that the procedures need: a
// (D)TLS 1.2 session after a full handshake with the Extended Master Secret, both
// sides authenticated, expressed as a muster.Session.
//
// This package speaks TLS over any net.Conn with certificates. Package dtls12
// does the same over datagrams, with certificates or a pre-shared key, and
// package tlspsk over streams with a pre-shared key.
package handshake

import (
	"context"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"syscall"

	"muster"
)

// A Conn is a connection after its handshake.
type Conn struct {
	net.Conn
	Session *muster.Session
	// Protocol is the application protocol that both sides agreed on by ALPN,
	// and "" if they did not speak of one.
	Protocol string
}

// Verify judges the certificates that a peer presented, leaf first, and returns
// who the peer is. Its error aborts the handshake; a muster.Refusal in it chooses
// the alert. It is called once in a handshake, perhaps from another goroutine,
// and before the peer has proved that it holds the leaf's key.
type Verify func(chain []*x509.Certificate) (muster.Peer, error)

// PSK returns the pre-shared key for a psk_identity. On an error the handshake
// goes on with a random key, so that the peer cannot tell an identity that is
// unknown from a key that is wrong. The context ends with the handshake.
type PSK func(ctx context.Context, identity string) (key []byte, err error)

// A Stage is how far a server's handshake has come that asks for a turn to compute.
type Stage int

// The stages of a handshake.
const (
	// Unproved is before the client has proved its address, where that is asked
	// for. What there is to compute is a small part of a handshake.
	Unproved Stage = iota
	// Newcomer is before the first asymmetric operation, or the search for a
	// pre-shared key.
	Newcomer
	// Begun is after that.
	Begun
)

// CutOff reports whether err is that a stream ended without a word. A server with
// no capacity for a handshake ends it so: to a client it is no refusal.
func CutOff(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

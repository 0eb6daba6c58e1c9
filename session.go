package muster

import (
	"errors"
	"fmt"
	"sync"
)

// ErrExported is returned by Session.Export for a label that the session has
// exported before.
var ErrExported = errors.New("the session has exported this label already")

// An Exporter is the keying material exporter of RFC 5705. crypto/tls and
// pion/dtls both have it with this signature. A nil context means no context.
type Exporter func(label string, context []byte, length int) ([]byte, error)

// A Peer is the authenticated other side of a Session.
type Peer struct {
	// Name is the name in the peer's certificate that was looked for and found,
	// and is zero for a peer that authenticated with a pre-shared key.
	Name CertName
	// Anchor is the digest of the SubjectPublicKeyInfo of the trust anchor at
	// which the peer's chain ended.
	Anchor Digest
	// Certificate is the digest of the peer's certificate.
	Certificate Digest
	// PSKIdentity is the psk_identity of a peer that authenticated with a
	// pre-shared key. It is empty for a peer with a certificate.
	PSKIdentity string
}

// A Session is all that the procedures know of a transport: who is at the other
// end, and an exporter. Whoever makes one vouches that it is (D)TLS 1.2 after a
// full handshake, neither resumed nor renegotiated, with the Extended Master
// Secret of RFC 7627, and that both sides have authenticated each other. A
// Session may be used by several goroutines.
type Session struct {
	Peer Peer

	export Exporter
	mu     sync.Mutex
	used   map[string]bool // guarded by mu
}

// NewSession returns a Session of a peer whose secrets export reaches.
func NewSession(peer Peer, export Exporter) *Session {
	return &Session{Peer: peer, export: export}
}

// Decorate has every export pass through the result of wrap. It must be called
// before another goroutine uses the Session.
func (s *Session) Decorate(wrap func(Exporter) Exporter) { s.export = wrap(s.export) }

// Export returns length octets for a label, once: a second call with the same
// label returns ErrExported, whether or not the first one succeeded, so that one
// session never yields two records of one key.
func (s *Session) Export(label string, context []byte, length int) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.used[label] {
		return nil, fmt.Errorf("%w: %s", ErrExported, label)
	}
	if s.used == nil {
		s.used = make(map[string]bool)
	}
	s.used[label] = true
	return s.export(label, context, length)
}

// labelBinding is for private use as RFC 5705 section 4 provides.
const labelBinding = "EXPERIMENTAL-Muster-Session-Binding"

// Binding returns a digest that is not secret and differs between any two
// sessions, and between two certificates or psk_identities in one. A store compares it to tell a
// repeated request from a second use of a KeID.
func (s *Session) Binding() (Digest, error) {
	octets, err := s.export(labelBinding, nil, KeySize)
	if err != nil {
		return Digest{}, err
	}
	octets = append(octets, s.Peer.Certificate[:]...)
	return DigestOf(append(octets, s.Peer.PSKIdentity...)), nil
}

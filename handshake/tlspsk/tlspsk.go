// Package tlspsk is TLS 1.2 with plain pre-shared keys over streams, client and
// server: the suites of RFC 4279 that TS-0003 10.2.1 asks for and that crypto/tls
// lacks. It is deliberately small: one version, two cipher suites, one key
// exchange, SHA-256 throughout, no resumption, no renegotiation, no compression,
// no tickets. The Extended Master Secret is required of every peer, and
// renegotiation_info of every server.
//
// The protocol itself is a state machine without input or output (machine), under
// which lie the record layer (incoming, outgoing) and its protection (gcm, cbc).
// Client and Server put it on a net.Conn.
//
// Plain PSK has no forward secrecy: whoever learns a key can read the sessions
// recorded before, and derive what was exported from them.
package tlspsk

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"time"
	"unicode/utf8"

	"muster"
	"muster/handshake"
)

// A Suite is a cipher suite, by its number and name at IANA.
type Suite uint16

// The cipher suites. CBC is the one that TS-0003 10.2.1 makes mandatory; GCM
// (RFC 5487) is the better one.
const (
	TLS_PSK_WITH_AES_128_GCM_SHA256 Suite = 0x00a8
	TLS_PSK_WITH_AES_128_CBC_SHA256 Suite = 0x00ae
)

// String returns the suite's name at IANA, or its number.
func (s Suite) String() string {
	switch s {
	case TLS_PSK_WITH_AES_128_GCM_SHA256:
		return "TLS_PSK_WITH_AES_128_GCM_SHA256"
	case TLS_PSK_WITH_AES_128_CBC_SHA256:
		return "TLS_PSK_WITH_AES_128_CBC_SHA256"
	}
	return fmt.Sprintf("suite %#04x", uint16(s))
}

// Sizes of a key in octets. A shorter one invites search, since a recorded
// handshake lets anyone test guesses (RFC 4279 section 7.2); RFC 4279 section 5.3
// asks for the upper bound.
const (
	minKey = 16
	maxKey = 64
)

// DefaultTimeout bounds a handshake, and with it the search for the key, unless
// Config.Timeout says otherwise.
const DefaultTimeout = 10 * time.Second

// A Config tells a Server or a Client how to behave.
type Config struct {
	// Name is the server's name: a client sends it as server_name, and a server
	// refuses a client that asks for another or for none.
	Name muster.FQDN

	// PSK finds the key of a client; for a Server. It may be called by several
	// goroutines at once. Keys have 16 to 64 octets. All keys of one server should
	// have the size of a muster key, as has the random key that stands in for one
	// that is not found: the size of a key shows in the time it takes to hash it.
	PSK handshake.PSK

	// PSKIdentity is what a Client calls its key: UTF-8 of 1 to
	// muster.MaxPSKIdentity octets.
	PSKIdentity string
	// Key is the pre-shared key of a Client: 16 to 64 octets.
	Key []byte

	// Suites are what is offered or accepted, the preferred first. Empty means
	// GCM, then CBC.
	Suites []Suite
	// RefuseMACThenEncrypt refuses the CBC suite with a peer that has no
	// encrypt_then_mac (RFC 7366). Otherwise such records are opened in time that
	// does not depend on their padding.
	RefuseMACThenEncrypt bool

	// RefusalTime is the least time, from the client's psk_identity on, after which
	// a Server ends a handshake that fails, so that the time that PSK takes for an
	// identity does not show. It should be the longest that PSK may take.
	RefusalTime time.Duration
	// Idle, if set, is called when a Server begins to wait until then. The context is
	// that of the handshake.
	Idle func(ctx context.Context)

	// Timeout bounds a handshake. Zero means DefaultTimeout.
	Timeout time.Duration
	// Rand is the source of randomness. Nil means crypto/rand. It is used by
	// several goroutines at once.
	Rand io.Reader
}

// complete returns a copy with the defaults filled in.
func (c Config) complete() (*Config, error) {
	if c.Name.IsZero() {
		return nil, errors.New("tlspsk: a configuration without a name")
	}
	if len(c.Suites) == 0 {
		c.Suites = []Suite{TLS_PSK_WITH_AES_128_GCM_SHA256, TLS_PSK_WITH_AES_128_CBC_SHA256}
	}
	c.Suites = slices.Clone(c.Suites)
	for _, s := range c.Suites {
		if s != TLS_PSK_WITH_AES_128_GCM_SHA256 && s != TLS_PSK_WITH_AES_128_CBC_SHA256 {
			return nil, fmt.Errorf("tlspsk: %v is not implemented", s)
		}
	}
	if c.Timeout < 0 || c.RefusalTime < 0 {
		return nil, fmt.Errorf("tlspsk: a timeout of %v or a refusal time of %v", c.Timeout, c.RefusalTime)
	}
	if c.Timeout == 0 {
		c.Timeout = DefaultTimeout
	}
	if c.Rand == nil {
		c.Rand = rand.Reader
	}
	return &c, nil
}

// Format writes the parts of a configuration that are no secret, for every verb.
func (c Config) Format(f fmt.State, _ rune) {
	_, _ = fmt.Fprintf(f, "{%v %q %v}", c.Name, c.PSKIdentity, c.Suites)
}

// A Server accepts the handshakes of clients. It may be used by several
// goroutines.
type Server struct {
	fresh  func() *machine
	suites []Suite
}

// NewServer returns a Server. The configuration needs Name and PSK.
func NewServer(config Config) (*Server, error) {
	if config.PSK == nil {
		return nil, errors.New("tlspsk: a server's configuration without PSK")
	}
	c, err := config.complete()
	if err != nil {
		return nil, err
	}
	return &Server{func() *machine { return newMachine(c, false) }, c.Suites}, nil
}

// Accepts reports whether one of the suites that a client offers is one of the
// Server's. A client that offers a suite with a pre-shared key has a key: this is
// how a port is shared with certificates.
func (s *Server) Accepts(offered []uint16) bool {
	return slices.ContainsFunc(s.suites, func(suite Suite) bool { return slices.Contains(offered, uint16(suite)) })
}

// Handshake takes the server's part on a fresh connection and returns when both
// sides have proved that they hold the key. The Session's Peer has the client's
// psk_identity. On an error the connection has been closed, after an alert if one
// was due; the error wraps a muster.Refusal, and ctx's error if that ended it.
// Deadlines of the connection are used and then cleared; an alert that the peer
// does not take may hold Handshake up for 5 s more than its time. A key that is
// not found has the code of the error of Config.PSK, or muster.CodeKeyUnknown,
// while the client sees bad_record_mac as for a wrong key.
func (s *Server) Handshake(ctx context.Context, conn net.Conn) (*handshake.Conn, error) {
	return establish(ctx, conn, s.fresh())
}

// A Client makes handshakes with a server. It may be used by several goroutines.
// It keeps its key in a function, where no format verb finds it.
type Client struct{ fresh func() *machine }

// NewClient returns a Client. The configuration needs Name, PSKIdentity and Key,
// of which a copy is kept.
func NewClient(config Config) (*Client, error) {
	if n := len(config.Key); n < minKey || n > maxKey {
		return nil, fmt.Errorf("tlspsk: a key of %d octets, not %d to %d", n, minKey, maxKey)
	}
	id := config.PSKIdentity
	if id == "" || len(id) > muster.MaxPSKIdentity || !utf8.ValidString(id) {
		return nil, fmt.Errorf("tlspsk: the psk_identity %q is not UTF-8 of 1 to %d octets", id, muster.MaxPSKIdentity)
	}
	config.Key = bytes.Clone(config.Key)
	c, err := config.complete()
	if err != nil {
		return nil, err
	}
	return &Client{func() *machine { return newMachine(c, true) }}, nil
}

// Handshake takes the client's part on a fresh connection and returns when both
// sides have proved that they hold the key. The Session's Peer has the client's
// own psk_identity, which is what names the key that the server has proved to
// hold. Errors are as for a Server.
func (c *Client) Handshake(ctx context.Context, conn net.Conn) (*handshake.Conn, error) {
	return establish(ctx, conn, c.fresh())
}

// Package dtls12 brings datagrams to a muster.Session: DTLS 1.2 with certificates
// on both sides or with a pre-shared key, and a listener that gives every remote
// address a net.PacketConn of its own over one UDP socket.
//
// # The end of a handshake under loss
//
// The server sends the last flight. It has its Session when the client's Finished
// has arrived; the client has one when the server's Finished has arrived. If that
// flight is lost, the client repeats its own, and the server's Conn answers in the
// background for as long as it is open and its received data is read. So a server
// keeps a Conn open for some seconds even if it has nothing to say. If it closes
// earlier, the client fails with a timeout and has no Session; the server's record
// of the key then stays unused, and the client begins again. Two Sessions never
// come out of one handshake with different secrets: each Finished covers all
// messages before it and the master secret.
package dtls12

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"time"

	"github.com/pion/dtls/v3"
	"github.com/pion/dtls/v3/pkg/crypto/elliptic"
	"github.com/pion/logging"

	"muster"
	"muster/handshake"
)

// Defaults and bounds of a Config.
const (
	DefaultMTU            = 1024 // octets in a datagram
	MinMTU                = 256  // octets in a datagram
	DefaultFlightInterval = time.Second
	DefaultCookieTimeout  = 3 * time.Second
	minKey                = 16 // octets
)

// A Config is what a Server or a Client needs: certificates (Identity and Verify)
// or a pre-shared key (PSK on a server, PSKIdentity and PSKKey on a client). A
// Server may have both; then a client whose first hello offers a suite with a
// pre-shared key is served by it, and every other one by certificates. Config is
// not modified.
type Config struct {
	// Name is the server's FQDN: a client sends it in server_name, and a server
	// accepts no other there (TS-0003 10.2).
	Name muster.FQDN
	// Identity returns this side's certificate chain and key. It is called in
	// every handshake, by several goroutines at once, so that an identity can be
	// replaced while connections are open.
	Identity func() (*tls.Certificate, error)
	// Verify judges the peer's chain.
	Verify handshake.Verify
	// PSK finds a server's key for a psk_identity.
	PSK handshake.PSK
	// PSKIdentity is the psk_identity that a client sends, at most
	// muster.MaxPSKIdentity octets.
	PSKIdentity string
	// PSKKey reveals a client's key of at least 16 octets. It is called once in a
	// handshake; Km.Reveal has this form.
	PSKKey func() []byte
	// Timeout bounds the whole handshake. Zero means handshake.DefaultTimeout.
	Timeout time.Duration
	// CookieTimeout bounds the time in which a client has to return with the
	// cookie, which proves its address. Zero means DefaultCookieTimeout. Where a
	// server uses PSK it also is the time in which a client has to prove its key:
	// a record under a wrong key is dropped as if it were forged, so the handshake
	// would stay half open until Timeout.
	CookieTimeout time.Duration
	// LookupTime is the longest that a server's PSK may take. The time to prove the
	// key begins when it is over, whatever PSK took: else the end of the handshake
	// would tell which identities are known.
	LookupTime time.Duration
	// Turn, if set, is called before a server computes what costs: once at each
	// handshake.Stage, before it answers a first hello, before its first asymmetric
	// operation, or its search for a key, and before it judges the peer's chain. It may
	// wait. It returns what ends the turn, or the reason to give the handshake up; a
	// temporary one is kept from the peer, who is to come back when its handshake has
	// timed out. The context is that of the handshake.
	Turn func(ctx context.Context, at handshake.Stage) (leave func(), err error)
	// FlightInterval is the first interval after which a lost flight is repeated;
	// it doubles from there. Zero means DefaultFlightInterval.
	FlightInterval time.Duration
	// MTU is the largest datagram in octets that the handshake sends, from MinMTU
	// to DefaultMTU. Zero means DefaultMTU. Application data is not fragmented.
	MTU int
	// SNIOptional lets a server accept a ClientHello without server_name. A
	// server_name that is present has to match in any case.
	SNIOptional bool
}

func (c Config) check() error {
	switch {
	case c.Name.IsZero():
		return errors.New("dtls12: no server name")
	case c.Timeout < 0 || c.CookieTimeout < 0 || c.LookupTime < 0 || c.FlightInterval < 0:
		return errors.New("dtls12: negative duration")
	case c.MTU != 0 && (c.MTU < MinMTU || c.MTU > DefaultMTU):
		return errors.New("dtls12: the MTU is not from 256 to 1024 octets")
	case (c.Identity == nil) != (c.Verify == nil):
		return errors.New("dtls12: certificates need an identity and a verification of the peer")
	case !c.usesPSK() && !c.usesCertificates():
		return errors.New("dtls12: neither certificates nor a pre-shared key")
	}
	return nil
}

func (c Config) usesCertificates() bool { return c.Identity != nil }

func (c Config) usesPSK() bool {
	return c.PSK != nil || c.PSKKey != nil || c.PSKIdentity != ""
}

func (c Config) timeout() time.Duration { return cmp.Or(c.Timeout, handshake.DefaultTimeout) }

func (c Config) cookieTimeout() time.Duration {
	return cmp.Or(c.CookieTimeout, DefaultCookieTimeout)
}

// fragmentOverhead is what pion adds to a fragment beyond its MTU: the headers
// of a record and of a handshake message (RFC 6347 4.1, 4.2.2).
const fragmentOverhead = 13 + 12

var pskSuites = [...]dtls.CipherSuiteID{
	dtls.TLS_PSK_WITH_AES_128_CCM,
	dtls.TLS_PSK_WITH_AES_128_GCM_SHA256,
	dtls.TLS_PSK_WITH_AES_128_CCM_8,
}

// profile returns what TS-0003 10.2 and the decisions about it fix for both sides.
// pion keeps no sessions without a store, so nothing is resumed.
func (c Config) profile() []dtls.Option {
	suites := []dtls.CipherSuiteID{
		dtls.TLS_ECDHE_ECDSA_WITH_AES_128_CCM,
		dtls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
		dtls.TLS_ECDHE_ECDSA_WITH_AES_128_CCM_8,
	}
	if c.usesPSK() {
		suites = pskSuites[:]
	}
	return []dtls.Option{
		dtls.WithCipherSuites(suites...),
		dtls.WithEllipticCurves(elliptic.P256, elliptic.X25519),
		dtls.WithExtendedMasterSecret(dtls.RequireExtendedMasterSecret),
		dtls.WithServerName(c.Name.String()),
		dtls.WithMTU(cmp.Or(c.MTU, DefaultMTU) - fragmentOverhead),
		dtls.WithFlightInterval(cmp.Or(c.FlightInterval, DefaultFlightInterval)),
		// The library's default logger obeys the environment, and its trace tells
		// more than a log may know.
		dtls.WithLoggerFactory(&logging.DefaultLoggerFactory{Writer: io.Discard, DefaultLogLevel: logging.LogLevelDisabled}),
	}
}

package handshake

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"slices"
	"time"

	"muster"
)

// DefaultTimeout bounds a handshake whose Config names no Timeout.
const DefaultTimeout = 10 * time.Second

// A Config is what a Server or a Client needs. It is not modified.
type Config struct {
	// Name is the server's FQDN: a client sends it in server_name, and a server
	// accepts no other there (TS-0003 10.2).
	Name muster.FQDN
	// Identity returns this side's certificate chain and key. It is called in
	// every handshake, by several goroutines at once, so that an identity can be
	// replaced while connections are open.
	Identity func() (*tls.Certificate, error)
	// Verify judges the peer's chain.
	Verify Verify
	// VerifyStapled, if a Client has it, judges in place of Verify and also gets
	// the OCSP response in DER that the server stapled (RFC 6066 8), which is nil
	// without one. A Server staples what its Identity has as OCSPStaple.
	VerifyStapled func(chain []*x509.Certificate, staple []byte) (muster.Peer, error)
	// Timeout bounds the whole handshake. Zero means DefaultTimeout.
	Timeout time.Duration
	// SNIOptional lets a server accept a ClientHello without server_name. A
	// server_name that is present has to match in any case.
	SNIOptional bool
	// NoCBC takes TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256 away, which clause
	// 10.2 makes mandatory and which has no defence against the timing of
	// padding in crypto/tls. With it, it is the last choice.
	NoCBC bool
	// Protocols are the application protocols to agree on by ALPN (RFC 7301), the
	// preferred first. A server refuses a client that offers only others; a client
	// that offers none is always served.
	Protocols []string
}

// The application protocols that the bindings speak over TLS.
const (
	ProtocolHTTP1 = "http/1.1"
	ProtocolHTTP2 = "h2"
)

// allowed returns the protocols that may be spoken over one of some suites: HTTP/2
// forbids all but authenticated encryption (RFC 9113 9.2.2), which crypto/tls
// prefers whenever both sides have it.
func (c Config) allowed(suites []uint16) []string {
	if slices.Contains(suites, tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256) {
		return c.Protocols
	}
	return slices.DeleteFunc(slices.Clone(c.Protocols), func(p string) bool { return p == ProtocolHTTP2 })
}

func (c Config) check() error {
	switch {
	case c.Name.IsZero():
		return errors.New("handshake: no server name")
	case c.Identity == nil:
		return errors.New("handshake: no identity")
	case c.Verify == nil && c.VerifyStapled == nil:
		return errors.New("handshake: no verification of the peer")
	case c.Timeout < 0:
		return errors.New("handshake: negative timeout")
	}
	return nil
}

func (c Config) timeout() time.Duration { return cmp.Or(c.Timeout, DefaultTimeout) }

// profile returns what TS-0003 10.2 and the decisions about it fix for both
// sides: one version, few suites, two groups, no way around a full handshake.
func (c Config) profile() *tls.Config {
	suites := []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256}
	if !c.NoCBC {
		suites = append(suites, tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256)
	}
	return &tls.Config{
		MinVersion:             tls.VersionTLS12,
		MaxVersion:             tls.VersionTLS12,
		CipherSuites:           suites,
		CurvePreferences:       []tls.CurveID{tls.CurveP256, tls.X25519},
		SessionTicketsDisabled: true,
		Renegotiation:          tls.RenegotiateNever,
		NextProtos:             c.Protocols,
	}
}

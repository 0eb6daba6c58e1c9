package main

import (
	"context"
	"net"
	"time"

	"muster"
	"muster/handshake"
	"muster/handshake/tlspsk"
)

// A streamServer brings an accepted stream through its handshake.
type streamServer interface {
	Handshake(ctx context.Context, conn net.Conn) (*handshake.Conn, error)
}

// newStreamServer returns the server for the credentials that a role knows. Its
// handshakes go through the turnstile.
func newStreamServer(name muster.FQDN, limits handshakeConfig, identity identitySource, r role, turns *turnstile) (streamServer, error) {
	port := &sharedPort{timeout: limits.Timeout}
	if r.psk != nil {
		keys, err := tlspsk.NewServer(tlspsk.Config{
			Name: name, PSK: r.psk, Suites: limits.pskSuites(), RefuseMACThenEncrypt: limits.RefuseMACThenEncrypt,
			RefusalTime: r.pskTime, Idle: endTurn, Timeout: limits.Timeout,
		})
		if err != nil {
			return nil, err
		}
		port.accepts, port.psk = keys.Accepts, pacedServer{keys, turns}
		if r.verify == nil {
			return port.psk, nil
		}
	}
	certificates, err := handshake.NewServer(handshake.Config{
		Name: name, Identity: identity, Verify: r.verifyNow,
		Timeout: limits.Timeout, SNIOptional: limits.ServerNameOptional, NoCBC: limits.NoCBC,
		Protocols: []string{handshake.ProtocolHTTP2, handshake.ProtocolHTTP1},
	})
	if err != nil {
		return nil, err
	}
	port.certificates = pacedServer{certificates, turns}
	if port.psk == nil {
		return port.certificates, nil
	}
	return port, nil
}

// A sharedPort serves certificates and pre-shared keys on one port. A client that
// offers a suite with a pre-shared key has such a key, and gets that server; every
// other one gets that for certificates, which refuses what it does not understand.
type sharedPort struct {
	certificates streamServer
	psk          streamServer
	accepts      func(suites []uint16) bool // whether they lead to psk
	timeout      time.Duration              // of the first hello and the handshake together
}

// Handshake implements streamServer.
func (p *sharedPort) Handshake(ctx context.Context, conn net.Conn) (*handshake.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	whole, suites, err := handshake.Peek(ctx, conn)
	if err != nil {
		return nil, err
	}
	if p.accepts(suites) {
		return p.psk.Handshake(ctx, whole)
	}
	return p.certificates.Handshake(ctx, whole)
}

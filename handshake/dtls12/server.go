package dtls12

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/pion/dtls/v3"

	"muster"
	"muster/handshake"
)

// A Server brings accepted associations through the handshake, with certificates
// or with pre-shared keys (TS-0003 8.3.5.2.2, 10.2.2). It may be used by several
// goroutines.
type Server struct{ config Config }

// NewServer returns a Server. It fails if config is incomplete or contradicts
// itself.
func NewServer(config Config) (*Server, error) {
	if err := config.check(); err != nil {
		return nil, err
	}
	if config.usesPSK() && (config.PSK == nil || config.PSKKey != nil || config.PSKIdentity != "") {
		return nil, errors.New("dtls12: a server has a PSK function and no key of its own")
	}
	return &Server{config}, nil
}

// Handshake returns conn after its handshake with the client at peer. On failure
// it closes conn, after the fitting alert, and the error has a muster.Refusal in
// its tree. The handshake is bounded by ctx and by the Config's Timeout and
// CookieTimeout; afterwards ctx has no effect. It returns only after Verify or
// PSK has returned, if they have been called.
func (s *Server) Handshake(ctx context.Context, conn net.PacketConn, peer net.Addr) (*handshake.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, s.config.timeout())
	defer cancel()
	ctx, abandon := context.WithCancelCause(ctx)
	defer abandon(nil)
	cookie := time.AfterFunc(s.config.cookieTimeout(), func() { abandon(errEarly) })
	defer cookie.Stop()

	a := &attempt{config: s.config, ctx: ctx, abandon: abandon}
	w := a.newWire(conn, peer, typeClientHello)
	w.returned = func() {
		cookie.Stop()
		if remote, ok := conn.(*remote); ok {
			remote.prove()
		}
	}
	if err := a.begin(w); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("handshake with %v: %w", peer, a.classify(err, w))
	}
	cookie.Reset(s.config.cookieTimeout())
	engine, err := dtls.ServerWithOptions(w, peer, options(a, w)...)
	if err != nil {
		a.pause()
		_ = conn.Close()
		return nil, muster.Refuse(muster.CodeHandshakeFailed, "%w", err)
	}
	done, err := a.run(w, engine)
	if remote, ok := conn.(*remote); ok && err == nil {
		remote.establish()
	}
	return done, err
}

// begin waits for the client's first hello, leaves an attempt with both kinds of
// credentials the kind that it asks for, and waits for the turn to answer: what pion
// makes of a hello is the dearest thing that a forged one can have.
func (a *attempt) begin(w *wire) error {
	h, err := w.await(a.ctx)
	if err != nil {
		return err
	}
	if a.config.usesPSK() && a.config.usesCertificates() {
		if h.psk {
			a.config.Identity, a.config.Verify = nil, nil
		} else {
			a.config.PSK = nil
		}
	}
	if remote, ok := w.PacketConn.(*remote); ok {
		remote.hold()
		defer remote.release()
	}
	return a.enter(handshake.Unproved)
}

func options(a *attempt, w *wire) []dtls.ServerOption {
	var options []dtls.ServerOption
	for _, option := range a.config.profile() {
		options = append(options, option)
	}
	if a.config.usesPSK() {
		return append(options, dtls.WithPSK(func(identity []byte) ([]byte, error) {
			if err := a.examine(w); err != nil {
				return nil, a.refuse(err)
			}
			if err := a.enter(handshake.Newcomer); err != nil {
				return nil, err
			}
			proof := time.AfterFunc(a.config.LookupTime+a.config.cookieTimeout(), func() { a.abandon(errUnproved) })
			context.AfterFunc(a.ctx, func() { proof.Stop() })
			defer a.pause() // without a Finished of the client's, nothing is sent that ends it
			return a.serverKey(identity)
		}))
	}
	return append(options,
		dtls.WithClientAuth(dtls.RequireAnyClientCert),
		dtls.WithVerifyPeerCertificate(a.verifyPeerCertificate),
		dtls.WithGetCertificate(func(*dtls.ClientHelloInfo) (*tls.Certificate, error) {
			if err := a.examine(w); err != nil {
				return nil, a.refuse(err)
			}
			if err := a.enter(handshake.Newcomer); err != nil {
				return nil, err
			}
			return a.identity()
		}))
}

// examine refuses a ClientHello before this side spends a signature or a look-up
// on it.
func (a *attempt) examine(w *wire) error {
	h, heard := w.hello()
	switch {
	case !heard:
		return fmt.Errorf("the ClientHello is larger than %d octets", maxHello)
	case !h.extended:
		return muster.Refuse(muster.CodeNoExtendedMasterSecret, "the client does not offer the Extended Master Secret")
	case h.serverName == "" && !a.config.SNIOptional:
		return muster.Refuse(muster.CodeServerName, "the client names no server")
	case h.serverName != "" && !handshake.SameName(h.serverName, a.config.Name):
		return muster.Refuse(muster.CodeServerName, "the client asks for %q, not %s", h.serverName, a.config.Name)
	}
	return nil
}

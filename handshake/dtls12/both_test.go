package dtls12_test

import (
	"bytes"
	"context"
	"testing"
	"time"

	"muster"
	"muster/handshake/dtls12"
	"muster/mustertest"
)

// TestServerWithBothCredentials has one server for certificates and pre-shared
// keys, and clients of either kind, over good paths and bad ones.
func TestServerWithBothCredentials(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	keyServer, keyClient := keyConfig(t)
	both := p.config(t, serverName)
	both.PSK = keyServer.PSK
	server := newServer(t, both)
	for name, loss := range map[string]mustertest.Loss{"good": {}, "bad": {Seed: 7, Drop: 0.15, Duplicate: 0.15, Reorder: 0.3}} {
		for kind, config := range map[string]dtls12.Config{"certificate": p.config(t, "device.example.com"), "key": keyClient} {
			config.Timeout, config.FlightInterval = patience, both.FlightInterval
			config.MTU = dtls12.MinMTU // hellos in fragments
			atServer, atClient := meet(t, server, newClient(t, config), loss)
			if a, b := export(t, atServer), export(t, atClient); !bytes.Equal(a, b) {
				t.Errorf("%s path, %s: the exports differ", name, kind)
			}
			peer := atServer.conn.Session.Peer
			if (peer.PSKIdentity == identity) != (kind == "key") || peer.Certificate.IsZero() != (kind == "key") {
				t.Errorf("%s path, %s: the server met %+v", name, kind, peer)
			}
		}
	}
}

// TestServerWithBothRefuses has clients whose credential is wrong.
func TestServerWithBothRefuses(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	keyServer, keyClient := keyConfig(t)
	both := p.config(t, serverName)
	both.PSK, both.Timeout, both.CookieTimeout = keyServer.PSK, 2*time.Second, 500*time.Millisecond
	server := newServer(t, both)

	stranger := newPKI(t).config(t, "device.example.com")
	stranger.Verify = p.Verify
	atServer, _ := meet(t, server, newClient(t, stranger), mustertest.Loss{})
	wantCode(t, atServer.err, muster.CodeAnchorMismatch)

	keyClient.PSKIdentity, keyClient.Timeout = "FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF@mef.example.com", time.Second
	atServer, _ = meet(t, server, newClient(t, keyClient), mustertest.Loss{})
	wantCode(t, atServer.err, muster.CodeKeyUnknown)

	_, far := mustertest.NewLossyPair(mustertest.Loss{})
	_, err := server.Handshake(t.Context(), far, far.LocalAddr()) // nobody says anything
	wantCode(t, err, muster.CodeHandshakeTimeout)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, far = mustertest.NewLossyPair(mustertest.Loss{})
	if _, err := server.Handshake(ctx, far, far.LocalAddr()); err == nil {
		t.Error("a handshake succeeds without time")
	}
}

func TestClientHasOneCredential(t *testing.T) {
	t.Parallel()
	_, config := keyConfig(t)
	certificates := newPKI(t).config(t, "device.example.com")
	config.Identity, config.Verify = certificates.Identity, certificates.Verify
	if _, err := dtls12.NewClient(config); err == nil {
		t.Error("a client may have two kinds of credentials")
	}
}

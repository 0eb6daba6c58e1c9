package dtls12_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"net"
	"testing"
	"time"

	"muster"
	"muster/handshake"
	"muster/handshake/dtls12"
	"muster/mustertest"
)

const (
	label    = "EXPORTER-oneM2M-Bootstrap"
	exported = 48
	patience = 30 * time.Second // for what is expected to happen at once
	identity = "0123456789ABCDEF0123456789ABCDEF@mef.example.com"
)

var key = bytes.Repeat([]byte{7}, muster.KeySize)

func name(t testing.TB) muster.FQDN {
	t.Helper()
	fqdn, err := muster.ParseFQDN(serverName)
	if err != nil {
		t.Fatal(err)
	}
	return fqdn
}

// config returns a Config with an identity of p.
func (p *pki) config(t testing.TB, identity string) dtls12.Config {
	t.Helper()
	certificate := p.Issue(t, identity, 0)
	return dtls12.Config{
		Name:           name(t),
		Identity:       func() (*tls.Certificate, error) { return certificate, nil },
		Verify:         p.Verify,
		Timeout:        patience,
		CookieTimeout:  patience,
		FlightInterval: 200 * time.Millisecond,
	}
}

func newServer(t testing.TB, config dtls12.Config) *dtls12.Server {
	t.Helper()
	server, err := dtls12.NewServer(config)
	if err != nil {
		t.Fatal(err)
	}
	return server
}

func newClient(t testing.TB, config dtls12.Config) *dtls12.Client {
	t.Helper()
	client, err := dtls12.NewClient(config)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// result is the end of one side's handshake.
type result struct {
	conn *handshake.Conn
	err  error
}

// meet lets the two sides shake hands over a path.
func meet(t testing.TB, server *dtls12.Server, client *dtls12.Client, loss mustertest.Loss) (atServer, atClient result) {
	t.Helper()
	near, far := mustertest.NewLossyPair(loss)
	ended := make(chan result)
	go func() {
		conn, err := server.Handshake(t.Context(), far, near.LocalAddr())
		ended <- result{conn, err}
	}()
	conn, err := client.Handshake(t.Context(), near, far.LocalAddr())
	atClient, atServer = result{conn, err}, <-ended
	t.Cleanup(func() {
		for _, r := range []result{atServer, atClient} {
			if r.err == nil {
				_ = r.conn.Close()
			}
		}
		_, _ = near.Close(), far.Close()
	})
	return atServer, atClient
}

func export(t testing.TB, r result) []byte {
	t.Helper()
	if r.err != nil {
		t.Fatal(r.err)
	}
	octets, err := r.conn.Session.Export(label, nil, exported)
	if err != nil {
		t.Fatal(err)
	}
	return octets
}

func wantCode(t testing.TB, err error, code muster.Code) {
	t.Helper()
	if muster.CodeOf(err) != code {
		t.Errorf("the error is %v, not a refusal with code %q", err, code)
	}
}

func TestCertificates(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	atServer, atClient := meet(t, newServer(t, p.config(t, serverName)), newClient(t, p.config(t, "device.example.com")), mustertest.Loss{})
	if a, b := export(t, atServer), export(t, atClient); !bytes.Equal(a, b) || len(a) != exported {
		t.Error("the exports differ")
	}
	if _, err := atServer.conn.Session.Export(label, nil, exported); !errors.Is(err, muster.ErrExported) {
		t.Errorf("a second export returned %v", err)
	}
	if atServer.conn.Session.Peer.Certificate.IsZero() || atClient.conn.Session.Peer.Certificate.IsZero() {
		t.Error("a side does not know its peer")
	}
	if _, err := atClient.conn.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	octets := make([]byte, 100)
	if n, err := atServer.conn.Read(octets); err != nil || string(octets[:n]) != "hello" {
		t.Errorf("the server read %q, %v", octets[:n], err)
	}
}

// TestPeerClosesAtOnce has clients that need nothing but the key: when they have
// it, so has the server, although a close_notify races with its success. The test
// runs alone, since the race is close only on an idle machine.
func TestPeerClosesAtOnce(t *testing.T) {
	serverConfig, clientConfig := keyConfig(t)
	server, client := newServer(t, serverConfig), newClient(t, clientConfig)
	for range 2000 {
		near, far := mustertest.NewLossyPair(mustertest.Loss{})
		ended := make(chan result)
		go func() {
			conn, err := server.Handshake(t.Context(), far, near.LocalAddr())
			ended <- result{conn, err}
		}()
		conn, err := client.Handshake(t.Context(), near, far.LocalAddr())
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.Close()
		r := <-ended
		if !bytes.Equal(export(t, r), export(t, result{conn, err})) {
			t.Fatal("the exports differ")
		}
		_ = r.conn.Close()
	}
}

var _ net.Conn = (*handshake.Conn)(nil)

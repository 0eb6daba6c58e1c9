package handshake_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"muster"
	"muster/handshake"
)

const (
	label    = "EXPORTER-oneM2M-Bootstrap"
	exported = 48
	patience = 30 * time.Second // for what is expected to happen at once
)

func name(t testing.TB) muster.FQDN {
	t.Helper()
	fqdn, err := muster.ParseFQDN(serverName)
	if err != nil {
		t.Fatal(err)
	}
	return fqdn
}

// config returns a Config with an identity of p.
func (p *pki) config(t testing.TB, identity string) handshake.Config {
	t.Helper()
	certificate := p.Issue(t, identity, 0)
	return handshake.Config{
		Name:     name(t),
		Identity: func() (*tls.Certificate, error) { return certificate, nil },
		Verify:   p.Verify,
		Timeout:  patience,
	}
}

func newServer(t testing.TB, config handshake.Config) *handshake.Server {
	t.Helper()
	server, err := handshake.NewServer(config)
	if err != nil {
		t.Fatal(err)
	}
	return server
}

func newClient(t testing.TB, config handshake.Config) *handshake.Client {
	t.Helper()
	client, err := handshake.NewClient(config)
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

// pair returns two ends of a TCP connection, which the test closes.
func pair(t testing.TB) (near, far net.Conn) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	if near, err = net.Dial("tcp", listener.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if far, err = listener.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { near.Close(); far.Close() })
	return near, far
}

// serve starts the server's handshake on conn.
func serve(t testing.TB, server *handshake.Server, conn net.Conn) <-chan result {
	t.Helper()
	ended := make(chan result, 1)
	go func() {
		conn, err := server.Handshake(t.Context(), conn)
		ended <- result{conn, err}
	}()
	return ended
}

func meet(t testing.TB, server *handshake.Server, client *handshake.Client) (atServer, atClient result) {
	t.Helper()
	near, far := pair(t)
	ended := serve(t, server, far)
	conn, err := client.Handshake(t.Context(), near)
	return <-ended, result{conn, err}
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

func TestHandshake(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	atServer, atClient := meet(t, newServer(t, p.config(t, serverName)), newClient(t, p.config(t, "device.example.com")))
	if a, b := export(t, atServer), export(t, atClient); !bytes.Equal(a, b) || len(a) != exported {
		t.Errorf("the exports differ")
	}
	if _, err := atServer.conn.Session.Export(label, nil, exported); !errors.Is(err, muster.ErrExported) {
		t.Errorf("a second export returned %v", err)
	}
	if atServer.conn.Session.Peer.Certificate.IsZero() || atClient.conn.Session.Peer.Certificate.IsZero() {
		t.Error("a side does not know its peer")
	}
	go func() { _, _ = atClient.conn.Write([]byte("hello")) }()
	octets := make([]byte, 5)
	if _, err := io.ReadFull(atServer.conn, octets); err != nil || string(octets) != "hello" {
		t.Errorf("the server read %q, %v", octets, err)
	}
}

func TestContextEndsHandshake(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	server := newServer(t, p.config(t, serverName))
	_, far := pair(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := server.Handshake(ctx, far)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("the error is %v", err)
	}
	wantCode(t, err, muster.CodeHandshakeFailed)
}

// alpn is a handshake in which both sides name application protocols, and the
// client only some suites. The client is crypto/tls itself, so that it may do what
// ours does not.
func alpn(t *testing.T, server, client []string, suites ...uint16) result {
	t.Helper()
	p := newPKI(t)
	config := p.config(t, serverName)
	config.Protocols = server
	near, far := pair(t)
	ended := serve(t, newServer(t, config), far)
	conn := tls.Client(near, &tls.Config{
		ServerName: serverName, InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12, NextProtos: client, CipherSuites: suites,
		Certificates: []tls.Certificate{*p.Issue(t, "device.example.com", 0)},
	})
	go func() { _ = conn.HandshakeContext(t.Context()) }()
	return <-ended
}

func TestApplicationProtocol(t *testing.T) {
	t.Parallel()
	both := []string{handshake.ProtocolHTTP2, handshake.ProtocolHTTP1}
	const gcm, cbc = tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256
	for name, tc := range map[string]struct {
		server, client []string
		suites         []uint16
		want           string
	}{
		"both":                  {both, both, []uint16{gcm, cbc}, "h2"},
		"client prefers CBC":    {both, both, []uint16{cbc, gcm}, "h2"},
		"HTTP/1.1 only":         {both, []string{"http/1.1"}, []uint16{gcm}, "http/1.1"},
		"CBC only":              {both, both, []uint16{cbc}, "http/1.1"},
		"client names none":     {both, nil, []uint16{gcm}, ""},
		"server knows of none":  {nil, both, []uint16{gcm}, ""},
		"server without HTTP/2": {both[1:], both, []uint16{gcm}, "http/1.1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := alpn(t, tc.server, tc.client, tc.suites...); got.err != nil || got.conn.Protocol != tc.want {
				t.Errorf("%+v, want %q", got, tc.want)
			}
		})
	}
	for name, tc := range map[string]struct {
		client []string
		suites []uint16
	}{
		"another protocol":    {[]string{"mqtt"}, []uint16{gcm}},
		"HTTP/2 without AEAD": {[]string{"h2"}, []uint16{cbc}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := alpn(t, both, tc.client, tc.suites...)
			wantCode(t, got.err, muster.CodeHandshakeFailed)
		})
	}
}

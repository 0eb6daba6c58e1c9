package handshake_test

import (
	"crypto/tls"
	"crypto/x509"
	"testing"
)

// BenchmarkTLS has the handshake of this package beside that of crypto/tls, both
// sides and one export each, on loopback, so that their difference is what this
// package costs.
func BenchmarkTLS(b *testing.B) {
	p := newPKI(b)
	b.Run("muster", func(b *testing.B) {
		server, client := newServer(b, p.config(b, serverName)), newClient(b, p.config(b, "device.example.com"))
		b.ReportAllocs()
		for b.Loop() {
			near, far := pair(b)
			ended := serve(b, server, far)
			conn, err := client.Handshake(b.Context(), near)
			r := <-ended
			_, _ = export(b, r), export(b, result{conn, err})
			_, _ = near.Close(), far.Close()
		}
	})
	b.Run("crypto-tls", func(b *testing.B) {
		server, client := p.bareServer(b), p.bare(b)
		verify := func(state tls.ConnectionState) error {
			_, err := p.Verify([]*x509.Certificate{state.PeerCertificates[0]})
			return err
		}
		server.VerifyConnection, client.VerifyConnection = verify, verify
		server.SessionTicketsDisabled = true
		server.CurvePreferences = []tls.CurveID{tls.CurveP256}
		b.ReportAllocs()
		for b.Loop() {
			near, far := pair(b)
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				bareHandshake(b, tls.Server(far, server))
			}()
			bareHandshake(b, tls.Client(near, client))
			<-ended
			_, _ = near.Close(), far.Close()
		}
	})
}

func bareHandshake(b *testing.B, conn *tls.Conn) {
	if err := conn.Handshake(); err != nil {
		b.Error(err)
		return
	}
	state := conn.ConnectionState()
	if _, err := state.ExportKeyingMaterial(label, nil, exported); err != nil {
		b.Error(err)
	}
}

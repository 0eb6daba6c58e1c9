package dtls12_test

import (
	"context"
	"crypto/x509"
	"testing"

	"github.com/pion/dtls/v3"
	"github.com/pion/dtls/v3/pkg/crypto/elliptic"

	"muster/mustertest"
)

// BenchmarkDTLS has the handshake of this package beside pion's own, both sides
// and one export each, over a path in memory, so that their difference is what
// this package costs.
func BenchmarkDTLS(b *testing.B) {
	p := newPKI(b)
	b.Run("muster", func(b *testing.B) {
		server, client := newServer(b, p.config(b, serverName)), newClient(b, p.config(b, "device.example.com"))
		b.ReportAllocs()
		for b.Loop() {
			near, far := mustertest.NewLossyPair(mustertest.Loss{})
			ended := make(chan result)
			go func() {
				conn, err := server.Handshake(b.Context(), far, near.LocalAddr())
				ended <- result{conn, err}
			}()
			conn, err := client.Handshake(b.Context(), near, far.LocalAddr())
			r := <-ended
			_, _ = export(b, r), export(b, result{conn, err})
			_, _ = conn.Close(), r.conn.Close()
		}
	})
	b.Run("pion", func(b *testing.B) {
		options := []dtls.Option{
			dtls.WithEllipticCurves(elliptic.P256),
			dtls.WithVerifyPeerCertificate(func(raw [][]byte, _ [][]*x509.Certificate) error {
				leaf, err := x509.ParseCertificate(raw[0])
				if err == nil {
					_, err = p.Verify([]*x509.Certificate{leaf})
				}
				return err
			}),
		}
		server, client := p.bareServer(b), p.bare(b)
		for _, option := range options {
			server, client = append(server, option), append(client, option)
		}
		b.ReportAllocs()
		for b.Loop() {
			near, far := mustertest.NewLossyPair(mustertest.Loss{})
			ended := make(chan *dtls.Conn)
			go func() {
				conn, _ := dtls.ServerWithOptions(far, near.LocalAddr(), server...)
				bareHandshake(b, conn)
				ended <- conn
			}()
			conn, _ := dtls.ClientWithOptions(near, far.LocalAddr(), client...)
			bareHandshake(b, conn)
			other := <-ended // before the client's close_notify, which pion may return as an error
			_, _ = conn.Close(), other.Close()
		}
	})
}

func bareHandshake(b *testing.B, conn *dtls.Conn) {
	if err := conn.HandshakeContext(context.Background()); err != nil {
		b.Error(err)
		return
	}
	state, _ := conn.ConnectionState()
	if _, err := state.ExportKeyingMaterial(label, nil, exported); err != nil {
		b.Error(err)
	}
}

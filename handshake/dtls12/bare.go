package dtls12

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"

	"github.com/pion/dtls/v3"
	"github.com/pion/dtls/v3/pkg/crypto/elliptic"

	"muster"
)

// ServeBare answers handshakes with certificates at addr, "host:port", until ctx
// ends: by pion's own listener and its own judgement of chains, with the suite and
// the group that a Server and a Client of this package agree on, and without
// anything of this package. exported is called with the exporter of each session.
// It is the yardstick for what Server costs, and no way to serve devices.
func ServeBare(ctx context.Context, addr string, identity tls.Certificate, roots *x509.CertPool, exported func(muster.Exporter) error) error {
	at, err := net.ResolveUDPAddr("udp", addr)
	if err != nil {
		return err
	}
	listener, err := dtls.ListenWithOptions("udp", at,
		dtls.WithCertificates(identity), dtls.WithClientCAs(roots), dtls.WithClientAuth(dtls.RequireAndVerifyClientCert),
		dtls.WithCipherSuites(dtls.TLS_ECDHE_ECDSA_WITH_AES_128_CCM), dtls.WithEllipticCurves(elliptic.P256),
		dtls.WithExtendedMasterSecret(dtls.RequireExtendedMasterSecret), dtls.WithMTU(DefaultMTU-fragmentOverhead),
	)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = listener.Close() })
	defer stop()
	for {
		conn, err := listener.Accept()
		if err != nil {
			return errors.Join(ctx.Err(), listener.Close())
		}
		go func() {
			defer func() { _ = conn.Close() }()
			engine := conn.(*dtls.Conn)
			if engine.HandshakeContext(ctx) != nil && !finished(engine) {
				return
			}
			if state, ok := engine.ConnectionState(); ok && exported(state.ExportKeyingMaterial) == nil {
				_, _ = io.Copy(io.Discard, conn) // the client closes; a last flight that was lost is repeated until then
			}
		}()
	}
}

package handshake_test

import (
	"crypto/tls"
	"crypto/x509"
	"testing"

	"muster"
	"muster/handshake"
)

func TestStapleReachesTheClient(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	for _, staple := range []string{"an OCSP response", ""} {
		serverConfig, clientConfig := p.config(t, serverName), p.config(t, "device.example.com")
		identity, err := serverConfig.Identity()
		if err != nil {
			t.Fatal(err)
		}
		identity.OCSPStaple = []byte(staple)
		serverConfig.Identity = func() (*tls.Certificate, error) { return identity, nil }
		got := "none"
		verify := clientConfig.Verify
		clientConfig.Verify = nil
		clientConfig.VerifyStapled = func(chain []*x509.Certificate, octets []byte) (muster.Peer, error) {
			got = string(octets)
			return verify(chain)
		}
		server, client := meet(t, newServer(t, serverConfig), newClient(t, clientConfig))
		if server.err != nil || client.err != nil {
			t.Fatal(server.err, client.err)
		}
		if got != staple {
			t.Errorf("the client got %q, not %q", got, staple)
		}
	}
}

func TestServerNeedsVerify(t *testing.T) {
	t.Parallel()
	config := newPKI(t).config(t, serverName)
	config.VerifyStapled, config.Verify = func([]*x509.Certificate, []byte) (muster.Peer, error) { return muster.Peer{}, nil }, nil
	if _, err := handshake.NewServer(config); err == nil {
		t.Error("a server was made that verifies nobody")
	}
}

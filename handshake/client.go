package handshake

import (
	"context"
	"crypto/tls"
	"net"
)

// A Client opens sessions with one server. It may be used by several goroutines.
type Client struct{ config Config }

// NewClient returns a Client of the server that config names. It fails if a
// mandatory field of config is absent.
func NewClient(config Config) (*Client, error) {
	if err := config.check(); err != nil {
		return nil, err
	}
	return &Client{config}, nil
}

// Handshake returns conn after its handshake. On failure it closes conn, after
// the fitting alert, and the error has a muster.Refusal in its tree. The
// handshake is bounded by ctx and by the Config's Timeout; afterwards ctx has no
// effect.
//
// A server that does not ask for the client's certificate is refused: its
// session would not be authenticated on both sides. When Handshake returns, the
// server has proved its key and the integrity of the handshake, but it may not
// have stored anything yet.
func (c *Client) Handshake(ctx context.Context, conn net.Conn) (*Conn, error) {
	a := &attempt{verify: c.config.VerifyStapled, client: true}
	if a.verify == nil {
		a.verify = unstapled(c.config.Verify)
	}
	config := c.config.profile()
	config.ServerName = c.config.Name.String()
	// Verify replaces the host name check of crypto/tls, which accepts wildcards
	// and knows no pinned anchors.
	config.InsecureSkipVerify = true
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		return a.identity(c.config.Identity)
	}
	return a.run(ctx, c.config.timeout(), conn, tls.Client, config)
}

package dtls12

import (
	"context"
	"crypto/tls"
	"errors"
	"net"

	"github.com/pion/dtls/v3"

	"muster"
	"muster/handshake"
)

// A Client opens sessions with one server. It may be used by several goroutines.
type Client struct{ config Config }

// NewClient returns a Client of the server that config names. It fails if config
// is incomplete or contradicts itself.
func NewClient(config Config) (*Client, error) {
	if err := config.check(); err != nil {
		return nil, err
	}
	if config.usesPSK() && config.usesCertificates() {
		return nil, errors.New("dtls12: a client has either certificates or a pre-shared key")
	}
	if config.usesPSK() && (config.PSK != nil || config.PSKKey == nil || config.PSKIdentity == "" || len(config.PSKIdentity) > muster.MaxPSKIdentity) {
		return nil, errors.New("dtls12: a client has one key with an identity of 1 to 286 octets")
	}
	return &Client{config}, nil
}

// Handshake returns conn after its handshake with the server at peer. conn may be
// connected or not; datagrams from elsewhere are dropped. On failure it closes
// conn, after the fitting alert, and the error has a muster.Refusal in its tree.
// The handshake is bounded by ctx and by the Config's Timeout; afterwards ctx has
// no effect.
//
// A server that does not ask for the client's certificate is refused: its session
// would not be authenticated on both sides. With a pre-shared key, the server is
// whoever knows the key.
func (c *Client) Handshake(ctx context.Context, conn net.PacketConn, peer net.Addr) (*handshake.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, c.config.timeout())
	defer cancel()
	a := &attempt{config: c.config, ctx: ctx}
	w := a.newWire(conn, peer, typeServerHello)
	var options []dtls.ClientOption
	for _, option := range c.config.profile() {
		options = append(options, option)
	}
	if c.config.usesPSK() {
		options = append(options, dtls.WithPSK(a.clientKey), dtls.WithPSKIdentityHint([]byte(c.config.PSKIdentity)))
	} else {
		options = append(options,
			// Verify replaces pion's check, which accepts wildcards and knows no
			// pinned anchors.
			dtls.WithInsecureSkipVerify(true),
			dtls.WithVerifyPeerCertificate(a.verifyPeerCertificate),
			dtls.WithGetClientCertificate(func(*dtls.CertificateRequestInfo) (*tls.Certificate, error) { return a.identity() }))
	}
	engine, err := dtls.ClientWithOptions(w, peer, options...)
	if err != nil {
		_ = conn.Close()
		return nil, muster.Refuse(muster.CodeHandshakeFailed, "%w", err)
	}
	return a.run(w, engine)
}

// Package dialer is an enrolee.Dialer over the sockets of an ordinary operating
// system: TLS or DTLS with certificates or a pre-provisioned key to the MEF and
// with the Master Credential to the MAF, and HTTP or CoAP above them.
package dialer

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"muster"
	"muster/binding"
	"muster/cert"
	"muster/enrolee"
	"muster/handshake"
	"muster/handshake/dtls12"
	"muster/handshake/tlspsk"
)

// A Config is what a device is configured with to reach its MEF and its MAF
// (TS-0003 9.2.1). It must not be changed after New.
type Config struct {
	// Identity is the device's certificate from the factory, with its key. A
	// device with a pre-provisioned key has KpmID and Kpm in its place, and needs
	// no anchors: its MEF is who knows the key.
	Identity *tls.Certificate
	KpmID    muster.KpmID
	Kpm      muster.Kpm
	// MEF is the server name and the name looked for in the MEF's certificate,
	// and MEFAnchors the roots under which it is meant.
	MEF        muster.FQDN
	MEFAddress string // host:port
	MEFAnchors []*x509.Certificate
	MEFOverUDP bool // DTLS and CoAP in place of TLS and HTTP
	Profile    cert.Profile

	MAF        muster.FQDN
	MAFAddress string // host:port
	MAFOverTCP bool   // TLS and HTTP in place of DTLS and CoAP

	Timeout time.Duration // for a handshake; 0 means 10 seconds
	MTU     int           // largest datagram of a handshake in octets; 0 means 1024
	NoCBC   bool          // withdraws TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256
	// PSKSuites and RefuseMACThenEncrypt are those of tlspsk.Config.
	PSKSuites            []tlspsk.Suite
	RefuseMACThenEncrypt bool
	// Header, if set, adds to the header of each request over HTTP.
	Header func(ctx context.Context, h http.Header)
}

// A Dialer opens connections from a device. It may be used by several goroutines.
type Dialer struct {
	config Config
	trust  cert.Trust
}

// New returns a Dialer, or an error that says what the configuration lacks.
func New(config Config) (*Dialer, error) {
	switch {
	case config.MEFAddress == "" || config.MAFAddress == "":
		return nil, errors.New("the device lacks the address of its MEF or MAF")
	case config.KpmID.IsZero() != config.Kpm.IsZero(), (config.Identity != nil) == !config.Kpm.IsZero():
		return nil, errors.New("the device has either its certificate or a pre-provisioned key with its identifier")
	case config.Kpm.IsZero() && len(config.MEFAnchors) == 0:
		return nil, errors.New("the device lacks an anchor for its MEF")
	}
	name, err := cert.ParseName(muster.FlavourFQDN, config.MEF.String())
	if err != nil {
		return nil, fmt.Errorf("the MEF's name: %w", err)
	}
	return &Dialer{config, cert.Trust{
		Name: name, Anchors: config.MEFAnchors, Usage: cert.UsageServer, Profile: config.Profile,
	}}, nil
}

func (d *Dialer) verify(chain []*x509.Certificate) (muster.Peer, error) {
	peer, findings := cert.Verify(chain, d.trust, time.Now())
	return peer, findings.Err()
}

func (d *Dialer) identity() (*tls.Certificate, error) { return d.config.Identity, nil }

// DialMEF opens a connection to the MEF, authenticated by certificates or by the
// pre-provisioned key.
//
// TS-0003 8.3.2.1, 8.3.5.2.2
func (d *Dialer) DialMEF(ctx context.Context) (enrolee.Conn, error) {
	c := &d.config
	switch {
	case c.Kpm.IsZero() && c.MEFOverUDP:
		return d.dialDatagrams(ctx, c.MEFAddress, dtls12.Config{Name: c.MEF, Identity: d.identity, Verify: d.verify})
	case c.MEFOverUDP:
		return d.dialDatagrams(ctx, c.MEFAddress, dtls12.Config{Name: c.MEF, PSKIdentity: c.KpmID.String(), PSKKey: c.Kpm.Reveal})
	case !c.Kpm.IsZero():
		return d.dialWithKey(ctx, c.MEF, c.MEFAddress, c.KpmID.String(), c.Kpm.Reveal())
	}
	client, err := handshake.NewClient(handshake.Config{
		Name: c.MEF, Identity: d.identity, Verify: d.verify, Timeout: c.Timeout, NoCBC: c.NoCBC,
	})
	if err != nil {
		return nil, err
	}
	return d.dialStream(ctx, c.MEF, c.MEFAddress, client)
}

// DialMAF opens a connection to the MAF, authenticated by the Master Credential.
//
// TS-0003 8.8.2.2
func (d *Dialer) DialMAF(ctx context.Context, pskIdentity string, km muster.Km) (enrolee.Conn, error) {
	if d.config.MAFOverTCP {
		return d.dialWithKey(ctx, d.config.MAF, d.config.MAFAddress, pskIdentity, km.Reveal())
	}
	return d.dialDatagrams(ctx, d.config.MAFAddress, dtls12.Config{Name: d.config.MAF, PSKIdentity: pskIdentity, PSKKey: km.Reveal})
}

// dialWithKey opens a stream with a pre-shared key, which it clears.
func (d *Dialer) dialWithKey(ctx context.Context, name muster.FQDN, address, identity string, key []byte) (enrolee.Conn, error) {
	defer clear(key)
	client, err := tlspsk.NewClient(tlspsk.Config{
		Name: name, PSKIdentity: identity, Key: key, Timeout: d.config.Timeout,
		Suites: d.config.PSKSuites, RefuseMACThenEncrypt: d.config.RefuseMACThenEncrypt,
	})
	if err != nil {
		return nil, err
	}
	return d.dialStream(ctx, name, address, client)
}

// A shaker makes the client's handshake on a stream.
type shaker interface {
	Handshake(ctx context.Context, conn net.Conn) (*handshake.Conn, error)
}

func (d *Dialer) dialStream(ctx context.Context, name muster.FQDN, address string, client shaker) (enrolee.Conn, error) {
	socket, err := connect(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	conn, err := client.Handshake(ctx, socket)
	if err != nil {
		return nil, err
	}
	return &stream{binding.NewClient(binding.ClientConfig{
		Authority: name.String(), MaxConns: 1, Timeout: d.config.Timeout, Dial: once(conn), Header: d.config.Header,
	}), conn}, nil
}

func (d *Dialer) dialDatagrams(ctx context.Context, address string, config dtls12.Config) (enrolee.Conn, error) {
	config.Timeout, config.MTU = d.config.Timeout, d.config.MTU
	client, err := dtls12.NewClient(config)
	if err != nil {
		return nil, err
	}
	socket, err := connect(ctx, "udp", address)
	if err != nil {
		return nil, err
	}
	packets, ok := socket.(net.PacketConn)
	if !ok {
		return nil, errors.Join(errors.New("the socket carries no datagrams"), socket.Close())
	}
	conn, err := client.Handshake(ctx, packets, socket.RemoteAddr())
	if err != nil {
		return nil, err
	}
	return newDatagrams(conn)
}

func connect(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil {
		return nil, muster.Refuse(muster.CodeUnreachable, "%w", err)
	}
	return conn, nil
}

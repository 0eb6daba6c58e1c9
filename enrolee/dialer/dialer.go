// Package dialer is an enrolee.Dialer over the sockets of an ordinary operating
// system: TLS or DTLS with certificates to the MEF, DTLS with the Master
// Credential to the MAF, and HTTP or CoAP above them.
package dialer

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"time"

	"muster"
	"muster/binding"
	"muster/cert"
	"muster/enrolee"
	"muster/handshake"
	"muster/handshake/dtls12"
)

// A Config is what a device is configured with to reach its MEF and its MAF
// (TS-0003 9.2.1). It must not be changed after New.
type Config struct {
	// Identity is the device's certificate from the factory, with its key.
	Identity *tls.Certificate
	// MEF is the server name and the name looked for in the MEF's certificate,
	// and MEFAnchors the roots under which it is meant.
	MEF        muster.FQDN
	MEFAddress string // host:port
	MEFAnchors []*x509.Certificate
	MEFOverUDP bool // DTLS and CoAP in place of TLS and HTTP
	Profile    cert.Profile

	MAF        muster.FQDN
	MAFAddress string // host:port

	Timeout time.Duration // for a handshake; 0 means 10 seconds
	MTU     int           // largest datagram of a handshake in octets; 0 means 1024
	NoCBC   bool          // withdraws TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256
}

// A Dialer opens connections from a device. It may be used by several goroutines.
type Dialer struct {
	config Config
	trust  cert.Trust
}

// New returns a Dialer, or an error that says what the configuration lacks.
func New(config Config) (*Dialer, error) {
	if config.Identity == nil || len(config.MEFAnchors) == 0 || config.MEFAddress == "" || config.MAFAddress == "" {
		return nil, errors.New("the device lacks its identity, an anchor for its MEF, or an address")
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

// DialMEF opens a connection to the MEF, authenticated by certificates.
//
// TS-0003 8.3.5.2.2
func (d *Dialer) DialMEF(ctx context.Context) (enrolee.Conn, error) {
	if d.config.MEFOverUDP {
		return d.dialDatagrams(ctx, d.config.MEFAddress, dtls12.Config{Name: d.config.MEF, Identity: d.identity, Verify: d.verify})
	}
	client, err := handshake.NewClient(handshake.Config{
		Name: d.config.MEF, Identity: d.identity, Verify: d.verify, Timeout: d.config.Timeout, NoCBC: d.config.NoCBC,
	})
	if err != nil {
		return nil, err
	}
	socket, err := connect(ctx, "tcp", d.config.MEFAddress)
	if err != nil {
		return nil, err
	}
	conn, err := client.Handshake(ctx, socket)
	if err != nil {
		return nil, err
	}
	return &stream{binding.NewClient(binding.ClientConfig{
		Authority: d.config.MEF.String(), MaxConns: 1, Timeout: d.config.Timeout, Dial: once(conn),
	}), conn}, nil
}

// DialMAF opens a connection to the MAF, authenticated by the Master Credential.
//
// TS-0003 8.8.2.2
func (d *Dialer) DialMAF(ctx context.Context, pskIdentity string, km muster.Km) (enrolee.Conn, error) {
	return d.dialDatagrams(ctx, d.config.MAFAddress, dtls12.Config{Name: d.config.MAF, PSKIdentity: pskIdentity, PSKKey: km.Reveal})
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

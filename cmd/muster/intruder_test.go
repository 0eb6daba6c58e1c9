package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/pion/dtls/v3"

	"muster"
	"muster/mustertest"
)

// An intruder is a client that is not ours: crypto/tls or pion/dtls as they are,
// with a certificate and with changes. It notes what comes in over the wire.
type intruder struct {
	certificate tls.Certificate     // without one, none is shown
	overTLS     func(*tls.Config)   // may be nil
	overDTLS    []dtls.ClientOption // after all others
	editTLS     func([]byte) []byte // of what is sent; may be nil
	editDTLS    func([]byte) []byte
}

// knock tries a handshake with the MEF and returns the alert that came back, and
// 0 without one. It reports whether the handshake succeeded.
func (i intruder) knock(t testing.TB, w *world, via transport) (alert tls.AlertError, ok bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if via == overDTLS {
		return i.knockDTLS(t, ctx, w)
	}
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", w.mefAddresses.TLS)
	must(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	wire := &streamTap{Conn: conn, edit: i.editTLS}
	config := &tls.Config{
		ServerName: w.mef.FQDN.String(), InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &i.certificate, nil },
	}
	if i.overTLS != nil {
		i.overTLS(config)
	}
	if err := tls.Client(wire, config).HandshakeContext(ctx); err == nil {
		return 0, true
	}
	_ = conn.Close() // for the MEF waits until its alert is read
	return plainAlert(wire.read.Bytes(), 5), false
}

func (i intruder) knockDTLS(t testing.TB, ctx context.Context, w *world) (tls.AlertError, bool) {
	t.Helper()
	options := append([]dtls.ClientOption{
		dtls.WithServerName(w.mef.FQDN.String()), dtls.WithInsecureSkipVerify(true),
		dtls.WithGetClientCertificate(func(*dtls.CertificateRequestInfo) (*tls.Certificate, error) { return &i.certificate, nil }),
		dtls.WithCipherSuites(dtls.TLS_ECDHE_ECDSA_WITH_AES_128_CCM_8),
	}, i.overDTLS...)
	wire, err := shakeDTLS(t, ctx, w.mefAddresses.DTLS, i.editDTLS, options...)
	return wire.alert(), err == nil
}

// shakeDTLS makes a handshake over a socket of its own, which is open until the
// test ends.
func shakeDTLS(t testing.TB, ctx context.Context, address string, edit func([]byte) []byte, options ...dtls.ClientOption) (*datagramTap, error) {
	t.Helper()
	socket, err := net.ListenPacket("udp", "127.0.0.1:0")
	must(t, err)
	to, err := net.ResolveUDPAddr("udp", address)
	must(t, err)
	wire := &datagramTap{PacketConn: socket, edit: edit}
	conn, err := dtls.ClientWithOptions(wire, to, options...)
	must(t, err)
	t.Cleanup(func() { _, _ = conn.Close(), socket.Close() })
	return wire, conn.HandshakeContext(ctx)
}

// plainAlert finds the first fatal alert in records that are not encrypted, and
// returns 0 without one. The header ends in the length of the record.
func plainAlert(records []byte, header int) tls.AlertError {
	for len(records) >= header+2 {
		length := int(records[header-2])<<8 | int(records[header-1])
		plain := header == 5 || records[3] == 0 && records[4] == 0 // the epoch
		if plain && records[0] == 21 && length == 2 && records[header] == 2 {
			return tls.AlertError(records[header+1])
		}
		records = records[min(len(records), header+length):]
	}
	return 0
}

// A streamTap keeps what it has read, and may edit what it writes.
type streamTap struct {
	net.Conn
	read bytes.Buffer
	edit func([]byte) []byte
}

func (c *streamTap) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.read.Write(b[:n])
	return n, err
}

func (c *streamTap) Write(b []byte) (int, error) {
	if c.edit == nil {
		return c.Conn.Write(b)
	}
	_, err := c.Conn.Write(c.edit(bytes.Clone(b)))
	return len(b), err
}

// A datagramTap does the same for datagrams.
type datagramTap struct {
	net.PacketConn
	edit func([]byte) []byte

	mu   sync.Mutex
	read [][]byte // guarded by mu
}

func (c *datagramTap) ReadFrom(b []byte) (int, net.Addr, error) {
	n, from, err := c.PacketConn.ReadFrom(b)
	c.mu.Lock()
	defer c.mu.Unlock()
	if n > 0 {
		c.read = append(c.read, bytes.Clone(b[:n]))
	}
	return n, from, err
}

func (c *datagramTap) WriteTo(b []byte, to net.Addr) (int, error) {
	if c.edit == nil {
		return c.PacketConn.WriteTo(b, to)
	}
	_, err := c.PacketConn.WriteTo(c.edit(bytes.Clone(b)), to)
	return len(b), err
}

func (c *datagramTap) alert() tls.AlertError {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, datagram := range c.read {
		if alert := plainAlert(datagram, 13); alert != 0 {
			return alert
		}
	}
	return 0
}

// shapes returns the different sizes of the datagrams that came in, which is all
// that a stranger without the key can tell them apart by.
func (c *datagramTap) shapes() []int {
	c.mu.Lock()
	defer c.mu.Unlock()
	var sizes []int
	for _, datagram := range c.read {
		sizes = append(sizes, len(datagram))
	}
	slices.Sort(sizes)
	return slices.Compact(sizes)
}

// withoutEMS makes the Extended Master Secret extension one that nobody knows.
func withoutEMS(octets []byte) []byte {
	return bytes.Replace(octets, []byte{0, 23, 0, 0}, []byte{0xfa, 0x17, 0, 0}, 1)
}

// asDTLS10 puts version 1.0 into a ClientHello.
func asDTLS10(octets []byte) []byte {
	if octets[0] == 22 && octets[13] == 1 {
		octets[26] = 0xff
	}
	return octets
}

// A border is a world with a MEF that knows two Enrolees of two factories, each
// by its name under its own root.
type border struct {
	*world
	pki       *mustertest.PKI
	one       muster.CertName // under pki.Root
	another   muster.CertName // under pki.OtherRoot
	stranger  *mustertest.Authority
	strangers *mustertest.Authority // issued by stranger, whom nobody trusts
}

func newBorder(t testing.TB) *border {
	t.Helper()
	b := &border{world: newWorld(t, 1), pki: mustertest.NewPKI(t), one: mustertest.DeviceName(t, 1001), another: mustertest.DeviceName(t, 1002)}
	b.stranger = b.pki.NewRoot(t, "Stranger Root")
	b.strangers = b.pki.NewIntermediate(t, b.stranger, "Stranger Intermediate")
	b.instruct("//sp.lab.example/one", b.one, b.pki.Root)
	b.instruct("//sp.lab.example/another", b.another, b.pki.OtherRoot)
	b.startMEF()
	return b
}

func (b *border) instruct(id string, name muster.CertName, root *mustertest.Authority) {
	b.t.Helper()
	enroleeID, err := muster.ParseEnroleeID(id)
	must(b.t, err)
	b.mef.Instructions = append(b.mef.Instructions, instructionConfig{
		Certificate: certificateConfig{Flavour: name.Flavour, Name: name.Text}, Anchors: []string{root.WriteFile(b.t)},
		EnroleeID: enroleeID, Targets: []muster.FQDN{b.maf.FQDN}, Lifetime: time.Hour,
	})
}

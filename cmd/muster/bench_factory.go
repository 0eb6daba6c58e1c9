package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	mathrand "math/rand/v2"
	"sync/atomic"
	"time"

	"muster"
	"muster/cert"
	"muster/enrolee"
	"muster/enrolee/dialer"
	"muster/primitive"
)

// A factory makes devices of a laboratory's group, each with a key and a
// certificate of its own. It may be used by several goroutines.
type factory struct {
	issuer  *authority
	config  *enroleeConfig // for all but the Enrolee-ID and the identity
	anchors []*x509.Certificate
	wire    *primitive.Wire
	made    atomic.Int64
}

// newFactory returns the factory of a laboratory whose devices reach MEF and MAF
// over a transport.
func newFactory(lab *laboratory, via transport) (*factory, error) {
	config, err := readEnroleeConfig(lab.path(lab.deviceFile(0) + ".yaml"))
	if err != nil {
		return nil, err
	}
	config.MEF.Transport, config.MAF.Transport = via, via
	f := &factory{issuer: lab.factory, config: config}
	if f.anchors, err = readCertificates(config.MEF.Anchors); err != nil {
		return nil, err
	}
	f.wire, err = primitive.NewWire(primitive.WireConfig{})
	return f, err
}

// A benchDevice is an Enrolee whose keys are in memory.
type benchDevice struct {
	*enrolee.Enrolee
	id   muster.EnroleeID
	keys *memoryKeyring
	// The others are only of a device that a factory has made.
	dial   *dialer.Dialer
	config dialer.Config
}

// dialAt opens a connection as if the MEF, or the MAF under the KeID that the device
// has, were at an address.
func (d benchDevice) dialAt(ctx context.Context, mef bool, address string) (enrolee.Conn, error) {
	config := d.config
	config.MEFAddress, config.MAFAddress = address, address
	dial, err := dialer.New(config)
	if err != nil {
		return nil, err
	}
	if mef {
		return dial.DialMEF(ctx)
	}
	return dial.DialMAF(ctx, d.keys.kept.Next.KeID.String(), d.keys.kept.Next.Km)
}

// device makes one that has never enrolled.
func (f *factory) device() (benchDevice, error) {
	const model = 3030
	serial := f.made.Add(1)
	name, err := cert.ParseName(muster.FlavourDevice, fmt.Sprintf("0.2.481.1/100.%d.%d", model, serial))
	if err != nil {
		return benchDevice{}, err
	}
	id, err := muster.ParseEnroleeID(fmt.Sprintf("//sp.lab.example/%d-%d", model, serial))
	if err != nil {
		return benchDevice{}, err
	}
	identity, err := f.identity(name)
	if err != nil {
		return benchDevice{}, err
	}
	c := f.config
	config := dialer.Config{
		Identity: identity, MEF: c.MEF.FQDN, MEFAddress: c.MEF.Address, MEFAnchors: f.anchors, MEFOverUDP: c.MEF.Transport == overDTLS,
		MAF: c.MAF.FQDN, MAFAddress: c.MAF.Address, MAFOverTCP: c.MAF.Transport == overTLS, Timeout: c.Handshake.Timeout,
	}
	dial, err := dialer.New(config)
	if err != nil {
		return benchDevice{}, err
	}
	keys := new(memoryKeyring)
	made, err := enrolee.New(enrolee.Config{
		EnroleeID: id, MEF: c.MEF.FQDN, MAF: c.MAF.FQDN, AdminFQDN: c.AdminFQDN, Derivation: c.Derivation, Wire: f.wire,
		Unconfirmed: c.Unconfirmed, Now: time.Now, Sleep: sleep, Rand: mathrand.Float64,
	}, dial, keys)
	return benchDevice{made, id, keys, dial, config}, err
}

func (f *factory) identity(name muster.CertName) (*tls.Certificate, error) {
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	above := f.issuer.certificate
	template, err := cert.LeafTemplate(rand.Reader, name.Text, cert.Validity{NotBefore: above.NotBefore, NotAfter: above.NotAfter},
		[]muster.CertName{name}, cert.UsageClient)
	if err != nil {
		return nil, err
	}
	leaf, err := f.issuer.issue(template, key.Public())
	if err != nil {
		return nil, err
	}
	chain := [][]byte{leaf.Raw}
	for _, above := range f.issuer.chain {
		chain = append(chain, above.Raw)
	}
	return &tls.Certificate{Certificate: chain, PrivateKey: key, Leaf: leaf}, nil
}

// A memoryKeyring is what a device holds until the process ends.
type memoryKeyring struct{ kept enrolee.Credentials }

func (k *memoryKeyring) Load(context.Context) (enrolee.Credentials, error) { return k.kept, nil }

func (k *memoryKeyring) Save(_ context.Context, c enrolee.Credentials) error {
	k.kept = c
	return nil
}

package mustertest

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"muster"
)

// A FlatPKI has one root and issues leaves directly under it. It is for what
// lies below the judging of certificates.
type FlatPKI struct {
	root *x509.Certificate
	key  *ecdsa.PrivateKey
}

// NewFlatPKI makes a root.
func NewFlatPKI(t testing.TB) *FlatPKI {
	t.Helper()
	p := &FlatPKI{key: NewKey(t)}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "root"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	p.root = parse(t, createCertificate(t, template, template, p.key, p.key))
	return p
}

func createCertificate(t testing.TB, template, parent *x509.Certificate, key, signer *ecdsa.PrivateKey) []byte {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// Issue returns a leaf with a DNS name, larger than usual by a padding in octets.
func (p *FlatPKI) Issue(t testing.TB, name string, padding int) *tls.Certificate {
	t.Helper()
	key := NewKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature,
	}
	if padding > 0 {
		template.ExtraExtensions = []pkix.Extension{{Id: []int{1, 3, 6, 1, 4, 1, 32473, 1}, Value: make([]byte, padding)}}
	}
	return &tls.Certificate{Certificate: [][]byte{createCertificate(t, template, p.root, key, p.key)}, PrivateKey: key}
}

// Verify accepts a leaf directly under the root.
func (p *FlatPKI) Verify(chain []*x509.Certificate) (muster.Peer, error) {
	if err := chain[0].CheckSignatureFrom(p.root); err != nil {
		return muster.Peer{}, muster.Refuse(muster.CodeAnchorMismatch, "%w", err)
	}
	return muster.Peer{Certificate: muster.DigestOf(chain[0].Raw)}, nil
}

// Files writes a certificate, its key and the root for a foreign program.
func (p *FlatPKI) Files(t testing.TB, certificate *tls.Certificate) (leaf, key, root string) {
	t.Helper()
	dir := t.TempDir()
	write := func(name, kind string, blocks ...[]byte) string {
		var octets []byte
		for _, block := range blocks {
			octets = append(octets, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: block})...)
		}
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, octets, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	der, err := x509.MarshalPKCS8PrivateKey(certificate.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return write("leaf.pem", "CERTIFICATE", certificate.Certificate...), write("key.pem", "PRIVATE KEY", der), write("root.pem", "CERTIFICATE", p.root.Raw)
}

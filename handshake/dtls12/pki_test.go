package dtls12_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
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

const serverName = "mef.example.com"

// A pki has one root and issues leaves under it.
type pki struct {
	root *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newPKI(t testing.TB) *pki {
	t.Helper()
	p := &pki{key: newKey(t)}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "root"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	p.root = parse(t, create(t, template, template, p.key, p.key))
	return p
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func create(t testing.TB, template, parent *x509.Certificate, key, signer *ecdsa.PrivateKey) []byte {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func parse(t testing.TB, der []byte) *x509.Certificate {
	t.Helper()
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return certificate
}

// issue returns a leaf of size octets more than usual.
func (p *pki) issue(t testing.TB, name string, padding int) *tls.Certificate {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature,
	}
	if padding > 0 {
		template.ExtraExtensions = []pkix.Extension{{Id: []int{1, 3, 6, 1, 4, 1, 32473, 1}, Value: make([]byte, padding)}}
	}
	return &tls.Certificate{Certificate: [][]byte{create(t, template, p.root, key, p.key)}, PrivateKey: key}
}

// verify accepts a leaf directly under the root and returns its first DNS name.
func (p *pki) verify(chain []*x509.Certificate) (muster.Peer, error) {
	if err := chain[0].CheckSignatureFrom(p.root); err != nil {
		return muster.Peer{}, muster.Refuse(muster.CodeAnchorMismatch, "%w", err)
	}
	return muster.Peer{Certificate: muster.DigestOf(chain[0].Raw)}, nil
}

// files writes a certificate, its key and the root for a foreign program.
func (p *pki) files(t testing.TB, certificate *tls.Certificate) (leaf, key, root string) {
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

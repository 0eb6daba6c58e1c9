package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"os"

	"muster/cert"
)

// An authority signs certificates.
type authority struct {
	certificate *x509.Certificate
	key         crypto.Signer
	// chain is sent below a leaf: the authority and those above it, without the
	// root; empty for a root.
	chain []*x509.Certificate
}

func newKey() (*ecdsa.PrivateKey, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }

func newRoot(name string, validity cert.Validity, key crypto.Signer) (*authority, error) {
	template, err := cert.RootTemplate(rand.Reader, name, validity)
	if err != nil {
		return nil, err
	}
	itself := &authority{certificate: template, key: key}
	certificate, err := itself.issue(template, key.Public())
	if err != nil {
		return nil, err
	}
	return &authority{certificate: certificate, key: key}, nil
}

// certify makes an authority beneath a.
func (a *authority) certify(template *x509.Certificate, key crypto.Signer) (*authority, error) {
	certificate, err := a.issue(template, key.Public())
	if err != nil {
		return nil, err
	}
	return &authority{certificate: certificate, key: key, chain: append([]*x509.Certificate{certificate}, a.chain...)}, nil
}

func (a *authority) issue(template *x509.Certificate, subject crypto.PublicKey) (*x509.Certificate, error) {
	der, err := cert.Issue(rand.Reader, template, a.certificate, subject, a.key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

func encodeCertificates(certificates ...*x509.Certificate) []byte {
	var out []byte
	for _, c := range certificates {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return out
}

func writeCertificates(path string, certificates ...*x509.Certificate) error {
	return os.WriteFile(path, encodeCertificates(certificates...), 0o644)
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

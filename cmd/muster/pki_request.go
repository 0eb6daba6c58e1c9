package main

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"os"

	"muster"
	"muster/cert"
)

// maxRequest bounds a signing request in octets.
const maxRequest = 16 << 10

// writeRequest writes a signing request with a key and a name (TS-0003 10.1.4).
func writeRequest(path, commonName string, name muster.CertName, key crypto.Signer) error {
	extension, err := cert.SubjectAltName(name)
	if err != nil {
		return muster.Refuse(muster.CodeUsage, "%w", err)
	}
	template := &x509.CertificateRequest{Subject: pkix.Name{CommonName: commonName}, ExtraExtensions: []pkix.Extension{extension}}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		return err
	}
	return writeNew(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), 0o644)
}

// readRequest reads a signing request and makes sure that whoever sent it has
// the key and asks for that name, in the form of its flavour, and for no other.
//
// TS-0003 10.1.4
func readRequest(path string, name muster.CertName) (*x509.CertificateRequest, error) {
	octets, err := os.ReadFile(path)
	if err != nil {
		return nil, muster.Refuse(muster.CodeUsage, "%w", err)
	}
	block, _ := pem.Decode(octets)
	if block == nil || block.Type != "CERTIFICATE REQUEST" && block.Type != "NEW CERTIFICATE REQUEST" || len(block.Bytes) > maxRequest {
		return nil, muster.Refuse(muster.CodeRequestMalformed, "%s has no CERTIFICATE REQUEST in PEM of at most %d octets", path, maxRequest)
	}
	return parseRequest(block.Bytes, name)
}

var oidSubjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17}

func parseRequest(der []byte, name muster.CertName) (*x509.CertificateRequest, error) {
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, muster.Refuse(muster.CodeRequestMalformed, "the request is malformed: %.200q", err.Error())
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, muster.Refuse(muster.CodeRequestMalformed, "the request is not signed with its own key: %w", err)
	}
	wanted, err := cert.SubjectAltName(name)
	if err != nil {
		return nil, muster.Refuse(muster.CodeUsage, "%w", err)
	}
	found := 0
	for _, extension := range csr.Extensions {
		if !extension.Id.Equal(oidSubjectAltName) {
			continue
		}
		found++
		if !bytes.Equal(extension.Value, wanted.Value) {
			return nil, muster.Refuse(muster.CodeNameMismatch, "the request asks for another name than %s, for that in another form, or for more", name)
		}
	}
	if found != 1 {
		return nil, muster.Refuse(muster.CodeNameMismatch, "the request has %d subjectAltName extensions, not one with %s", found, name)
	}
	return csr, nil
}

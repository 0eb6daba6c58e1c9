package revocation

import (
	"bytes"
	"crypto"
	"crypto/rand"
	_ "crypto/sha1" // the hash of a CertID is an identifier, not a signature
	_ "crypto/sha256"
	_ "crypto/sha512"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cryptobyte_asn1 "golang.org/x/crypto/cryptobyte/asn1"
	"golang.org/x/crypto/ocsp"
)

// golang.org/x/crypto/ocsp parses and verifies answers. This file adds what it
// leaves out: the nonce, the match of the issuer in an answer, the rights of a
// delegated responder, and the times.

const nonceSize = 32 // octets (RFC 9654 2.1)

var oidNonce = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 48, 1, 2}

// An answer is what a responder said about one certificate.
type answer struct {
	status                 status
	thisUpdate, nextUpdate time.Time // nextUpdate is zero if newer knowledge is always at hand
	revokedAt              time.Time
	reason                 int
}

func newNonce() []byte {
	nonce := make([]byte, nonceSize)
	rand.Read(nonce) // never fails
	return nonce
}

// newRequest asks about c, with a nonce unless it is nil. CertIDs have SHA-1,
// which every responder knows.
func newRequest(c, issuer *x509.Certificate, nonce []byte) ([]byte, error) {
	der, err := ocsp.CreateRequest(c, issuer, nil)
	if err != nil || nonce == nil {
		return der, err
	}
	input := cryptobyte.String(der)
	var request, body cryptobyte.String
	if !input.ReadASN1(&request, cryptobyte_asn1.SEQUENCE) || !request.ReadASN1(&body, cryptobyte_asn1.SEQUENCE) {
		return nil, errors.New("a request cannot be read back")
	}
	var b cryptobyte.Builder
	b.AddASN1(cryptobyte_asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(cryptobyte_asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddBytes(body)
			b.AddASN1(cryptobyte_asn1.Tag(2).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) {
				b.AddASN1(cryptobyte_asn1.SEQUENCE, func(b *cryptobyte.Builder) { addNonce(b, nonce) })
			})
		})
	})
	return b.Bytes()
}

// addNonce adds the extension; its value is an OCTET STRING within the one that
// every extension has.
func addNonce(b *cryptobyte.Builder, nonce []byte) {
	b.AddASN1(cryptobyte_asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(oidNonce)
		b.AddASN1(cryptobyte_asn1.OCTET_STRING, func(b *cryptobyte.Builder) { b.AddASN1OctetString(nonce) })
	})
}

// A demand is what an answer has to satisfy.
type demand struct {
	certificate, issuer *x509.Certificate
	nonce               []byte // nil for an answer that nobody asked for: a stapled one
	required            bool   // the nonce must come back
	window              window
}

// judgeAnswer reads a DER OCSPResponse (RFC 6960 3.2).
func judgeAnswer(der []byte, d demand) (answer, error) {
	response, err := ocsp.ParseResponseForCert(der, d.certificate, nil)
	if err != nil {
		return answer{}, err
	}
	if err := checkResponder(response, d.issuer, d.window); err != nil {
		return answer{}, err
	}
	data, err := readResponseData(response.TBSResponseData)
	if err != nil {
		return answer{}, err
	}
	if err := data.matches(d.certificate, d.issuer); err != nil {
		return answer{}, err
	}
	switch {
	case data.nonce == nil && d.required:
		return answer{}, errors.New("the answer has no nonce")
	case data.nonce != nil && d.nonce != nil && !bytes.Equal(data.nonce, d.nonce):
		return answer{}, errors.New("the answer has another request's nonce")
	}
	found := answer{thisUpdate: response.ThisUpdate, nextUpdate: response.NextUpdate, revokedAt: response.RevokedAt, reason: response.RevocationReason}
	switch response.Status {
	case ocsp.Good:
		found.status = good
	case ocsp.Revoked:
		found.status = revoked
	default:
		return answer{}, errors.New("the responder does not know the certificate")
	}
	return found, nil
}

// current reports whether the answer holds at the window's time; without a
// nextUpdate it holds for age.
func (a answer) current(w window, age time.Duration) error {
	switch {
	case !w.begun(a.thisUpdate):
		return fmt.Errorf("the answer is from the future: %s", stamp(a.thisUpdate))
	case w.ended(a.end(age)):
		return fmt.Errorf("the answer should have been replaced by %s", stamp(a.end(age)))
	default:
		return nil
	}
}

func (a answer) end(age time.Duration) time.Time {
	if a.nextUpdate.IsZero() {
		return a.thisUpdate.Add(age)
	}
	return a.nextUpdate
}

func (a answer) verdict(by string) verdict {
	if a.status == revoked {
		return verdict{status: revoked, reasons: []string{fmt.Sprintf("%s says that it was revoked at %s%s", by, stamp(a.revokedAt), reasonText(a.reason))}}
	}
	return verdict{status: good, reasons: []string{fmt.Sprintf("%s says that it is good, as of %s", by, stamp(a.thisUpdate))}}
}

// checkResponder verifies that an answer was signed by issuer or by a responder
// to which issuer itself has given that right (RFC 6960 4.2.2.2). The parser has
// verified the signature under an enclosed certificate, if there is one.
func checkResponder(response *ocsp.Response, issuer *x509.Certificate, w window) error {
	if !sound(response.SignatureAlgorithm) {
		return errors.New("the answer is signed with an algorithm that is not admitted")
	}
	responder := response.Certificate
	if responder == nil || bytes.Equal(responder.RawSubjectPublicKeyInfo, issuer.RawSubjectPublicKeyInfo) {
		if err := response.CheckSignatureFrom(issuer); err != nil {
			return errors.New("the answer is not signed by the certificate's issuer")
		}
		return nil
	}
	if !bytes.Equal(responder.RawIssuer, issuer.RawSubject) || !sound(responder.SignatureAlgorithm) || responder.CheckSignatureFrom(issuer) != nil {
		return errors.New("the responder's certificate is not from the certificate's issuer")
	}
	mayRespond := false
	for _, usage := range responder.ExtKeyUsage {
		mayRespond = mayRespond || usage == x509.ExtKeyUsageOCSPSigning
	}
	switch {
	case !mayRespond:
		return errors.New("the responder's certificate lacks the usage OCSPSigning")
	case responder.KeyUsage != 0 && responder.KeyUsage&x509.KeyUsageDigitalSignature == 0:
		return errors.New("the responder's keyUsage lacks digitalSignature")
	case len(responder.UnhandledCriticalExtensions) > 0:
		return errors.New("the responder's certificate has an unknown critical extension")
	case !w.begun(responder.NotBefore) || w.ended(responder.NotAfter):
		return errors.New("the responder's certificate is not valid now")
	}
	return nil
}

// A certID is what an answer is about (RFC 6960 4.1.1).
type certID struct {
	algorithm, issuerName, issuerKey []byte
	serial                           *big.Int
}

// responseData is the part of an answer that the parser does not give out.
type responseData struct {
	ids   []certID
	nonce []byte // nil if absent
}

// readResponseData reads the DER of ResponseData (RFC 6960 4.2.1).
func readResponseData(der []byte) (responseData, error) {
	malformed := errors.New("the answer is malformed")
	input := cryptobyte.String(der)
	var fields, responses, extensions, skipped cryptobyte.String
	var version, extended bool
	context := func(tag uint8) cryptobyte_asn1.Tag { return cryptobyte_asn1.Tag(tag).ContextSpecific().Constructed() }
	if !input.ReadASN1(&fields, cryptobyte_asn1.SEQUENCE) || !input.Empty() ||
		!fields.ReadOptionalASN1(&skipped, &version, context(0)) ||
		!fields.ReadAnyASN1(&skipped, new(cryptobyte_asn1.Tag)) || // responderID
		!fields.ReadASN1(&skipped, cryptobyte_asn1.GeneralizedTime) || // producedAt
		!fields.ReadASN1(&responses, cryptobyte_asn1.SEQUENCE) ||
		!fields.ReadOptionalASN1(&extensions, &extended, context(1)) || !fields.Empty() {
		return responseData{}, malformed
	}
	var data responseData
	for !responses.Empty() {
		var single, id, algorithm cryptobyte.String
		found := certID{serial: new(big.Int)}
		if !responses.ReadASN1(&single, cryptobyte_asn1.SEQUENCE) || !single.ReadASN1(&id, cryptobyte_asn1.SEQUENCE) ||
			!id.ReadASN1(&algorithm, cryptobyte_asn1.SEQUENCE) || !algorithm.ReadASN1((*cryptobyte.String)(&found.algorithm), cryptobyte_asn1.OBJECT_IDENTIFIER) ||
			!id.ReadASN1((*cryptobyte.String)(&found.issuerName), cryptobyte_asn1.OCTET_STRING) ||
			!id.ReadASN1((*cryptobyte.String)(&found.issuerKey), cryptobyte_asn1.OCTET_STRING) ||
			!id.ReadASN1Integer(found.serial) || !id.Empty() {
			return responseData{}, malformed
		}
		data.ids = append(data.ids, found)
	}
	if !extended {
		return data, nil
	}
	var all cryptobyte.String
	if !extensions.ReadASN1(&all, cryptobyte_asn1.SEQUENCE) || !extensions.Empty() {
		return responseData{}, malformed
	}
	for !all.Empty() {
		if err := data.readExtension(&all); err != nil {
			return responseData{}, err
		}
	}
	return data, nil
}

func (d *responseData) readExtension(all *cryptobyte.String) error {
	var extension, value, nonce cryptobyte.String
	var id asn1.ObjectIdentifier
	var critical bool
	if !all.ReadASN1(&extension, cryptobyte_asn1.SEQUENCE) || !extension.ReadASN1ObjectIdentifier(&id) ||
		extension.PeekASN1Tag(cryptobyte_asn1.BOOLEAN) && !extension.ReadASN1Boolean(&critical) ||
		!extension.ReadASN1(&value, cryptobyte_asn1.OCTET_STRING) || !extension.Empty() {
		return errors.New("an extension of the answer is malformed")
	}
	switch {
	case !id.Equal(oidNonce) && critical:
		return fmt.Errorf("the critical extension %s of the answer is unknown", id)
	case !id.Equal(oidNonce):
		return nil
	case d.nonce != nil || !value.ReadASN1(&nonce, cryptobyte_asn1.OCTET_STRING) || !value.Empty():
		return errors.New("the nonce of the answer is malformed")
	}
	d.nonce = append([]byte{}, nonce...)
	return nil
}

// matches demands that everything that the answer says about c's serial number
// is about a certificate of issuer: the parser compares the number alone, and a
// responder may serve several authorities. Two statements about one certificate
// are refused, since the parser takes the first.
func (d responseData) matches(c, issuer *x509.Certificate) error {
	count := 0
	for _, id := range d.ids {
		if id.serial.Cmp(c.SerialNumber) != 0 {
			continue
		}
		count++
		hash, ok := hashOf(id.algorithm)
		if !ok {
			return errors.New("the answer identifies the issuer by an unknown hash")
		}
		key, err := publicKeyBits(issuer)
		if err != nil {
			return err
		}
		if !bytes.Equal(id.issuerName, sum(hash, issuer.RawSubject)) || !bytes.Equal(id.issuerKey, sum(hash, key)) {
			return errors.New("the answer is about a certificate of another issuer")
		}
	}
	if count != 1 {
		return fmt.Errorf("the answer has %d statements about the certificate, not one", count)
	}
	return nil
}

// hashOf returns the hash of an algorithm given by the content of its OID.
func hashOf(oid []byte) (crypto.Hash, bool) {
	switch string(oid) {
	case "\x2b\x0e\x03\x02\x1a":
		return crypto.SHA1, true
	case "\x60\x86\x48\x01\x65\x03\x04\x02\x01":
		return crypto.SHA256, true
	case "\x60\x86\x48\x01\x65\x03\x04\x02\x02":
		return crypto.SHA384, true
	case "\x60\x86\x48\x01\x65\x03\x04\x02\x03":
		return crypto.SHA512, true
	default:
		return 0, false
	}
}

func sum(hash crypto.Hash, octets []byte) []byte {
	h := hash.New()
	h.Write(octets)
	return h.Sum(nil)
}

// publicKeyBits returns the content of a certificate's subjectPublicKey.
func publicKeyBits(c *x509.Certificate) ([]byte, error) {
	input := cryptobyte.String(c.RawSubjectPublicKeyInfo)
	var info, algorithm cryptobyte.String
	var bits []byte
	if !input.ReadASN1(&info, cryptobyte_asn1.SEQUENCE) || !info.ReadASN1(&algorithm, cryptobyte_asn1.SEQUENCE) ||
		!info.ReadASN1BitStringAsBytes(&bits) {
		return nil, errors.New("the issuer's public key is malformed")
	}
	return bits, nil
}

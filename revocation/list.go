package revocation

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cryptobyte_asn1 "golang.org/x/crypto/cryptobyte/asn1"

	"muster"
)

// The extensions of CRLs, of their entries and of certificates (RFC 5280 4.2.1.15, 5.2, 5.3).
var (
	oidAuthorityKeyID     = asn1.ObjectIdentifier{2, 5, 29, 35}
	oidCRLNumber          = asn1.ObjectIdentifier{2, 5, 29, 20}
	oidDeltaIndicator     = asn1.ObjectIdentifier{2, 5, 29, 27}
	oidDistributionPoint  = asn1.ObjectIdentifier{2, 5, 29, 28}
	oidFreshestCRL        = asn1.ObjectIdentifier{2, 5, 29, 46}
	oidReason             = asn1.ObjectIdentifier{2, 5, 29, 21}
	oidInvalidityDate     = asn1.ObjectIdentifier{2, 5, 29, 24}
	errNotSigner          = errors.New("it is not signed by the certificate's issuer")
	errMalformedExtension = errors.New("an extension is malformed")
)

// The reasons with a meaning of their own (RFC 5280 5.3.1).
const (
	reasonHold   = 6
	reasonRemove = 8
)

// maxRefusedSigners is how many keys a list remembers that have not signed it.
const maxRefusedSigners = 16

// An entry is one revocation.
type entry struct {
	at     int64 // Unix seconds
	reason int8
}

// A list is a CRL whose entries are indexed by serial number.
type list struct {
	origin                 string // a file or URL, for details
	issuer                 []byte // DER
	number, base           *big.Int
	thisUpdate, nextUpdate time.Time
	scope                  scope
	freshest               []string // URLs of deltas
	entries                map[string]entry

	proved   atomic.Bool // somebody's signature has been verified
	mu       sync.Mutex
	unproved *x509.RevocationList // until its signature is verified; without entries
	signer   muster.Digest        // of the key that signed it
	refused  []muster.Digest      // keys that have not
}

// delta reports whether the list holds changes only.
func (l *list) delta() bool { return l.base != nil }

// parseList reads a CRL in DER. It refuses what it does not understand in full:
// a list for some reasons only, of several issuers, or with an unknown critical
// extension tells nothing certain about a certificate that is absent from it
// (RFC 5280 5.2).
func parseList(der []byte, origin string) (*list, error) {
	parsed, err := x509.ParseRevocationList(der)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", origin, err)
	}
	if len(parsed.Raw) != len(der) {
		return nil, fmt.Errorf("%s: data follows the list", origin)
	}
	l := &list{
		origin: origin, issuer: parsed.RawIssuer, number: parsed.Number,
		thisUpdate: parsed.ThisUpdate, nextUpdate: parsed.NextUpdate,
		entries: make(map[string]entry, len(parsed.RevokedCertificateEntries)),
		unproved: &x509.RevocationList{
			RawTBSRevocationList: parsed.RawTBSRevocationList,
			SignatureAlgorithm:   parsed.SignatureAlgorithm, Signature: parsed.Signature,
		},
	}
	if err := l.readExtensions(parsed.Extensions); err != nil {
		return nil, fmt.Errorf("%s: %w", origin, err)
	}
	switch {
	case !sound(parsed.SignatureAlgorithm):
		return nil, fmt.Errorf("%s: it is signed with %s", origin, parsed.SignatureAlgorithm)
	case !l.nextUpdate.After(l.thisUpdate):
		return nil, fmt.Errorf("%s: it has no nextUpdate after its thisUpdate", origin)
	case l.delta() && l.number == nil:
		return nil, fmt.Errorf("%s: a delta without a number", origin)
	}
	for _, e := range parsed.RevokedCertificateEntries {
		if err := l.addEntry(e); err != nil {
			return nil, fmt.Errorf("%s: %w", origin, err)
		}
	}
	return l, nil
}

// sound excludes the algorithms of the past, which crypto/x509 still admits in
// CRLs and OCSP answers.
func sound(algorithm x509.SignatureAlgorithm) bool {
	switch algorithm {
	case x509.ECDSAWithSHA256, x509.ECDSAWithSHA384, x509.ECDSAWithSHA512, x509.PureEd25519,
		x509.SHA256WithRSA, x509.SHA384WithRSA, x509.SHA512WithRSA,
		x509.SHA256WithRSAPSS, x509.SHA384WithRSAPSS, x509.SHA512WithRSAPSS:
		return true
	default:
		return false
	}
}

func (l *list) addEntry(e x509.RevocationListEntry) error {
	for _, extension := range e.Extensions {
		if extension.Critical && !extension.Id.Equal(oidReason) && !extension.Id.Equal(oidInvalidityDate) {
			return fmt.Errorf("the critical extension %s of an entry is unknown", extension.Id)
		}
	}
	if e.SerialNumber.Sign() < 0 {
		return nil // no certificate that is parsed here has such a number
	}
	l.entries[serialKey(e.SerialNumber)] = entry{e.RevocationTime.Unix(), int8(min(max(e.ReasonCode, 0), 127))}
	return nil
}

func serialKey(serial *big.Int) string { return string(serial.Bytes()) }

func (l *list) readExtensions(extensions []pkix.Extension) error {
	var seen []asn1.ObjectIdentifier
	for _, extension := range extensions {
		if slices.ContainsFunc(seen, extension.Id.Equal) {
			return fmt.Errorf("the extension %s stands twice", extension.Id)
		}
		seen = append(seen, extension.Id)
		var err error
		switch {
		case extension.Id.Equal(oidCRLNumber), extension.Id.Equal(oidAuthorityKeyID):
		case extension.Id.Equal(oidDeltaIndicator):
			base := new(big.Int)
			value := cryptobyte.String(extension.Value)
			if !value.ReadASN1Integer(base) || !value.Empty() || base.Sign() < 0 {
				err = errMalformedExtension
			}
			l.base = base
		case extension.Id.Equal(oidDistributionPoint):
			l.scope, err = readScope(extension.Value)
		case extension.Id.Equal(oidFreshestCRL):
			l.freshest, err = readPoints(extension.Value)
		case extension.Critical:
			err = fmt.Errorf("its critical extension %s is unknown", extension.Id)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// signedBy reports whether issuer's key signed the list and may sign lists. It
// verifies the signature once for a key.
func (l *list) signedBy(issuer *x509.Certificate) error {
	if !bytes.Equal(l.issuer, issuer.RawSubject) {
		return errNotSigner
	}
	// Whether a certificate may sign lists is a property of the certificate, of
	// which a key may have several.
	if issuer.KeyUsage != 0 && issuer.KeyUsage&x509.KeyUsageCRLSign == 0 {
		return errors.New("its issuer's keyUsage lacks cRLSign")
	}
	key := muster.DigestOf(issuer.RawSubjectPublicKeyInfo)
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.unproved == nil && l.signer == key:
		return nil
	case l.unproved == nil || slices.Contains(l.refused, key):
		return errNotSigner
	}
	if err := l.unproved.CheckSignatureFrom(issuer); err != nil {
		if len(l.refused) < maxRefusedSigners {
			l.refused = append(l.refused, key)
		}
		return errNotSigner
	}
	l.signer, l.unproved = key, nil // the octets of the list are not needed any more
	l.proved.Store(true)
	return nil
}

// A scope is what a list is about (RFC 5280 5.2.5).
type scope struct {
	raw                []byte // DER; nil for everything the issuer has issued
	users, authorities bool   // only those
	points             []string
}

// covers reports whether c belongs to what the list is about.
func (s scope) covers(c *x509.Certificate) bool {
	switch {
	case s.users && c.IsCA, s.authorities && !c.IsCA:
		return false
	case s.points == nil:
		return true
	default:
		return slices.ContainsFunc(s.points, func(point string) bool { return slices.Contains(c.CRLDistributionPoints, point) })
	}
}

func readScope(der []byte) (scope, error) {
	s := scope{raw: der}
	input := cryptobyte.String(der)
	var fields, point, reasons cryptobyte.String
	var named, hasReasons, indirect, attributes bool
	context := func(tag uint8) cryptobyte_asn1.Tag { return cryptobyte_asn1.Tag(tag).ContextSpecific() }
	if !input.ReadASN1(&fields, cryptobyte_asn1.SEQUENCE) || !input.Empty() ||
		!fields.ReadOptionalASN1(&point, &named, context(0).Constructed()) ||
		!readFlag(&fields, &s.users, context(1)) || !readFlag(&fields, &s.authorities, context(2)) ||
		!fields.ReadOptionalASN1(&reasons, &hasReasons, context(3)) ||
		!readFlag(&fields, &indirect, context(4)) || !readFlag(&fields, &attributes, context(5)) || !fields.Empty() {
		return scope{}, errMalformedExtension
	}
	if hasReasons || indirect || attributes {
		return scope{}, errors.New("it is for some reasons only, for several issuers or for attribute certificates")
	}
	if named {
		uris, err := readPointName(point)
		if err != nil {
			return scope{}, err
		}
		// A point without a URI matches no certificate.
		s.points = append([]string{}, uris...)
	}
	return s, nil
}

// readFlag reads an optional BOOLEAN with an implicit tag, false by default.
func readFlag(fields *cryptobyte.String, flag *bool, tag cryptobyte_asn1.Tag) bool {
	var value cryptobyte.String
	var present bool
	if !fields.ReadOptionalASN1(&value, &present, tag) || present && (len(value) != 1 || value[0] != 0 && value[0] != 0xff) {
		return false
	}
	*flag = present && value[0] == 0xff
	return true
}

// readPointName returns the URIs of a DistributionPointName (RFC 5280 4.2.1.13);
// a name relative to the issuer has none.
func readPointName(name cryptobyte.String) ([]string, error) {
	var full cryptobyte.String
	var isFull bool
	if !name.ReadOptionalASN1(&full, &isFull, cryptobyte_asn1.Tag(0).ContextSpecific().Constructed()) {
		return nil, errMalformedExtension
	}
	var uris []string
	for !full.Empty() {
		var value cryptobyte.String
		var tag cryptobyte_asn1.Tag
		if !full.ReadAnyASN1(&value, &tag) {
			return nil, errMalformedExtension
		}
		if tag == cryptobyte_asn1.Tag(6).ContextSpecific() {
			uris = append(uris, string(value))
		}
	}
	return uris, nil
}

// readPoints returns the URIs in CRLDistributionPoints, the form of freshestCRL,
// but for points that are for some reasons only or of another issuer.
func readPoints(der []byte) ([]string, error) {
	input := cryptobyte.String(der)
	var points cryptobyte.String
	if !input.ReadASN1(&points, cryptobyte_asn1.SEQUENCE) || !input.Empty() {
		return nil, errMalformedExtension
	}
	var uris []string
	for !points.Empty() {
		var point, name cryptobyte.String
		var named bool
		if !points.ReadASN1(&point, cryptobyte_asn1.SEQUENCE) ||
			!point.ReadOptionalASN1(&name, &named, cryptobyte_asn1.Tag(0).ContextSpecific().Constructed()) {
			return nil, errMalformedExtension
		}
		if !named || !point.Empty() {
			continue
		}
		found, err := readPointName(name)
		if err != nil {
			return nil, err
		}
		uris = append(uris, found...)
	}
	return uris, nil
}

// freshestOf returns the URLs of deltas that a certificate names.
func freshestOf(c *x509.Certificate) []string {
	for _, extension := range c.Extensions {
		if extension.Id.Equal(oidFreshestCRL) {
			if uris, err := readPoints(extension.Value); err == nil {
				return uris
			}
		}
	}
	return nil
}

// describe names the list in a detail.
func (l *list) describe() string {
	var b strings.Builder
	b.WriteString("the CRL")
	if l.delta() {
		b.WriteString(" (delta)")
	}
	if l.number != nil {
		fmt.Fprintf(&b, " number %s", l.number)
	}
	fmt.Fprintf(&b, " in %q", l.origin)
	return b.String()
}

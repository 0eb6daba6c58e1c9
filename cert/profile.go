package cert

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"slices"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cryptobyte_asn1 "golang.org/x/crypto/cryptobyte/asn1"

	"muster"
)

// A Profile is a set of rules for certificates.
type Profile int

// The profiles. The zero Profile is the strict one.
const (
	// ProfileOneM2M is TS-0003 10.1.1: P-256 keys, ECDSA with SHA-256, a
	// keyUsage with digitalSignature, no wildcard.
	ProfileOneM2M Profile = iota
	// ProfileRFC5280 admits P-384, Ed25519 and RSA from 2048 bits as well, with
	// SHA-2, and only warns of a wildcard, which still names nobody.
	ProfileRFC5280
	// ProfileConstrained is ProfileOneM2M and demands name constraints in the path,
	// as TS-0003 8.1.2.2 does where 10.1.1.4.2 recommends them.
	ProfileConstrained
)

// String returns the name of the profile in a configuration: "onem2m", "rfc5280"
// or "onem2m-constrained".
func (p Profile) String() string {
	switch p {
	case ProfileRFC5280:
		return "rfc5280"
	case ProfileConstrained:
		return "onem2m-constrained"
	default:
		return "onem2m"
	}
}

// UnmarshalText accepts the three names; anything else is an error.
func (p *Profile) UnmarshalText(text []byte) error {
	for _, known := range []Profile{ProfileOneM2M, ProfileRFC5280, ProfileConstrained} {
		if string(text) == known.String() {
			*p = known
			return nil
		}
	}
	return fmt.Errorf("%q is not a certificate profile: want onem2m, onem2m-constrained or rfc5280", text)
}

// strictly is the level of a departure from TS-0003 10.1.1 that RFC 5280 allows.
func (p Profile) strictly() Level {
	if p == ProfileRFC5280 {
		return LevelWarning
	}
	return LevelError
}

// admitsKey reports whether the profile has the kind of public key. That a
// P-256 point is uncompressed (TS-0003 10.1.1.1) needs no look: crypto/x509
// parses no other.
func (p Profile) admitsKey(key any) bool {
	switch key := key.(type) {
	case *ecdsa.PublicKey:
		return key.Curve == elliptic.P256() || p == ProfileRFC5280 && key.Curve == elliptic.P384()
	case ed25519.PublicKey:
		return p == ProfileRFC5280
	case *rsa.PublicKey:
		return p == ProfileRFC5280 && key.N.BitLen() >= 2048
	default:
		return false
	}
}

func (p Profile) admitsSignature(algorithm x509.SignatureAlgorithm) bool {
	switch algorithm {
	case x509.ECDSAWithSHA256:
		return true
	case x509.ECDSAWithSHA384, x509.ECDSAWithSHA512, x509.PureEd25519,
		x509.SHA256WithRSA, x509.SHA384WithRSA, x509.SHA512WithRSA,
		x509.SHA256WithRSAPSS, x509.SHA384WithRSAPSS, x509.SHA512WithRSAPSS:
		return p == ProfileRFC5280
	default:
		return false
	}
}

// maxSerialOctets is the size of the largest serial number (RFC 5280 4.1.2.2).
const maxSerialOctets = 20

// common examines what holds for every certificate but an anchor
// (TS-0003 10.1.1.1, 10.1.1.3). Index is that of the findings.
func (p Profile) common(c *x509.Certificate, index int, now time.Time) Findings {
	f := p.anchor(c, index, now)
	if !p.admitsSignature(c.SignatureAlgorithm) {
		f.add(LevelError, muster.CodeSignatureAlgorithm, index, "it is signed with %s, which profile %s does not admit", c.SignatureAlgorithm, p)
	}
	// crypto/x509 has refused a negative number.
	if n := c.SerialNumber.BitLen()/8 + 1; n > maxSerialOctets {
		f.add(LevelError, muster.CodeCertificateMalformed, index, "its serial number has %d octets, more than %d", n, maxSerialOctets)
	} else if c.SerialNumber.Sign() == 0 {
		f.add(LevelWarning, muster.CodeCertificateMalformed, index, "its serial number is zero")
	}
	if !hasPlainValidity(c.RawTBSCertificate) {
		f.add(p.strictly(), muster.CodeCertificateMalformed, index, "its validity is not written to the second in UTC (RFC 5280 4.1.2.5)")
	}
	return f
}

// hasPlainValidity reports whether both times of a certificate's validity are in
// the one form of RFC 5280 4.1.2.5; crypto/x509 also reads a UTCTime with an
// offset or without seconds.
func hasPlainValidity(body []byte) bool {
	input := cryptobyte.String(body)
	var fields, validity, text cryptobyte.String
	if !input.ReadASN1(&fields, cryptobyte_asn1.SEQUENCE) ||
		!fields.SkipOptionalASN1(cryptobyte_asn1.Tag(0).ContextSpecific().Constructed()) || // version
		!fields.SkipASN1(cryptobyte_asn1.INTEGER) || !fields.SkipASN1(cryptobyte_asn1.SEQUENCE) || // serialNumber, signature
		!fields.SkipASN1(cryptobyte_asn1.SEQUENCE) || // issuer
		!fields.ReadASN1(&validity, cryptobyte_asn1.SEQUENCE) {
		return false
	}
	for !validity.Empty() {
		var tag cryptobyte_asn1.Tag
		if !validity.ReadAnyASN1(&text, &tag) {
			return false
		}
		size := len("YYMMDDHHMMSSZ")
		if tag == cryptobyte_asn1.GeneralizedTime {
			size = len("YYYYMMDDHHMMSSZ")
		}
		if len(text) != size || text[size-1] != 'Z' {
			return false
		}
	}
	return true
}

// anchor examines what holds for a trust anchor too, whose signature proves
// nothing and is not looked at: validity, key and critical extensions.
func (p Profile) anchor(c *x509.Certificate, index int, now time.Time) Findings {
	var f Findings
	switch {
	case now.Before(c.NotBefore):
		f.add(LevelError, muster.CodeNotYetValid, index, "it is valid from %s, and now it is %s", stamp(c.NotBefore), stamp(now))
	case now.After(c.NotAfter):
		f.add(LevelError, muster.CodeExpired, index, "it expired at %s, and now it is %s", stamp(c.NotAfter), stamp(now))
	}
	if !p.admitsKey(c.PublicKey) {
		f.add(LevelError, muster.CodeKeyAlgorithm, index, "its public key is %s, which profile %s does not admit", describeKey(c), p)
	}
	for _, id := range c.UnhandledCriticalExtensions {
		if id.Equal(oidNameConstraints) {
			f.add(LevelError, muster.CodeNameConstraints, index, "it constrains a form of name that cannot be checked")
		} else {
			f.add(LevelError, muster.CodeCriticalExtension, index, "its critical extension %s is unknown", id)
		}
	}
	return f
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func describeKey(c *x509.Certificate) string {
	switch key := c.PublicKey.(type) {
	case *ecdsa.PublicKey:
		return "ECDSA on " + key.Curve.Params().Name
	case *rsa.PublicKey:
		return fmt.Sprintf("RSA of %d bits", key.N.BitLen())
	default:
		return c.PublicKeyAlgorithm.String()
	}
}

// leaf examines the certificate of the peer itself.
func (p Profile) leaf(c *x509.Certificate, usage Usage, now time.Time) Findings {
	f := p.common(c, 0, now)
	if c.IsCA {
		f.add(LevelError, muster.CodeCAAsLeaf, 0, "it is the certificate of an authority")
	}
	switch {
	case c.KeyUsage == 0:
		f.add(LevelError, muster.CodeKeyUsage, 0, "it has no keyUsage")
	case c.KeyUsage&x509.KeyUsageDigitalSignature == 0:
		f.add(LevelError, muster.CodeKeyUsage, 0, "its keyUsage lacks digitalSignature")
	case c.KeyUsage&x509.KeyUsageCertSign != 0 && !c.IsCA:
		f.add(LevelWarning, muster.CodeKeyUsage, 0, "its keyUsage has keyCertSign though it is no authority")
	}
	wanted, ok := usage.extended()
	if !ok {
		f.add(LevelError, muster.CodeExtendedKeyUsage, 0, "the configuration does not say in which role the peer is")
	} else if !allows(c, wanted) {
		f.add(LevelError, muster.CodeExtendedKeyUsage, 0, "its extendedKeyUsage does not allow the role of a %s", usage)
	}
	return f
}

// allows reports whether the extendedKeyUsage of c, if it has one, has wanted.
func allows(c *x509.Certificate, wanted x509.ExtKeyUsage) bool {
	if len(c.ExtKeyUsage)+len(c.UnknownExtKeyUsage) == 0 {
		return true
	}
	return slices.Contains(c.ExtKeyUsage, wanted) || slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageAny)
}

// authority examines a certificate between the leaf and the anchor.
func (p Profile) authority(c *x509.Certificate, index int, now time.Time) Findings {
	f := p.common(c, index, now)
	if !c.BasicConstraintsValid || !c.IsCA {
		f.add(LevelError, muster.CodePathInvalid, index, "it is not the certificate of an authority")
	}
	switch {
	case c.KeyUsage != 0 && c.KeyUsage&x509.KeyUsageCertSign == 0:
		f.add(LevelError, muster.CodeKeyUsage, index, "its keyUsage lacks keyCertSign")
	case c.KeyUsage&x509.KeyUsageDigitalSignature == 0 && p != ProfileRFC5280:
		// The clause asks it of all certificates, and nearly no authority in
		// the field has it, so it does not refuse.
		f.add(LevelWarning, muster.CodeKeyUsage, index, "its keyUsage lacks digitalSignature")
	}
	return f
}

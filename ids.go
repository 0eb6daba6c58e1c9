package muster

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/text/unicode/norm"
)

// ErrSyntax is wrapped by every error that a Parse function of this package returns.
var ErrSyntax = errors.New("malformed identifier")

func syntaxError(kind, format string, args ...any) error {
	return fmt.Errorf("%w: %s: %s", ErrSyntax, kind, fmt.Sprintf(format, args...))
}

// RelativeSize is the size in octets of the relative part of a KeID, KmID or KcID
// and of the identifier half of an exporter output (TS-0003 10.3.1).
const RelativeSize = 16

// MaxPSKIdentity is the longest psk_identity in octets that Muster accepts:
// 32 hexadecimal digits, an at sign and an FQDN of 253 octets.
const MaxPSKIdentity = 2*RelativeSize + 1 + maxFQDN

const maxFQDN = 253

// An FQDN names an M2M Enrolment Function, an M2M Authentication Function or an
// administrating stakeholder. It is lower-case ASCII with A-labels for
// internationalised names, has at least two labels and at most 253 octets. The
// zero FQDN names nobody. FQDNs may be compared with ==.
type FQDN struct{ name string }

// ParseFQDN returns s as an FQDN. It folds nothing: upper case, a trailing dot,
// a U-label, a wildcard or an IPv4 address is an error that wraps ErrSyntax.
func ParseFQDN(s string) (FQDN, error) {
	if len(s) > maxFQDN {
		return FQDN{}, syntaxError("FQDN", "%d octets exceed %d", len(s), maxFQDN)
	}
	labels := strings.Split(s, ".")
	if len(labels) < 2 {
		return FQDN{}, syntaxError("FQDN", "%q has fewer than two labels", s)
	}
	for _, label := range labels {
		if !isLabel(label) {
			return FQDN{}, syntaxError("FQDN", "%q has the label %q, which is not 1 to 63 of a-z, 0-9 and inner hyphens", s, label)
		}
	}
	if strings.Trim(labels[len(labels)-1], "0123456789") == "" {
		return FQDN{}, syntaxError("FQDN", "%q ends in digits as an IPv4 address does", s)
	}
	return FQDN{s}, nil
}

func isLabel(s string) bool {
	if len(s) == 0 || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for _, c := range []byte(s) {
		if c != '-' && (c < '0' || c > '9') && (c < 'a' || c > 'z') {
			return false
		}
	}
	return true
}

// String returns the name, and "" for the zero FQDN.
func (f FQDN) String() string { return f.name }

// IsZero reports whether f names nobody.
func (f FQDN) IsZero() bool { return f == FQDN{} }

// MarshalText returns the name.
func (f FQDN) MarshalText() ([]byte, error) { return []byte(f.name), nil }

// UnmarshalText is ParseFQDN.
func (f *FQDN) UnmarshalText(text []byte) (err error) {
	*f, err = ParseFQDN(string(text))
	return err
}

// An EnroleeID is the Absolute CSE-ID or Absolute AE-ID assigned to an Enrolee
// (TS-0003 8.3.2.1, formats TS-0001 7.2): "//", the FQDN of the service provider
// and one or two further segments. It is held in Unicode normalisation form KC,
// so two spellings of one identifier are equal, also under ==.
type EnroleeID struct{ id string }

const maxEnroleeID = 512

// ParseEnroleeID returns s in form KC as an EnroleeID of at most 512 octets.
// Errors wrap ErrSyntax.
func ParseEnroleeID(s string) (EnroleeID, error) {
	if len(s) > maxEnroleeID {
		return EnroleeID{}, syntaxError("Enrolee-ID", "%d octets exceed %d", len(s), maxEnroleeID)
	}
	id := norm.NFKC.String(s)
	rest, ok := strings.CutPrefix(id, "//")
	if !ok || len(id) > maxEnroleeID {
		return EnroleeID{}, syntaxError("Enrolee-ID", "%q is not an Absolute AE-ID or CSE-ID of at most %d octets", s, maxEnroleeID)
	}
	if strings.Count(id, "/") != strings.Count(s, "/") {
		return EnroleeID{}, syntaxError("Enrolee-ID", "%q gains a separator in normalisation form KC", s)
	}
	segments := strings.Split(rest, "/")
	if len(segments) < 2 || len(segments) > 3 {
		return EnroleeID{}, syntaxError("Enrolee-ID", "%q has %d segments, not 2 or 3", s, len(segments))
	}
	if _, err := ParseFQDN(segments[0]); err != nil {
		return EnroleeID{}, syntaxError("Enrolee-ID", "%q names no service provider: %v", s, err)
	}
	for _, segment := range segments[1:] {
		if segment == "" || segment == "." || segment == ".." || strings.ContainsFunc(segment, notInSegment) {
			return EnroleeID{}, syntaxError("Enrolee-ID", "%q has the segment %q", s, segment)
		}
	}
	return EnroleeID{id}, nil
}

// notInSegment reports whether r would end or disturb a path segment, a log line
// or a comparison by eye.
func notInSegment(r rune) bool {
	return !strconv.IsPrint(r) || r == '\uFFFD' || strings.ContainsRune(" \"#%<>?@[\\]^`{|}", r)
}

// String returns the identifier in form KC, and "" for the zero EnroleeID.
func (e EnroleeID) String() string { return e.id }

// IsZero reports whether e is the zero EnroleeID.
func (e EnroleeID) IsZero() bool { return e == EnroleeID{} }

// MarshalText returns the identifier.
func (e EnroleeID) MarshalText() ([]byte, error) { return []byte(e.id), nil }

// UnmarshalText is ParseEnroleeID.
func (e *EnroleeID) UnmarshalText(text []byte) (err error) {
	*e, err = ParseEnroleeID(string(text))
	return err
}

// A KeID identifies an Enrolment Key (TS-0003 10.3.4; KteId in the seed text):
// 16 octets exported from the MEF Handshake, and the FQDN of the MEF.
type KeID struct {
	relative [RelativeSize]byte
	mef      FQDN
}

// NewKeID returns the KeID of the exported octets at a MEF.
func NewKeID(relative [RelativeSize]byte, mef FQDN) KeID { return KeID{relative, mef} }

// ParseKeID reads 32 hexadecimal digits of either case, an at sign and an FQDN.
// Errors wrap ErrSyntax.
func ParseKeID(s string) (KeID, error) {
	relative, issuer, err := splitIdentity("KeID", s)
	if err != nil {
		return KeID{}, err
	}
	id := KeID{mef: issuer}
	if len(relative) != hex.EncodedLen(RelativeSize) {
		return KeID{}, syntaxError("KeID", "%q does not begin with %d hexadecimal digits", s, 2*RelativeSize)
	}
	if _, err := hex.Decode(id.relative[:], []byte(relative)); err != nil {
		return KeID{}, syntaxError("KeID", "%q: %v", s, err)
	}
	return id, nil
}

// Relative returns the RelativeKeID.
func (k KeID) Relative() [RelativeSize]byte { return k.relative }

// MEF returns the FQDN of the issuing MEF, the only MEF that can be asked for the key.
func (k KeID) MEF() FQDN { return k.mef }

// IsZero reports whether k is the zero KeID.
func (k KeID) IsZero() bool { return k == KeID{} }

// String returns the wire form with upper-case digits, and "" for the zero KeID.
func (k KeID) String() string {
	if k.IsZero() {
		return ""
	}
	return hexUpper(k.relative[:]) + "@" + k.mef.name
}

// MarshalText returns the wire form.
func (k KeID) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText is ParseKeID.
func (k *KeID) UnmarshalText(text []byte) (err error) {
	*k, err = ParseKeID(string(text))
	return err
}

// A KmID identifies a Master Credential (TS-0003 10.6; KmmId in the seed text): a
// relative part that its MAF assigned, not case sensitive, and the FQDN of the MAF.
type KmID struct {
	relative string
	maf      FQDN
}

// ParseKmID reads at most 64 letters, digits, '.', '_' and '-', an at sign and an
// FQDN. Letters are folded to upper case. Errors wrap ErrSyntax.
func ParseKmID(s string) (KmID, error) {
	relative, issuer, err := splitIssued("KmID", s)
	return KmID{strings.ToUpper(relative), issuer}, err
}

// MAF returns the FQDN of the assigning MAF.
func (k KmID) MAF() FQDN { return k.maf }

// IsZero reports whether k is the zero KmID.
func (k KmID) IsZero() bool { return k == KmID{} }

// String returns the wire form in upper case, and "" for the zero KmID.
func (k KmID) String() string {
	if k.IsZero() {
		return ""
	}
	return k.relative + "@" + k.maf.name
}

// MarshalText returns the wire form.
func (k KmID) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText is ParseKmID.
func (k *KmID) UnmarshalText(text []byte) (err error) {
	*k, err = ParseKmID(string(text))
	return err
}

// A KpmID identifies a pre-provisioned symmetric Enrolee key (TS-0003 8.3.2.1): a
// relative part, unique with its issuer, and the FQDN of the issuer, who is the MEF
// or the stakeholder that provisioned the key. TS-0003 fixes no form; this is that
// of the KpsaID (TS-0003 10.5). It is comparable, and case counts in the relative
// part.
type KpmID struct {
	relative string
	issuer   FQDN
}

// ParseKpmID reads at most 64 letters, digits, '.', '_' and '-', an at sign and an
// FQDN. Errors wrap ErrSyntax.
func ParseKpmID(s string) (KpmID, error) {
	relative, issuer, err := splitIssued("KpmID", s)
	return KpmID{relative, issuer}, err
}

// Issuer returns the FQDN of the stakeholder that provisioned the key.
func (k KpmID) Issuer() FQDN { return k.issuer }

// IsZero reports whether k is the zero KpmID.
func (k KpmID) IsZero() bool { return k == KpmID{} }

// String returns the wire form, and "" for the zero KpmID.
func (k KpmID) String() string {
	if k.IsZero() {
		return ""
	}
	return k.relative + "@" + k.issuer.name
}

// MarshalText returns the wire form.
func (k KpmID) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText is ParseKpmID.
func (k *KpmID) UnmarshalText(text []byte) (err error) {
	*k, err = ParseKpmID(string(text))
	return err
}

// splitIssued reads a relative part of 1 to 64 permitted characters, an at sign
// and an FQDN.
func splitIssued(kind, s string) (relative string, issuer FQDN, err error) {
	relative, issuer, err = splitIdentity(kind, s)
	if err != nil {
		return "", FQDN{}, err
	}
	if relative == "" || len(relative) > 64 {
		return "", FQDN{}, syntaxError(kind, "%q has a relative part of %d octets, not 1 to 64", s, len(relative))
	}
	for _, c := range []byte(relative) {
		if !isAlphanumeric(c) && c != '.' && c != '_' && c != '-' {
			return "", FQDN{}, syntaxError(kind, "%q has %q in its relative part", s, c)
		}
	}
	return relative, issuer, nil
}

func isAlphanumeric(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'z'
}

// splitIdentity cuts s at its last at sign and reads what follows as an FQDN.
func splitIdentity(kind, s string) (relative string, issuer FQDN, err error) {
	if len(s) > MaxPSKIdentity {
		return "", FQDN{}, syntaxError(kind, "%d octets exceed %d", len(s), MaxPSKIdentity)
	}
	at := strings.LastIndexByte(s, '@')
	if at < 0 {
		return "", FQDN{}, syntaxError(kind, "%q has no at sign", s)
	}
	if issuer, err = ParseFQDN(s[at+1:]); err != nil {
		return "", FQDN{}, syntaxError(kind, "%q names no issuer: %v", s, err)
	}
	return s[:at], issuer, nil
}

func hexUpper(octets []byte) string { return strings.ToUpper(hex.EncodeToString(octets)) }

// A SUID is a Security Usage Identifier (TS-0004, sec:suid): what a key is for.
type SUID int

// The usages of symmetric keys provisioned by a Remote Security Provisioning Framework.
const (
	SUIDForMAF                SUID = 21 // shared with a MAF: the Master Credential
	SUIDForSAEF               SUID = 22 // security association establishment
	SUIDForESPrim             SUID = 23 // end-to-end security of primitives
	SUIDForESDataIntegrity    SUID = 24 // end-to-end security of data: authentication
	SUIDForESDataEncryption   SUID = 25 // end-to-end security of data: encryption
	smallestSUID, largestSUID      = 10, 45
)

// ParseSUID reads a decimal number without sign or leading zero from 10 to 45,
// the range TS-0004 assigns. Errors wrap ErrSyntax.
func ParseSUID(s string) (SUID, error) {
	n, err := strconv.Atoi(s)
	if err != nil || n < smallestSUID || n > largestSUID || strconv.Itoa(n) != s {
		return 0, syntaxError("SUID", "%q is not a decimal number from %d to %d", s, smallestSUID, largestSUID)
	}
	return SUID(n), nil
}

// String returns the number in decimal.
func (s SUID) String() string { return strconv.Itoa(int(s)) }

// A CredentialType is the type part of a CredentialID (TS-0003 10.4, sec:credIDTypeID).
type CredentialType int

// The credential types that Muster meets.
const (
	CredentialKpmID  CredentialType = 10
	CredentialKmID   CredentialType = 11
	CredentialKpsaID CredentialType = 12
	CredentialRawKey CredentialType = 30
	CredentialDevice CredentialType = 31
	CredentialCSEID  CredentialType = 32
	CredentialAEID   CredentialType = 33
	CredentialNodeID CredentialType = 34
)

// A CredentialID names a credential globally (TS-0003 10.4). It is comparable.
type CredentialID struct {
	kind  CredentialType
	value string
}

// NewCredentialID returns the Credential-ID of a type and a value of 1 to 512
// octets from letters, digits, '.', '_', '-' and '@'. Errors wrap ErrSyntax.
func NewCredentialID(kind CredentialType, value string) (CredentialID, error) {
	if kind < 1 || kind > 99 {
		return CredentialID{}, syntaxError("Credential-ID", "type %d is not from 1 to 99", kind)
	}
	if value == "" || len(value) > 512 {
		return CredentialID{}, syntaxError("Credential-ID", "a value of %d octets, not 1 to 512", len(value))
	}
	for _, c := range []byte(value) {
		if !isAlphanumeric(c) && c != '.' && c != '_' && c != '-' && c != '@' {
			return CredentialID{}, syntaxError("Credential-ID", "%q in the value %q", c, value)
		}
	}
	return CredentialID{kind, value}, nil
}

// ParseCredentialID reads a decimal type, a hyphen and a value. Errors wrap ErrSyntax.
func ParseCredentialID(s string) (CredentialID, error) {
	kind, value, ok := strings.Cut(s, "-")
	n, err := strconv.Atoi(kind)
	if !ok || err != nil || strconv.Itoa(n) != kind {
		return CredentialID{}, syntaxError("Credential-ID", "%q does not begin with a decimal type and a hyphen", s)
	}
	return NewCredentialID(CredentialType(n), value)
}

// Type returns the type part.
func (c CredentialID) Type() CredentialType { return c.kind }

// Value returns the value part.
func (c CredentialID) Value() string { return c.value }

// String returns the wire form, and "" for the zero CredentialID.
func (c CredentialID) String() string {
	if c == (CredentialID{}) {
		return ""
	}
	return strconv.Itoa(int(c.kind)) + "-" + c.value
}

// A Digest is the SHA-256 of something public: a certificate or a key.
type Digest [sha256.Size]byte

// DigestOf returns the SHA-256 of octets.
func DigestOf(octets []byte) Digest { return sha256.Sum256(octets) }

// IsZero reports whether d is all zero, which stands for "none".
func (d Digest) IsZero() bool { return d == Digest{} }

// String returns 64 lower-case hexadecimal digits.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

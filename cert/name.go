package cert

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"muster"
)

// Limits on names in octets, so that no stranger's certificate makes a long key
// for a store or a long line in a log.
const (
	maxURI    = 1024
	maxOID    = 64 // the content of a DER OBJECT IDENTIFIER or RELATIVE-OID
	maxSerial = 64 // the hwSerialNum of a hardwareModuleName
)

// hardwareModulePrefix begins the text of a hardwareModuleName. No object
// identifier begins so.
const hardwareModulePrefix = "hwmodule:"

// ParseName returns the name of a flavour from its text, in canonical form:
//
//   - device: the M2M Device Indication ID and the remaining arcs of an M2M
//     Device ID (TS-0001 H.2), "0.2.481.1/100.3030.10011": manufacturer, model,
//     serial number and, optionally, the expanded ID. The slash shows where the
//     type-id of the otherName ends. Or the hardwareModuleName of RFC 4108,
//     "hwmodule:1.3.6.1.4.1.99999.1:0a0b0c": hwType, and hwSerialNum in
//     hexadecimal.
//   - node-id: a URI if it contains a colon, else a domain name.
//   - cse-id and fqdn: a domain name of at least two labels.
//   - ae-id: an Absolute AE-ID, bare ("//sp.example/C1/S2") or with any scheme.
//   - raw-public-key: "ni:///", an algorithm, ";" and a digest (RFC 6920).
//
// Domain names and hexadecimal digits are folded to lower case; nothing else is
// folded, and a wildcard is refused. Errors wrap muster.ErrSyntax.
func ParseName(flavour muster.Flavour, text string) (muster.CertName, error) {
	var canonical string
	var err error
	switch flavour {
	case muster.FlavourDevice:
		canonical, err = parseDevice(text)
	case muster.FlavourNodeID:
		if strings.Contains(text, ":") {
			canonical, err = parseURI(text, false)
		} else {
			canonical, err = parseDomain(text)
		}
	case muster.FlavourCSEID, muster.FlavourFQDN:
		canonical, err = parseDomain(text)
	case muster.FlavourAEID:
		canonical, err = parseURI(text, true)
	case muster.FlavourRawKey:
		canonical, err = parseRawKey(text)
	default:
		err = fmt.Errorf("there is no such flavour")
	}
	if err != nil {
		return muster.CertName{}, fmt.Errorf("%w: %s name %s: %w", muster.ErrSyntax, flavour, quote(text), err)
	}
	return muster.CertName{Flavour: flavour, Text: canonical}, nil
}

// Names returns every name by which an instruction could know the certificate:
// each entry of its subjectAltName under each flavour that it fits, without
// duplicates, in the order of the certificate. A certificate has a name of the
// flavour raw-public-key only outside a chain, so none is returned. Entries of
// other forms and wildcards are no names, and neither is a common name
// (TS-0003 10.1.1). The error is a Refusal for a certificate beyond the caps or
// with a malformed subjectAltName.
func Names(leaf *x509.Certificate) ([]muster.CertName, error) {
	if refusal := overCap(leaf); refusal != nil {
		return nil, refusal
	}
	entries, err := altNamesOf(leaf)
	if err != nil {
		return nil, err
	}
	return namesIn(entries), nil
}

func namesIn(entries []altName) []muster.CertName {
	var names []muster.CertName
	add := func(flavour muster.Flavour, text string) {
		name := muster.CertName{Flavour: flavour, Text: text}
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	for _, entry := range entries {
		switch entry.form {
		case formDNSName:
			if domain, err := parseDomain(entry.text); err == nil {
				add(muster.FlavourFQDN, domain)
				add(muster.FlavourCSEID, domain)
				add(muster.FlavourNodeID, domain)
			}
		case formURI:
			uri, err := parseURI(entry.text, true)
			if err != nil {
				continue
			}
			add(muster.FlavourAEID, uri)
			if !strings.HasPrefix(uri, "//") {
				add(muster.FlavourNodeID, uri)
			}
			if domain, ok := onlyDomain(uri); ok {
				add(muster.FlavourFQDN, domain)
			}
		case formOtherName:
			if entry.device != "" {
				add(muster.FlavourDevice, entry.device)
			}
		}
	}
	return names
}

// parseDomain reads a domain name. Its only folding is that of ASCII letters:
// Unicode's would fold the Kelvin sign to the letter k.
func parseDomain(text string) (string, error) {
	if strings.Contains(text, "*") {
		return "", errWildcard
	}
	name, err := muster.ParseFQDN(lowerASCII(text))
	return name.String(), err
}

func lowerASCII(s string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, s)
}

var errWildcard = fmt.Errorf("a wildcard is not a name")

// parseURI reads a URI with a scheme or, if bare is set, one that begins with
// its authority, as an Absolute AE-ID does. It returns it octet for octet: two
// URIs are one name only when they are equal (TS-0003 8.1.2.5).
func parseURI(text string, bare bool) (string, error) {
	if len(text) > maxURI {
		return "", fmt.Errorf("%d octets exceed %d", len(text), maxURI)
	}
	rest, ok := text, false
	if bare {
		rest, ok = strings.CutPrefix(text, "//")
	}
	if !ok {
		_, rest, ok = cutScheme(text)
	}
	if !ok || strings.TrimLeft(rest, "/") == "" {
		return "", fmt.Errorf("it is not a URI")
	}
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '*':
			return "", errWildcard
		case c == '%':
			if i+2 >= len(text) || !isHex(text[i+1]) || !isHex(text[i+2]) {
				return "", fmt.Errorf("the escape at octet %d is incomplete", i)
			}
		case !isURIOctet(c):
			return "", fmt.Errorf("octet %d (%q) does not belong in a URI", i, c)
		}
	}
	return text, nil
}

// cutScheme splits a URI after its scheme (RFC 3986 3.1).
func cutScheme(uri string) (scheme, rest string, ok bool) {
	scheme, rest, ok = strings.Cut(uri, ":")
	if !ok || scheme == "" || !isLetter(scheme[0]) {
		return "", "", false
	}
	for _, c := range []byte(scheme) {
		if !isLetter(c) && !isDigit(c) && !strings.ContainsRune("+-.", rune(c)) {
			return "", "", false
		}
	}
	return scheme, rest, true
}

func isLetter(c byte) bool { return 'a' <= c|0x20 && c|0x20 <= 'z' }
func isDigit(c byte) bool  { return '0' <= c && c <= '9' }
func isHex(c byte) bool    { return isDigit(c) || 'a' <= c|0x20 && c|0x20 <= 'f' }

// isURIOctet reports whether c is unreserved or reserved in RFC 3986, but for
// the asterisk, which parseURI refuses by name.
func isURIOctet(c byte) bool {
	return isLetter(c) || isDigit(c) || strings.IndexByte("-._~:/?#[]@!$&'()+,;=", c) >= 0
}

// onlyDomain returns the domain name of a URI that consists of nothing else but
// a scheme, so that the URI names the domain and no resource in it.
func onlyDomain(uri string) (string, bool) {
	authority, ok := strings.CutPrefix(uri, "//")
	if !ok {
		_, rest, _ := cutScheme(uri)
		if authority, ok = strings.CutPrefix(rest, "//"); !ok {
			return "", false
		}
	}
	domain, err := parseDomain(strings.TrimSuffix(authority, "/"))
	return domain, err == nil
}

func parseDevice(text string) (string, error) {
	if rest, ok := strings.CutPrefix(text, hardwareModulePrefix); ok {
		module, err := parseHardwareModule(rest)
		if err != nil {
			return "", err
		}
		return module.text(), nil
	}
	id, err := parseDeviceID(text)
	if err != nil {
		return "", err
	}
	return id.text()
}

// A deviceID is an object identifier based M2M Device ID (TS-0001 H.2), split
// as an otherName holds it (TS-0003 10.1.1.4.1).
type deviceID struct {
	indication x509.OID // the M2M Device Indication ID: the type-id
	remainder  []byte   // the content octets of the RELATIVE-OID: the value
}

// parseDeviceID reads two dotted sequences of arcs joined by a slash.
func parseDeviceID(text string) (deviceID, error) {
	indication, remainder, ok := strings.Cut(text, "/")
	if !ok {
		return deviceID{}, fmt.Errorf("no slash separates the M2M Device Indication ID from the remaining arcs")
	}
	oid, err := parseOID(indication)
	if err != nil {
		return deviceID{}, err
	}
	arcs, err := parseRelativeOID(remainder)
	return deviceID{oid, arcs}, err
}

// text returns the canonical text, or an error for a number of arcs that no
// device has.
func (d deviceID) text() (string, error) {
	if n := countArcs(d.remainder); n < 3 || n > 4 {
		return "", fmt.Errorf("%d arcs follow the M2M Device Indication ID, not manufacturer, model, serial number and at most one more", n)
	}
	remainder, err := relativeText(d.remainder)
	return d.indication.String() + "/" + remainder, err
}

func countArcs(relative []byte) int {
	n := 0
	for _, octet := range relative {
		if octet&0x80 == 0 {
			n++
		}
	}
	return n
}

// relativeHead makes an object identifier of a RELATIVE-OID, whose arcs are
// encoded alike, so that the standard library reads and prints both: one octet
// for the arcs 0.0.
const (
	relativeHead     = "\x00"
	relativeHeadText = "0.0."
)

func parseRelativeOID(text string) ([]byte, error) {
	oid, err := parseOID(relativeHeadText + text)
	if err != nil {
		return nil, err
	}
	der, err := oid.MarshalBinary()
	return bytes.TrimPrefix(der, []byte(relativeHead)), err
}

func relativeText(content []byte) (string, error) {
	if len(content) == 0 || len(content) > maxOID {
		return "", fmt.Errorf("a RELATIVE-OID of %d octets, not 1 to %d", len(content), maxOID)
	}
	var oid x509.OID
	if err := oid.UnmarshalBinary(append([]byte(relativeHead), content...)); err != nil {
		return "", fmt.Errorf("a RELATIVE-OID is malformed")
	}
	return strings.TrimPrefix(oid.String(), relativeHeadText), nil
}

// parseOID reads a dotted object identifier in the one spelling that it prints.
func parseOID(text string) (x509.OID, error) {
	if len(text) > 4*maxOID {
		return x509.OID{}, fmt.Errorf("an object identifier of %d digits and dots", len(text))
	}
	oid, err := x509.ParseOID(text)
	if err != nil || oid.String() != text {
		return x509.OID{}, fmt.Errorf("%q is not an object identifier", text)
	}
	if der, err := oid.MarshalBinary(); err != nil || len(der) > maxOID {
		return x509.OID{}, fmt.Errorf("an object identifier takes more than %d octets", maxOID)
	}
	return oid, nil
}

// A hardwareModule is the hardwareModuleName of RFC 4108 section 5.
type hardwareModule struct {
	kind   x509.OID // hwType
	serial []byte   // hwSerialNum
}

var oidHardwareModuleName = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 8, 4}

func parseHardwareModule(text string) (hardwareModule, error) {
	kind, digits, ok := strings.Cut(text, ":")
	if !ok {
		return hardwareModule{}, fmt.Errorf("no colon separates hwType from hwSerialNum")
	}
	oid, err := parseOID(kind)
	if err != nil {
		return hardwareModule{}, err
	}
	serial, err := hex.DecodeString(digits)
	if err != nil || len(serial) == 0 || len(serial) > maxSerial {
		return hardwareModule{}, fmt.Errorf("hwSerialNum is not 1 to %d octets in hexadecimal", maxSerial)
	}
	return hardwareModule{oid, serial}, nil
}

func (m hardwareModule) text() string {
	return hardwareModulePrefix + m.kind.String() + ":" + hex.EncodeToString(m.serial)
}

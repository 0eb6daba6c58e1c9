package cert

import (
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"strings"

	"golang.org/x/crypto/cryptobyte"
	cryptobyte_asn1 "golang.org/x/crypto/cryptobyte/asn1"

	"muster"
)

// The object identifiers of the extensions that this package reads itself,
// because crypto/x509 has no place for an otherName.
var (
	oidSubjectAltName  = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidNameConstraints = asn1.ObjectIdentifier{2, 5, 29, 30}
)

// The forms of a GeneralName by their tag (RFC 5280 4.2.1.6).
const (
	formOtherName     = 0
	formRFC822Name    = 1
	formDNSName       = 2
	formX400Address   = 3
	formDirectoryName = 4
	formEDIPartyName  = 5
	formURI           = 6
	formIPAddress     = 7
	formRegisteredID  = 8
)

// relativeOID is the tag that cryptobyte lacks (X.690 8.20).
const relativeOID = cryptobyte_asn1.Tag(13)

// An altName is one entry of a subjectAltName.
type altName struct {
	form   int
	text   string // of a dNSName or URI
	device string // of an otherName that names a device, in canonical form
}

// altNamesOf returns the entries of c's subjectAltName, and none if it has no
// such extension. The error is a Refusal.
func altNamesOf(c *x509.Certificate) ([]altName, error) {
	var entries []altName
	found := false
	for _, extension := range c.Extensions {
		if !extension.Id.Equal(oidSubjectAltName) {
			continue
		}
		if found {
			return nil, muster.Refuse(muster.CodeCertificateMalformed, "it has two subjectAltName extensions")
		}
		found = true
		var err error
		if entries, err = readAltNames(extension.Value); err != nil {
			return nil, err
		}
	}
	return entries, nil
}

// readAltNames reads the value of a subjectAltName extension: GeneralNames.
func readAltNames(der []byte) ([]altName, error) {
	input := cryptobyte.String(der)
	var names cryptobyte.String
	if !input.ReadASN1(&names, cryptobyte_asn1.SEQUENCE) || !input.Empty() || names.Empty() {
		return nil, malformedAltName("it is not a sequence of names")
	}
	var entries []altName
	for !names.Empty() {
		if len(entries) == MaxNames {
			return nil, muster.Refuse(muster.CodeCertificateTooLarge, "its subjectAltName has more than %d names", MaxNames)
		}
		entry, err := readGeneralName(&names)
		if err != nil {
			return nil, err
		}
		entries = append(entries, entry)
	}
	return entries, nil
}

func malformedAltName(format string, args ...any) error {
	return muster.Refuse(muster.CodeCertificateMalformed, "its subjectAltName: %s", fmt.Sprintf(format, args...))
}

func readGeneralName(names *cryptobyte.String) (altName, error) {
	var value cryptobyte.String
	var tag cryptobyte_asn1.Tag
	if !names.ReadAnyASN1(&value, &tag) {
		return altName{}, malformedAltName("a name is cut short")
	}
	form, ok := formOf(tag)
	if !ok {
		return altName{}, malformedAltName("the tag 0x%02x is not that of a name", uint8(tag))
	}
	entry := altName{form: form}
	switch form {
	case formDNSName, formURI:
		entry.text = string(value)
		if !isVisibleASCII(entry.text) {
			return altName{}, malformedAltName("%s has octets that are not visible ASCII", quote(entry.text))
		}
	case formRFC822Name:
		if strings.IndexByte(string(value), 0) >= 0 {
			return altName{}, malformedAltName("an rfc822Name contains NUL")
		}
	case formOtherName:
		var err error
		if entry.device, err = readOtherName(value); err != nil {
			return altName{}, malformedAltName("%v", err)
		}
	}
	return entry, nil
}

// formOf returns the form that a tag stands for. Only the structured forms are
// constructed.
func formOf(tag cryptobyte_asn1.Tag) (form int, ok bool) {
	for form := range formRegisteredID + 1 {
		want := cryptobyte_asn1.Tag(form).ContextSpecific()
		switch form {
		case formOtherName, formX400Address, formDirectoryName, formEDIPartyName:
			want = want.Constructed()
		}
		if tag == want {
			return form, true
		}
	}
	return 0, false
}

// isVisibleASCII reports whether s is not empty and within 0x21 to 0x7e: an
// IA5String can also hold NUL, which ends a name early in the eyes of others,
// controls and spaces, and no dNSName or URI has use for them.
func isVisibleASCII(s string) bool {
	for _, c := range []byte(s) {
		if c <= ' ' || c > '~' {
			return false
		}
	}
	return s != ""
}

// readOtherName reads the content of an otherName and returns the canonical
// text of the device it names, or "" for an otherName of another kind. Every
// type-id whose value is a RELATIVE-OID is taken for an M2M Device Indication
// ID, since no other kind of otherName has such a value and the pinned name
// spells out the type-id in any case.
func readOtherName(content cryptobyte.String) (device string, err error) {
	kind, value, err := splitOtherName(content)
	if err != nil {
		return "", err
	}
	if kind.EqualASN1OID(oidHardwareModuleName) {
		module, err := readHardwareModule(value)
		if err != nil {
			return "", err
		}
		if module.tooLong() {
			return "", nil
		}
		return module.text(), nil
	}
	arcs, ok, err := readRelativeOID(value)
	if err != nil || !ok {
		return "", err
	}
	if len(arcs) > maxOID || len(oidContent(kind)) > maxOID {
		return "", nil
	}
	if device, err = (deviceID{kind, arcs}).text(); err != nil {
		device = "" // Another number of arcs makes a name of another kind.
	}
	return device, nil
}

// splitOtherName returns the type-id and the DER of the value.
func splitOtherName(content cryptobyte.String) (kind x509.OID, value cryptobyte.String, err error) {
	var id, wrapped cryptobyte.String
	if !content.ReadASN1(&id, cryptobyte_asn1.OBJECT_IDENTIFIER) ||
		!content.ReadASN1(&wrapped, cryptobyte_asn1.Tag(0).ContextSpecific().Constructed()) ||
		!content.Empty() || !wrapped.ReadAnyASN1Element(&value, new(cryptobyte_asn1.Tag)) || !wrapped.Empty() {
		return x509.OID{}, nil, fmt.Errorf("an otherName is malformed")
	}
	if err := kind.UnmarshalBinary(id); err != nil {
		return x509.OID{}, nil, fmt.Errorf("the type-id of an otherName is malformed")
	}
	return kind, value, nil
}

func oidContent(oid x509.OID) []byte {
	der, err := oid.MarshalBinary()
	if err != nil {
		return nil
	}
	return der
}

// readRelativeOID returns the content of a DER RELATIVE-OID; ok is false for a
// value of another type.
func readRelativeOID(value cryptobyte.String) (content []byte, ok bool, err error) {
	if !value.PeekASN1Tag(relativeOID) {
		return nil, false, nil
	}
	var arcs cryptobyte.String
	if !value.ReadASN1(&arcs, relativeOID) || !value.Empty() || len(arcs) == 0 {
		return nil, false, fmt.Errorf("a RELATIVE-OID is malformed")
	}
	if err := new(x509.OID).UnmarshalBinary(append([]byte(relativeHead), arcs...)); err != nil {
		return nil, false, fmt.Errorf("a RELATIVE-OID is malformed")
	}
	return arcs, true, nil
}

func readHardwareModule(value cryptobyte.String) (hardwareModule, error) {
	var sequence, kind, serial cryptobyte.String
	if !value.ReadASN1(&sequence, cryptobyte_asn1.SEQUENCE) || !value.Empty() ||
		!sequence.ReadASN1(&kind, cryptobyte_asn1.OBJECT_IDENTIFIER) ||
		!sequence.ReadASN1(&serial, cryptobyte_asn1.OCTET_STRING) || !sequence.Empty() {
		return hardwareModule{}, fmt.Errorf("a hardwareModuleName is malformed")
	}
	var oid x509.OID
	if err := oid.UnmarshalBinary(kind); err != nil {
		return hardwareModule{}, fmt.Errorf("the hwType of a hardwareModuleName is malformed")
	}
	return hardwareModule{oid, serial}, nil
}

// tooLong reports whether the module is no name for an instruction.
func (m hardwareModule) tooLong() bool {
	return len(m.serial) == 0 || len(m.serial) > maxSerial || len(oidContent(m.kind)) > maxOID
}

// marshalAltNames returns the value of a subjectAltName extension with the
// names, each in the form of its flavour.
func marshalAltNames(names []muster.CertName) ([]byte, error) {
	var b cryptobyte.Builder
	b.AddASN1(cryptobyte_asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		seen := make(map[string]bool)
		for _, name := range names {
			if err := addAltName(b, name, seen); err != nil {
				b.SetError(err)
			}
		}
	})
	return b.Bytes()
}

func addAltName(b *cryptobyte.Builder, name muster.CertName, seen map[string]bool) error {
	parsed, err := ParseName(name.Flavour, name.Text)
	if err != nil {
		return err
	}
	// One domain name may be asked for under several flavours.
	if seen[parsed.Text] {
		return nil
	}
	seen[parsed.Text] = true
	form := formDNSName
	switch {
	case parsed.Flavour == muster.FlavourRawKey:
		return fmt.Errorf("%s cannot stand in a certificate: it is the digest of a key", parsed)
	case parsed.Flavour == muster.FlavourDevice:
		return addDevice(b, parsed.Text)
	case strings.ContainsAny(parsed.Text, ":/"):
		form = formURI
	}
	b.AddASN1(cryptobyte_asn1.Tag(form).ContextSpecific(), func(b *cryptobyte.Builder) {
		b.AddBytes([]byte(parsed.Text))
	})
	return nil
}

func addDevice(b *cryptobyte.Builder, text string) error {
	if rest, ok := strings.CutPrefix(text, hardwareModulePrefix); ok {
		module, err := parseHardwareModule(rest)
		if err != nil {
			return err
		}
		addHardwareModule(b, module)
		return nil
	}
	id, err := parseDeviceID(text)
	if err != nil {
		return err
	}
	addOtherName(b, id.indication, func(b *cryptobyte.Builder) {
		addTagged(b, relativeOID, id.remainder)
	})
	return nil
}

func addHardwareModule(b *cryptobyte.Builder, module hardwareModule) {
	kind, err := x509.OIDFromASN1OID(oidHardwareModuleName)
	if err != nil {
		b.SetError(err)
		return
	}
	addOtherName(b, kind, func(b *cryptobyte.Builder) {
		b.AddASN1(cryptobyte_asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			addTagged(b, cryptobyte_asn1.OBJECT_IDENTIFIER, oidContent(module.kind))
			addTagged(b, cryptobyte_asn1.OCTET_STRING, module.serial)
		})
	})
}

func addOtherName(b *cryptobyte.Builder, kind x509.OID, value cryptobyte.BuilderContinuation) {
	b.AddASN1(cryptobyte_asn1.Tag(formOtherName).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) {
		addTagged(b, cryptobyte_asn1.OBJECT_IDENTIFIER, oidContent(kind))
		b.AddASN1(cryptobyte_asn1.Tag(0).ContextSpecific().Constructed(), value)
	})
}

func addTagged(b *cryptobyte.Builder, tag cryptobyte_asn1.Tag, content []byte) {
	b.AddASN1(tag, func(b *cryptobyte.Builder) { b.AddBytes(content) })
}

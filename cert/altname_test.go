package cert_test

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"testing"

	"muster"
	"muster/cert"
)

var oidAltName = asn1.ObjectIdentifier{2, 5, 29, 17}

// withAltName is a certificate as far as Names looks at one.
func withAltName(values ...[]byte) *x509.Certificate {
	c := &x509.Certificate{Raw: []byte{0x30, 0}}
	for _, value := range values {
		c.Extensions = append(c.Extensions, pkix.Extension{Id: oidAltName, Value: value})
	}
	return c
}

func unhex(t testing.TB, digits string) []byte {
	t.Helper()
	octets, err := hex.DecodeString(digits)
	if err != nil {
		t.Fatal(err)
	}
	return octets
}

// Hand-made encodings, so that reading is not only tested against writing.
const (
	// otherName, type-id 0.2.481.1 (02 83 61 01), RELATIVE-OID 100.3030.10011
	// (64, 97 56, ce 1b).
	altNameDevice = "3011" + "a00f" + "0604" + "02836101" + "a007" + "0d05" + "64" + "9756" + "ce1b"
	// otherName, id-on-hardwareModuleName, hwType 1.3.6.1.4.1.99999.1
	// (2b 06 01 04 01 86 8d 1f 01), serial 0a0b0c.
	altNameModule = "3020" + "a01e" + "0608" + "2b06010505070804" + "a012" + "3010" +
		"0609" + "2b06010401868d1f01" + "0403" + "0a0b0c"
	// otherName, userPrincipalName, UTF8String "x".
	altNamePrincipal = "3013" + "a011" + "060a" + "2b060104018237140203" + "a003" + "0c01" + "78"
)

func TestNamesReadsOtherNames(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		value []byte
		want  []muster.CertName
	}{
		{unhex(t, altNameDevice), []muster.CertName{{Flavour: muster.FlavourDevice, Text: "0.2.481.1/100.3030.10011"}}},
		{unhex(t, altNameModule), []muster.CertName{{Flavour: muster.FlavourDevice, Text: "hwmodule:1.3.6.1.4.1.99999.1:0a0b0c"}}},
		{unhex(t, altNamePrincipal), nil},
	} {
		names, err := cert.Names(withAltName(c.value))
		if err != nil || len(names) != len(c.want) || len(names) == 1 && names[0] != c.want[0] {
			t.Errorf("%x: %v, %v; want %v", c.value, names, err, c.want)
		}
	}
}

// der wraps contents of less than 128 octets.
func der(tag byte, contents ...[]byte) []byte {
	content := bytes.Join(contents, nil)
	return append([]byte{tag, byte(len(content))}, content...)
}

func TestNamesRefusesMalformedAltNames(t *testing.T) {
	t.Parallel()
	domain := der(0x82, []byte("mef.example"))
	kind := unhex(t, "060402836101")
	module := unhex(t, "06082b06010505070804")
	for name, values := range map[string][][]byte{
		"empty":                               {{}},
		"no names":                            {{0x30, 0}},
		"set instead of a sequence":           {der(0x31, domain)},
		"trailing data":                       {append(der(0x30, domain), 0)},
		"name cut short":                      {der(0x30, domain[:5])},
		"indefinite length":                   {append([]byte{0x30, 0x80}, append(domain, 0, 0)...)},
		"length not minimal":                  {append([]byte{0x30, 0x81, byte(len(domain))}, domain...)},
		"twice":                               {der(0x30, domain), der(0x30, domain)},
		"universal tag":                       {der(0x30, der(0x16, []byte("mef.example")))},
		"unknown form":                        {der(0x30, der(0x89, []byte("mef.example")))},
		"constructed dNSName":                 {der(0x30, der(0xa2, domain))},
		"primitive otherName":                 {der(0x30, der(0x80, kind))},
		"NUL":                                 {der(0x30, der(0x82, []byte("mef.example\x00")))},
		"NUL in a mail address":               {der(0x30, der(0x81, []byte("a@mef.example\x00")))},
		"UTF-8":                               {der(0x30, der(0x82, []byte("m\u00e9f.example")))},
		"control in a URI":                    {der(0x30, der(0x86, []byte("m2m://sp.example/\n")))},
		"otherName without value":             {der(0x30, der(0xa0, kind))},
		"otherName without type":              {der(0x30, der(0xa0, der(0xa0, der(0x0d, []byte{1, 2, 3}))))},
		"otherName, implicit value":           {der(0x30, der(0xa0, kind, der(0x80, []byte{1, 2, 3})))},
		"otherName, two values":               {der(0x30, der(0xa0, kind, der(0xa0, der(0x0d, []byte{1, 2, 3}), der(0x0d, []byte{1, 2, 3}))))},
		"otherName, more after value":         {der(0x30, der(0xa0, kind, der(0xa0, der(0x0d, []byte{1, 2, 3})), []byte{5, 0}))},
		"type-id unfinished":                  {der(0x30, der(0xa0, []byte{6, 2, 2, 0x83}, der(0xa0, der(0x0d, []byte{1, 2, 3}))))},
		"RELATIVE-OID unfinished":             {der(0x30, der(0xa0, kind, der(0xa0, der(0x0d, []byte{1, 2, 0x83}))))},
		"RELATIVE-OID padded":                 {der(0x30, der(0xa0, kind, der(0xa0, der(0x0d, []byte{1, 2, 0x80, 3}))))},
		"RELATIVE-OID empty":                  {der(0x30, der(0xa0, kind, der(0xa0, der(0x0d))))},
		"hardwareModuleName of another type":  {der(0x30, der(0xa0, module, der(0xa0, der(0x0c, []byte("x")))))},
		"hardwareModuleName without serial":   {der(0x30, der(0xa0, module, der(0xa0, der(0x30, kind))))},
		"hardwareModuleName with more":        {der(0x30, der(0xa0, module, der(0xa0, der(0x30, kind, der(4, []byte{7}), []byte{5, 0}))))},
		"hardwareModuleName, type unfinished": {der(0x30, der(0xa0, module, der(0xa0, der(0x30, []byte{6, 2, 2, 0x83}, der(4, []byte{7})))))},
	} {
		names, err := cert.Names(withAltName(values...))
		if muster.CodeOf(err) != muster.CodeCertificateMalformed || names != nil {
			t.Errorf("%s: %v, %v", name, names, err)
		}
	}
}

func TestNamesLeavesOutWhatIsNoName(t *testing.T) {
	t.Parallel()
	kind := unhex(t, "060402836101")
	module := unhex(t, "06082b06010505070804")
	for name, value := range map[string][]byte{
		"two arcs":              der(0x30, der(0xa0, kind, der(0xa0, der(0x0d, []byte{1, 2})))),
		"five arcs":             der(0x30, der(0xa0, kind, der(0xa0, der(0x0d, []byte{1, 2, 3, 4, 5})))),
		"endless arc":           der(0x30, der(0xa0, kind, der(0xa0, der(0x0d, []byte{1, 2}, bytes.Repeat([]byte{0xff}, 70), []byte{3})))),
		"no serial number":      der(0x30, der(0xa0, module, der(0xa0, der(0x30, kind, der(4))))),
		"endless serial number": der(0x30, der(0xa0, module, der(0xa0, der(0x30, kind, der(4, make([]byte, 65)))))),
		"mail address":          der(0x30, der(0x81, []byte("device@sp.example"))),
		"IP address":            der(0x30, der(0x87, []byte{192, 0, 2, 1})),
		"registered ID":         der(0x30, der(0x88, []byte{2, 0x83, 0x61, 1})),
		"directory name":        der(0x30, der(0xa4, der(0x30))),
		"URI without a scheme":  der(0x30, der(0x86, []byte("sp.example/C1"))),
		"absent":                nil,
	} {
		c := withAltName(value)
		if value == nil {
			c = withAltName()
		}
		if names, err := cert.Names(c); err != nil || names != nil {
			t.Errorf("%s: %v, %v", name, names, err)
		}
	}
}

func FuzzNames(f *testing.F) {
	f.Add(unhex(f, altNameDevice))
	f.Add(unhex(f, altNameModule))
	f.Add(unhex(f, altNamePrincipal))
	f.Add(der(0x30, der(0x82, []byte("mef.example")), der(0x86, []byte("m2m://sp.example/C1"))))
	for _, name := range goodNames(f) {
		extension, err := cert.SubjectAltName(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(extension.Value)
	}
	f.Fuzz(func(t *testing.T, value []byte) {
		names, err := cert.Names(withAltName(value))
		if err != nil {
			if muster.CodeOf(err) == "" || names != nil {
				t.Fatalf("%v beside the error %v", names, err)
			}
			return
		}
		for _, name := range names {
			if parsed, err := cert.ParseName(name.Flavour, name.Text); err != nil || parsed != name {
				t.Fatalf("%v is not canonical: %v, %v", name, parsed, err)
			}
		}
	})
}

package cert_test

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"net"
	"net/url"
	"slices"

	"muster"
	"muster/cert"
)

// gn encodes a GeneralName: tag 0x82 is a dNSName, 0x86 a URI.
func gn(tag byte, content ...[]byte) []byte { return der(tag, content...) }

func dns(name string) []byte { return gn(0x82, []byte(name)) }
func uri(name string) []byte { return gn(0x86, []byte(name)) }

// other encodes an otherName with a type-id and a value.
func other(kind, value []byte) []byte { return gn(0xa0, kind, der(0xa0, value)) }

// The type-ids and values of the devices in the corpus.
var (
	kindDevice  = []byte{0x06, 0x04, 0x02, 0x83, 0x61, 0x01}                                     // 0.2.481.1
	kindModule  = []byte{0x06, 0x08, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x08, 0x04}             // id-on-hardwareModuleName
	kindUPN     = []byte{0x06, 0x0a, 0x2b, 0x06, 0x01, 0x04, 0x01, 0x82, 0x37, 0x14, 0x02, 0x03} // userPrincipalName
	moduleType  = []byte{0x06, 0x09, 0x2b, 0x06, 0x01, 0x04, 0x01, 0x86, 0x8d, 0x1f, 0x01}       // 1.3.6.1.4.1.99999.1
	arcs        = []byte{0x64, 0x97, 0x56, 0x07}                                                 // 100.3030.7
	device      = "device:0.2.481.1/100.3030.7"
	module      = "device:hwmodule:1.3.6.1.4.1.99999.1:0a0b"
	moduleOther = other(kindModule, der(0x30, moduleType, der(4, []byte{10, 11})))
	deviceOther = other(kindDevice, der(0x0d, arcs))
)

// called pins another name.
func called(name string, k kit) kit {
	k.name = name
	return k
}

// soundRecipes are accepted.
func soundRecipes() []recipe {
	all := []recipe{
		{"ok-function", "an FQDN certificate below an intermediate", "", func(m *maker) kit { return m.standard() }},
		{"ok-root-issued", "a leaf issued by the anchor itself", "", func(m *maker) kit { r := m.root("Chain Root"); return m.kit(r, m.leaf(r)) }},
		{"ok-server", "a server", "", func(m *maker) kit { k := m.standard(); k.usage = cert.UsageServer; return k }},
		{"ok-no-eku", "no extendedKeyUsage", "", func(m *maker) kit { return m.standard(extended()) }},
		{"ok-any-eku", "the usage anyExtendedKeyUsage", "", func(m *maker) kit { return m.standard(extended(x509.ExtKeyUsageAny)) }},
		{"ok-first-second", "judged in the first second of the validity", "", func(m *maker) kit { k := m.standard(); k.time = corpusTime.AddDate(-1, 0, 0); return k }},
		{"ok-last-second", "judged in the last second of the validity", "", func(m *maker) kit { k := m.standard(); k.time = corpusTime.AddDate(10, 0, 0); return k }},
		{"ok-serial-one", "the serial number 1", "", func(m *maker) kit { return m.standard(numbered(1)) }},
		{"ok-serial-zero", "the serial number 0, which is only warned of", "", func(m *maker) kit { return m.standard(numbered(0)) }},
		{"ok-serial-20-octets", "a serial number of 20 octets", "", func(m *maker) kit { return m.standard(numbered(bytes.Repeat([]byte{0x7f}, 20)...)) }},
		{"ok-generalized-time", "a validity without end, in GeneralizedTime", "", func(m *maker) kit {
			return m.standard(valid(corpusTime, corpusTime.AddDate(7969, 6, 30)))
		}},
		{"ok-no-subject", "an empty subject and a critical subjectAltName", "", func(m *maker) kit {
			return m.standard(template(func(c *x509.Certificate) { c.Subject = pkix.Name{} }))
		}},
		{"ok-subject-bmp", "a subject in BMPString", "", func(m *maker) kit { return m.standard(named(asn1.TagBMPString, wide("Chain Leaf"))) }},
		{"ok-subject-utf8", "a subject in UTF8String, beyond ASCII", "", func(m *maker) kit { return m.standard(named(asn1.TagUTF8String, []byte("Ch\u00e4in"))) }},
		{"ok-unknown-extension", "an unknown extension that is not critical", "", func(m *maker) kit {
			return m.standard(extension(asn1.ObjectIdentifier{1, 2, 3}, false, []byte{5, 0}))
		}},
		{"ok-policies", "certificatePolicies, critical", "", func(m *maker) kit {
			return m.standard(extension(asn1.ObjectIdentifier{2, 5, 29, 32}, true, der(0x30, der(0x30, []byte{6, 4, 0x55, 0x1d, 0x20, 0}))))
		}},
		{"ok-several-names", "the name is the last of several", "", func(m *maker) kit { return m.standard(names("a.example", "b.example", "device.example")) }},
		{"ok-names-at-cap", "as many names as there may be", "", func(m *maker) kit {
			return m.standard(names(append(slices.Repeat([]string{"a.example"}, cert.MaxNames-1), "device.example")...))
		}},
		{"ok-upper-case", "the name in upper case, since DNS folds it", "", func(m *maker) kit { return m.standard(san(dns("DEVICE.Example"))) }},
		{"ok-other-forms", "names of every other form beside it", "", func(m *maker) kit {
			return m.standard(san(dns("device.example"), gn(0x81, []byte("a@b.example")), gn(0x87, []byte{192, 0, 2, 1}), gn(0x88, []byte{2, 0x83, 0x61, 1}), other(kindUPN, der(0x0c, []byte("x")))))
		}},
		{"ok-a-label", "an internationalised name in A-labels", "", func(m *maker) kit {
			return called("fqdn:xn--dvice-nva.example", m.standard(names("xn--dvice-nva.example")))
		}},
		{"ok-critical-altname", "a critical subjectAltName of an otherName alone", "", func(m *maker) kit {
			return called(device, m.standard(extension(asn1.ObjectIdentifier{2, 5, 29, 17}, true, der(0x30, deviceOther))))
		}},
		{"ok-p384-rfc5280", "P-384 in the profile rfc5280", "", func(m *maker) kit { return lenient(m.standard(withKey(m.ecdsa(p384(), "leaf")))) }},
		{"ok-ed25519-rfc5280", "Ed25519 in the profile rfc5280", "", func(m *maker) kit { return lenient(m.standard(withKey(m.ed25519("leaf")))) }},
		{"ok-rsa-rfc5280", "RSA of 2048 bits in the profile rfc5280", "", func(m *maker) kit { return lenient(m.standard(withKey(m.rsa2048()))) }},
		{"ok-rsa-authority-rfc5280", "an authority with RSA in the profile rfc5280", "", func(m *maker) kit { return lenient(m.beneath(withKey(m.rsa2048()))) }},
		{"ok-ed25519-authority-rfc5280", "an authority with Ed25519 in the profile rfc5280", "", func(m *maker) kit { return lenient(m.beneath(withKey(m.ed25519("issuer")))) }},
		{"ok-sha384-rfc5280", "ECDSA with SHA-384 in the profile rfc5280", "", func(m *maker) kit { return lenient(m.standard(signature(x509.ECDSAWithSHA384))) }},
		{"ok-wildcard-beside-rfc5280", "a wildcard beside the name in the profile rfc5280", "", func(m *maker) kit { return lenient(m.standard(names("device.example", "*.example"))) }},
		{"ok-keycertsign-leaf", "a leaf with keyCertSign that is no authority, which is only warned of", "", func(m *maker) kit {
			return m.standard(usage(x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign))
		}},
	}
	for slug, c := range map[string]struct {
		name string
		san  []byte
	}{
		"device":         {device, deviceOther},
		"device-expand":  {"device:0.2.481.1/100.3030.7.1", other(kindDevice, der(0x0d, arcs, []byte{1}))},
		"module":         {module, moduleOther},
		"node-dns":       {"node-id:node-7.sp.example", dns("node-7.sp.example")},
		"node-urn":       {"node-id:urn:imei:356938035643809", uri("urn:imei:356938035643809")},
		"cse":            {"cse-id:cse-7.sp.example", dns("cse-7.sp.example")},
		"ae-bare":        {"ae-id://sp.example/CSE7/S1", uri("//sp.example/CSE7/S1")},
		"ae-scheme":      {"ae-id:m2m://sp.example/CSE7/S1", uri("m2m://sp.example/CSE7/S1")},
		"fqdn-in-a-uri":  {"fqdn:device.example", uri("coaps://device.example")},
		"ae-with-escape": {"ae-id://sp.example/CSE7/S%C3%A9", uri("//sp.example/CSE7/S%C3%A9")},
	} {
		all = append(all, recipe{"ok-flavour-" + slug, "the name " + c.name, "", func(m *maker) kit { return called(c.name, m.standard(san(c.san))) }})
	}
	return all
}

func lenient(k kit) kit {
	k.profile = cert.ProfileRFC5280
	return k
}

// nameRecipes carry another name than the pinned one, in a sound encoding.
func nameRecipes() []recipe {
	var all []recipe
	add := func(slug, about string, code muster.Code, pinned string, options ...option) {
		all = append(all, recipe{"name-" + slug, about, code, func(m *maker) kit { return called(pinned, m.standard(options...)) }})
	}
	const pinned = "fqdn:device.example"
	for _, c := range []struct{ slug, name string }{
		{"other", "other.example"}, {"longer", "device.example.org"}, {"prefixed", "my-device.example"}, {"below", "a.device.example"},
		{"above", "example.org"}, {"trailing-dot", "device.example."}, {"leading-dot", ".device.example"}, {"homograph", "xn--dvice-nva.example"},
		{"two-dots", "device..example"}, {"underscore", "device_.example"}, {"one-label", "device"}, {"port", "device.example:443"},
	} {
		add(c.slug, fmt.Sprintf("the dNSName %q in place of device.example", c.name), muster.CodeNameMismatch, pinned, san(dns(c.name)))
	}
	for _, c := range []struct{ slug, name string }{
		{"wildcard", "*.example"}, {"wildcard-inner", "dev*.example"}, {"wildcard-all", "*"}, {"wildcard-above", "device.*"},
	} {
		add(c.slug, fmt.Sprintf("the wildcard %q", c.name), muster.CodeNameWildcard, pinned, san(dns(c.name)))
	}
	add("wildcard-beside", "a wildcard beside the name", muster.CodeNameWildcard, pinned, names("device.example", "*.example"))
	add("wildcard-uri", "a wildcard in a URI beside the name", muster.CodeNameWildcard, pinned, san(dns("device.example"), uri("m2m://sp.example/*")))
	commonNameOnly := func(text string) option {
		return template(func(c *x509.Certificate) { c.Subject.CommonName, c.DNSNames = text, nil })
	}
	add("cn-only", "the name is the common name only", muster.CodeNameOnlyInCN, pinned, commonNameOnly("device.example"))
	add("cn-only-case", "the name is the common name only, in capitals", muster.CodeNameOnlyInCN, pinned, commonNameOnly("Device.Example"))
	add("cn-and-other", "the name is the common name, and another stands in the subjectAltName", muster.CodeNameOnlyInCN, pinned, commonNameOnly("device.example"), san(dns("other.example")))
	add("none", "no subjectAltName, and another common name", muster.CodeNameMismatch, pinned, noNames())
	add("none-pinned", "no name is pinned", muster.CodeNameUnknown, "")
	add("ip-only", "an iPAddress only", muster.CodeNameMismatch, pinned, noNames(), template(func(c *x509.Certificate) { c.IPAddresses = []net.IP{{192, 0, 2, 1}} }))
	add("mail-only", "an rfc822Name of the domain only", muster.CodeNameMismatch, pinned, san(gn(0x81, []byte("a@device.example"))))
	add("directory-only", "a directoryName with the name as its common name", muster.CodeNameMismatch, pinned, san(gn(0xa4, commonName(asn1.TagUTF8String, []byte("device.example")))))
	add("registered-id-only", "a registeredID only", muster.CodeNameMismatch, pinned, san(gn(0x88, []byte{2, 0x83, 0x61, 1})))
	add("uri-with-path", "a URI of the domain with a path", muster.CodeNameMismatch, pinned, san(uri("coaps://device.example/x")))
	add("uri-with-user", "a URI with the domain as its user", muster.CodeNameMismatch, pinned, san(uri("coaps://device.example@evil.example")))
	add("upn", "an otherName of a user with the name as its text", muster.CodeNameMismatch, pinned, san(other(kindUPN, der(0x0c, []byte("device.example")))))
	add("raw-key", "the digest of a raw public key is pinned", muster.CodeNameMismatch,
		cert.RawKeyNames([]byte("key"))[0].String())

	add("device-other", "another device's serial number", muster.CodeNameMismatch, device, san(other(kindDevice, der(0x0d, arcs[:3], []byte{8}))))
	add("device-expanded", "a device with an expanded ID where none is pinned", muster.CodeNameMismatch, device, san(other(kindDevice, der(0x0d, arcs, []byte{1}))))
	add("device-shorter", "a device with one arc less", muster.CodeNameMismatch, device, san(other(kindDevice, der(0x0d, arcs[:3]))))
	add("device-split", "the arcs of the device, split elsewhere", muster.CodeNameMismatch, device, san(other([]byte{0x06, 0x03, 0x02, 0x83, 0x61}, der(0x0d, []byte{1}, arcs))))
	add("device-as-oid", "the remaining arcs as an OBJECT IDENTIFIER", muster.CodeNameMismatch, device, san(other(kindDevice, der(6, arcs))))
	add("device-as-text", "the remaining arcs as text", muster.CodeNameMismatch, device, san(other(kindDevice, der(0x0c, []byte("100.3030.7")))))
	add("module-other-type", "a hardware module of another type", muster.CodeNameMismatch, module, san(other(kindModule, der(0x30, []byte{6, 4, 2, 0x83, 0x61, 1}, der(4, []byte{10, 11})))))
	add("module-other-serial", "a hardware module with another serial number", muster.CodeNameMismatch, module, san(other(kindModule, der(0x30, moduleType, der(4, []byte{10, 12})))))
	add("module-no-serial", "a hardware module without serial number", muster.CodeNameMismatch, module, san(other(kindModule, der(0x30, moduleType, der(4)))))
	add("ae-case", "an AE-ID in another case", muster.CodeNameMismatch, "ae-id://sp.example/CSE7/S1", san(uri("//sp.example/cse7/S1")))
	add("ae-host-case", "an AE-ID whose host is in another case", muster.CodeNameMismatch, "ae-id://sp.example/CSE7/S1", san(uri("//SP.example/CSE7/S1")))
	add("ae-scheme", "an AE-ID with a scheme where a bare one is pinned", muster.CodeNameMismatch, "ae-id://sp.example/CSE7/S1", san(uri("m2m://sp.example/CSE7/S1")))
	add("ae-escape", "an AE-ID with a needless escape", muster.CodeNameMismatch, "ae-id://sp.example/CSE7/S1", san(uri("//sp.example/CSE7/%531")))
	add("ae-slash", "an AE-ID with a slash more", muster.CodeNameMismatch, "ae-id://sp.example/CSE7/S1", san(uri("//sp.example/CSE7/S1/")))
	add("ae-dots", "an AE-ID that comes to the same after dot segments", muster.CodeNameMismatch, "ae-id://sp.example/CSE7/S1", san(uri("//sp.example/CSE8/../CSE7/S1")))
	add("node-urn", "another node's URN", muster.CodeNameMismatch, "node-id:urn:imei:356938035643809", san(uri("urn:imei:356938035643808")))
	add("flavour", "a domain name where an AE-ID is pinned", muster.CodeNameMismatch, "ae-id://device.example/C1")
	return all
}

// altNameRecipes have a subjectAltName that is malformed or hostile.
func altNameRecipes() []recipe {
	var all []recipe
	add := func(slug, about string, code muster.Code, options ...option) {
		all = append(all, recipe{"altname-" + slug, about, code, func(m *maker) kit { return m.standard(options...) }})
	}
	good := dns("device.example")
	for _, c := range []struct{ slug, about, text string }{
		{"nul-inside", "NUL after the name, then another domain", "device.example\x00.evil.example"},
		{"nul-at-end", "NUL at the end of the name", "device.example\x00"},
		{"nul-first", "NUL before the name", "\x00device.example"},
		{"space", "a space after the name", "device.example "},
		{"tab", "a tab in the name", "device\t.example"},
		{"newline", "a line break in the name", "device.example\nother"},
		{"delete", "a delete character in the name", "device\x7f.example"},
		{"utf8", "UTF-8 in a dNSName", "d\u00e9vice.example"},
		{"latin1", "Latin-1 in a dNSName", "d\xe9vice.example"},
		{"empty-dns", "an empty dNSName", ""},
	} {
		add(c.slug, c.about, muster.CodeCertificateMalformed, san(dns(c.text)))
		add(c.slug+"-beside", c.about+", beside the name", muster.CodeCertificateMalformed, san(good, dns(c.text)))
	}
	add("uri-nul", "NUL in a URI", muster.CodeCertificateMalformed, san(good, uri("m2m://sp.example/\x00")))
	add("uri-utf8", "UTF-8 in a URI", muster.CodeCertificateMalformed, san(good, uri("m2m://sp.example/\u00e9")))
	add("uri-host", "a URI with a malformed host", muster.CodeCertificateMalformed, san(good, uri("m2m://[sp.example/")))
	add("mail-nul", "NUL in an rfc822Name", muster.CodeCertificateMalformed, san(good, gn(0x81, []byte("a@b.example\x00"))))
	add("empty", "an empty subjectAltName", muster.CodeCertificateMalformed, sanValue([]byte{0x30, 0}))
	add("no-octets", "a subjectAltName without octets", muster.CodeCertificateMalformed, sanValue([]byte{}))
	add("set", "a SET in place of a SEQUENCE", muster.CodeCertificateMalformed, sanValue(der(0x31, good)))
	add("trailing", "data after the names", muster.CodeCertificateMalformed, sanValue(append(der(0x30, good), 0)))
	add("indefinite", "an indefinite length", muster.CodeCertificateMalformed, sanValue(append([]byte{0x30, 0x80}, append(slices.Clone(good), 0, 0)...)))
	add("long-length", "a length in more octets than it takes", muster.CodeCertificateMalformed, sanValue(append([]byte{0x30, 0x81, byte(len(good))}, good...)))
	add("cut", "a name that is cut short", muster.CodeCertificateMalformed, sanValue(der(0x30, good[:8])))
	add("universal-tag", "an IA5String without the tag of a form", muster.CodeCertificateMalformed, san(good, gn(0x16, []byte("device.example"))))
	add("unknown-form", "a name of a form that does not exist", muster.CodeCertificateMalformed, san(good, gn(0x89, []byte("x"))))
	add("constructed-dns", "a constructed dNSName", muster.CodeCertificateMalformed, san(gn(0xa2, dns("device.example"))))
	add("ip-length", "an iPAddress of five octets", muster.CodeCertificateMalformed, san(good, gn(0x87, []byte{192, 0, 2, 1, 1})))
	add("twice", "two subjectAltNames", muster.CodeCertificateMalformed, again(asn1.ObjectIdentifier{2, 5, 29, 17}))
	add("too-many", "more names than there may be", muster.CodeCertificateTooLarge, names(slices.Repeat([]string{"device.example"}, cert.MaxNames+1)...))
	add("other-primitive", "a primitive otherName", muster.CodeCertificateMalformed, san(good, gn(0x80, kindDevice)))
	add("other-no-value", "an otherName without a value", muster.CodeCertificateMalformed, san(good, gn(0xa0, kindDevice)))
	add("other-no-type", "an otherName without a type", muster.CodeCertificateMalformed, san(good, gn(0xa0, der(0xa0, der(0x0d, arcs)))))
	add("other-implicit", "an otherName whose value has an implicit tag", muster.CodeCertificateMalformed, san(good, gn(0xa0, kindDevice, der(0x80, arcs))))
	add("other-two-values", "an otherName with two values", muster.CodeCertificateMalformed, san(good, gn(0xa0, kindDevice, der(0xa0, der(0x0d, arcs), der(0x0d, arcs)))))
	add("other-type-padded", "an otherName whose type-id has a padded arc", muster.CodeCertificateMalformed, san(good, other([]byte{6, 3, 2, 0x80, 1}, der(0x0d, arcs))))
	add("relative-padded", "a RELATIVE-OID with a padded arc", muster.CodeCertificateMalformed, san(good, other(kindDevice, der(0x0d, []byte{1, 2, 0x80, 3}))))
	add("relative-unfinished", "a RELATIVE-OID whose last arc does not end", muster.CodeCertificateMalformed, san(good, other(kindDevice, der(0x0d, []byte{1, 2, 0x83}))))
	add("relative-empty", "an empty RELATIVE-OID", muster.CodeCertificateMalformed, san(good, other(kindDevice, der(0x0d))))
	add("module-text", "a hardwareModuleName that is text", muster.CodeCertificateMalformed, san(good, other(kindModule, der(0x0c, []byte("x")))))
	add("module-short", "a hardwareModuleName without serial number", muster.CodeCertificateMalformed, san(good, other(kindModule, der(0x30, moduleType))))
	add("module-more", "a hardwareModuleName with a third field", muster.CodeCertificateMalformed, san(good, other(kindModule, der(0x30, moduleType, der(4, []byte{7}), []byte{5, 0}))))
	add("uri-parsed", "a URI that is none", muster.CodeNameMismatch, noNames(), template(func(c *x509.Certificate) { c.URIs = []*url.URL{{Path: "device.example"}} }))
	return all
}

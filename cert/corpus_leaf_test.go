package cert_test

import (
	"bytes"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/asn1"
	"time"

	"muster"
	"muster/cert"
)

func p384() elliptic.Curve { return elliptic.P384() }

// leafRecipes have a leaf that breaks the profile.
func leafRecipes() []recipe {
	var all []recipe
	add := func(slug, about string, code muster.Code, options ...option) {
		all = append(all, recipe{"leaf-" + slug, about, code, func(m *maker) kit { return m.standard(options...) }})
	}
	keyed := func(slug, about string, code muster.Code, make func(m *maker) option) {
		all = append(all, recipe{"leaf-" + slug, about, code, func(m *maker) kit { return m.standard(make(m)) }})
	}
	before, after := corpusTime.AddDate(-1, 0, 0), corpusTime.AddDate(1, 0, 0)
	add("expired", "expired a day ago", muster.CodeExpired, valid(before, corpusTime.AddDate(0, 0, -1)))
	add("expired-second", "expired a second ago", muster.CodeExpired, valid(before, corpusTime.Add(-time.Second)))
	add("not-yet", "valid from tomorrow", muster.CodeNotYetValid, valid(corpusTime.AddDate(0, 0, 1), after))
	add("not-yet-second", "valid in a second", muster.CodeNotYetValid, valid(corpusTime.Add(time.Second), after))
	add("validity-reversed", "a validity that ends before it begins", muster.CodeNotYetValid, valid(after, before))
	for _, c := range []struct {
		slug, about string
		usage       x509.KeyUsage
	}{
		{"no-key-usage", "no keyUsage", 0},
		{"key-agreement", "keyUsage keyAgreement only", x509.KeyUsageKeyAgreement},
		{"key-encipherment", "keyUsage keyEncipherment only", x509.KeyUsageKeyEncipherment},
		{"content-commitment", "keyUsage contentCommitment only", x509.KeyUsageContentCommitment},
		{"cert-sign", "keyUsage keyCertSign only", x509.KeyUsageCertSign},
	} {
		add(c.slug, c.about, muster.CodeKeyUsage, usage(c.usage))
	}
	for _, c := range []struct {
		slug  string
		usage x509.ExtKeyUsage
	}{
		{"server", x509.ExtKeyUsageServerAuth}, {"code-signing", x509.ExtKeyUsageCodeSigning}, {"mail", x509.ExtKeyUsageEmailProtection},
		{"ocsp", x509.ExtKeyUsageOCSPSigning}, {"time-stamping", x509.ExtKeyUsageTimeStamping},
	} {
		add("eku-"+c.slug, "a client whose extendedKeyUsage is for "+c.slug+" only", muster.CodeExtendedKeyUsage, extended(c.usage))
	}
	add("eku-unknown", "an unknown extendedKeyUsage only", muster.CodeExtendedKeyUsage, extended(),
		template(func(c *x509.Certificate) { c.UnknownExtKeyUsage = []asn1.ObjectIdentifier{{1, 2, 3}} }))
	all = append(all, recipe{"leaf-eku-client", "a server whose extendedKeyUsage is for a client only", muster.CodeExtendedKeyUsage, func(m *maker) kit {
		k := m.standard(extended(x509.ExtKeyUsageClientAuth))
		k.usage = cert.UsageServer
		return k
	}})
	add("authority", "the certificate of an authority", muster.CodeCAAsLeaf, template(func(c *x509.Certificate) {
		c.IsCA, c.MaxPathLen, c.KeyUsage = true, -1, c.KeyUsage|x509.KeyUsageCertSign
	}))
	add("authority-no-sign", "basicConstraints of an authority without keyCertSign", muster.CodeCAAsLeaf, template(func(c *x509.Certificate) { c.IsCA, c.MaxPathLen = true, -1 }))
	keyed("p224", "a key on P-224", muster.CodeKeyAlgorithm, func(m *maker) option { return withKey(m.ecdsa(elliptic.P224(), "leaf")) })
	keyed("p384", "a key on P-384", muster.CodeKeyAlgorithm, func(m *maker) option { return withKey(m.ecdsa(elliptic.P384(), "leaf")) })
	keyed("p521", "a key on P-521", muster.CodeKeyAlgorithm, func(m *maker) option { return withKey(m.ecdsa(elliptic.P521(), "leaf")) })
	keyed("ed25519", "an Ed25519 key", muster.CodeKeyAlgorithm, func(m *maker) option { return withKey(m.ed25519("leaf")) })
	keyed("rsa2048", "an RSA key of 2048 bits", muster.CodeKeyAlgorithm, func(m *maker) option { return withKey(m.rsa2048()) })
	add("rsa1024", "an RSA key of 1024 bits", muster.CodeKeyAlgorithm, withPublic(modulus(1024)))
	add("rsa4104", "an RSA key beyond the cap", muster.CodeCertificateTooLarge, withPublic(modulus(4104)))
	all = append(all, recipe{"leaf-rsa1024-rfc5280", "an RSA key of 1024 bits in the profile rfc5280", muster.CodeKeyAlgorithm,
		func(m *maker) kit { return lenient(m.standard(withPublic(modulus(1024)))) }},
		recipe{"leaf-p224-rfc5280", "a key on P-224 in the profile rfc5280", muster.CodeKeyAlgorithm,
			func(m *maker) kit { return lenient(m.standard(withKey(m.ecdsa(elliptic.P224(), "leaf")))) }})
	add("sha384", "signed with SHA-384", muster.CodeSignatureAlgorithm, signature(x509.ECDSAWithSHA384))
	add("sha512", "signed with SHA-512", muster.CodeSignatureAlgorithm, signature(x509.ECDSAWithSHA512))
	add("unknown-critical", "an unknown critical extension", muster.CodeCriticalExtension, extension(asn1.ObjectIdentifier{1, 2, 3}, true, []byte{5, 0}))
	add("unknown-critical-private", "an unknown critical extension of a private arc", muster.CodeCriticalExtension, extension(asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 99999, 1}, true, []byte{5, 0}))
	add("serial-21-octets", "a serial number of 21 octets", muster.CodeCertificateMalformed, numbered(bytes.Repeat([]byte{0x7f}, 21)...))
	add("serial-200-octets", "a serial number of 200 octets", muster.CodeCertificateMalformed, numbered(bytes.Repeat([]byte{0x7f}, 200)...))
	add("too-large", "a certificate of more than 16 KiB", muster.CodeCertificateTooLarge, extension(asn1.ObjectIdentifier{1, 2, 3}, false, make([]byte, cert.MaxCertificate)))
	add("extensions", "more extensions than there may be", muster.CodeCertificateTooLarge, func(s *sketch) {
		for i := range cert.MaxExtensions {
			extension(asn1.ObjectIdentifier{1, 2, 3, i}, false, []byte{5, 0})(s)
		}
	})
	return all
}

// encodingRecipes have a leaf that is no certificate by RFC 5280.
func encodingRecipes() []recipe {
	var all []recipe
	add := func(slug, about string, options ...option) {
		all = append(all, recipe{"encoding-" + slug, about, muster.CodeCertificateMalformed, func(m *maker) kit { return m.standard(options...) }})
	}
	time0 := func(tag int, notBefore, notAfter string) option {
		return edited(func(e *encoding) {
			content := append(der(byte(tag), []byte(notBefore)), der(byte(tag), []byte(notAfter))...)
			e.Validity = asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true, Bytes: content}
		})
	}
	add("serial-negative", "a negative serial number", numbered(0x80))
	add("serial-padded", "a serial number with a needless octet", numbered(0, 1))
	add("serial-empty", "an empty serial number", numbered())
	add("serial-text", "a serial number that is text", edited(func(e *encoding) { e.Serial = asn1.RawValue{Tag: asn1.TagUTF8String, Bytes: []byte("1")} }))
	for _, c := range []struct {
		slug, about string
		id          asn1.ObjectIdentifier
	}{
		{"key-usage", "keyUsage", asn1.ObjectIdentifier{2, 5, 29, 15}},
		{"constraints", "basicConstraints", asn1.ObjectIdentifier{2, 5, 29, 19}},
		{"eku", "extendedKeyUsage", asn1.ObjectIdentifier{2, 5, 29, 37}},
		{"authority-key", "authorityKeyIdentifier", asn1.ObjectIdentifier{2, 5, 29, 35}},
	} {
		add("twice-"+c.slug, "two extensions "+c.about, again(c.id))
	}
	add("twice-unknown", "an unknown extension twice", extension(asn1.ObjectIdentifier{1, 2, 3}, false, []byte{5, 0}), again(asn1.ObjectIdentifier{1, 2, 3}))
	add("no-extensions-v1", "version 1 with extensions", edited(func(e *encoding) { e.Version = 0 }))
	add("version-4", "version 4", edited(func(e *encoding) { e.Version = 3 }))
	add("version-negative", "version 0", edited(func(e *encoding) { e.Version = -1 }))
	add("date-february", "a date of 30 February", time0(asn1.TagUTCTime, "290101000000Z", "310230000000Z"))
	add("date-no-seconds", "a UTCTime without seconds", time0(asn1.TagUTCTime, "2901010000Z", "3101010000Z"))
	add("date-offset", "a UTCTime with an offset", time0(asn1.TagUTCTime, "290101000000+0100", "310101000000+0100"))
	add("date-fraction", "a GeneralizedTime with a fraction", time0(asn1.TagGeneralizedTime, "20290101000000.5Z", "20310101000000.5Z"))
	add("date-local", "a GeneralizedTime without a zone", time0(asn1.TagGeneralizedTime, "20290101000000", "20310101000000"))
	add("date-text", "a validity that is no date", time0(asn1.TagUTCTime, "yesterday", "tomorrow"))
	add("algorithm-differs", "an inner signature algorithm that differs from the outer one", edited(func(e *encoding) {
		e.Algorithm = asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true, Bytes: []byte{6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3}}
	}))
	add("subject-control", "a PrintableString with characters outside its set", named(asn1.TagPrintableString, []byte("a\x00b")))
	add("subject-utf8", "a UTF8String that is no UTF-8", named(asn1.TagUTF8String, []byte("a\xff")))
	add("subject-bmp", "a BMPString with an odd number of octets", named(asn1.TagBMPString, []byte("abc")))
	add("subject-set", "a subject that is a SET", edited(func(e *encoding) { e.Subject = asn1.RawValue{Tag: asn1.TagSet, IsCompound: true} }))
	add("key-usage-long", "a keyUsage that is no BIT STRING", extension(asn1.ObjectIdentifier{2, 5, 29, 15}, true, []byte{5, 0}))
	add("constraints-text", "basicConstraints that are text", extension(asn1.ObjectIdentifier{2, 5, 29, 19}, true, der(0x0c, []byte("CA:FALSE"))))
	add("eku-text", "an extendedKeyUsage that is text", extension(asn1.ObjectIdentifier{2, 5, 29, 37}, false, der(0x0c, []byte("clientAuth"))))
	point := func(change func(key []byte) []byte) option {
		return edited(func(e *encoding) {
			content := bytes.Clone(e.PublicKey.Bytes)
			at := bytes.Index(content, []byte{0x03, 0x42, 0x00, 0x04})
			content = append(content[:at:at], change(content[at:])...)
			e.PublicKey = asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true, Bytes: content}
		})
	}
	add("point-compressed", "a compressed point", point(func(key []byte) []byte {
		return append([]byte{0x03, 0x22, 0x00, 0x02 | key[67]&1}, key[4:36]...)
	}))
	add("point-hybrid", "a point in the hybrid form", point(func(key []byte) []byte {
		return append([]byte{0x03, 0x42, 0x00, 0x06 | key[67]&1}, key[4:]...)
	}))
	add("point-off-curve", "a point that is not on the curve", point(func(key []byte) []byte {
		moved := bytes.Clone(key)
		moved[67] ^= 1
		return moved
	}))
	add("point-infinity", "the point at infinity", point(func([]byte) []byte { return []byte{0x03, 0x02, 0x00, 0x00} }))
	add("point-short", "a point that is cut short", point(func(key []byte) []byte { return append([]byte{0x03, 0x22, 0x00, 0x04}, key[4:36]...) }))
	add("trailing", "an octet after the certificate", spoilt(func(der []byte) []byte { return append(der, 0) }))
	add("cut", "a certificate that is cut short", spoilt(func(der []byte) []byte { return der[:len(der)-1] }))
	add("garbage", "octets that are no certificate", spoilt(func([]byte) []byte { return []byte("garbage") }))
	add("empty-sequence", "an empty SEQUENCE", spoilt(func([]byte) []byte { return []byte{0x30, 0} }))
	add("indefinite", "an outer length in the indefinite form", spoilt(func(der []byte) []byte {
		return append(append([]byte{0x30, 0x80}, der[4:]...), 0, 0)
	}))
	add("long-length", "an outer length with a needless octet", spoilt(func(der []byte) []byte {
		return append([]byte{0x30, 0x83, 0}, der[2:]...)
	}))
	return all
}

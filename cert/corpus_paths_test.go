package cert_test

import (
	"bytes"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"slices"
	"time"

	"muster"
	"muster/cert"
)

// pathRecipes are about which certificates there are and how they hang together.
func pathRecipes() []recipe {
	return slices.Concat(soundPaths(), wrongPaths(), endlessPaths())
}

func rungs(m *maker, n int) kit {
	root := m.root("Chain Root")
	issuer := root
	var above []*made
	for i := range n {
		issuer = m.authority(issuer, fmt.Sprintf("Rung %d", i))
		above = append([]*made{issuer}, above...)
	}
	return m.kit(root, m.leaf(issuer), above...)
}

func soundPaths() []recipe {
	return []recipe{
		{"ok-path-two", "two intermediates", "", func(m *maker) kit { return rungs(m, 2) }},
		{"ok-path-at-cap", "as many intermediates as there may be", "", func(m *maker) kit { return rungs(m, cert.MaxIntermediates) }},
		{"ok-path-reversed", "intermediates in the wrong order", "", func(m *maker) kit {
			k := rungs(m, 3)
			slices.Reverse(k.sends[1:])
			return k
		}},
		{"ok-path-leaf-only", "the leaf alone, the intermediate configured", "", func(m *maker) kit {
			k := m.standard()
			k.configured, k.sends = k.sends[1:], k.sends[:1]
			return k
		}},
		{"ok-path-root-sent", "the anchor sent along", "", func(m *maker) kit {
			k := m.standard()
			k.sends = append(k.sends, k.anchors[0])
			return k
		}},
		{"ok-path-stranger-sent", "an unrelated authority sent along", "", func(m *maker) kit {
			k := m.standard()
			k.sends = append(k.sends, m.root("Stranger").der)
			return k
		}},
		{"ok-path-twice-sent", "the intermediate sent twice", "", func(m *maker) kit {
			k := m.standard()
			k.sends = append(k.sends, k.sends[1])
			return k
		}},
		{"ok-path-expired-twin", "an expired twin of the intermediate before the intermediate", "", func(m *maker) kit {
			root := m.root("Chain Root")
			issuer := m.authority(root, "Chain Intermediate")
			old := m.authority(root, "Chain Intermediate", valid(corpusTime.AddDate(-2, 0, 0), corpusTime.AddDate(-1, 0, 0)))
			return m.kit(root, m.leaf(issuer), old, issuer)
		}},
		{"ok-path-cross-signed", "an intermediate signed by a pinned and by another root", "", func(m *maker) kit {
			root, foreign := m.root("Chain Root"), m.root("Foreign Root")
			key := withKey(m.p256("crossed"))
			issuer, crossed := m.authority(root, "Crossed", key), m.authority(foreign, "Crossed", key)
			return m.kit(root, m.leaf(issuer), crossed, issuer)
		}},
		{"ok-path-cross-signed-other", "the same chain where the other root is pinned", "", func(m *maker) kit {
			root, foreign := m.root("Chain Root"), m.root("Foreign Root")
			key := withKey(m.p256("crossed"))
			issuer, crossed := m.authority(root, "Crossed", key), m.authority(foreign, "Crossed", key)
			return m.kit(foreign, m.leaf(issuer), issuer, crossed)
		}},
		{"ok-path-cross-signed-root", "a new root cross-signed by the pinned one", "", func(m *maker) kit {
			old, key := m.root("Chain Root"), withKey(m.p256("new root"))
			next, link := m.root("New Root", key), m.authority(old, "New Root", key)
			issuer := m.authority(next, "Chain Intermediate")
			return m.kit(old, m.leaf(issuer), issuer, link, next)
		}},
		{"ok-path-same-subject-anchors", "two anchors of one subject, the second of which issued the chain", "", func(m *maker) kit {
			first, second := m.root("Chain Root", withKey(m.p256("first"))), m.root("Chain Root", withKey(m.p256("second")))
			issuer := m.authority(second, "Chain Intermediate")
			k := m.kit(first, m.leaf(issuer), issuer)
			k.anchors = append(k.anchors, second.der)
			return k
		}},
		{"ok-path-many-anchors", "the anchor is the last of several", "", func(m *maker) kit {
			k := m.standard()
			k.anchors = [][]byte{m.root("A").der, m.root("B").der, k.anchors[0]}
			return k
		}},
		{"ok-path-rolled-anchor", "two certificates of one root key are pinned, one expired", "", func(m *maker) kit {
			key := withKey(m.p256("rolled"))
			old := m.root("Chain Root", key, valid(corpusTime.AddDate(-2, 0, 0), corpusTime.AddDate(-1, 0, 0)))
			root := m.root("Chain Root", key)
			issuer := m.authority(root, "Chain Intermediate")
			k := m.kit(old, m.leaf(issuer), issuer)
			k.anchors = append(k.anchors, root.der)
			return k
		}},
		{"ok-path-intermediate-pinned", "the intermediate itself is pinned", "", func(m *maker) kit {
			k := m.standard()
			k.anchors = [][]byte{k.sends[1]}
			return k
		}},
		{"ok-path-length", "a path length that is just enough", "", func(m *maker) kit {
			root := m.root("Chain Root", pathLength(1))
			issuer := m.authority(root, "Chain Intermediate", pathLength(0))
			return m.kit(root, m.leaf(issuer), issuer)
		}},
	}
}

func wrongPaths() []recipe {
	foreign := func(m *maker, label string, options ...option) (*made, *made) {
		root := m.root(label, options...)
		return root, m.authority(root, "Foreign Intermediate")
	}
	return []recipe{
		{"path-foreign", "another root", muster.CodeAnchorMismatch, func(m *maker) kit {
			_, issuer := foreign(m, "Foreign Root")
			return m.kit(m.root("Chain Root"), m.leaf(issuer), issuer)
		}},
		{"path-foreign-root-sent", "another root, sent along", muster.CodeAnchorMismatch, func(m *maker) kit {
			root, issuer := foreign(m, "Foreign Root")
			return m.kit(m.root("Chain Root"), m.leaf(issuer), issuer, root)
		}},
		{"path-self-signed", "a leaf signed with its own key", muster.CodeAnchorMismatch, func(m *maker) kit {
			return m.kit(m.root("Chain Root"), m.issue(nil, "Chain Leaf", &x509.Certificate{
				DNSNames: []string{"device.example"}, KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
			}, nil))
		}},
		{"path-same-subject", "another root of the pinned root's subject", muster.CodeAnchorMismatch, func(m *maker) kit {
			_, issuer := foreign(m, "Chain Root", withKey(m.p256("impostor")))
			return m.kit(m.root("Chain Root"), m.leaf(issuer), issuer)
		}},
		{"path-same-subject-sent", "the same, and the impostor sent along", muster.CodeAnchorMismatch, func(m *maker) kit {
			root, issuer := foreign(m, "Chain Root", withKey(m.p256("impostor")))
			return m.kit(m.root("Chain Root"), m.leaf(issuer), issuer, root)
		}},
		{"path-no-anchor", "no anchor is pinned", muster.CodeAnchorMismatch, func(m *maker) kit { k := m.standard(); k.anchors = nil; return k }},
		{"path-missing", "the intermediate is missing", muster.CodeAnchorMismatch, func(m *maker) kit { k := m.standard(); k.sends = k.sends[:1]; return k }},
		{"path-missing-upper", "the upper of two intermediates is missing", muster.CodeAnchorMismatch, func(m *maker) kit { k := rungs(m, 2); k.sends = k.sends[:2]; return k }},
		{"path-leaf-altered", "a leaf whose name was changed after it was signed", muster.CodePathInvalid, func(m *maker) kit {
			return m.standard(names("forger.example"), spoilt(func(der []byte) []byte {
				return bytes.Replace(der, []byte("forger.example"), []byte("device.example"), 1)
			}))
		}},
		{"path-leaf-other-signer", "a leaf signed by a key that is not its issuer's", muster.CodePathInvalid, func(m *maker) kit {
			return m.standard(signedBy(m.p256("other signer")))
		}},
		{"path-leaf-signature-empty", "a leaf with an empty signature", muster.CodePathInvalid, func(m *maker) kit { return m.standard(spoilt(resigned(nil))) }},
		{"path-leaf-signature-zero", "a leaf with the signature (0, 0)", muster.CodePathInvalid, func(m *maker) kit {
			return m.standard(spoilt(resigned([]byte{0x30, 6, 2, 1, 0, 2, 1, 0})))
		}},
		{"path-leaf-signature-ber", "a leaf whose signature has a padded integer", muster.CodePathInvalid, func(m *maker) kit {
			return m.standard(spoilt(resigned(append([]byte{0x30, 0x47, 2, 0x21, 0, 0x7f}, bytes.Repeat([]byte{0x7f}, 65)...))))
		}},
		{"path-intermediate-altered", "an intermediate that was changed after it was signed", muster.CodePathInvalid, func(m *maker) kit {
			return m.beneath(spoilt(func(der []byte) []byte {
				// The subject changes in its case; the leaf names the changed one.
				return bytes.Replace(der, []byte("Chain Intermediate"), []byte("chain intermediate"), 1)
			}))
		}},
		{"path-issued-by-leaf", "a leaf that a leaf has issued", muster.CodePathInvalid, func(m *maker) kit {
			root := m.root("Chain Root")
			issuer := m.issue(root, "Other Leaf", &x509.Certificate{BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature, DNSNames: []string{"other.example"}}, []option{named(asn1.TagUTF8String, []byte("Other Leaf"))})
			return m.kit(root, m.leaf(issuer), issuer)
		}},
		{"path-issuer-bmp", "an issuer's name in BMPString where its subject is in PrintableString", muster.CodeAnchorMismatch, func(m *maker) kit {
			return m.standard(issuedAs(asn1.TagBMPString, wide("Chain Intermediate")))
		}},
		{"path-issuer-utf8", "an issuer's name in UTF8String where its subject is in PrintableString", muster.CodeAnchorMismatch, func(m *maker) kit {
			return m.standard(issuedAs(asn1.TagUTF8String, []byte("Chain Intermediate")))
		}},
		{"path-issuer-case", "an issuer's name in another case", muster.CodeAnchorMismatch, func(m *maker) kit {
			return m.standard(issuedAs(asn1.TagPrintableString, []byte("CHAIN INTERMEDIATE")))
		}},
		{"path-issuer-space", "an issuer's name with another space", muster.CodeAnchorMismatch, func(m *maker) kit {
			return m.standard(issuedAs(asn1.TagPrintableString, []byte("Chain  Intermediate")))
		}},
		{"path-leaf-pinned", "the leaf itself is pinned", muster.CodePathInvalid, func(m *maker) kit { k := m.standard(); k.anchors = [][]byte{k.sends[0]}; return k }},
		{"path-crossed-foreign", "a cross-signed intermediate whose pinned side has expired", muster.CodeExpired, func(m *maker) kit {
			root, other := m.root("Chain Root"), m.root("Foreign Root")
			key := withKey(m.p256("crossed"))
			old := m.authority(root, "Crossed", key, valid(corpusTime.AddDate(-2, 0, 0), corpusTime.AddDate(-1, 0, 0)))
			crossed := m.authority(other, "Crossed", key)
			return m.kit(root, m.leaf(crossed), old, crossed)
		}},
	}
}

// resigned replaces the signature.
func resigned(signature []byte) func(certificate []byte) []byte {
	return func(certificate []byte) []byte {
		var outer struct {
			Body, Algorithm asn1.RawValue
			Signature       asn1.BitString
		}
		if _, err := asn1.Unmarshal(certificate, &outer); err != nil {
			panic(err)
		}
		outer.Signature = asn1.BitString{Bytes: signature, BitLength: 8 * len(signature)}
		made, err := asn1.Marshal(outer)
		if err != nil {
			panic(err)
		}
		return made
	}
}

// endlessPaths are long, circular or wide.
func endlessPaths() []recipe {
	circle := func(m *maker, n int) kit {
		issuer := m.root("Hidden Root")
		first := m.authority(issuer, "Circle 0")
		above := []*made{}
		issuer = first
		for i := range n - 1 {
			issuer = m.authority(issuer, fmt.Sprintf("Circle %d", i+1))
			above = append([]*made{issuer}, above...)
		}
		closing := m.authority(issuer, "Circle 0", withKey(first.key))
		return m.kit(m.root("Chain Root"), m.leaf(closing), append([]*made{closing}, above...)...)
	}
	return []recipe{
		{"path-too-long", "five intermediates", muster.CodeChainTooLong, func(m *maker) kit { return rungs(m, cert.MaxIntermediates+1) }},
		{"path-too-long-configured", "five intermediates, four of them configured", muster.CodeChainTooLong, func(m *maker) kit {
			k := rungs(m, cert.MaxIntermediates+1)
			k.configured, k.sends = k.sends[2:], k.sends[:2]
			return k
		}},
		{"path-stuffed", "a sound chain stuffed with strangers", muster.CodeChainTooLong, func(m *maker) kit {
			k := m.standard()
			for i := range cert.MaxIntermediates {
				k.sends = append(k.sends, m.root(fmt.Sprintf("Stranger %d", i)).der)
			}
			return k
		}},
		{"path-loop-two", "two intermediates that have signed each other", muster.CodePathInvalid, func(m *maker) kit { return circle(m, 2) }},
		{"path-loop-four", "four intermediates in a circle", muster.CodePathInvalid, func(m *maker) kit { return circle(m, 4) }},
		{"path-loop-self", "an intermediate that has signed itself, and is not pinned", muster.CodeAnchorMismatch, func(m *maker) kit {
			self := m.root("Self")
			return m.kit(m.root("Chain Root"), m.leaf(self), self)
		}},
		{"path-twins", "four intermediates of one subject with four keys, none of which has signed the leaf", muster.CodeAnchorMismatch, func(m *maker) kit {
			root := m.root("Chain Root")
			var twins []*made
			for i := range 4 {
				twins = append(twins, m.authority(root, "Twin", withKey(m.p256(fmt.Sprintf("twin %d", i)))))
			}
			return m.kit(root, m.leaf(m.authority(root, "Twin", withKey(m.p256("fifth twin")))), twins...)
		}},
	}
}

// authorityRecipes have a flaw in an intermediate or in the anchor.
func authorityRecipes() []recipe {
	var all []recipe
	both := func(slug, about string, inside, anchor muster.Code, options func(m *maker) []option) {
		if inside != "" {
			all = append(all, recipe{"intermediate-" + slug, "an intermediate: " + about, inside, func(m *maker) kit { return m.beneath(options(m)...) }})
		}
		if anchor != "" {
			all = append(all, recipe{"anchor-" + slug, "an anchor: " + about, anchor, func(m *maker) kit { return m.under(options(m)...) }})
		}
	}
	plain := func(options ...option) func(*maker) []option { return func(*maker) []option { return options } }
	past, future := corpusTime.AddDate(-2, 0, 0), corpusTime.AddDate(2, 0, 0)
	both("expired", "expired", muster.CodeExpired, muster.CodeExpired, plain(valid(past, corpusTime.Add(-time.Second))))
	both("not-yet", "not valid yet", muster.CodeNotYetValid, muster.CodeNotYetValid, plain(valid(corpusTime.Add(time.Second), future)))
	both("no-authority", "basicConstraints deny the authority", muster.CodePathInvalid, muster.CodePathInvalid, plain(template(func(c *x509.Certificate) { c.IsCA = false })))
	both("no-constraints", "no basicConstraints", muster.CodePathInvalid, muster.CodePathInvalid, plain(template(func(c *x509.Certificate) { c.BasicConstraintsValid, c.IsCA = false, false })))
	both("no-cert-sign", "keyUsage without keyCertSign", muster.CodeKeyUsage, muster.CodePathInvalid, plain(usage(x509.KeyUsageDigitalSignature|x509.KeyUsageCRLSign)))
	both("p384", "a key on P-384, which signs with SHA-384", muster.CodeSignatureAlgorithm, "", func(m *maker) []option { return []option{withKey(m.ecdsa(elliptic.P384(), "authority"))} })
	both("rsa", "an RSA key", muster.CodeSignatureAlgorithm, "", func(m *maker) []option { return []option{withKey(m.rsa2048())} })
	both("sha384", "signed with SHA-384", muster.CodeSignatureAlgorithm, "", plain(signature(x509.ECDSAWithSHA384)))
	both("unknown-critical", "an unknown critical extension", muster.CodeCriticalExtension, muster.CodeCriticalExtension, plain(extension(asn1.ObjectIdentifier{1, 2, 3}, true, []byte{5, 0})))
	both("eku-server", "extendedKeyUsage for servers only", muster.CodeExtendedKeyUsage, muster.CodeExtendedKeyUsage, plain(extended(x509.ExtKeyUsageServerAuth)))
	both("eku-code", "extendedKeyUsage for code signing only", muster.CodeExtendedKeyUsage, muster.CodeExtendedKeyUsage, plain(extended(x509.ExtKeyUsageCodeSigning)))
	both("serial-21-octets", "a serial number of 21 octets", muster.CodeCertificateMalformed, "", plain(numbered(bytes.Repeat([]byte{0x7f}, 21)...)))
	both("explicit-policy", "requireExplicitPolicy, and the leaf has none", muster.CodePathInvalid, "", plain(extension(asn1.ObjectIdentifier{2, 5, 29, 36}, true, der(0x30, []byte{0x80, 1, 0}))))
	all = append(all,
		recipe{"anchor-p384", "an anchor on P-384", muster.CodeSignatureAlgorithm, func(m *maker) kit { return m.under(withKey(m.ecdsa(elliptic.P384(), "authority"))) }},
		recipe{"anchor-p384-sha256", "an anchor on P-384 that signs with SHA-256", muster.CodeKeyAlgorithm, func(m *maker) kit {
			root := m.root("Chain Root", withKey(m.ecdsa(elliptic.P384(), "authority")))
			return m.kit(root, m.leaf(root, signature(x509.ECDSAWithSHA256)))
		}},
		recipe{"intermediate-path-length", "an intermediate above another one with a path length of 0", muster.CodePathInvalid, func(m *maker) kit {
			root := m.root("Chain Root")
			upper := m.authority(root, "Upper", pathLength(0))
			lower := m.authority(upper, "Lower")
			return m.kit(root, m.leaf(lower), lower, upper)
		}},
		recipe{"intermediate-path-length-one", "a path length of 1 with two intermediates below", muster.CodePathInvalid, func(m *maker) kit {
			root := m.root("Chain Root")
			upper := m.authority(root, "Upper", pathLength(1))
			middle := m.authority(upper, "Middle")
			lower := m.authority(middle, "Lower")
			return m.kit(root, m.leaf(lower), lower, middle, upper)
		}},
		recipe{"anchor-path-length", "an anchor with a path length of 0 above an intermediate", muster.CodePathInvalid, func(m *maker) kit { return m.under(pathLength(0)) }},
		recipe{"intermediate-huge-rsa", "a stranger with an RSA key beyond the cap beside a sound chain", muster.CodeCertificateTooLarge, func(m *maker) kit {
			k := m.standard()
			k.sends = append(k.sends, m.authority(m.root("Chain Root"), "Huge", withPublic(modulus(4104))).der)
			return k
		}},
		recipe{"intermediate-too-large", "an intermediate of more than 16 KiB", muster.CodeCertificateTooLarge, func(m *maker) kit {
			return m.beneath(extension(asn1.ObjectIdentifier{1, 2, 3}, false, make([]byte, cert.MaxCertificate)))
		}},
		recipe{"intermediate-garbage", "a sound leaf with garbage sent along", muster.CodeCertificateMalformed, func(m *maker) kit {
			k := m.standard()
			k.sends = append(k.sends, []byte("garbage"))
			return k
		}},
		recipe{"intermediate-p384-beside", "an intermediate on P-384 beside the sound one, which is only warned of", "", func(m *maker) kit {
			root := m.root("Chain Root")
			issuer := m.authority(root, "Chain Intermediate")
			other := m.authority(root, "Chain Intermediate", withKey(m.ecdsa(elliptic.P384(), "authority")))
			return m.kit(root, m.leaf(issuer), other, issuer)
		}},
	)
	return all
}

// constraintRecipes are about nameConstraints.
func constraintRecipes() []recipe {
	oid := asn1.ObjectIdentifier{2, 5, 29, 30}
	// bound encodes permitted (0xa0) or excluded (0xa1) subtrees.
	bound := func(tag byte, bases ...[]byte) []byte {
		var subtrees []byte
		for _, base := range bases {
			subtrees = append(subtrees, der(0x30, base)...)
		}
		return der(tag, subtrees)
	}
	const permit, exclude = 0xa0, 0xa1
	directory := gn(0xa4, commonName(asn1.TagUTF8String, []byte("Chain Leaf")))
	deviceTree := func(relative ...byte) []byte { return other(kindDevice, der(0x0d, relative)) }
	var all []recipe
	for _, c := range []struct {
		slug, about string
		code        muster.Code
		value       []byte
		name        string // pinned, with its encoding
		san         []byte
	}{
		{"permits-domain", "the domain is permitted", "", bound(permit, dns("example")), "", nil},
		{"permits-other-domain", "another domain is permitted", muster.CodeNameConstraints, bound(permit, dns("other.example")), "", nil},
		{"permits-suffix", "a domain that ends alike is permitted", muster.CodeNameConstraints, bound(permit, dns("vice.example")), "", nil},
		{"excludes-domain", "the domain is excluded", muster.CodeNameConstraints, bound(exclude, dns("example")), "", nil},
		{"excludes-other-domain", "another domain is excluded", "", bound(exclude, dns("other.example")), "", nil},
		{"permits-and-excludes", "the domain is permitted and the name excluded", muster.CodeNameConstraints, append(bound(permit, dns("example")), bound(exclude, dns("device.example"))...), "", nil},
		{"permits-host", "the host of the URI is permitted", "", bound(permit, uri("sp.example")), "ae-id:m2m://sp.example/C1", uri("m2m://sp.example/C1")},
		{"permits-other-host", "another host is permitted", muster.CodeNameConstraints, bound(permit, uri("other.example")), "ae-id:m2m://sp.example/C1", uri("m2m://sp.example/C1")},
		{"permits-hosts-below", "only hosts below the host are permitted", muster.CodeNameConstraints, bound(permit, uri(".sp.example")), "ae-id:m2m://sp.example/C1", uri("m2m://sp.example/C1")},
		{"permits-devices", "the manufacturer is permitted", "", bound(permit, deviceTree(0x64)), device, deviceOther},
		{"permits-other-devices", "another manufacturer is permitted", muster.CodeNameConstraints, bound(permit, deviceTree(0x65)), device, deviceOther},
		{"permits-devices-octet", "an arc that begins with the same octets is permitted", muster.CodeNameConstraints, bound(permit, deviceTree(0x64, 0x17)), device, deviceOther},
		{"excludes-devices", "the manufacturer is excluded", muster.CodeNameConstraints, bound(exclude, deviceTree(0x64)), device, deviceOther},
		{"excludes-devices-split", "the manufacturer is excluded, by another split of the arcs", muster.CodeNameConstraints,
			bound(exclude, other([]byte{0x06, 0x03, 0x02, 0x83, 0x61}, der(0x0d, []byte{1, 0x64}))), device, deviceOther},
		{"excludes-all-devices", "all M2M Device IDs are excluded", muster.CodeNameConstraints, bound(exclude, deviceTree()), device, deviceOther},
		{"permits-modules", "the type of module is permitted", "", bound(permit, other(kindModule, der(0x30, moduleType, der(4)))), module, moduleOther},
		{"excludes-module", "the module is excluded", muster.CodeNameConstraints, bound(exclude, moduleOther), module, moduleOther},
		{"excludes-other-module", "another module is excluded", "", bound(exclude, other(kindModule, der(0x30, moduleType, der(4, []byte{9})))), module, moduleOther},
		{"directory", "a form of name that nobody checks", muster.CodeNameConstraints, bound(permit, directory), "", nil},
		{"user", "an otherName that nobody checks", muster.CodeNameConstraints, bound(permit, other(kindUPN, der(0x0c, []byte("x")))), "", nil},
		{"minimum", "a minimum", muster.CodeNameConstraints, der(permit, der(0x30, dns("example"), []byte{0x80, 1, 1})), "", nil},
	} {
		for _, place := range []string{"intermediate", "anchor"} {
			all = append(all, recipe{"constraint-" + place + "-" + c.slug, "name constraints in the " + place + ": " + c.about, c.code, func(m *maker) kit {
				bounded := extension(oid, true, der(0x30, c.value))
				root := m.root("Chain Root")
				issuer := m.authority(root, "Chain Intermediate")
				if place == "anchor" {
					root = m.root("Chain Root", bounded)
				} else {
					issuer = m.authority(root, "Chain Intermediate", bounded)
				}
				if c.san == nil {
					return m.kit(root, m.leaf(issuer), issuer)
				}
				return called(c.name, m.kit(root, m.leaf(issuer, san(c.san)), issuer))
			}})
		}
	}
	return all
}

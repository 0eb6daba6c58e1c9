package cert_test

import (
	"bytes"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"muster"
	"muster/cert"
	"muster/mustertest"
)

// A refused case is a chain with one flaw and what is said about it.
type refused struct {
	name    string
	code    muster.Code
	index   int // of the finding in the chain
	present func(t *testing.T, p *mustertest.PKI) *mustertest.Identity
	trust   func(p *mustertest.PKI, trust *cert.Trust)
	rfc5280 bool // the profile rfc5280 accepts it
}

// leaf makes the case of a leaf with flaws.
func leaf(flaws ...mustertest.Flaw) func(t *testing.T, p *mustertest.PKI) *mustertest.Identity {
	return func(t *testing.T, p *mustertest.PKI) *mustertest.Identity {
		return p.Enrolee(t, mustertest.Name(t, muster.FlavourFQDN, "device.example"), flaws...)
	}
}

// under makes the case of a sound leaf below an intermediate with flaws.
func under(flaws ...mustertest.Flaw) func(t *testing.T, p *mustertest.PKI) *mustertest.Identity {
	return func(t *testing.T, p *mustertest.PKI) *mustertest.Identity {
		intermediate := p.NewIntermediate(t, p.Root, "Flawed Intermediate", flaws...)
		return issuedBy(t, p, intermediate)
	}
}

func issuedBy(t *testing.T, p *mustertest.PKI, issuer *mustertest.Authority) *mustertest.Identity {
	t.Helper()
	return p.NewLeaf(t, issuer, []muster.CertName{mustertest.Name(t, muster.FlavourFQDN, "device.example")}, []cert.Usage{cert.UsageClient})
}

// ladder makes a chain of n intermediates.
func ladder(n int) func(t *testing.T, p *mustertest.PKI) *mustertest.Identity {
	return func(t *testing.T, p *mustertest.PKI) *mustertest.Identity {
		issuer := p.Root
		for i := range n {
			issuer = p.NewIntermediate(t, issuer, fmt.Sprintf("Rung %d", i), mustertest.PathLength(-1))
		}
		return issuedBy(t, p, issuer)
	}
}

func critical(id asn1.ObjectIdentifier, value []byte) mustertest.Flaw {
	return mustertest.Extension(pkix.Extension{Id: id, Critical: true, Value: value})
}

func serial(n *big.Int) mustertest.Flaw {
	return func(_ testing.TB, d *mustertest.Draft) { d.Template.SerialNumber = n }
}

func wholeChain() []refused {
	return []refused{
		{name: "chain over the cap", code: muster.CodeChainTooLong, index: cert.NoIndex, present: ladder(5)},
		{name: "no chain", code: muster.CodeNoCertificate, index: cert.NoIndex,
			present: func(*testing.T, *mustertest.PKI) *mustertest.Identity { return &mustertest.Identity{} }},
		{name: "nil in the chain", code: muster.CodeCertificateMalformed, index: 1,
			present: func(t *testing.T, p *mustertest.PKI) *mustertest.Identity {
				identity := leaf()(t, p)
				identity.Chain = []*x509.Certificate{identity.Leaf(), nil}
				return identity
			}},
		{name: "certificate over the cap", code: muster.CodeCertificateTooLarge,
			present: leaf(mustertest.Extension(pkix.Extension{Id: asn1.ObjectIdentifier{1, 2, 3}, Value: make([]byte, cert.MaxCertificate)}))},
		{name: "extensions over the cap", code: muster.CodeCertificateTooLarge,
			present: leaf(func(_ testing.TB, d *mustertest.Draft) {
				for i := range cert.MaxExtensions {
					d.Template.ExtraExtensions = append(d.Template.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{1, 2, 3, i}})
				}
			})},
		{name: "names over the cap", code: muster.CodeCertificateTooLarge,
			present: leaf(mustertest.Domains(slices.Repeat([]string{"device.example"}, cert.MaxNames+1)...))},
		{name: "RSA key over the cap", code: muster.CodeCertificateTooLarge, index: 1, present: hugeRSA},
	}
}

// hugeRSA presents an unrelated certificate whose RSA modulus is large; it is
// not a product of primes, since nobody gets to use it.
func hugeRSA(t *testing.T, p *mustertest.PKI) *mustertest.Identity {
	identity := leaf()(t, p)
	modulus := new(big.Int).Lsh(big.NewInt(1), cert.MaxRSA)
	key := &rsa.PublicKey{N: modulus.SetBit(modulus, 0, 1), E: 65537}
	template, err := cert.RootTemplate(rand.Reader, "Huge", p.Validity())
	if err != nil {
		t.Fatal(err)
	}
	huge, err := x509.ParseCertificate(p.Root.Issue(t, template, key))
	if err != nil {
		t.Fatal(err)
	}
	identity.Chain = []*x509.Certificate{identity.Leaf(), huge}
	return identity
}

func namesOfLeaf() []refused {
	name := func(flavour muster.Flavour, text string) func(p *mustertest.PKI, trust *cert.Trust) {
		return func(_ *mustertest.PKI, trust *cert.Trust) { trust.Name = muster.CertName{Flavour: flavour, Text: text} }
	}
	return []refused{
		{name: "another name", code: muster.CodeNameMismatch, present: leaf(mustertest.Domains("other.example"))},
		{name: "a longer name", code: muster.CodeNameMismatch, present: leaf(mustertest.Domains("device.example.org", "my-device.example", "a.device.example"))},
		{name: "another flavour", code: muster.CodeNameMismatch, present: leaf(), trust: name(muster.FlavourAEID, "//device.example/C1")},
		{name: "no name configured", code: muster.CodeNameUnknown, present: leaf(), trust: name("", "")},
		{name: "raw key configured", code: muster.CodeNameMismatch, present: leaf(),
			trust: func(p *mustertest.PKI, trust *cert.Trust) {
				trust.Name = cert.RawKeyNames(p.Root.Certificate.RawSubjectPublicKeyInfo)[0]
			}},
		{name: "common name only", code: muster.CodeNameOnlyInCN, present: leaf(mustertest.CommonNameOnly("device.example"))},
		{name: "common name only, other case", code: muster.CodeNameOnlyInCN, present: leaf(mustertest.CommonNameOnly("Device.Example"))},
		{name: "name in common name, another in subjectAltName", code: muster.CodeNameOnlyInCN,
			present: leaf(mustertest.CommonNameOnly("device.example"), mustertest.Domains("other.example"))},
		{name: "no name at all", code: muster.CodeNameMismatch, present: leaf(mustertest.CommonNameOnly("Someone"))},
		{name: "wildcard", code: muster.CodeNameWildcard, present: leaf(mustertest.Domains("*.example"))},
		{name: "wildcard beside the name", code: muster.CodeNameWildcard, present: leaf(mustertest.Domains("device.example", "*.example")), rfc5280: true},
		{name: "wildcard configured", code: muster.CodeNameWildcard, present: leaf(mustertest.Domains("*.example")), trust: name(muster.FlavourFQDN, "*.example")},
		{name: "NUL in a name", code: muster.CodeCertificateMalformed, present: leaf(mustertest.Domains("device.example\x00.attacker.example"))},
		{name: "NUL after a name", code: muster.CodeCertificateMalformed, present: leaf(mustertest.Domains("device.example\x00"))},
		{name: "space in a name", code: muster.CodeCertificateMalformed, present: leaf(mustertest.Domains("device.example "))},
		{name: "empty name", code: muster.CodeCertificateMalformed, present: leaf(mustertest.Domains("device.example", ""))},
		{name: "trailing dot", code: muster.CodeNameMismatch, present: leaf(mustertest.Domains("device.example."))},
		{name: "IP address in the form of a domain name", code: muster.CodeNameMismatch, present: leaf(mustertest.Domains("192.0.2.1")), trust: name(muster.FlavourFQDN, "192.0.2.1")},
		{name: "A-label for another script", code: muster.CodeNameMismatch, present: leaf(mustertest.Domains("xn--dvice-nva.example"))},
		{name: "device by another split", code: muster.CodeNameMismatch,
			present: func(t *testing.T, p *mustertest.PKI) *mustertest.Identity {
				return p.Enrolee(t, mustertest.Name(t, muster.FlavourDevice, "0.2.481.1/100.3030.7"))
			}, trust: name(muster.FlavourDevice, "0.2.481/1.100.3030.7")},
		{name: "device with an expanded ID", code: muster.CodeNameMismatch,
			present: func(t *testing.T, p *mustertest.PKI) *mustertest.Identity {
				return p.Enrolee(t, mustertest.Name(t, muster.FlavourDevice, "0.2.481.1/100.3030.7.1"))
			}, trust: name(muster.FlavourDevice, "0.2.481.1/100.3030.7")},
		{name: "hardware module of another kind", code: muster.CodeNameMismatch,
			present: func(t *testing.T, p *mustertest.PKI) *mustertest.Identity {
				return p.Enrolee(t, mustertest.Name(t, muster.FlavourDevice, "hwmodule:1.3.6.1.4.1.99999.1:07"))
			}, trust: name(muster.FlavourDevice, "hwmodule:1.3.6.1.4.1.99999.2:07")},
		{name: "AE-ID in another case", code: muster.CodeNameMismatch,
			present: func(t *testing.T, p *mustertest.PKI) *mustertest.Identity {
				return p.Enrolee(t, mustertest.Name(t, muster.FlavourAEID, "//sp.example/c1/S1"))
			}, trust: name(muster.FlavourAEID, "//sp.example/C1/S1")},
	}
}

func profileOfLeaf() []refused {
	return []refused{
		{name: "expired", code: muster.CodeExpired, present: leaf(mustertest.Expired())},
		{name: "not yet valid", code: muster.CodeNotYetValid, present: leaf(mustertest.NotYetValid())},
		{name: "no keyUsage", code: muster.CodeKeyUsage, present: leaf(mustertest.KeyUsage(0))},
		{name: "keyUsage without digitalSignature", code: muster.CodeKeyUsage, present: leaf(mustertest.KeyUsage(x509.KeyUsageKeyAgreement))},
		{name: "server's EKU", code: muster.CodeExtendedKeyUsage, present: leaf(mustertest.ExtKeyUsage(x509.ExtKeyUsageServerAuth))},
		{name: "unrelated EKU", code: muster.CodeExtendedKeyUsage, present: leaf(mustertest.ExtKeyUsage(x509.ExtKeyUsageCodeSigning))},
		{name: "unknown EKU", code: muster.CodeExtendedKeyUsage, present: leaf(mustertest.ExtKeyUsage(), func(_ testing.TB, d *mustertest.Draft) {
			d.Template.UnknownExtKeyUsage = []asn1.ObjectIdentifier{{1, 2, 3}}
		})},
		{name: "CA as leaf", code: muster.CodeCAAsLeaf, present: leaf(mustertest.AsAuthority())},
		{name: "P-384", code: muster.CodeKeyAlgorithm, present: leaf(mustertest.OnCurve(elliptic.P384())), rfc5280: true},
		{name: "RSA 2048", code: muster.CodeKeyAlgorithm, present: leaf(mustertest.WithRSA(2048)), rfc5280: true},
		{name: "Ed25519", code: muster.CodeKeyAlgorithm, present: leaf(mustertest.WithEd25519()), rfc5280: true},
		{name: "P-224", code: muster.CodeKeyAlgorithm, present: leaf(mustertest.OnCurve(elliptic.P224()))},
		{name: "P-521", code: muster.CodeKeyAlgorithm, present: leaf(mustertest.OnCurve(elliptic.P521()))},
		{name: "RSA 1024", code: muster.CodeKeyAlgorithm, present: leaf(shortRSA)},
		{name: "SHA-384", code: muster.CodeSignatureAlgorithm, present: leaf(mustertest.SignedWith(x509.ECDSAWithSHA384)), rfc5280: true},
		{name: "unknown critical extension", code: muster.CodeCriticalExtension, present: leaf(critical(asn1.ObjectIdentifier{1, 2, 3}, nil))},
		{name: "critical name constraints that nobody checks", code: muster.CodeNameConstraints, index: 1,
			present: under(critical(asn1.ObjectIdentifier{2, 5, 29, 30}, directoryConstraint()))},
		{name: "serial number of 21 octets", code: muster.CodeCertificateMalformed, present: leaf(serial(new(big.Int).Lsh(big.NewInt(1), 8*20)))},
		{name: "no role configured", code: muster.CodeExtendedKeyUsage, present: leaf(),
			trust: func(_ *mustertest.PKI, trust *cert.Trust) { trust.Usage = 0 }},
	}
}

// shortRSA has an RSA key of 1024 bits, which crypto/rsa refuses to make.
func shortRSA(t testing.TB, d *mustertest.Draft) {
	modulus, ok := new(big.Int).SetString(strings.Repeat("c5", 127)+"c5", 16)
	if !ok {
		t.Fatal("the modulus is not a number")
	}
	d.Key = publicOnly{Signer: mustertest.NewKey(t), public: &rsa.PublicKey{N: modulus, E: 65537}}
}

// directoryConstraint permits one directoryName.
func directoryConstraint() []byte {
	return []byte{0x30, 0x1a, 0xa0, 0x18, 0x30, 0x16, 0xa4, 0x14, 0x30, 0x12, 0x31, 0x10, 0x30, 0x0e,
		0x06, 0x03, 0x55, 0x04, 0x0a, 0x0c, 0x07, 'E', 'x', 'a', 'm', 'p', 'l', 'e'}
}

func paths() []refused {
	return []refused{
		{name: "another root", code: muster.CodeAnchorMismatch,
			present: func(t *testing.T, p *mustertest.PKI) *mustertest.Identity { return issuedBy(t, p, p.OtherRoot) }},
		{name: "another root by an intermediate", code: muster.CodeAnchorMismatch, index: 1,
			present: func(t *testing.T, p *mustertest.PKI) *mustertest.Identity { return issuedBy(t, p, p.OtherIntermediate) }},
		{name: "another root, presented", code: muster.CodeAnchorMismatch, index: 1,
			present: func(t *testing.T, p *mustertest.PKI) *mustertest.Identity {
				identity := issuedBy(t, p, p.OtherRoot)
				identity.Chain = append(identity.Chain, p.OtherRoot.Certificate)
				return identity
			}},
		{name: "another root of the same subject", code: muster.CodeAnchorMismatch,
			present: func(t *testing.T, p *mustertest.PKI) *mustertest.Identity {
				return issuedBy(t, p, p.NewRoot(t, "Test Root"))
			}},
		{name: "no anchor", code: muster.CodeAnchorMismatch, index: cert.NoIndex, present: leaf(),
			trust: func(_ *mustertest.PKI, trust *cert.Trust) { trust.Anchors = nil }},
		{name: "intermediate missing", code: muster.CodeAnchorMismatch,
			present: func(t *testing.T, p *mustertest.PKI) *mustertest.Identity { return leaf()(t, p).LeafOnly() }},
		{name: "leaf altered after signing", code: muster.CodePathInvalid, present: forged},
		{name: "intermediate expired", code: muster.CodeExpired, index: 1, present: under(mustertest.Expired())},
		{name: "intermediate not yet valid", code: muster.CodeNotYetValid, index: 1, present: under(mustertest.NotYetValid())},
		{name: "intermediate without authority", code: muster.CodePathInvalid, index: 1, present: under(mustertest.NoAuthority())},
		{name: "intermediate without keyCertSign", code: muster.CodeKeyUsage, index: 1, present: under(mustertest.KeyUsage(x509.KeyUsageDigitalSignature))},
		{name: "intermediate on P-384", code: muster.CodeSignatureAlgorithm, present: under(mustertest.OnCurve(elliptic.P384())), rfc5280: true},
		{name: "intermediate signed with SHA-384", code: muster.CodeSignatureAlgorithm, index: 1, present: under(mustertest.SignedWith(x509.ECDSAWithSHA384)), rfc5280: true},
		{name: "intermediate with an unknown critical extension", code: muster.CodeCriticalExtension, index: 1, present: under(critical(asn1.ObjectIdentifier{1, 2, 3}, nil))},
		{name: "intermediate for other roles", code: muster.CodeExtendedKeyUsage, present: under(mustertest.ExtKeyUsage(x509.ExtKeyUsageServerAuth))},
		{name: "leaf issued by a leaf", code: muster.CodePathInvalid, index: 1,
			present: func(t *testing.T, p *mustertest.PKI) *mustertest.Identity {
				issuer := leaf()(t, p)
				return issuedBy(t, p, &mustertest.Authority{Certificate: issuer.Leaf(), Key: issuer.Key, Sent: issuer.Chain})
			}},
		{name: "path length", code: muster.CodePathInvalid, index: 2,
			present: func(t *testing.T, p *mustertest.PKI) *mustertest.Identity {
				return issuedBy(t, p, p.NewIntermediate(t, p.Intermediate, "One Too Many"))
			}},
		{name: "issuer's name in another string type", code: muster.CodeAnchorMismatch, present: otherStringType},
		{name: "loop of issuers", code: muster.CodePathInvalid, index: 1, present: loop},
		{name: "anchor on P-384", code: muster.CodeSignatureAlgorithm, rfc5280: true,
			present: func(t *testing.T, p *mustertest.PKI) *mustertest.Identity {
				p.Root = p.NewRoot(t, "P-384 Root", mustertest.OnCurve(elliptic.P384()))
				return issuedBy(t, p, p.Root)
			}},
		{name: "anchor on P-384 signing with SHA-256", code: muster.CodeKeyAlgorithm, index: cert.NoIndex, rfc5280: true,
			present: func(t *testing.T, p *mustertest.PKI) *mustertest.Identity {
				p.Root = p.NewRoot(t, "P-384 Root", mustertest.OnCurve(elliptic.P384()))
				return p.NewLeaf(t, p.Root, []muster.CertName{mustertest.Name(t, muster.FlavourFQDN, "device.example")}, nil,
					mustertest.SignedWith(x509.ECDSAWithSHA256))
			}},
		{name: "anchor expired", code: muster.CodeExpired, index: cert.NoIndex,
			present: func(t *testing.T, p *mustertest.PKI) *mustertest.Identity {
				p.Root = p.NewRoot(t, "Old Root", mustertest.Expired())
				return issuedBy(t, p, p.Root)
			}},
		{name: "leaf pinned as an anchor", code: muster.CodePathInvalid,
			present: func(t *testing.T, p *mustertest.PKI) *mustertest.Identity {
				identity := leaf()(t, p)
				p.Root = &mustertest.Authority{Certificate: identity.Leaf()}
				return identity
			}},
		{name: "intermediate revoked", code: muster.CodeRevoked, index: 1, present: leaf(),
			trust: func(_ *mustertest.PKI, trust *cert.Trust) {
				trust.Status = func([]*x509.Certificate) cert.Findings {
					return cert.Findings{{Code: muster.CodeRevoked, Certificate: 1, Detail: "it is on the list"}}
				}
			}},
		{name: "anchor withdrawn", code: muster.CodeRevoked, index: cert.NoIndex, present: leaf(),
			trust: func(_ *mustertest.PKI, trust *cert.Trust) {
				trust.Status = func(path []*x509.Certificate) cert.Findings {
					return cert.Findings{{Code: muster.CodeRevoked, Certificate: len(path) - 1, Detail: "it is on the list"}}
				}
			}},
		{name: "revoked", code: muster.CodeRevoked, present: leaf(),
			trust: func(_ *mustertest.PKI, trust *cert.Trust) {
				trust.Status = func([]*x509.Certificate) cert.Findings {
					return cert.Findings{{Code: muster.CodeRevoked, Detail: "it is on the list"}}
				}
			}},
	}
}

// forged changes the name in a certificate and keeps its signature.
func forged(t *testing.T, p *mustertest.PKI) *mustertest.Identity {
	identity := leaf(mustertest.Domains("forger.example"))(t, p)
	der := bytes.Replace(identity.Leaf().Raw, []byte("forger.example"), []byte("device.example"), 1)
	altered, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	identity.Chain[0] = altered
	return identity
}

// otherStringType presents a leaf whose issuer is spelled in BMPString where the
// intermediate has PrintableString. Names are compared octet by octet, which
// errs on the safe side of RFC 5280 7.1.
func otherStringType(t *testing.T, p *mustertest.PKI) *mustertest.Identity {
	renamed := *p.Intermediate.Certificate
	text := []byte{}
	for _, c := range []byte(renamed.Subject.CommonName) {
		text = append(text, 0, c)
	}
	name, err := asn1.Marshal(pkix.RDNSequence{{{Type: asn1.ObjectIdentifier{2, 5, 4, 3}, Value: asn1.RawValue{Tag: asn1.TagBMPString, Bytes: text}}}})
	if err != nil {
		t.Fatal(err)
	}
	renamed.RawSubject = name
	issuer := *p.Intermediate
	issuer.Certificate = &renamed
	return issuedBy(t, p, &issuer)
}

// loop presents two intermediates that have signed each other.
func loop(t *testing.T, p *mustertest.PKI) *mustertest.Identity {
	endless := mustertest.PathLength(-1)
	first := p.NewIntermediate(t, p.OtherRoot, "First", endless)
	second := p.NewIntermediate(t, first, "Second", endless)
	closing := p.NewIntermediate(t, second, "First", endless, mustertest.WithKey(first.Key))
	identity := issuedBy(t, p, first)
	identity.Chain = []*x509.Certificate{identity.Leaf(), closing.Certificate, second.Certificate}
	return identity
}

func TestVerifyRefuses(t *testing.T) {
	t.Parallel()
	for _, c := range slices.Concat(wholeChain(), namesOfLeaf(), profileOfLeaf(), paths()) {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := mustertest.NewPKI(t)
			identity := c.present(t, p)
			trust := p.Trust(mustertest.Name(t, muster.FlavourFQDN, "device.example"), cert.UsageClient)
			if c.trust != nil {
				c.trust(p, &trust)
			}
			peer, findings := cert.Verify(identity.Chain, trust, p.Now)
			checkRefused(t, c, peer, findings)
			if explained := cert.Explain(identity.Chain, trust, p.Now); muster.CodeOf(explained.Err()) != c.code || len(explained) < len(findings) {
				t.Errorf("Explain: %v", explained)
			}

			trust.Profile = cert.ProfileRFC5280
			peer, findings = cert.Verify(identity.Chain, trust, p.Now)
			if !c.rfc5280 {
				if findings.Err() == nil || peer != (muster.Peer{}) {
					t.Errorf("rfc5280: %+v, %v", peer, findings)
				}
			} else if findings.Err() != nil || peer.Name != trust.Name {
				t.Errorf("rfc5280: %+v, %v", peer, findings)
			}
		})
	}
}

func checkRefused(t *testing.T, c refused, peer muster.Peer, findings cert.Findings) {
	t.Helper()
	if peer != (muster.Peer{}) {
		t.Errorf("a refused peer is %+v", peer)
	}
	err := findings.Err()
	refusal, ok := errors.AsType[*muster.Refusal](err)
	if !ok || refusal.Code != c.code {
		t.Fatalf("got %v, want the code %s; findings: %v", err, c.code, findings)
	}
	for _, finding := range findings {
		if finding.Level != cert.LevelError {
			continue
		}
		if finding.Certificate != c.index {
			t.Errorf("the finding is about certificate %d, want %d: %v", finding.Certificate, c.index, finding)
		}
		if _, ok := finding.Code.Meaning(); !ok || finding.Detail == "" {
			t.Errorf("%v has no meaning or no detail", finding)
		}
		break
	}
}

func TestVerifyWithoutTimeRefuses(t *testing.T) {
	t.Parallel()
	p := mustertest.NewPKI(t)
	name := mustertest.DeviceName(t, 1)
	peer, findings := cert.Verify(p.Enrolee(t, name).Chain, p.Trust(name, cert.UsageClient), time.Time{})
	if muster.CodeOf(findings.Err()) != muster.CodeNotYetValid || peer != (muster.Peer{}) {
		t.Fatalf("%+v, %v", peer, findings)
	}
}

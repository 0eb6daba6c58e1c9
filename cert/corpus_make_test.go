package cert_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"strings"
	"testing"
	"time"

	"muster"
	"muster/cert"
)

// The corpus of testdata/chains is made here. All of it follows from labels:
// keys are digests of theirs, and ECDSA signatures without randomness are
// deterministic (RFC 6979), so that making it again gives the same octets.

// corpusTime is when the chains are judged, unless one says otherwise.
var corpusTime = time.Date(2030, 6, 1, 12, 0, 0, 0, time.UTC)

// A recipe makes one file.
type recipe struct {
	slug, about string
	expect      muster.Code // empty for a chain that is accepted
	make        func(m *maker) kit
}

// A kit is a file before it is written.
type kit struct {
	sends, anchors, configured [][]byte
	key                        crypto.Signer // of the leaf; nil for a key that nobody has
	name                       string        // flavour and text
	usage                      cert.Usage
	profile                    cert.Profile
	time                       time.Time
}

type maker struct{ t testing.TB }

// p256 returns the key of a label.
func (m *maker) p256(label string) *ecdsa.PrivateKey {
	return m.ecdsa(elliptic.P256(), label)
}

func (m *maker) ecdsa(curve elliptic.Curve, label string) *ecdsa.PrivateKey {
	m.t.Helper()
	digest := sha512.Sum512([]byte("muster chains " + label))
	scalar := make([]byte, (curve.Params().BitSize+7)/8)
	copy(scalar, digest[:])
	scalar[0] = 0 // below the order, on every curve
	key, err := ecdsa.ParseRawPrivateKey(curve, scalar)
	if err != nil {
		m.t.Fatal(err)
	}
	return key
}

func (m *maker) ed25519(label string) ed25519.PrivateKey {
	digest := sha256.Sum256([]byte("muster chains " + label))
	return ed25519.NewKeyFromSeed(digest[:])
}

// rsa2048 is the one key that cannot be made of a label.
func (m *maker) rsa2048() *rsa.PrivateKey {
	m.t.Helper()
	text, err := os.ReadFile("../testdata/chains/rsa2048.pem")
	if err != nil {
		m.t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	if block == nil {
		m.t.Fatal("the RSA key is not in PEM")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		m.t.Fatal(err)
	}
	return key.(*rsa.PrivateKey)
}

// modulus is a public RSA key of some size that is not a product of known primes.
func modulus(bits int) *rsa.PublicKey {
	n := new(big.Int).Lsh(big.NewInt(1), uint(bits-1))
	return &rsa.PublicKey{N: n.SetBit(n, 0, 1), E: 65537}
}

// A made certificate can issue others.
type made struct {
	der []byte
	// parent is what the certificates that it issues take their issuer and
	// their authorityKeyIdentifier from.
	parent *x509.Certificate
	key    crypto.Signer
}

// A sketch is a certificate that is about to be made.
type sketch struct {
	template *x509.Certificate
	key      crypto.Signer
	public   crypto.PublicKey // in place of key's
	edits    []func(e *encoding)
	signer   crypto.Signer // signs in place of the issuer, with ECDSA and SHA-256
	spoil    func(der []byte) []byte
}

// An option changes a sketch.
type option func(s *sketch)

// An encoding is the part of a certificate that is signed, open to any change.
type encoding struct {
	Version    int `asn1:"optional,explicit,default:0,tag:0"`
	Serial     asn1.RawValue
	Algorithm  asn1.RawValue
	Issuer     asn1.RawValue
	Validity   asn1.RawValue
	Subject    asn1.RawValue
	PublicKey  asn1.RawValue
	Extensions []encodedExtension `asn1:"omitempty,optional,explicit,tag:3"`
}

type encodedExtension struct {
	ID       asn1.ObjectIdentifier
	Critical bool `asn1:"optional"`
	Value    []byte
}

// issue makes a certificate. A root is its own issuer: nil.
func (m *maker) issue(issuer *made, label string, template *x509.Certificate, options []option) *made {
	m.t.Helper()
	digest := sha256.Sum256([]byte("serial " + label))
	template.SerialNumber = new(big.Int).SetBytes(append([]byte{0x40}, digest[:11]...))
	if template.NotBefore.IsZero() {
		template.NotBefore, template.NotAfter = corpusTime.AddDate(-1, 0, 0), corpusTime.AddDate(10, 0, 0)
	}
	s := &sketch{template: template}
	for _, o := range options {
		o(s)
	}
	if s.key == nil && s.public == nil {
		s.key = m.p256(label)
	}
	if s.public == nil {
		s.public = s.key.Public()
	}
	parent, signer := template, s.key
	if issuer != nil {
		parent, signer = issuer.parent, issuer.key
	}
	der, err := x509.CreateCertificate(nil, template, parent, s.public, signer)
	if err != nil {
		m.t.Fatalf("%s: %v", label, err)
	}
	if s.signer != nil {
		signer = s.signer
	}
	if len(s.edits) > 0 || s.signer != nil {
		der = m.edit(der, s.edits, signer)
	}
	if s.spoil != nil {
		der = s.spoil(der)
	}
	result := &made{der: der, key: s.key}
	if parsed, err := x509.ParseCertificate(der); err == nil {
		result.parent = parsed
	} else {
		template.SubjectKeyId = nil
		result.parent = template
	}
	return result
}

// edit changes a certificate and signs it again, with ECDSA and SHA-256.
func (m *maker) edit(der []byte, edits []func(e *encoding), signer crypto.Signer) []byte {
	m.t.Helper()
	var outer struct {
		Body      encoding
		Algorithm asn1.RawValue
		Signature asn1.BitString
	}
	if _, err := asn1.Unmarshal(der, &outer); err != nil {
		m.t.Fatal(err)
	}
	for _, change := range edits {
		change(&outer.Body)
	}
	body, err := asn1.Marshal(outer.Body)
	if err != nil {
		m.t.Fatal(err)
	}
	digest := sha256.Sum256(body)
	signature, err := signer.Sign(nil, digest[:], crypto.SHA256)
	if err != nil {
		m.t.Fatal(err)
	}
	// The outer algorithm stays what it was: an edit of the inner one makes them differ.
	edited, err := asn1.Marshal(struct {
		Body, Algorithm asn1.RawValue
		Signature       asn1.BitString
	}{asn1.RawValue{FullBytes: body}, outer.Algorithm, asn1.BitString{Bytes: signature, BitLength: 8 * len(signature)}})
	if err != nil {
		m.t.Fatal(err)
	}
	return edited
}

// root makes a self-signed authority; its label is its common name.
func (m *maker) root(label string, options ...option) *made {
	m.t.Helper()
	return m.issue(nil, label, &x509.Certificate{
		Subject: pkix.Name{CommonName: label}, IsCA: true, BasicConstraintsValid: true, MaxPathLen: -1,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature,
	}, options)
}

// authority makes an intermediate without a path length.
func (m *maker) authority(issuer *made, label string, options ...option) *made {
	m.t.Helper()
	return m.issue(issuer, label, &x509.Certificate{
		Subject: pkix.Name{CommonName: label}, IsCA: true, BasicConstraintsValid: true, MaxPathLen: -1,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature,
	}, options)
}

// leaf makes an end-entity certificate with the name of the corpus.
func (m *maker) leaf(issuer *made, options ...option) *made {
	m.t.Helper()
	return m.issue(issuer, "Chain Leaf", &x509.Certificate{
		Subject: pkix.Name{CommonName: "Chain Leaf"}, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		DNSNames:    []string{"device.example"},
	}, options)
}

// kit returns the file of a leaf and what it sends with it, under a root.
func (m *maker) kit(root, leaf *made, others ...*made) kit {
	k := kit{sends: [][]byte{leaf.der}, key: leaf.key, name: "fqdn:device.example", usage: cert.UsageClient, time: corpusTime}
	for _, other := range others {
		k.sends = append(k.sends, other.der)
	}
	if root != nil {
		k.anchors = [][]byte{root.der}
	}
	return k
}

// standard is a leaf with options below an intermediate below a root.
func (m *maker) standard(options ...option) kit {
	root := m.root("Chain Root")
	issuer := m.authority(root, "Chain Intermediate")
	return m.kit(root, m.leaf(issuer, options...), issuer)
}

// beneath is a sound leaf below an intermediate with options.
func (m *maker) beneath(options ...option) kit {
	root := m.root("Chain Root")
	issuer := m.authority(root, "Chain Intermediate", options...)
	return m.kit(root, m.leaf(issuer), issuer)
}

// under is a sound leaf and intermediate below a root with options.
func (m *maker) under(options ...option) kit {
	root := m.root("Chain Root", options...)
	issuer := m.authority(root, "Chain Intermediate")
	return m.kit(root, m.leaf(issuer), issuer)
}

// text is the content of a file.
func (r recipe) text(m *maker) string {
	m.t.Helper()
	k := r.make(m)
	var b strings.Builder
	expect := "ok"
	if r.expect != "" {
		expect = string(r.expect)
	}
	fmt.Fprintf(&b, "about: %s\nexpect: %s\nname: %s\nusage: %s\nprofile: %s\ntime: %s\n",
		r.about, expect, k.name, k.usage, k.profile, k.time.Format(time.RFC3339))
	section := func(name, kind string, ders ...[]byte) {
		if len(ders) == 0 {
			return
		}
		fmt.Fprintf(&b, "%s:\n", name)
		for _, der := range ders {
			b.Write(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
		}
	}
	section("sends", "CERTIFICATE", k.sends...)
	section("anchors", "CERTIFICATE", k.anchors...)
	section("configured", "CERTIFICATE", k.configured...)
	if k.key != nil {
		der, err := x509.MarshalPKCS8PrivateKey(k.key)
		if err != nil {
			m.t.Fatal(err)
		}
		section("key", "PRIVATE KEY", der)
	}
	return b.String()
}

// The options below change one thing each.

func names(options ...string) option { // dNSNames
	return func(s *sketch) { s.template.DNSNames = options }
}

func noNames() option { return names() }

// sanValue replaces the subjectAltName by an encoding.
func sanValue(value []byte) option {
	return extension(asn1.ObjectIdentifier{2, 5, 29, 17}, false, value)
}

// san replaces the subjectAltName by a sequence of encoded names.
func san(generalNames ...[]byte) option {
	content := bytes.Join(generalNames, nil)
	value, err := asn1.Marshal(asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true, Bytes: content})
	if err != nil {
		panic(err)
	}
	return sanValue(value)
}

// extension adds an extension, in place of what the template says.
func extension(id asn1.ObjectIdentifier, critical bool, value []byte) option {
	return func(s *sketch) {
		s.template.ExtraExtensions = append(s.template.ExtraExtensions, pkix.Extension{Id: id, Critical: critical, Value: value})
	}
}

// again repeats the extension with an identifier.
func again(id asn1.ObjectIdentifier) option {
	return edited(func(e *encoding) {
		for _, x := range e.Extensions {
			if x.ID.Equal(id) {
				e.Extensions = append(e.Extensions, x)
				return
			}
		}
	})
}

func edited(edit func(e *encoding)) option {
	return func(s *sketch) { s.edits = append(s.edits, edit) }
}

func spoilt(spoil func(der []byte) []byte) option {
	return func(s *sketch) { s.spoil = spoil }
}

func withKey(key crypto.Signer) option { return func(s *sketch) { s.key = key } }

func withPublic(key crypto.PublicKey) option { return func(s *sketch) { s.public = key } }

func signedBy(key crypto.Signer) option { return func(s *sketch) { s.signer = key } }

func template(change func(c *x509.Certificate)) option {
	return func(s *sketch) { change(s.template) }
}

func usage(u x509.KeyUsage) option {
	return template(func(c *x509.Certificate) { c.KeyUsage = u })
}

func extended(usages ...x509.ExtKeyUsage) option {
	return template(func(c *x509.Certificate) { c.ExtKeyUsage = usages })
}

func valid(notBefore, notAfter time.Time) option {
	return template(func(c *x509.Certificate) { c.NotBefore, c.NotAfter = notBefore, notAfter })
}

func signature(algorithm x509.SignatureAlgorithm) option {
	return template(func(c *x509.Certificate) { c.SignatureAlgorithm = algorithm })
}

func pathLength(n int) option {
	return template(func(c *x509.Certificate) { c.MaxPathLen, c.MaxPathLenZero = n, n == 0 })
}

func numbered(content ...byte) option {
	return edited(func(e *encoding) { e.Serial = asn1.RawValue{Tag: asn1.TagInteger, Bytes: content} })
}

// named replaces the common name by one of a string type.
func named(tag int, text []byte) option {
	return edited(func(e *encoding) { e.Subject = asn1.RawValue{FullBytes: commonName(tag, text)} })
}

// issuedAs replaces the common name of the issuer.
func issuedAs(tag int, text []byte) option {
	return edited(func(e *encoding) { e.Issuer = asn1.RawValue{FullBytes: commonName(tag, text)} })
}

func commonName(tag int, text []byte) []byte {
	der, err := asn1.Marshal(pkix.RDNSequence{{{Type: asn1.ObjectIdentifier{2, 5, 4, 3}, Value: asn1.RawValue{Tag: tag, Bytes: text}}}})
	if err != nil {
		panic(err)
	}
	return der
}

// wide spells a text in UCS-2, for BMPString.
func wide(text string) []byte {
	var octets []byte
	for _, c := range []byte(text) {
		octets = append(octets, 0, c)
	}
	return octets
}

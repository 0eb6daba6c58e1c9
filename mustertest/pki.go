// Package mustertest makes a world for tests: a public key infrastructure with
// one flaw at will, lossy networks, and the suites that every store has to pass.
package mustertest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"muster"
	"muster/cert"
)

// A PKI is a hierarchy in memory: a root with an intermediate, and another root
// with another intermediate that nobody is configured to trust. All keys are on
// P-256. What it issues is valid from an hour before its making to a day after.
type PKI struct {
	Now               time.Time // when the PKI was made, to the second
	Root              *Authority
	Intermediate      *Authority // issued by Root
	OtherRoot         *Authority
	OtherIntermediate *Authority // issued by OtherRoot
}

// NewPKI makes a PKI.
func NewPKI(t testing.TB) *PKI {
	t.Helper()
	p := &PKI{Now: time.Now().UTC().Truncate(time.Second)}
	p.Root = p.NewRoot(t, "Test Root")
	p.Intermediate = p.NewIntermediate(t, p.Root, "Test Intermediate")
	p.OtherRoot = p.NewRoot(t, "Other Root")
	p.OtherIntermediate = p.NewIntermediate(t, p.OtherRoot, "Other Intermediate")
	return p
}

// An Authority issues certificates.
type Authority struct {
	Certificate *x509.Certificate
	Key         crypto.Signer
	// Sent is what stands between a leaf of this authority and the root: the
	// authority itself first, the root not included. It is empty for a root.
	Sent []*x509.Certificate
}

// An Identity is a certificate with its key and the chain that its holder sends.
type Identity struct {
	Chain []*x509.Certificate // the leaf first, without the root
	Key   crypto.Signer
}

// Leaf returns the certificate of the identity itself.
func (i *Identity) Leaf() *x509.Certificate { return i.Chain[0] }

// LeafOnly returns the identity of one that sends no intermediates, as many
// clients do.
func (i *Identity) LeafOnly() *Identity { return &Identity{i.Chain[:1], i.Key} }

// Raw returns the chain in DER.
func (i *Identity) Raw() [][]byte {
	var raw [][]byte
	for _, c := range i.Chain {
		raw = append(raw, c.Raw)
	}
	return raw
}

// TLS returns the identity in the form of crypto/tls, which pion/dtls shares.
func (i *Identity) TLS() tls.Certificate {
	return tls.Certificate{Certificate: i.Raw(), PrivateKey: i.Key, Leaf: i.Leaf()}
}

// WriteFiles writes the chain and the key in PEM for a foreign program, into a
// folder that lives as long as the test, and returns the paths.
func (i *Identity) WriteFiles(t testing.TB) (chainFile, keyFile string) {
	t.Helper()
	folder := t.TempDir()
	chainFile = filepath.Join(folder, "chain.pem")
	keyFile = filepath.Join(folder, "key.pem")
	writeCertificates(t, chainFile, i.Chain)
	der, err := x509.MarshalPKCS8PrivateKey(i.Key)
	if err != nil {
		t.Fatal(err)
	}
	write(t, keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	return chainFile, keyFile
}

// WriteFile writes the certificate of the authority in PEM for a foreign program,
// into a folder that lives as long as the test, and returns the path.
func (a *Authority) WriteFile(t testing.TB) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "authority.pem")
	writeCertificates(t, file, []*x509.Certificate{a.Certificate})
	return file
}

func writeCertificates(t testing.TB, file string, certificates []*x509.Certificate) {
	t.Helper()
	var text []byte
	for _, c := range certificates {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	write(t, file, text)
}

func write(t testing.TB, file string, content []byte) {
	t.Helper()
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// NewKey makes a key on P-256.
func NewKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// Validity returns the period in which all that the PKI issues is valid.
func (p *PKI) Validity() cert.Validity {
	return cert.Validity{NotBefore: p.Now.Add(-time.Hour), NotAfter: p.Now.Add(24 * time.Hour)}
}

// NewRoot makes another root.
func (p *PKI) NewRoot(t testing.TB, commonName string, flaws ...Flaw) *Authority {
	t.Helper()
	template, err := cert.RootTemplate(rand.Reader, commonName, p.Validity())
	if err != nil {
		t.Fatal(err)
	}
	draft := p.draft(t, template, flaws)
	// A root in the making has its own template as its certificate.
	self := &Authority{Certificate: draft.Template, Key: draft.Key}
	return &Authority{Certificate: parse(t, self.Issue(t, draft.Template, draft.Key.Public())), Key: draft.Key}
}

// NewIntermediate makes an intermediate that certifies leaves only, unless a
// flaw raises its path length.
func (p *PKI) NewIntermediate(t testing.TB, issuer *Authority, commonName string, flaws ...Flaw) *Authority {
	t.Helper()
	template, err := cert.IntermediateTemplate(rand.Reader, commonName, p.Validity(), cert.Constraints{})
	if err != nil {
		t.Fatal(err)
	}
	draft := p.draft(t, template, flaws)
	certificate := parse(t, issuer.Issue(t, draft.Template, draft.Key.Public()))
	return &Authority{certificate, draft.Key, append([]*x509.Certificate{certificate}, issuer.Sent...)}
}

// NewLeaf makes an identity with names, for the roles in usages; without any, the
// certificate has no extendedKeyUsage.
func (p *PKI) NewLeaf(t testing.TB, issuer *Authority, names []muster.CertName, usages []cert.Usage, flaws ...Flaw) *Identity {
	t.Helper()
	template, err := cert.LeafTemplate(rand.Reader, "Test Leaf", p.Validity(), names, usages...)
	if err != nil {
		t.Fatal(err)
	}
	draft := p.draft(t, template, flaws)
	certificate := parse(t, issuer.Issue(t, draft.Template, draft.Key.Public()))
	return &Identity{append([]*x509.Certificate{certificate}, issuer.Sent...), draft.Key}
}

// Enrolee makes the identity of a client with one name, issued by Intermediate.
func (p *PKI) Enrolee(t testing.TB, name muster.CertName, flaws ...Flaw) *Identity {
	t.Helper()
	return p.NewLeaf(t, p.Intermediate, []muster.CertName{name}, []cert.Usage{cert.UsageClient}, flaws...)
}

// Function makes the identity of a MEF or a MAF, which is both a server and a
// client, issued by Intermediate.
func (p *PKI) Function(t testing.TB, fqdn string, flaws ...Flaw) *Identity {
	t.Helper()
	names := []muster.CertName{Name(t, muster.FlavourFQDN, fqdn)}
	return p.NewLeaf(t, p.Intermediate, names, []cert.Usage{cert.UsageServer, cert.UsageClient}, flaws...)
}

// Trust returns what it takes to authenticate a peer with a name under Root.
func (p *PKI) Trust(name muster.CertName, usage cert.Usage) cert.Trust {
	return cert.Trust{Name: name, Anchors: []*x509.Certificate{p.Root.Certificate}, Usage: usage}
}

// Name parses the text of a name.
func Name(t testing.TB, flavour muster.Flavour, text string) muster.CertName {
	t.Helper()
	name, err := cert.ParseName(flavour, text)
	if err != nil {
		t.Fatal(err)
	}
	return name
}

// DeviceName returns the name of the device with a serial number.
func DeviceName(t testing.TB, serial uint) muster.CertName {
	t.Helper()
	return Name(t, muster.FlavourDevice, fmt.Sprintf("0.2.481.1/100.3030.%d", serial))
}

// Issue signs a template as it is and returns DER, which need not be a
// certificate that anybody parses.
func (a *Authority) Issue(t testing.TB, template *x509.Certificate, key crypto.PublicKey) []byte {
	t.Helper()
	der, err := cert.Issue(rand.Reader, template, a.Certificate, key, a.Key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func parse(t testing.TB, der []byte) *x509.Certificate {
	t.Helper()
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (p *PKI) draft(t testing.TB, template *x509.Certificate, flaws []Flaw) *Draft {
	t.Helper()
	draft := &Draft{Template: template, Now: p.Now}
	for _, flaw := range flaws {
		flaw(t, draft)
	}
	if draft.Key == nil {
		draft.Key = NewKey(t)
	}
	return draft
}

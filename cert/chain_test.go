package cert_test

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"slices"
	"strings"
	"testing"

	"muster"
	"muster/cert"
	"muster/mustertest"
)

func TestParseChain(t *testing.T) {
	t.Parallel()
	p := mustertest.NewPKI(t)
	identity := p.Enrolee(t, mustertest.DeviceName(t, 1))
	chain, err := cert.ParseChain(identity.Raw())
	if err != nil || len(chain) != 2 || !chain[0].Equal(identity.Leaf()) || !chain[1].Equal(p.Intermediate.Certificate) {
		t.Fatalf("%d certificates, %v", len(chain), err)
	}
	sound := identity.Leaf().Raw
	for name, c := range map[string]struct {
		raw  [][]byte
		code muster.Code
	}{
		"none":                   {nil, muster.CodeNoCertificate},
		"over the cap":           {slices.Repeat([][]byte{sound}, cert.MaxIntermediates+2), muster.CodeChainTooLong},
		"octets over the cap":    {[][]byte{sound, make([]byte, cert.MaxCertificate+1)}, muster.CodeCertificateTooLarge},
		"empty":                  {[][]byte{{}}, muster.CodeCertificateMalformed},
		"garbage":                {[][]byte{sound, []byte("garbage")}, muster.CodeCertificateMalformed},
		"cut short":              {[][]byte{sound[:len(sound)-1]}, muster.CodeCertificateMalformed},
		"trailing data":          {[][]byte{append(bytes.Clone(sound), 0)}, muster.CodeCertificateMalformed},
		"duplicate extension":    {[][]byte{issued(t, p, duplicateExtension)}, muster.CodeCertificateMalformed},
		"negative serial number": {[][]byte{negativeSerial(t, p)}, muster.CodeCertificateMalformed},
		"IDN not in A-labels":    {[][]byte{issued(t, p, mustertest.Domains("d\u00e9vice.example"))}, muster.CodeCertificateMalformed},
		"compressed point":       {[][]byte{compressed(t, sound)}, muster.CodeCertificateMalformed},
	} {
		chain, err := cert.ParseChain(c.raw)
		if muster.CodeOf(err) != c.code || chain != nil {
			t.Errorf("%s: %v, want %s", name, err, c.code)
		}
	}
}

// issued returns a leaf in DER that need not be parsed.
func issued(t *testing.T, p *mustertest.PKI, flaws ...mustertest.Flaw) []byte {
	t.Helper()
	draft := &mustertest.Draft{Template: &x509.Certificate{
		SerialNumber: big.NewInt(0x4c6f6e67), NotBefore: p.Validity().NotBefore, NotAfter: p.Validity().NotAfter,
	}}
	for _, flaw := range flaws {
		flaw(t, draft)
	}
	return p.Root.Issue(t, draft.Template, mustertest.NewKey(t).Public())
}

func duplicateExtension(t testing.TB, d *mustertest.Draft) {
	for range 2 {
		mustertest.Extension(pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: der(0x30, der(0x82, []byte("device.example")))})(t, d)
	}
}

// negativeSerial turns the first octet of a serial number, whose signature is
// not looked at by a parser.
func negativeSerial(t *testing.T, p *mustertest.PKI) []byte {
	return bytes.Replace(issued(t, p), []byte("\x02\x04Long"), []byte("\x02\x04\xccong"), 1)
}

// compressed marks the point of the public key as a compressed one.
func compressed(t *testing.T, sound []byte) []byte {
	t.Helper()
	head := []byte{0x03, 0x42, 0x00, 0x04}
	if bytes.Count(sound, head) != 1 {
		t.Fatal("the public key is not where it is expected")
	}
	return bytes.Replace(sound, head, []byte{0x03, 0x42, 0x00, 0x02}, 1)
}

func TestFindings(t *testing.T) {
	t.Parallel()
	findings := cert.Findings{
		{Code: muster.CodeKeyUsage, Level: cert.LevelWarning, Certificate: 1, Detail: "first"},
		{Code: muster.CodeExpired, Level: cert.LevelError, Certificate: 0, Detail: "second"},
		{Code: muster.CodeKeyAlgorithm, Level: cert.LevelError, Certificate: cert.NoIndex, Detail: "third"},
	}
	if err := findings[:1].Err(); err != nil {
		t.Errorf("a warning refuses: %v", err)
	}
	err := findings.Err()
	if muster.CodeOf(err) != muster.CodeExpired || !strings.Contains(err.Error(), "second; third") || strings.Contains(err.Error(), "first") {
		t.Errorf("%v", err)
	}
	for i, want := range []string{
		"warning: key-usage: intermediate 1: first", "error: expired: leaf: second", "error: key-algorithm: chain: third",
	} {
		if got := findings[i].String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// TestDetailsAreOneSafeLine holds a name that would disturb a log against every
// detail.
func TestDetailsAreOneSafeLine(t *testing.T) {
	t.Parallel()
	p := mustertest.NewPKI(t)
	hostile := "\x1b[2J\nlevel=INFO msg=enrolled " + strings.Repeat("x", 500)
	issuer := p.NewRoot(t, hostile)
	identity := p.NewLeaf(t, issuer, []muster.CertName{mustertest.DeviceName(t, 2)}, nil, mustertest.Domains(strings.Repeat("x", 1000)+".example"))
	for _, finding := range cert.Explain(identity.Chain, p.Trust(mustertest.DeviceName(t, 1), cert.UsageClient), p.Now) {
		if strings.ContainsAny(finding.String(), "\n\x1b") || len(finding.Detail) > 800 {
			t.Errorf("%q", finding.String())
		}
	}
}

func TestProfileText(t *testing.T) {
	t.Parallel()
	for _, want := range []cert.Profile{cert.ProfileOneM2M, cert.ProfileRFC5280} {
		got := cert.Profile(-1)
		if err := got.UnmarshalText([]byte(want.String())); err != nil || got != want {
			t.Errorf("%v: %v, %v", want, got, err)
		}
	}
	var p cert.Profile
	if err := p.UnmarshalText([]byte("lax")); err == nil {
		t.Error("an unknown profile is accepted")
	}
}

package cert_test

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"muster"
	"muster/cert"
	"muster/mustertest"
)

func TestTemplatesRefuse(t *testing.T) {
	t.Parallel()
	p := mustertest.NewPKI(t)
	valid := p.Validity()
	name := mustertest.DeviceName(t, 1)
	for what, f := range map[string]func() error{
		"validity upside down": func() error {
			_, err := cert.RootTemplate(rand.Reader, "Root", cert.Validity{NotBefore: valid.NotAfter, NotAfter: valid.NotBefore})
			return err
		},
		"no randomness": func() error {
			_, err := cert.RootTemplate(bytes.NewReader(nil), "Root", valid)
			return err
		},
		"no name": func() error {
			_, err := cert.LeafTemplate(rand.Reader, "Leaf", valid, nil)
			return err
		},
		"unknown usage": func() error {
			_, err := cert.LeafTemplate(rand.Reader, "Leaf", valid, []muster.CertName{name}, 0)
			return err
		},
		"malformed name": func() error {
			_, err := cert.LeafTemplate(rand.Reader, "Leaf", valid, []muster.CertName{{Flavour: muster.FlavourFQDN, Text: "*.example"}})
			return err
		},
		"raw key": func() error {
			_, err := cert.LeafTemplate(rand.Reader, "Leaf", valid, cert.RawKeyNames(nil)[:1])
			return err
		},
		"malformed domain": func() error {
			_, err := cert.IntermediateTemplate(rand.Reader, "CA", valid, cert.Constraints{PermittedDomains: []string{".example"}})
			return err
		},
		"malformed device": func() error {
			_, err := cert.IntermediateTemplate(rand.Reader, "CA", valid, cert.Constraints{ExcludedDevices: []string{"0.2.481.1"}})
			return err
		},
		"malformed module": func() error {
			_, err := cert.IntermediateTemplate(rand.Reader, "CA", valid, cert.Constraints{ExcludedDevices: []string{"hwmodule:x:"}})
			return err
		},
	} {
		if f() == nil {
			t.Errorf("%s is accepted", what)
		}
	}
}

func TestIssuedCertificatesConform(t *testing.T) {
	t.Parallel()
	p := mustertest.NewPKI(t)
	name := mustertest.DeviceName(t, 1)
	serials := make(map[string]bool)
	for range 20 {
		leaf := p.Enrolee(t, name).Leaf()
		if n := leaf.SerialNumber; n.Sign() <= 0 || len(n.Bytes()) != 16 || serials[n.String()] {
			t.Errorf("serial number %v", n)
		}
		serials[leaf.SerialNumber.String()] = true
		if leaf.KeyUsage != x509.KeyUsageDigitalSignature || leaf.Version != 3 || leaf.IsCA || len(leaf.SubjectKeyId) != 20 ||
			!bytes.Equal(leaf.AuthorityKeyId, p.Intermediate.Certificate.SubjectKeyId) || leaf.SignatureAlgorithm != x509.ECDSAWithSHA256 {
			t.Errorf("%+v", leaf)
		}
	}
	if c := p.Intermediate.Certificate; !c.IsCA || !c.MaxPathLenZero || c.KeyUsage&x509.KeyUsageCertSign == 0 {
		t.Errorf("%+v", c)
	}
	if c := p.Root.Certificate; !c.IsCA || c.MaxPathLen != -1 || c.CheckSignatureFrom(c) != nil || !bytes.Equal(c.RawIssuer, c.RawSubject) {
		t.Errorf("%+v", c)
	}
}

// TestOpenSSLAccepts holds what is issued for every flavour against another
// implementation of RFC 5280.
func TestOpenSSLAccepts(t *testing.T) {
	t.Parallel()
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		if os.Getenv("MUSTER_REQUIRE_PEERS") != "" {
			t.Fatal("openssl is missing")
		}
		t.Skip("openssl is missing")
	}
	p := mustertest.NewPKI(t)
	constrained := p.NewIntermediate(t, p.Root, "Constrained", mustertest.Constrained(t, p, cert.Constraints{PermittedDomains: []string{"sp.example"}}))
	for _, name := range goodNames(t) {
		issuer := p.Intermediate
		// OpenSSL refuses a URI without a host beneath constraints on hosts.
		if name.Flavour == muster.FlavourFQDN || name.Flavour == muster.FlavourCSEID {
			issuer = constrained
		}
		leaf := p.NewLeaf(t, issuer, []muster.CertName{name}, []cert.Usage{cert.UsageClient})
		chainFile, _ := leaf.WriteFiles(t)
		above := filepath.Join(t.TempDir(), "above.pem")
		text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Chain[1].Raw})
		if err := os.WriteFile(above, text, 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.CommandContext(t.Context(), openssl, "verify", "-x509_strict", "-purpose", "sslclient",
			"-CAfile", p.Root.WriteFile(t), "-untrusted", above, chainFile).CombinedOutput()
		if err != nil {
			t.Errorf("%v: %v\n%s", name, err, out)
		}
	}
}

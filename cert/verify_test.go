package cert_test

import (
	"crypto/rand"
	"crypto/x509"
	"slices"
	"testing"
	"time"

	"muster"
	"muster/cert"
	"muster/mustertest"
)

func TestVerifyAcceptsEveryFlavour(t *testing.T) {
	t.Parallel()
	pki := mustertest.NewPKI(t)
	for _, name := range goodNames(t) {
		t.Run(name.String(), func(t *testing.T) {
			t.Parallel()
			enrolee := pki.Enrolee(t, name)
			chain, err := cert.ParseChain(enrolee.Raw())
			if err != nil {
				t.Fatal(err)
			}
			want := muster.Peer{
				Name:        name,
				Anchor:      muster.DigestOf(pki.Root.Certificate.RawSubjectPublicKeyInfo),
				Certificate: muster.DigestOf(enrolee.Leaf().Raw),
			}
			peer, findings := cert.Verify(chain, pki.Trust(name, cert.UsageClient), pki.Now)
			if err := findings.Err(); err != nil || peer != want {
				t.Fatalf("%+v, %v", peer, findings)
			}
			trust := pki.Trust(name, cert.UsageClient)
			trust.Intermediates = pki.Intermediate.Sent
			if peer, findings := cert.Verify(chain[:1], trust, pki.Now); findings.Err() != nil || peer != want {
				t.Fatalf("with the leaf only: %+v, %v", peer, findings)
			}
		})
	}
}

// goodNames has one name of each form that a chain can certify.
func goodNames(t testing.TB) []muster.CertName {
	t.Helper()
	return []muster.CertName{
		mustertest.Name(t, muster.FlavourDevice, "0.2.481.1/100.3030.10011"),
		mustertest.Name(t, muster.FlavourDevice, "0.2.481.1/100.3030.10011.7"),
		mustertest.Name(t, muster.FlavourDevice, "2.25/340282366920938463463374607431768211455.1.18446744073709551616"),
		mustertest.Name(t, muster.FlavourDevice, "hwmodule:1.3.6.1.4.1.99999.1:0a0b0c"),
		mustertest.Name(t, muster.FlavourNodeID, "urn:imei:356938035643809"),
		mustertest.Name(t, muster.FlavourNodeID, "node-7.sp.example"),
		mustertest.Name(t, muster.FlavourCSEID, "cse-7.sp.example"),
		mustertest.Name(t, muster.FlavourAEID, "//sp.example/CSE7/S1"),
		mustertest.Name(t, muster.FlavourAEID, "m2m://sp.example/CSE7/S1"),
		mustertest.Name(t, muster.FlavourFQDN, "mef.sp.example"),
	}
}

// accepted verifies a chain under a trust and returns the findings, none of
// which may be an error.
func accepted(t *testing.T, p *mustertest.PKI, identity *mustertest.Identity, trust cert.Trust) cert.Findings {
	t.Helper()
	peer, findings := cert.Verify(identity.Chain, trust, p.Now)
	if err := findings.Err(); err != nil || peer.Name != trust.Name {
		t.Fatalf("%+v, %v", peer, findings)
	}
	return findings
}

func warned(findings cert.Findings, code muster.Code, index int) bool {
	return slices.ContainsFunc(findings, func(f cert.Finding) bool {
		return f.Level == cert.LevelWarning && f.Code == code && f.Certificate == index
	})
}

func TestVerifyUsages(t *testing.T) {
	t.Parallel()
	p := mustertest.NewPKI(t)
	function := p.Function(t, "mef.example")
	name := mustertest.Name(t, muster.FlavourFQDN, "mef.example")
	accepted(t, p, function, p.Trust(name, cert.UsageServer))
	accepted(t, p, function, p.Trust(name, cert.UsageClient))
	accepted(t, p, p.Function(t, "mef.example", mustertest.ExtKeyUsage()), p.Trust(name, cert.UsageServer))
	accepted(t, p, p.Function(t, "mef.example", mustertest.ExtKeyUsage(x509.ExtKeyUsageAny)), p.Trust(name, cert.UsageServer))
	client := p.Enrolee(t, name)
	if _, findings := cert.Verify(client.Chain, p.Trust(name, cert.UsageServer), p.Now); muster.CodeOf(findings.Err()) != muster.CodeExtendedKeyUsage {
		t.Errorf("a client as server: %v", findings)
	}
}

func TestVerifyAtTheEdgesOfTheValidity(t *testing.T) {
	t.Parallel()
	p := mustertest.NewPKI(t)
	name := mustertest.DeviceName(t, 1)
	chain, trust, validity := p.Enrolee(t, name).Chain, p.Trust(name, cert.UsageClient), p.Validity()
	for _, c := range []struct {
		now  time.Time
		code muster.Code
	}{
		{validity.NotBefore.Add(-time.Second), muster.CodeNotYetValid},
		{validity.NotBefore, ""},
		{validity.NotAfter, ""},
		{validity.NotAfter.Add(time.Second), muster.CodeExpired},
	} {
		if _, findings := cert.Verify(chain, trust, c.now); muster.CodeOf(findings.Err()) != c.code {
			t.Errorf("at %v: %v, want %q", c.now, findings, c.code)
		}
	}
}

func TestVerifyPathAtAndOverTheCap(t *testing.T) {
	t.Parallel()
	p := mustertest.NewPKI(t)
	trust := p.Trust(mustertest.Name(t, muster.FlavourFQDN, "device.example"), cert.UsageClient)
	accepted(t, p, ladder(cert.MaxIntermediates)(t, p), trust)

	long := ladder(cert.MaxIntermediates+1)(t, p)
	trust.Intermediates = long.Chain[1:]
	_, findings := cert.Verify(long.Chain[:1], trust, p.Now)
	if muster.CodeOf(findings.Err()) != muster.CodeChainTooLong {
		t.Errorf("with configured intermediates: %v", findings)
	}
}

func TestVerifyChoosesAmongAnchors(t *testing.T) {
	t.Parallel()
	p := mustertest.NewPKI(t)
	name := mustertest.DeviceName(t, 1)
	twin := p.NewRoot(t, p.Root.Certificate.Subject.CommonName)
	identity := p.NewLeaf(t, twin, []muster.CertName{name}, nil)
	trust := p.Trust(name, cert.UsageClient)
	if _, findings := cert.Verify(identity.Chain, trust, p.Now); muster.CodeOf(findings.Err()) != muster.CodeAnchorMismatch {
		t.Errorf("under the twin of a root: %v", findings)
	}
	trust.Anchors = append(trust.Anchors, p.OtherRoot.Certificate, twin.Certificate)
	peer, findings := cert.Verify(identity.Chain, trust, p.Now)
	if want := muster.DigestOf(twin.Certificate.RawSubjectPublicKeyInfo); findings.Err() != nil || peer.Anchor != want {
		t.Errorf("with both twins: %+v, %v", peer, findings)
	}
}

func TestVerifyCrossSigned(t *testing.T) {
	t.Parallel()
	p := mustertest.NewPKI(t)
	name := mustertest.DeviceName(t, 1)
	cross := p.NewIntermediate(t, p.OtherRoot, p.Intermediate.Certificate.Subject.CommonName, mustertest.WithKey(p.Intermediate.Key))
	identity := p.Enrolee(t, name)
	identity.Chain = append(identity.Chain, cross.Certificate)
	for _, root := range []*mustertest.Authority{p.Root, p.OtherRoot} {
		trust := p.Trust(name, cert.UsageClient)
		trust.Anchors = []*x509.Certificate{root.Certificate}
		peer, findings := cert.Verify(identity.Chain, trust, p.Now)
		if want := muster.DigestOf(root.Certificate.RawSubjectPublicKeyInfo); findings.Err() != nil || peer.Anchor != want {
			t.Errorf("under %s: %+v, %v", root.Certificate.Subject, peer, findings)
		}
	}
}

func TestVerifyOnlyWarnsOfWhatIsNotInThePath(t *testing.T) {
	t.Parallel()
	p := mustertest.NewPKI(t)
	name := mustertest.DeviceName(t, 1)
	identity := p.Enrolee(t, name)
	old := p.NewIntermediate(t, p.Root, p.Intermediate.Certificate.Subject.CommonName,
		mustertest.WithKey(p.Intermediate.Key), mustertest.Expired())
	identity.Chain = []*x509.Certificate{identity.Leaf(), old.Certificate, p.Intermediate.Certificate}
	if findings := accepted(t, p, identity, p.Trust(name, cert.UsageClient)); !warned(findings, muster.CodeExpired, 1) {
		t.Errorf("no warning of the expired twin: %v", findings)
	}
	identity.Chain = append(identity.Chain[:2], p.Intermediate.Certificate, p.Root.Certificate)
	accepted(t, p, identity, p.Trust(name, cert.UsageClient))
}

func TestVerifyLeafWithoutSubject(t *testing.T) {
	t.Parallel()
	p := mustertest.NewPKI(t)
	for _, name := range goodNames(t) {
		template, err := cert.LeafTemplate(rand.Reader, "", p.Validity(), []muster.CertName{name})
		if err != nil {
			t.Fatal(err)
		}
		chain, err := cert.ParseChain([][]byte{p.Root.Issue(t, template, mustertest.NewKey(t).Public())})
		if err != nil {
			t.Fatal(err)
		}
		accepted(t, p, &mustertest.Identity{Chain: chain}, p.Trust(name, cert.UsageClient))
	}
}

func TestVerifyAsksForTheStatusOfTheWholePath(t *testing.T) {
	t.Parallel()
	p := mustertest.NewPKI(t)
	name := mustertest.DeviceName(t, 1)
	trust := p.Trust(name, cert.UsageClient)
	calls := 0
	trust.Status = func(path []*x509.Certificate) cert.Findings {
		calls++
		if len(path) != 3 || !path[1].Equal(p.Intermediate.Certificate) || !path[2].Equal(p.Root.Certificate) {
			t.Errorf("the path has %d certificates", len(path))
		}
		return cert.Findings{{Code: muster.CodeRevoked, Level: cert.LevelWarning, Detail: "the list is old"}}
	}
	if findings := accepted(t, p, p.Enrolee(t, name), trust); calls != 1 || !warned(findings, muster.CodeRevoked, 0) {
		t.Errorf("%d calls, findings %v", calls, findings)
	}
	// No status is fetched for a path that is not valid.
	cert.Verify(p.Enrolee(t, name, mustertest.Expired()).Chain, trust, p.Now)
	cert.Verify(p.NewLeaf(t, p.OtherRoot, []muster.CertName{name}, nil).Chain, trust, p.Now)
	cert.Explain(p.Enrolee(t, name, mustertest.Expired()).Chain, trust, p.Now)
	if calls != 1 {
		t.Errorf("%d calls for one valid path", calls)
	}
}

func TestExplainGoesOnToThePath(t *testing.T) {
	t.Parallel()
	p := mustertest.NewPKI(t)
	name := mustertest.DeviceName(t, 1)
	stranger := p.NewLeaf(t, p.OtherRoot, []muster.CertName{mustertest.DeviceName(t, 2)}, nil, mustertest.Expired())
	trust := p.Trust(name, cert.UsageClient)
	codes := func(findings cert.Findings) (codes []muster.Code) {
		for _, finding := range findings {
			codes = append(codes, finding.Code)
		}
		return codes
	}
	_, findings := cert.Verify(stranger.Chain, trust, p.Now)
	if got, want := codes(findings), []muster.Code{muster.CodeNameMismatch, muster.CodeExpired}; !slices.Equal(got, want) {
		t.Errorf("Verify found %v, want %v", got, want)
	}
	want := []muster.Code{muster.CodeNameMismatch, muster.CodeExpired, muster.CodeAnchorMismatch}
	if got := codes(cert.Explain(stranger.Chain, trust, p.Now)); !slices.Equal(got, want) {
		t.Errorf("Explain found %v, want %v", got, want)
	}
}

func TestVerifyChangesNoCertificate(t *testing.T) {
	t.Parallel()
	p := mustertest.NewPKI(t)
	name := mustertest.DeviceName(t, 1)
	intermediate := p.NewIntermediate(t, p.Root, "Constrained",
		mustertest.Constrained(t, p, cert.Constraints{PermittedDevices: []string{"0.2.481.1/100"}}))
	unhandled := len(intermediate.Certificate.UnhandledCriticalExtensions)
	if unhandled == 0 {
		t.Fatal("crypto/x509 handles constraints on devices: the test has lost its subject")
	}
	accepted(t, p, p.NewLeaf(t, intermediate, []muster.CertName{name}, nil), p.Trust(name, cert.UsageClient))
	if len(intermediate.Certificate.UnhandledCriticalExtensions) != unhandled {
		t.Error("the certificate of the caller was changed")
	}
}

func BenchmarkVerify(b *testing.B) {
	p := mustertest.NewPKI(b)
	name := mustertest.DeviceName(b, 1)
	chain, trust := p.Enrolee(b, name).Chain, p.Trust(name, cert.UsageClient)
	b.Run("cert", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, findings := cert.Verify(chain, trust, p.Now); findings.Err() != nil {
				b.Fatal(findings)
			}
		}
	})
	b.Run("cert-links", func(b *testing.B) {
		trust := trust
		trust.Links = cert.NewLinks(16)
		b.ReportAllocs()
		for b.Loop() {
			if _, findings := cert.Verify(chain, trust, p.Now); findings.Err() != nil {
				b.Fatal(findings)
			}
		}
	})
	b.Run("x509", func(b *testing.B) {
		roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
		roots.AddCert(p.Root.Certificate)
		intermediates.AddCert(chain[1])
		options := x509.VerifyOptions{Roots: roots, Intermediates: intermediates, CurrentTime: p.Now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
		b.ReportAllocs()
		for b.Loop() {
			if _, err := chain[0].Verify(options); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("stranger", func(b *testing.B) {
		stranger := p.Enrolee(b, mustertest.DeviceName(b, 2)).Chain
		b.ReportAllocs()
		for b.Loop() {
			if _, findings := cert.Verify(stranger, trust, p.Now); findings.Err() == nil {
				b.Fatal("a stranger is accepted")
			}
		}
	})
}

func TestVerifyWarns(t *testing.T) {
	t.Parallel()
	p := mustertest.NewPKI(t)
	name := mustertest.DeviceName(t, 1)
	trust := p.Trust(name, cert.UsageClient)
	plain := p.NewIntermediate(t, p.Root, "As Most Are", mustertest.KeyUsage(x509.KeyUsageCertSign|x509.KeyUsageCRLSign))
	for _, c := range []struct {
		what     string
		identity *mustertest.Identity
		code     muster.Code
		index    int
	}{
		{"authority without digitalSignature", p.NewLeaf(t, plain, []muster.CertName{name}, nil), muster.CodeKeyUsage, 1},
		{"leaf with keyCertSign", p.Enrolee(t, name, mustertest.KeyUsage(x509.KeyUsageDigitalSignature|x509.KeyUsageCertSign)), muster.CodeKeyUsage, 0},
	} {
		if findings := accepted(t, p, c.identity, trust); !warned(findings, c.code, c.index) {
			t.Errorf("%s: %v", c.what, findings)
		}
	}
}

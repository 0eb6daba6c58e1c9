package cert_test

import (
	"crypto/x509"
	"encoding/asn1"
	"reflect"
	"testing"
	"time"

	"muster"
	"muster/cert"
	"muster/mustertest"
)

// TestLinksChangeNoVerdict judges every chain of the corpus without Links, then
// with one that has seen the whole corpus at several times, twice.
func TestLinksChangeNoVerdict(t *testing.T) {
	t.Parallel()
	chains := mustertest.ReadChains(t, corpusFolder)
	links := cert.NewLinks(10_000)
	for range 2 {
		for _, chain := range chains {
			parsed, err := cert.ParseChain(chain.Sends)
			if err != nil {
				continue
			}
			for _, now := range []time.Time{chain.Time, corpusTime, corpusTime.AddDate(-2, 0, 0), corpusTime.AddDate(10, 0, 1)} {
				for i := range 4 {
					trust := chain.Trust
					trust.Usage = []cert.Usage{cert.UsageClient, cert.UsageServer}[i%2]
					trust.Profile = []cert.Profile{cert.ProfileOneM2M, cert.ProfileRFC5280}[i/2]
					peer, findings := cert.Verify(parsed, trust, now)
					trust.Links = links
					warmPeer, warmFindings := cert.Verify(parsed, trust, now)
					if peer != warmPeer || !reflect.DeepEqual(findings, warmFindings) {
						t.Errorf("%s at %v: %v with links, %v without", chain.Slug, now, warmFindings, findings)
					}
				}
			}
		}
	}
}

// TestLinksAreFactsAboutSignatures takes each other condition away from a path
// whose links are known.
func TestLinksAreFactsAboutSignatures(t *testing.T) {
	t.Parallel()
	p := mustertest.NewPKI(t)
	name := mustertest.DeviceName(t, 1)
	sound := p.Enrolee(t, name)
	trust := p.Trust(name, cert.UsageClient)
	trust.Links = cert.NewLinks(8)
	for range 3 {
		accepted(t, p, sound, trust)
	}
	code := func(what string, chain []*x509.Certificate, trust cert.Trust, now time.Time, want muster.Code) {
		t.Helper()
		if peer, findings := cert.Verify(chain, trust, now); muster.CodeOf(findings.Err()) != want || peer != (muster.Peer{}) {
			t.Errorf("%s: %+v, %v, want %s", what, peer, findings, want)
		}
	}
	other := trust
	other.Anchors = []*x509.Certificate{p.OtherRoot.Certificate}
	code("another anchor", sound.Chain, other, p.Now, muster.CodeAnchorMismatch)
	code("later", sound.Chain, trust, p.Validity().NotAfter.Add(time.Second), muster.CodeExpired)
	// An authority of the same name and another key, and a leaf of it.
	twin := p.NewIntermediate(t, p.OtherRoot, p.Intermediate.Certificate.Subject.CommonName)
	stranger := p.NewLeaf(t, twin, []muster.CertName{name}, nil)
	code("a leaf of another key", stranger.Chain, trust, p.Now, muster.CodeAnchorMismatch)
	code("the leaf of another key below the known intermediate", []*x509.Certificate{stranger.Leaf(), p.Intermediate.Certificate}, trust, p.Now, muster.CodeAnchorMismatch)
	// A root of the same name and key with constraints, which the links do not
	// know about.
	narrow := p.NewRoot(t, p.Root.Certificate.Subject.CommonName, mustertest.WithKey(p.Root.Key),
		mustertest.Constrained(t, p, cert.Constraints{ExcludedDevices: []string{name.Text}}))
	other.Anchors = []*x509.Certificate{narrow.Certificate}
	code("the same key with constraints", sound.Chain, other, p.Now, muster.CodeNameConstraints)
	other.Anchors = []*x509.Certificate{p.Root.Certificate, sound.Leaf()}
	code("the leaf pinned beside its anchor", sound.Chain, other, p.Now, muster.CodePathInvalid)
	short := p.NewRoot(t, p.Root.Certificate.Subject.CommonName, mustertest.WithKey(p.Root.Key), mustertest.PathLength(0))
	other.Anchors = []*x509.Certificate{short.Certificate}
	code("the same key with a path length", sound.Chain, other, p.Now, muster.CodePathInvalid)
	asked := 0
	trust.Status = func([]*x509.Certificate) cert.Findings {
		asked++
		return cert.Findings{{Code: muster.CodeRevoked, Certificate: 1, Detail: "it is on the list"}}
	}
	code("revoked", sound.Chain, trust, p.Now, muster.CodeRevoked)
	if asked != 1 {
		t.Errorf("the status was asked for %d times", asked)
	}
}

// TestLinksKeepPolicies has an intermediate that requires policies, whose link is
// learned from a leaf that has one.
func TestLinksKeepPolicies(t *testing.T) {
	t.Parallel()
	m := &maker{t}
	anyPolicy := extension(asn1.ObjectIdentifier{2, 5, 29, 32}, false, der(0x30, der(0x30, []byte{6, 4, 0x55, 0x1d, 0x20, 0})))
	root := m.root("Chain Root")
	issuer := m.authority(root, "Chain Intermediate", anyPolicy, extension(asn1.ObjectIdentifier{2, 5, 29, 36}, true, der(0x30, []byte{0x80, 1, 0})))
	trust := cert.Trust{Name: mustertest.Name(t, muster.FlavourFQDN, "device.example"), Anchors: []*x509.Certificate{root.parent}, Usage: cert.UsageClient, Links: cert.NewLinks(8)}
	for range 2 {
		chain := []*x509.Certificate{m.leaf(issuer, anyPolicy).parent, issuer.parent}
		if _, findings := cert.Verify(chain, trust, corpusTime); findings.Err() != nil {
			t.Fatal(findings)
		}
		chain[0] = m.leaf(issuer).parent
		if _, findings := cert.Verify(chain, trust, corpusTime); muster.CodeOf(findings.Err()) != muster.CodePathInvalid {
			t.Errorf("a leaf without a policy: %v", findings)
		}
	}
}

func TestLinksAreBounded(t *testing.T) {
	t.Parallel()
	p := mustertest.NewPKI(t)
	name := mustertest.Name(t, muster.FlavourFQDN, "device.example")
	for _, most := range []int{0, 1, 3} {
		trust := p.Trust(name, cert.UsageClient)
		trust.Links = cert.NewLinks(most)
		for range 4 {
			for range 2 {
				accepted(t, p, ladder(3)(t, p), trust)
			}
		}
		if n := trust.Links.Len(); n != most {
			t.Errorf("%d facts, want %d", n, most)
		}
	}
}

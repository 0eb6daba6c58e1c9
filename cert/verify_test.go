package cert_test

import (
	"testing"

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

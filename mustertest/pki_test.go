package mustertest_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"os"
	"testing"

	"muster/mustertest"
)

func TestPKIFilesLoad(t *testing.T) {
	t.Parallel()
	p := mustertest.NewPKI(t)
	identity := p.Function(t, "mef.example")
	pair, err := tls.LoadX509KeyPair(identity.WriteFiles(t))
	if err != nil || len(pair.Certificate) != 2 {
		t.Fatalf("%d certificates, %v", len(pair.Certificate), err)
	}
	text, err := os.ReadFile(p.Root.WriteFile(t))
	if err != nil {
		t.Fatal(err)
	}
	block, rest := pem.Decode(text)
	if block == nil || len(rest) != 0 {
		t.Fatalf("%d octets follow the root", len(rest))
	}
	root, err := x509.ParseCertificate(block.Bytes)
	if err != nil || !root.Equal(p.Root.Certificate) {
		t.Fatalf("the root is not the one that was written: %v", err)
	}
	if got := identity.LeafOnly().TLS(); len(got.Certificate) != 1 || !got.Leaf.Equal(identity.Leaf()) {
		t.Errorf("the leaf alone is %d certificates", len(got.Certificate))
	}
}

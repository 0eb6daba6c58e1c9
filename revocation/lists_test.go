package revocation_test

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"os"
	"strings"
	"testing"
	"time"

	"muster"
	"muster/cert"
	"muster/mustertest"
	"muster/revocation"
)

func pemOf(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// TestListsInFiles has one list, or a list and deltas, about one leaf.
func TestListsInFiles(t *testing.T) {
	t.Parallel()
	p := mustertest.NewPKI(t)
	hour := time.Hour
	path := pathOf(p, p.Enrolee(t, mustertest.DeviceName(t, 1), naming([]string{"http://crl.example/a.crl"}, nil)))
	leaf := path[0]
	other := p.Enrolee(t, mustertest.DeviceName(t, 2)).Leaf()
	twin := p.NewIntermediate(t, p.Root, p.Intermediate.Certificate.Subject.CommonName)
	silent := p.NewIntermediate(t, p.Root, p.Intermediate.Certificate.Subject.CommonName,
		mustertest.WithKey(p.Intermediate.Key), mustertest.KeyUsage(x509.KeyUsageCertSign))
	idp := func(der ...byte) []pkix.Extension {
		return []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 28}, Critical: true, Value: append([]byte{0x30, byte(len(der))}, der...)}}
	}
	point := func(uri string) []byte {
		n := byte(len(uri))
		return append([]byte{0xa0, n + 4, 0xa0, n + 2, 0x86, n}, uri...)
	}
	mine := func(l crl) []byte { return l.issue(t, p.Intermediate, p.Now) }
	listed := []x509.RevocationListEntry{with(other, 0), with(leaf, 1)}
	held := []x509.RevocationListEntry{with(leaf, 6)}
	removed := []x509.RevocationListEntry{with(leaf, 8)}
	for _, c := range []struct {
		what   string
		lists  [][]byte
		want   string
		detail string
	}{
		{"listed", [][]byte{mine(crl{number: 1, entries: listed})}, "revoked", "keyCompromise"},
		{"not listed", [][]byte{mine(crl{number: 1, entries: listed[:1]})}, "good", "number 1"},
		{"empty", [][]byte{mine(crl{number: 1})}, "good", "does not have it"},
		{"of another issuer", [][]byte{crl{number: 1}.issue(t, p.OtherIntermediate, p.Now)}, "unknown", "no CRL of its issuer"},
		{"of an issuer with the same name", [][]byte{crl{number: 1, entries: listed}.issue(t, twin, p.Now)}, "unknown", "not signed by"},
		{"both issuers of the name", [][]byte{crl{number: 9, entries: listed}.issue(t, twin, p.Now), mine(crl{number: 1})}, "good", "number 1"},
		{"expired", [][]byte{mine(crl{number: 1, thisUpdate: p.Now.Add(-2 * hour), nextUpdate: p.Now.Add(-hour)})}, "unknown", "should have been replaced"},
		{"expired and listed", [][]byte{mine(crl{number: 1, entries: listed, thisUpdate: p.Now.Add(-2 * hour), nextUpdate: p.Now.Add(-hour)})}, "revoked", ""},
		{"expired within the skew", [][]byte{mine(crl{number: 1, thisUpdate: p.Now.Add(-2 * hour), nextUpdate: p.Now.Add(-time.Minute)})}, "good", ""},
		{"from the future", [][]byte{mine(crl{number: 1, entries: listed, thisUpdate: p.Now.Add(hour), nextUpdate: p.Now.Add(2 * hour)})}, "unknown", "from the future"},
		{"newer of two", [][]byte{mine(crl{number: 1, entries: listed, thisUpdate: p.Now.Add(-2 * hour), nextUpdate: p.Now.Add(2 * hour)}), mine(crl{number: 2})}, "good", "number 2"},
		{"for users only", [][]byte{mine(crl{number: 1, extensions: idp(0x81, 1, 0xff)})}, "good", ""},
		{"for authorities only", [][]byte{mine(crl{number: 1, extensions: idp(0x82, 1, 0xff)})}, "unknown", "not about such"},
		{"for the certificate's point", [][]byte{mine(crl{number: 1, extensions: idp(point("http://crl.example/a.crl")...)})}, "good", ""},
		{"for another point", [][]byte{mine(crl{number: 1, extensions: idp(point("http://crl.example/b.crl")...)})}, "unknown", "not about such"},
		{"delta adds", [][]byte{mine(crl{number: 4}), mine(crl{number: 5, base: 4, entries: listed})}, "revoked", "delta"},
		{"delta removes a hold", [][]byte{mine(crl{number: 4, entries: held}), mine(crl{number: 5, base: 4, entries: removed})}, "good", ""},
		{"delta removes more than a hold", [][]byte{mine(crl{number: 4, entries: listed}), mine(crl{number: 5, base: 4, entries: removed})}, "revoked", "keyCompromise"},
		{"held", [][]byte{mine(crl{number: 4, entries: held})}, "revoked", "certificateHold"},
		{"delta for a later list removes", [][]byte{mine(crl{number: 4, entries: held}), mine(crl{number: 9, base: 6, entries: removed})}, "revoked", ""},
		{"delta for a later list adds", [][]byte{mine(crl{number: 4, thisUpdate: p.Now.Add(-2 * hour), nextUpdate: p.Now.Add(hour)}),
			mine(crl{number: 9, base: 6, entries: listed})}, "revoked", "number 9"},
		{"delta of before the list", [][]byte{mine(crl{number: 4}),
			mine(crl{number: 3, base: 2, entries: listed, thisUpdate: p.Now.Add(-2 * hour), nextUpdate: p.Now.Add(hour)})}, "good", ""},
		{"delta makes an expired list current", [][]byte{mine(crl{number: 4, thisUpdate: p.Now.Add(-2 * hour), nextUpdate: p.Now.Add(-hour)}),
			mine(crl{number: 5, base: 4})}, "good", ""},
		{"delta alone", [][]byte{mine(crl{number: 5, base: 4})}, "unknown", ""},
		{"delta alone adds", [][]byte{mine(crl{number: 5, base: 4, entries: listed})}, "revoked", ""},
		{"delta of another scope", [][]byte{mine(crl{number: 4, entries: held}), mine(crl{number: 5, base: 4, entries: removed, extensions: idp(0x81, 1, 0xff)})}, "revoked", ""},
		{"delta of another issuer", [][]byte{mine(crl{number: 4, entries: held}), crl{number: 5, base: 4, entries: removed}.issue(t, twin, p.Now)}, "revoked", ""},
	} {
		t.Run(c.what, func(t *testing.T) {
			t.Parallel()
			checker := newChecker(t, revocation.Config{Files: []string{inFile(t, c.lists...)}})
			for range 2 { // the second time from memory
				expect(t, checker, path, p.Now, c.want, c.detail)
			}
		})
	}
	t.Run("issuer without cRLSign", func(t *testing.T) {
		t.Parallel()
		checker := newChecker(t, revocation.Config{Files: []string{inFile(t, mine(crl{number: 1}))}})
		expect(t, checker, path, p.Now, "good", "")
		expect(t, checker, []*x509.Certificate{leaf, silent.Certificate, p.Root.Certificate}, p.Now, "unknown", "cRLSign")
	})
	t.Run("grace", func(t *testing.T) {
		t.Parallel()
		old := inFile(t, mine(crl{number: 1, thisUpdate: p.Now.Add(-2 * hour), nextUpdate: p.Now.Add(-hour)}))
		checker := newChecker(t, revocation.Config{Files: []string{old}, Grace: 2 * hour})
		findings := checker.Check(t.Context(), path, revocation.Question{Scope: revocation.ScopeLeaf, Now: p.Now})
		if outcome(t, findings) != "unknown" || findings.Err() != nil {
			t.Errorf("within the grace: %v", findings)
		}
		expect(t, checker, path, p.Now.Add(3*hour), "unknown", "should have been replaced")
	})
}

// TestListsThatCannotBeUsed has lists that would tell less than they seem to.
func TestListsThatCannotBeUsed(t *testing.T) {
	t.Parallel()
	p := mustertest.NewPKI(t)
	sound := crl{number: 1}.issue(t, p.Intermediate, p.Now)
	critical := func(id asn1.ObjectIdentifier, value ...byte) []pkix.Extension {
		return []pkix.Extension{{Id: id, Critical: true, Value: value}}
	}
	point := asn1.ObjectIdentifier{2, 5, 29, 28}
	for what, der := range map[string][]byte{
		"garbage":                    []byte("garbage"),
		"empty file":                 {},
		"data after the list":        append(append([]byte{}, sound...), 0),
		"cut short":                  sound[:len(sound)-1],
		"unknown critical extension": crl{number: 1, extensions: critical(asn1.ObjectIdentifier{1, 2, 3}, 5, 0)}.issue(t, p.Intermediate, p.Now),
		"indirect":                   crl{number: 1, extensions: critical(point, 0x30, 3, 0x84, 1, 0xff)}.issue(t, p.Intermediate, p.Now),
		"for some reasons":           crl{number: 1, extensions: critical(point, 0x30, 4, 0x83, 2, 1, 6)}.issue(t, p.Intermediate, p.Now),
		"for attribute certificates": crl{number: 1, extensions: critical(point, 0x30, 3, 0x85, 1, 0xff)}.issue(t, p.Intermediate, p.Now),
		"malformed scope":            crl{number: 1, extensions: critical(point, 0x30, 3, 0x81, 1)}.issue(t, p.Intermediate, p.Now),
		"a scope of BER":             crl{number: 1, extensions: critical(point, 0x30, 3, 0x81, 1, 1)}.issue(t, p.Intermediate, p.Now),
		"extension twice": crl{number: 1, extensions: append(critical(point, 0x30, 0), critical(point, 0x30, 0)...)}.
			issue(t, p.Intermediate, p.Now),
		"entry of another issuer": crl{number: 1, entries: []x509.RevocationListEntry{{
			SerialNumber: big.NewInt(7), RevocationTime: p.Now,
			ExtraExtensions: critical(asn1.ObjectIdentifier{2, 5, 29, 29}, 0x30, 0),
		}}}.issue(t, p.Intermediate, p.Now),
		"a certificate in PEM": pemOf("CERTIFICATE", p.Root.Certificate.Raw),
	} {
		if _, err := revocation.New(revocation.Config{Files: []string{inFile(t, der)}}); err == nil {
			t.Errorf("%s: accepted", what)
		}
	}
	if _, err := revocation.New(revocation.Config{Files: []string{inFile(t, sound)}, MaxCRL: int64(len(sound) - 1)}); err == nil {
		t.Error("more than the cap: accepted")
	}
	if _, err := revocation.New(revocation.Config{Files: []string{"/nonexistent.crl"}}); err == nil {
		t.Error("a file that is not there: accepted")
	}
}

func TestPathAndModes(t *testing.T) {
	t.Parallel()
	p := mustertest.NewPKI(t)
	path := pathOf(p, p.Enrolee(t, mustertest.DeviceName(t, 1)))
	leafList := crl{number: 1}.issue(t, p.Intermediate, p.Now)
	rootList := crl{number: 1}.issue(t, p.Root, p.Now)
	revoking := crl{number: 2, entries: []x509.RevocationListEntry{with(path[1], 2)}}.issue(t, p.Root, p.Now)
	for _, c := range []struct {
		what  string
		lists [][]byte
		q     revocation.Question
		code  muster.Code
		index int // of the first error or warning
	}{
		{"all good", [][]byte{leafList, rootList}, revocation.Question{}, "", -1},
		{"intermediate revoked", [][]byte{leafList, revoking}, revocation.Question{Mode: revocation.ModeSoft}, muster.CodeRevoked, 1},
		{"intermediate revoked, leaf asked", [][]byte{leafList, revoking}, revocation.Question{Scope: revocation.ScopeLeaf}, "", -1},
		{"intermediate unknown", [][]byte{leafList, leafList}, revocation.Question{}, muster.CodeStatusUnknown, 1},
		{"leaf unknown", [][]byte{rootList, rootList}, revocation.Question{}, muster.CodeStatusUnknown, 0},
		{"leaf unknown, soft", [][]byte{rootList, rootList}, revocation.Question{Mode: revocation.ModeSoft}, "", 0},
	} {
		checker := newChecker(t, revocation.Config{Files: []string{inFile(t, c.lists...)}})
		c.q.Now = p.Now
		trust := p.Trust(mustertest.DeviceName(t, 1), cert.UsageClient)
		trust.Status = checker.Status(t.Context(), c.q)
		_, findings := cert.Verify(path[:2], trust, p.Now)
		first := -1
		for _, f := range findings {
			if f.Level != cert.LevelInfo && (f.Code == muster.CodeStatusUnknown || f.Code == muster.CodeRevoked) {
				first = f.Certificate
				break
			}
		}
		if muster.CodeOf(findings.Err()) != c.code || first != c.index {
			t.Errorf("%s: %v", c.what, findings)
		}
		c.q.Mode = revocation.ModeOff
		if found := checker.Check(t.Context(), path, c.q); found != nil {
			t.Errorf("%s: off finds %v", c.what, found)
		}
	}
	checker := newChecker(t, revocation.Config{})
	if findings := checker.Check(t.Context(), path[:1], revocation.Question{Now: p.Now}); findings.Err() == nil {
		t.Error("a path without an issuer passes")
	}
}

// TestZeroConfigConnectsNowhere has a certificate that names a server.
func TestZeroConfigConnectsNowhere(t *testing.T) {
	t.Parallel()
	p := mustertest.NewPKI(t)
	shelf := newShelf(t, crl{number: 1}.issue(t, p.Intermediate, p.Now))
	path := pathOf(p, p.Enrolee(t, mustertest.DeviceName(t, 1), naming([]string{shelf.URL}, []string{shelf.URL})))
	expect(t, newChecker(t, revocation.Config{Networks: loopback}), path, p.Now, "unknown", "no CRL of its issuer is at hand")
	if n := shelf.requests.Load(); n != 0 {
		t.Errorf("%d requests", n)
	}
}

func TestRefreshReadsChangedFiles(t *testing.T) {
	t.Parallel()
	p := mustertest.NewPKI(t)
	path := pathOf(p, p.Enrolee(t, mustertest.DeviceName(t, 1)))
	file := inFile(t, crl{number: 1}.issue(t, p.Intermediate, p.Now))
	checker := newChecker(t, revocation.Config{Files: []string{file}})
	expect(t, checker, path, p.Now, "good", "")
	replace := func(content []byte) {
		t.Helper()
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	replace([]byte("half a li"))
	if err := checker.Refresh(t.Context()); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("a broken file: %v", err)
	}
	expect(t, checker, path, p.Now, "good", "")
	replace(crl{number: 2, entries: []x509.RevocationListEntry{with(path[0], 0)}}.issue(t, p.Intermediate, p.Now))
	if err := checker.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	expect(t, checker, path, p.Now, "revoked", "number 2")
}

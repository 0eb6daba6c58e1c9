package revocation_test

import (
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"muster"
	"muster/cert"
	"muster/mustertest"
	"muster/revocation"
)

// loopback is where the servers of these tests are.
var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}

// crl is a list in the making.
type crl struct {
	number     int64
	base       int64 // of a delta
	thisUpdate time.Time
	nextUpdate time.Time
	entries    []x509.RevocationListEntry
	extensions []pkix.Extension
	algorithm  x509.SignatureAlgorithm
}

// issue signs the list; without times it is current for an hour.
func (c crl) issue(t testing.TB, issuer *mustertest.Authority, now time.Time) []byte {
	t.Helper()
	if c.thisUpdate.IsZero() {
		c.thisUpdate, c.nextUpdate = now.Add(-time.Minute), now.Add(time.Hour)
	}
	if c.base > 0 {
		value, err := asn1.Marshal(c.base)
		if err != nil {
			t.Fatal(err)
		}
		c.extensions = append(c.extensions, pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 27}, Critical: true, Value: value})
	}
	der, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
		Number: big.NewInt(c.number), ThisUpdate: c.thisUpdate, NextUpdate: c.nextUpdate,
		RevokedCertificateEntries: c.entries, ExtraExtensions: c.extensions, SignatureAlgorithm: c.algorithm,
	}, issuer.Certificate, issuer.Key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// with returns an entry for a certificate.
func with(c *x509.Certificate, reason int) x509.RevocationListEntry {
	return x509.RevocationListEntry{SerialNumber: c.SerialNumber, RevocationTime: c.NotBefore, ReasonCode: reason}
}

// inFile writes lists, in DER if there is one and in PEM otherwise.
func inFile(t testing.TB, ders ...[]byte) string {
	t.Helper()
	content := ders[0]
	if len(ders) > 1 {
		content = nil
		for _, der := range ders {
			content = append(content, pemOf("X509 CRL", der)...)
		}
	}
	path := filepath.Join(t.TempDir(), "list.crl")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// naming makes a certificate name where to ask about it.
func naming(lists, responders []string) mustertest.Flaw {
	return func(_ testing.TB, d *mustertest.Draft) {
		d.Template.CRLDistributionPoints, d.Template.OCSPServer = lists, responders
	}
}

// pathOf is the path of an identity below Intermediate.
func pathOf(p *mustertest.PKI, identity *mustertest.Identity) []*x509.Certificate {
	return []*x509.Certificate{identity.Leaf(), p.Intermediate.Certificate, p.Root.Certificate}
}

func newChecker(t testing.TB, config revocation.Config) *revocation.Checker {
	t.Helper()
	checker, err := revocation.New(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = checker.Close() })
	return checker
}

// following is the configuration that follows URLs to this machine, patient
// enough for a busy one.
func following() revocation.Config {
	return revocation.Config{Follow: true, Networks: loopback, Deadline: 20 * time.Second}
}

// outcome is what a finding about the leaf says: "revoked", "unknown" or "good".
func outcome(t testing.TB, findings cert.Findings) string {
	t.Helper()
	if len(findings) == 0 {
		t.Fatal("no finding")
	}
	f := findings[0]
	switch {
	case f.Certificate != 0:
		t.Fatalf("the first finding is about certificate %d", f.Certificate)
	case f.Code == muster.CodeRevoked && f.Level == cert.LevelError:
		return "revoked"
	case f.Code == muster.CodeRevoked && f.Level == cert.LevelInfo:
		return "good"
	case f.Code == muster.CodeStatusUnknown && f.Level != cert.LevelInfo:
		return "unknown"
	}
	t.Fatalf("the finding %v makes no sense", f)
	return ""
}

// expect checks the leaf alone and compares the outcome and the detail.
func expect(t testing.TB, checker *revocation.Checker, path []*x509.Certificate, now time.Time, want, detail string) {
	t.Helper()
	findings := checker.Check(t.Context(), path, revocation.Question{Scope: revocation.ScopeLeaf, Now: now})
	if got := outcome(t, findings); got != want || !strings.Contains(findings[0].Detail, detail) {
		t.Errorf("%s (%s), want %s with %q", got, findings[0].Detail, want, detail)
	}
}

// A shelf serves documents and counts.
type shelf struct {
	*httptest.Server
	mu       sync.Mutex
	content  []byte
	etag     string
	requests atomic.Int64
	notSeen  atomic.Int64 // answers with status 304
}

func newShelf(t testing.TB, content []byte) *shelf {
	s := &shelf{content: content}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.requests.Add(1)
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.etag != "" {
			w.Header().Set("ETag", s.etag)
			if r.Header.Get("If-None-Match") == s.etag {
				s.notSeen.Add(1)
				w.WriteHeader(http.StatusNotModified)
				return
			}
		}
		_, _ = w.Write(s.content)
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *shelf) put(content []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.content = content
}

// A clock is set by hand.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) read() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(d time.Duration) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
	return c.now
}

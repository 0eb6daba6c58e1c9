package revocation_test

import (
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cryptobyte_asn1 "golang.org/x/crypto/cryptobyte/asn1"
	"golang.org/x/crypto/ocsp"

	"muster"
	"muster/cert"
	"muster/mustertest"
	"muster/revocation"
)

// A responder answers as a test wants. golang.org/x/crypto/ocsp writes no nonce
// and one statement only, so that answers are made here.
type responder struct {
	*httptest.Server
	requests atomic.Int64
	mu       sync.Mutex
	make     func(request *ocsp.Request, nonce []byte) []byte
}

func newResponder(t testing.TB, answer func(request *ocsp.Request, nonce []byte) []byte) *responder {
	r := &responder{make: answer}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		r.requests.Add(1)
		body, err := io.ReadAll(request.Body)
		if err != nil || request.Header.Get("Content-Type") != "application/ocsp-request" {
			t.Errorf("a request of type %q: %v", request.Header.Get("Content-Type"), err)
		}
		parsed, err := ocsp.ParseRequest(body)
		if err != nil {
			t.Errorf("%x: %v", body, err)
			return
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		_, _ = w.Write(r.make(parsed, nonceIn(t, body)))
	}))
	t.Cleanup(r.Close)
	return r
}

// nonceIn returns the nonce of a request, read by other means than it is written.
func nonceIn(t testing.TB, der []byte) []byte {
	t.Helper()
	var request struct {
		Body struct {
			Requests   []asn1.RawValue
			Extensions []pkix.Extension `asn1:"explicit,tag:2,optional"`
		}
	}
	if rest, err := asn1.Unmarshal(der, &request); err != nil || len(rest) > 0 {
		t.Errorf("request %x: %v", der, err)
	}
	if len(request.Body.Extensions) == 0 {
		return nil
	}
	var nonce []byte
	extension := request.Body.Extensions[0]
	if _, err := asn1.Unmarshal(extension.Value, &nonce); err != nil || !extension.Id.Equal(asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 48, 1, 2}) {
		t.Errorf("extension %v: %v", extension, err)
	}
	return nonce
}

// A statement is an answer in the making.
type statement struct {
	status                 int
	thisUpdate, nextUpdate time.Time
	issuer                 *x509.Certificate // in the CertID
	serial                 *big.Int
	copies                 int // of the statement; 0 is one
	nonce                  []byte
	critical               bool // an unknown extension
	signer                 *mustertest.Authority
	enclosed               *x509.Certificate
}

func (s statement) sign(t testing.TB) []byte {
	t.Helper()
	issuer := s.issuer
	template := ocsp.Response{Status: s.status, SerialNumber: s.serial, ThisUpdate: s.thisUpdate, NextUpdate: s.nextUpdate, RevokedAt: s.thisUpdate, RevocationReason: ocsp.KeyCompromise}
	made, err := ocsp.CreateResponse(issuer, s.signer.Certificate, template, s.signer.Key)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := ocsp.ParseResponse(made, nil)
	if err != nil {
		t.Fatal(err)
	}
	// The statement, its signature and the enclosed certificate are put together
	// again.
	var data struct {
		Responder  asn1.RawValue
		ProducedAt time.Time `asn1:"generalized"`
		Responses  []asn1.RawValue
		Extensions []pkix.Extension `asn1:"explicit,tag:1,optional"`
	}
	if _, err := asn1.Unmarshal(parsed.TBSResponseData, &data); err != nil {
		t.Fatal(err)
	}
	for range s.copies {
		data.Responses = append(data.Responses, data.Responses[0])
	}
	if s.nonce != nil {
		value, err := asn1.Marshal(s.nonce)
		if err != nil {
			t.Fatal(err)
		}
		data.Extensions = append(data.Extensions, pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 48, 1, 2}, Value: value})
	}
	if s.critical {
		data.Extensions = append(data.Extensions, pkix.Extension{Id: asn1.ObjectIdentifier{1, 2, 3}, Critical: true, Value: []byte{5, 0}})
	}
	tbs, err := asn1.Marshal(data)
	if err != nil {
		t.Fatal(err)
	}
	return s.seal(t, tbs)
}

func (s statement) seal(t testing.TB, tbs []byte) []byte {
	t.Helper()
	h := crypto.SHA256.New()
	h.Write(tbs)
	signature, err := s.signer.Key.Sign(rand.Reader, h.Sum(nil), crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	var basic cryptobyte.Builder
	basic.AddASN1(cryptobyte_asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(tbs)
		b.AddASN1(cryptobyte_asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1ObjectIdentifier(asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2})
		})
		b.AddASN1BitString(signature)
		if s.enclosed != nil {
			b.AddASN1(cryptobyte_asn1.Tag(0).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) {
				b.AddASN1(cryptobyte_asn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddBytes(s.enclosed.Raw) })
			})
		}
	})
	var b cryptobyte.Builder
	b.AddASN1(cryptobyte_asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1Enum(0)
		b.AddASN1(cryptobyte_asn1.Tag(0).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) {
			b.AddASN1(cryptobyte_asn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddASN1ObjectIdentifier(asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 48, 1, 1})
				b.AddASN1OctetString(basic.BytesOrPanic())
			})
		})
	})
	return b.BytesOrPanic()
}

// delegate makes a responder's certificate.
func delegate(t testing.TB, p *mustertest.PKI, issuer *mustertest.Authority, flaws ...mustertest.Flaw) *mustertest.Authority {
	t.Helper()
	flaws = append([]mustertest.Flaw{mustertest.ExtKeyUsage(x509.ExtKeyUsageOCSPSigning)}, flaws...)
	identity := p.NewLeaf(t, issuer, []muster.CertName{mustertest.Name(t, muster.FlavourFQDN, "ocsp.example.org")}, nil, flaws...)
	return &mustertest.Authority{Certificate: identity.Leaf(), Key: identity.Key}
}

func TestResponders(t *testing.T) {
	t.Parallel()
	p := mustertest.NewPKI(t)
	hour := time.Hour
	by := func(a *mustertest.Authority) func(s *statement) {
		return func(s *statement) { s.signer, s.enclosed = a, a.Certificate }
	}
	twin := p.NewIntermediate(t, p.Root, p.Intermediate.Certificate.Subject.CommonName)
	for _, c := range []struct {
		what, want, detail string
		change             func(s *statement)
		nonce              revocation.Nonce
	}{
		{what: "good", want: "good"},
		{what: "revoked", want: "revoked", detail: "keyCompromise", change: func(s *statement) { s.status = ocsp.Revoked }},
		{what: "unknown", want: "unknown", detail: "does not know the certificate", change: func(s *statement) { s.status = ocsp.Unknown }},
		{what: "issuer's certificate enclosed", want: "good", change: func(s *statement) { s.enclosed = p.Intermediate.Certificate }},
		{what: "without nonce", want: "good", change: func(s *statement) { s.nonce = nil }},
		{what: "without nonce, required", want: "unknown", detail: "no nonce", change: func(s *statement) { s.nonce = nil }, nonce: revocation.NonceRequired},
		{what: "with nonce, required", want: "good", nonce: revocation.NonceRequired},
		{what: "no nonce sent", want: "good", nonce: revocation.NonceOff, change: func(s *statement) {
			if s.nonce != nil {
				s.status = ocsp.Unknown
			}
		}},
		{what: "another nonce", want: "unknown", detail: "another request's nonce", change: func(s *statement) { s.nonce = make([]byte, 32) }},
		{what: "expired", want: "unknown", detail: "should have been replaced", change: func(s *statement) { s.thisUpdate, s.nextUpdate = p.Now.Add(-2*hour), p.Now.Add(-hour) }},
		{what: "from the future", want: "unknown", detail: "from the future", change: func(s *statement) { s.thisUpdate, s.nextUpdate = p.Now.Add(hour), p.Now.Add(2*hour) }},
		{what: "without nextUpdate", want: "good", change: func(s *statement) { s.nextUpdate = time.Time{} }},
		{what: "without nextUpdate, old", want: "unknown", detail: "should have been replaced", change: func(s *statement) { s.thisUpdate, s.nextUpdate = p.Now.Add(-2*hour), time.Time{} }},
		{what: "another serial number", want: "unknown", detail: "no response matching", change: func(s *statement) { s.serial = big.NewInt(1) }},
		{what: "another issuer in the CertID", want: "unknown", detail: "of another issuer", change: func(s *statement) { s.issuer = p.OtherIntermediate.Certificate }},
		{what: "two statements", want: "unknown", detail: "2 statements", change: func(s *statement) { s.copies = 1 }},
		{what: "critical extension", want: "unknown", detail: "critical extension", change: func(s *statement) { s.critical = true }},
		{what: "signed by another authority", want: "unknown", detail: "not signed by the certificate's issuer", change: func(s *statement) { s.signer = p.OtherIntermediate }},
		{what: "signed by an issuer of the same name", want: "unknown", detail: "not from the certificate's issuer", change: by(twin)},
		{what: "signed by the root", want: "unknown", detail: "not from the certificate's issuer", change: by(p.Root)},
		{what: "delegated", want: "good", change: by(delegate(t, p, p.Intermediate))},
		{what: "delegated by another authority", want: "unknown", detail: "not from the certificate's issuer", change: by(delegate(t, p, p.OtherIntermediate))},
		{what: "delegated by the root", want: "unknown", detail: "not from the certificate's issuer", change: by(delegate(t, p, p.Root))},
		{what: "an Enrolee as responder", want: "unknown", detail: "lacks the usage OCSPSigning", change: by(delegate(t, p, p.Intermediate, mustertest.ExtKeyUsage(x509.ExtKeyUsageClientAuth)))},
		{what: "any usage is not OCSPSigning", want: "unknown", detail: "lacks the usage OCSPSigning", change: by(delegate(t, p, p.Intermediate, mustertest.ExtKeyUsage(x509.ExtKeyUsageAny)))},
		{what: "delegate expired", want: "unknown", detail: "not valid now", change: by(delegate(t, p, p.Intermediate, func(_ testing.TB, d *mustertest.Draft) { d.Template.NotAfter = p.Now.Add(-10 * time.Minute) }))},
		{what: "delegate not yet valid", want: "unknown", detail: "not valid now", change: by(delegate(t, p, p.Intermediate, mustertest.NotYetValid()))},
		{what: "delegate without digitalSignature", want: "unknown", detail: "lacks digitalSignature", change: by(delegate(t, p, p.Intermediate, mustertest.KeyUsage(x509.KeyUsageKeyAgreement)))},
		{what: "delegate with an unknown critical extension", want: "unknown", detail: "critical extension", change: by(delegate(t, p, p.Intermediate,
			mustertest.Extension(pkix.Extension{Id: asn1.ObjectIdentifier{1, 2, 3}, Critical: true, Value: []byte{5, 0}})))},
	} {
		t.Run(c.what, func(t *testing.T) {
			t.Parallel()
			server := newResponder(t, func(request *ocsp.Request, nonce []byte) []byte {
				s := statement{thisUpdate: p.Now, nextUpdate: p.Now.Add(hour), issuer: p.Intermediate.Certificate,
					serial: request.SerialNumber, nonce: nonce, signer: p.Intermediate}
				if c.change != nil {
					c.change(&s)
				}
				return s.sign(t)
			})
			config := following()
			config.Nonce = c.nonce
			config.Clock = func() time.Time { return p.Now }
			checker := newChecker(t, config)
			path := pathOf(p, p.Enrolee(t, mustertest.DeviceName(t, 1), naming(nil, []string{server.URL})))
			for range 2 {
				expect(t, checker, path, p.Now, c.want, c.detail)
			}
			if n := server.requests.Load(); n != 1 {
				t.Errorf("%d requests, want one", n)
			}
			config.Follow, config.Responders = false, []string{server.URL}
			expect(t, newChecker(t, config), path, p.Now, c.want, c.detail)
		})
	}
}

func TestRespondersThatFail(t *testing.T) {
	t.Parallel()
	p := mustertest.NewPKI(t)
	list := newShelf(t, crl{number: 1}.issue(t, p.Intermediate, p.Now))
	for what, answer := range map[string][]byte{
		"oversized": make([]byte, 70_000), "garbage": []byte("garbage"), "empty": {}, "tryLater": {0x30, 3, 0x0a, 1, 3},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			server := newResponder(t, func(*ocsp.Request, []byte) []byte { return answer })
			alone := pathOf(p, p.Enrolee(t, mustertest.DeviceName(t, 1), naming(nil, []string{server.URL})))
			expect(t, newChecker(t, following()), alone, p.Now, "unknown", server.URL)
			both := pathOf(p, p.Enrolee(t, mustertest.DeviceName(t, 1), naming([]string{list.URL}, []string{server.URL})))
			expect(t, newChecker(t, following()), both, p.Now, "good", "the CRL")
		})
	}
	t.Run("silent", func(t *testing.T) {
		t.Parallel()
		hang := make(chan struct{})
		server := newResponder(t, func(*ocsp.Request, []byte) []byte { <-hang; return nil })
		t.Cleanup(func() { close(hang) })
		config := following()
		config.Deadline = 2 * time.Second
		both := pathOf(p, p.Enrolee(t, mustertest.DeviceName(t, 1), naming([]string{list.URL}, []string{server.URL})))
		expect(t, newChecker(t, config), both, p.Now, "good", "the CRL")
	})
}

// TestAnswerIsRenewed has an answer that grows old, a replay of it, and then a
// revocation that is never forgotten.
func TestAnswerIsRenewed(t *testing.T) {
	t.Parallel()
	p := mustertest.NewPKI(t)
	time0 := &clock{now: p.Now}
	var current atomic.Pointer[statement]
	server := newResponder(t, func(request *ocsp.Request, _ []byte) []byte {
		s := *current.Load()
		s.issuer, s.serial, s.signer = p.Intermediate.Certificate, request.SerialNumber, p.Intermediate
		return s.sign(t)
	})
	config := following()
	config.Clock = time0.read
	checker := newChecker(t, config)
	path := pathOf(p, p.Enrolee(t, mustertest.DeviceName(t, 1), naming(nil, []string{server.URL})))
	fresh := func(status int) *statement {
		return &statement{status: status, thisUpdate: time0.read(), nextUpdate: time0.read().Add(40 * time.Minute)}
	}
	current.Store(fresh(ocsp.Good))
	expect(t, checker, path, p.Now, "good", "")
	now := time0.advance(50 * time.Minute)
	expect(t, checker, path, now, "unknown", "should have been replaced")
	now = time0.advance(2 * time.Minute)
	current.Store(fresh(ocsp.Revoked))
	expect(t, checker, path, now, "revoked", "")
	now = time0.advance(24 * time.Hour)
	expect(t, checker, path, now, "revoked", "")
}

// TestAnswersAreBounded asks about more certificates than are remembered.
func TestAnswersAreBounded(t *testing.T) {
	t.Parallel()
	p := mustertest.NewPKI(t)
	server := newResponder(t, func(request *ocsp.Request, nonce []byte) []byte {
		return statement{thisUpdate: p.Now, nextUpdate: p.Now.Add(time.Hour), issuer: p.Intermediate.Certificate,
			serial: request.SerialNumber, nonce: nonce, signer: p.Intermediate}.sign(t)
	})
	config := following()
	config.MaxAnswers = 2
	checker := newChecker(t, config)
	ask := func(serial uint) []*x509.Certificate {
		return pathOf(p, p.Enrolee(t, mustertest.DeviceName(t, serial), naming(nil, []string{server.URL})))
	}
	first, second, third := ask(1), ask(2), ask(3)
	for i, step := range []struct {
		path     []*x509.Certificate
		requests int64
	}{{first, 1}, {second, 2}, {first, 2}, {third, 3}, {first, 3}, {second, 4}} {
		expect(t, checker, step.path, p.Now, "good", "")
		if n := server.requests.Load(); n != step.requests {
			t.Errorf("step %d: %d requests, want %d", i, n, step.requests)
		}
	}
}

// TestStapled has a TLS 1.2 server staple an answer, which crypto/tls gives to
// the client before VerifyConnection.
func TestStapled(t *testing.T) {
	t.Parallel()
	p := mustertest.NewPKI(t)
	identity := p.Function(t, "mef.example")
	good := statement{thisUpdate: p.Now, nextUpdate: p.Now.Add(time.Hour), issuer: p.Intermediate.Certificate,
		serial: identity.Leaf().SerialNumber, signer: p.Intermediate}
	revoked, old, forged := good, good, good
	revoked.status = ocsp.Revoked
	old.thisUpdate, old.nextUpdate = p.Now.Add(-2*time.Hour), p.Now.Add(-time.Hour)
	forged.signer = p.OtherIntermediate
	listing := inFile(t, crl{number: 1, entries: []x509.RevocationListEntry{with(identity.Leaf(), 0)}}.issue(t, p.Intermediate, p.Now))
	for _, c := range []struct {
		what   string
		staple []byte
		files  []string
		code   muster.Code
	}{
		{"good", good.sign(t), nil, ""},
		{"revoked", revoked.sign(t), nil, muster.CodeRevoked},
		{"good, and on the operator's list", good.sign(t), []string{listing}, muster.CodeRevoked},
		{"expired", old.sign(t), nil, muster.CodeStatusUnknown},
		{"forged", forged.sign(t), nil, muster.CodeStatusUnknown},
		{"garbage", []byte("garbage"), nil, muster.CodeStatusUnknown},
		{"none", nil, nil, muster.CodeStatusUnknown},
	} {
		t.Run(c.what, func(t *testing.T) {
			t.Parallel()
			checker := newChecker(t, revocation.Config{Files: c.files})
			certificate := identity.TLS()
			certificate.OCSPStaple = c.staple
			near, far := net.Pipe()
			var serving sync.WaitGroup
			serving.Go(func() {
				server := tls.Server(far, &tls.Config{Certificates: []tls.Certificate{certificate}, MaxVersion: tls.VersionTLS12})
				_ = server.Handshake()
				_ = far.Close()
			})
			client := tls.Client(near, &tls.Config{ServerName: "mef.example", MaxVersion: tls.VersionTLS12, InsecureSkipVerify: true,
				VerifyConnection: func(state tls.ConnectionState) error {
					trust := p.Trust(mustertest.Name(t, muster.FlavourFQDN, "mef.example"), cert.UsageServer)
					trust.Status = checker.Status(t.Context(), revocation.Question{Scope: revocation.ScopeLeaf, Now: p.Now, Staple: state.OCSPResponse})
					_, findings := cert.Verify(state.PeerCertificates, trust, p.Now)
					return findings.Err()
				}})
			err := client.Handshake()
			_ = near.Close()
			serving.Wait()
			if got := muster.CodeOf(err); got != c.code || (err != nil) != (c.code != "") {
				t.Errorf("%v, want %q", err, c.code)
			}
		})
	}
}

func TestTexts(t *testing.T) {
	t.Parallel()
	for _, mode := range []revocation.Mode{revocation.ModeHard, revocation.ModeSoft, revocation.ModeOff} {
		var got revocation.Mode
		if err := got.UnmarshalText([]byte(mode.String())); err != nil || got != mode {
			t.Errorf("%v: %v, %v", mode, got, err)
		}
	}
	for _, scope := range []revocation.Scope{revocation.ScopePath, revocation.ScopeLeaf} {
		var got revocation.Scope
		if err := got.UnmarshalText([]byte(scope.String())); err != nil || got != scope {
			t.Errorf("%v: %v, %v", scope, got, err)
		}
	}
	for _, nonce := range []revocation.Nonce{revocation.NonceOffered, revocation.NonceRequired, revocation.NonceOff} {
		var got revocation.Nonce
		if err := got.UnmarshalText([]byte(nonce.String())); err != nil || got != nonce {
			t.Errorf("%v: %v, %v", nonce, got, err)
		}
	}
	for _, target := range []interface{ UnmarshalText([]byte) error }{new(revocation.Mode), new(revocation.Scope), new(revocation.Nonce)} {
		if err := target.UnmarshalText([]byte("perhaps")); err == nil || !strings.Contains(err.Error(), "perhaps") {
			t.Errorf("%T: %v", target, err)
		}
	}
}

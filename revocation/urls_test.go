package revocation_test

import (
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"muster"
	"muster/mustertest"
	"muster/revocation"
)

func TestListAtURL(t *testing.T) {
	t.Parallel()
	p := mustertest.NewPKI(t)
	shelf := newShelf(t, crl{number: 1}.issue(t, p.Intermediate, p.Now))
	path := pathOf(p, p.Enrolee(t, mustertest.DeviceName(t, 1), naming([]string{shelf.URL + "/a.crl"}, nil)))
	t.Run("of a certificate", func(t *testing.T) {
		t.Parallel()
		checker := newChecker(t, following())
		for range 3 {
			expect(t, checker, path, p.Now, "good", "number 1")
		}
	})
	t.Run("of the operator", func(t *testing.T) {
		t.Parallel()
		checker := newChecker(t, revocation.Config{URLs: []string{shelf.URL}, Networks: loopback, Deadline: 20 * time.Second})
		expect(t, checker, pathOf(p, p.Enrolee(t, mustertest.DeviceName(t, 2))), p.Now, "good", "number 1")
	})
}

// TestRefreshAhead downloads a list again before it ends, by its ETag, and takes
// neither junk nor a replay for the newer one.
func TestRefreshAhead(t *testing.T) {
	t.Parallel()
	p := mustertest.NewPKI(t)
	time0 := &clock{now: p.Now}
	first := crl{number: 1, thisUpdate: p.Now, nextUpdate: p.Now.Add(40 * time.Minute)}.issue(t, p.Intermediate, p.Now)
	shelf := newShelf(t, first)
	shelf.etag = `"one"`
	config := following()
	config.Clock = time0.read
	checker := newChecker(t, config)
	path := pathOf(p, p.Enrolee(t, mustertest.DeviceName(t, 1), naming([]string{shelf.URL}, nil)))
	round := func(after time.Duration, requests, notSeen int64) {
		t.Helper()
		now := time0.advance(after)
		expect(t, checker, path, now, "good", "number")
		if err := checker.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n, m := shelf.requests.Load(), shelf.notSeen.Load(); n != requests || m != notSeen {
			t.Fatalf("%d requests and %d answers without a body, want %d and %d", n, m, requests, notSeen)
		}
	}
	round(0, 1, 0)
	round(20*time.Minute, 1, 0)
	now := time0.advance(11 * time.Minute) // three quarters have passed
	if err := checker.Refresh(t.Context()); err != nil || shelf.notSeen.Load() != 1 {
		t.Fatalf("%v, %d requests, %d without a body", err, shelf.requests.Load(), shelf.notSeen.Load())
	}
	expect(t, checker, path, now, "good", "number 1")

	next := func(content []byte, etag string) {
		t.Helper()
		shelf.mu.Lock()
		shelf.content, shelf.etag = content, etag
		shelf.mu.Unlock()
		now = time0.advance(2 * time.Minute)
		_ = checker.Refresh(t.Context())
	}
	next(crl{number: 2, thisUpdate: now, nextUpdate: now.Add(10 * time.Hour), entries: []x509.RevocationListEntry{with(path[0], 0)}}.
		issue(t, p.Intermediate, p.Now), `"two"`)
	expect(t, checker, path, now, "revoked", "number 2")
	for _, junk := range [][]byte{first, crl{number: 3}.issue(t, p.OtherIntermediate, p.Now), []byte("junk")} {
		time0.advance(2 * time.Hour)
		next(junk, "")
		expect(t, checker, path, now, "revoked", "number 2")
	}
}

func TestDeltaAtURL(t *testing.T) {
	t.Parallel()
	p := mustertest.NewPKI(t)
	var leaf *x509.Certificate
	delta := newShelf(t, nil)
	uri := []byte(delta.URL)
	n := byte(len(uri))
	freshest := append([]byte{0x30, n + 8, 0x30, n + 6, 0xa0, n + 4, 0xa0, n + 2, 0x86, n}, uri...)
	base := newShelf(t, crl{number: 1, extensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 46}, Value: freshest}}}.
		issue(t, p.Intermediate, p.Now))
	path := pathOf(p, p.Enrolee(t, mustertest.DeviceName(t, 1), naming([]string{base.URL}, nil)))
	leaf = path[0]
	delta.put(crl{number: 2, base: 1, entries: []x509.RevocationListEntry{with(leaf, 1)}}.issue(t, p.Intermediate, p.Now))
	expect(t, newChecker(t, following()), path, p.Now, "revoked", "delta")
	delta.put([]byte("junk"))
	expect(t, newChecker(t, following()), path, p.Now, "good", "number 1")
}

// TestServersThatMisbehave has servers none of which gives a usable list.
func TestServersThatMisbehave(t *testing.T) {
	t.Parallel()
	p := mustertest.NewPKI(t)
	inner := newShelf(t, crl{number: 1}.issue(t, p.Intermediate, p.Now))
	hang := make(chan struct{})
	t.Cleanup(func() { close(hang) })
	for _, c := range []struct {
		what, detail string
		handler      http.HandlerFunc
		change       func(*revocation.Config)
	}{
		{"oversized", "more than 1000 octets", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, 1001)) },
			func(c *revocation.Config) { c.MaxCRL = 1000 }},
		{"endless", "more than 1000 octets", func(w http.ResponseWriter, r *http.Request) {
			for {
				if _, err := w.Write(make([]byte, 100)); err != nil {
					return
				}
			}
		}, func(c *revocation.Config) { c.MaxCRL = 1000 }},
		{"silent", "no answer came in time", func(_ http.ResponseWriter, r *http.Request) {
			select {
			case <-hang:
			case <-r.Context().Done():
			}
		}, func(c *revocation.Config) { c.Deadline = 50 * time.Millisecond }},
		{"redirecting", "redirects", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, inner.URL, http.StatusFound) }, nil},
		{"without the list", "status 404", http.NotFound, nil},
		{"not modified, unasked", "redirects", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotModified) }, nil},
		{"another issuer's", "no CRL", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte{}) }, nil},
	} {
		t.Run(c.what, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewServer(c.handler)
			t.Cleanup(server.Close)
			config := following()
			if c.change != nil {
				c.change(&config)
			}
			checker := newChecker(t, config)
			path := pathOf(p, p.Enrolee(t, mustertest.DeviceName(t, 1), naming([]string{server.URL}, nil)))
			if c.what == "another issuer's" {
				c.detail = "malformed"
			}
			expect(t, checker, path, p.Now, "unknown", c.detail)
		})
	}
	if n := inner.requests.Load(); n != 0 {
		t.Errorf("a redirection was followed %d times", n)
	}
}

// TestAddressesThatAreNotPublic has URLs in a certificate that lead inwards.
func TestAddressesThatAreNotPublic(t *testing.T) {
	t.Parallel()
	p := mustertest.NewPKI(t)
	shelf := newShelf(t, crl{number: 1}.issue(t, p.Intermediate, p.Now))
	for url, detail := range map[string]string{
		shelf.URL:                                       "not a public address",
		"http://localhost/":                             "not a public address",
		"http://[::1]/":                                 "not a public address",
		"http://[::ffff:127.0.0.1]/":                    "not a public address",
		"http://10.1.2.3/":                              "not a public address",
		"http://172.16.0.1/":                            "not a public address",
		"http://192.168.0.1/":                           "not a public address",
		"http://169.254.169.254/latest/meta-data/":      "not a public address",
		"http://100.64.0.1/":                            "not a public address",
		"http://0.0.0.0/":                               "not a public address",
		"http://255.255.255.255/":                       "not a public address",
		"http://224.0.0.1/":                             "not a public address",
		"http://192.0.2.1/":                             "not a public address",
		"http://[fe80::1]/":                             "not a public address",
		"http://[fd00::1]/":                             "not a public address",
		"http://[64:ff9b::7f00:1]/":                     "not a public address",
		"http://[2002:7f00:1::]/":                       "not a public address",
		"http://8.8.8.8:25/":                            "neither 80 nor 443",
		"ldap://crl.example/cn=a":                       "no CRL of its issuer",
		"file:///etc/passwd":                            "no CRL of its issuer",
		"http://user:password@127.0.0.1/":               "no CRL of its issuer",
		"http:///a.crl":                                 "no CRL of its issuer",
		"http://127.0.0.1/" + strings.Repeat("a", 1024): "no CRL of its issuer",
	} {
		t.Run(url[:min(40, len(url))], func(t *testing.T) {
			t.Parallel()
			checker := newChecker(t, revocation.Config{Follow: true, Deadline: 20 * time.Second})
			path := pathOf(p, p.Enrolee(t, mustertest.DeviceName(t, 1), naming([]string{url}, nil)))
			expect(t, checker, path, p.Now, "unknown", detail)
		})
	}
	for _, url := range []string{"ldap://crl.example/", "crl.example", "http://", "http://a:b@crl.example/", "http://crl.example/\x7f"} {
		if _, err := revocation.New(revocation.Config{URLs: []string{url}}); err == nil {
			t.Errorf("the operator's URL %q is accepted", url)
		}
	}
}

// nameServer answers every question for an IPv4 address with the next of a list,
// and returns a resolver that asks it.
func nameServer(t *testing.T, addresses ...string) (*net.Resolver, *atomic.Int64) {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	asked := new(atomic.Int64)
	go func() {
		buffer := make([]byte, 512)
		for {
			n, from, err := conn.ReadFrom(buffer)
			if err != nil {
				return
			}
			query := buffer[:n]
			end := 12
			for query[end] != 0 {
				end += int(query[end]) + 1
			}
			answer := append([]byte{query[0], query[1], 0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0}, query[12:end+5]...)
			if binary.BigEndian.Uint16(query[end+1:]) == 1 {
				at := min(int(asked.Add(1)), len(addresses)) - 1
				answer[7] = 1
				answer = append(answer, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4)
				answer = append(answer, netip.MustParseAddr(addresses[at]).AsSlice()...)
			}
			_, _ = conn.WriteTo(answer, from)
		}
	}()
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", conn.LocalAddr().String())
	}}, asked
}

// TestNameThatIsRebound resolves to an admitted address first and to one that is
// not afterwards: each connection is judged by its own address.
func TestNameThatIsRebound(t *testing.T) {
	t.Parallel()
	p := mustertest.NewPKI(t)
	time0 := &clock{now: p.Now}
	shelf := newShelf(t, crl{number: 1}.issue(t, p.Intermediate, p.Now))
	resolver, asked := nameServer(t, "127.0.0.1", "127.0.0.2", "10.0.0.1")
	_, port, err := net.SplitHostPort(shelf.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	config := following()
	config.Networks = []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}
	config.Resolver, config.Clock = resolver, time0.read
	checker := newChecker(t, config)
	path := pathOf(p, p.Enrolee(t, mustertest.DeviceName(t, 1), naming([]string{"http://crl.example:" + port + "/"}, nil)))
	expect(t, checker, path, p.Now, "good", "")
	for _, address := range []string{"127.0.0.2", "10.0.0.1"} {
		shelf.CloseClientConnections()
		now := time0.advance(2 * time.Hour)
		expect(t, checker, path, now, "unknown", address+" is not a public address")
	}
	if shelf.requests.Load() != 1 || asked.Load() < 3 {
		t.Errorf("%d requests, %d questions for the name", shelf.requests.Load(), asked.Load())
	}
}

// TestOneDownloadForMany has many checks at once, a failure that is remembered,
// and a bound on downloads.
func TestOneDownloadForMany(t *testing.T) {
	t.Parallel()
	p := mustertest.NewPKI(t)
	time0 := &clock{now: p.Now}
	release := make(chan struct{})
	list := crl{number: 1}.issue(t, p.Intermediate, p.Now)
	var requests, most, under atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		most.Store(max(most.Load(), under.Add(1)))
		defer under.Add(-1)
		<-release
		if strings.HasPrefix(r.URL.Path, "/bad") {
			http.Error(w, "no", http.StatusInternalServerError)
			return
		}
		_, _ = w.Write(list)
	}))
	t.Cleanup(server.Close)
	config := following()
	config.MaxFetches, config.Clock = 2, time0.read
	checker := newChecker(t, config)
	var checks sync.WaitGroup
	check := func(url, want string) {
		path := pathOf(p, p.Enrolee(t, mustertest.DeviceName(t, 1), naming([]string{server.URL + url}, nil)))
		for range 8 {
			checks.Go(func() { expect(t, checker, path, p.Now, want, "") })
		}
	}
	for _, url := range []string{"/a", "/b", "/c", "/d"} {
		check(url, "good")
	}
	for _, url := range []string{"/bad1", "/bad2"} {
		check(url, "unknown")
	}
	for requests.Load() < 2 {
		time.Sleep(time.Millisecond)
	}
	close(release)
	checks.Wait()
	if n, m := requests.Load(), most.Load(); n != 6 || m > 2 {
		t.Errorf("%d requests, %d at the same time", n, m)
	}
	check("/bad1", "unknown")
	checks.Wait()
	if n := requests.Load(); n != 6 {
		t.Errorf("a failure was not remembered: %d requests", n)
	}
	time0.advance(time.Hour)
	check("/bad1", "unknown")
	checks.Wait()
	if n := requests.Load(); n != 7 {
		t.Errorf("a failure was remembered for good: %d requests", n)
	}
}

// TestCloseEndsDownloads leaves a download that nobody awaits any more.
func TestCloseEndsDownloads(t *testing.T) {
	t.Parallel()
	p := mustertest.NewPKI(t)
	reached, ended := make(chan struct{}), make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		close(reached)
		<-r.Context().Done()
		close(ended)
	}))
	t.Cleanup(server.Close)
	checker := newChecker(t, following())
	path := pathOf(p, p.Enrolee(t, mustertest.DeviceName(t, 1), naming([]string{server.URL}, nil)))
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-reached
		cancel()
	}()
	findings := checker.Check(ctx, path, revocation.Question{Now: p.Now})
	if muster.CodeOf(findings.Err()) != muster.CodeStatusUnknown {
		t.Errorf("%v", findings)
	}
	if err := checker.Close(); err != nil {
		t.Fatal(err)
	}
	<-ended
	expect(t, checker, path, p.Now, "unknown", "")
}

func TestRunUntilTold(t *testing.T) {
	t.Parallel()
	p := mustertest.NewPKI(t)
	shelf := newShelf(t, crl{number: 1}.issue(t, p.Intermediate, p.Now))
	checker := newChecker(t, revocation.Config{URLs: []string{shelf.URL}, Networks: loopback})
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { checker.Run(ctx) })
	for shelf.requests.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	stop()
	running.Wait()
}

package handshake_test

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"muster"
	"muster/handshake"
)

// A tap is a net.Conn that keeps what it has read, and may edit what it writes.
type tap struct {
	net.Conn
	read bytes.Buffer
	edit func([]byte) []byte
}

func (c *tap) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.read.Write(b[:n])
	return n, err
}

func (c *tap) Write(b []byte) (int, error) {
	if c.edit == nil {
		return c.Conn.Write(b)
	}
	_, err := c.Conn.Write(c.edit(bytes.Clone(b)))
	return len(b), err
}

// alert returns the description of the fatal plaintext alert that was read, and 0
// without one.
func (c *tap) alert() tls.AlertError {
	_, _ = io.Copy(io.Discard, c)
	for octets := c.read.Bytes(); len(octets) >= 7; {
		if octets[0] == 21 && octets[5] == 2 {
			return tls.AlertError(octets[6])
		}
		octets = octets[min(len(octets), 5+int(octets[3])<<8+int(octets[4])):]
	}
	return 0
}

// bare returns the configuration of a crypto/tls client that is in order.
func (p *pki) bare(t testing.TB) *tls.Config {
	t.Helper()
	return &tls.Config{
		ServerName: serverName, InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12,
		Certificates: []tls.Certificate{*p.Issue(t, "device.example.com", 0)},
	}
}

// attack lets a crypto/tls client meet a server and returns the server's end and
// the alert that the client read.
func attack(t testing.TB, server *handshake.Server, client *tls.Config, edit func([]byte) []byte) (result, tls.AlertError) {
	t.Helper()
	near, far := pair(t)
	ended := serve(t, server, far)
	wire := &tap{Conn: near, edit: edit}
	if err := tls.Client(wire, client).Handshake(); err == nil {
		return <-ended, 0
	}
	alert := wire.alert()
	_ = near.Close()
	return <-ended, alert
}

// withoutEMS makes the Extended Master Secret extension one that nobody knows.
func withoutEMS(octets []byte) []byte {
	return bytes.Replace(octets, []byte{0, 23, 0, 0}, []byte{0xfa, 0x17, 0, 0}, 1)
}

func TestServerRefuses(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	for _, tt := range []struct {
		name   string
		server func(*handshake.Config)
		client func(*tls.Config)
		edit   func([]byte) []byte
		code   muster.Code
		alert  tls.AlertError
	}{
		{name: "no client certificate", client: func(c *tls.Config) { c.Certificates = nil }, code: muster.CodeNoCertificate, alert: 40},
		{name: "no EMS", edit: withoutEMS, code: muster.CodeNoExtendedMasterSecret, alert: 40},
		{name: "TLS 1.1", client: func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 }, code: muster.CodeProtocolVersion, alert: 70},
		{name: "TLS 1.1 and no EMS", client: func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 }, edit: withoutEMS, code: muster.CodeProtocolVersion, alert: 70},
		{name: "TLS 1.3 alone", client: func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS13, tls.VersionTLS13 }, code: muster.CodeProtocolVersion, alert: 70},
		{name: "wrong SNI", client: func(c *tls.Config) { c.ServerName = "maf.example.com" }, code: muster.CodeServerName, alert: 112},
		{name: "wrong SNI where it is optional", server: func(c *handshake.Config) { c.SNIOptional = true }, client: func(c *tls.Config) { c.ServerName = "maf.example.com" }, code: muster.CodeServerName, alert: 112},
		{name: "no SNI", client: func(c *tls.Config) { c.ServerName = "" }, code: muster.CodeServerName, alert: 112},
		{name: "another suite", client: func(c *tls.Config) { c.CipherSuites = []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384} }, code: muster.CodeHandshakeFailed, alert: 40},
		{name: "CBC where it is off", server: func(c *handshake.Config) { c.NoCBC = true }, client: func(c *tls.Config) { c.CipherSuites = []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256} }, code: muster.CodeHandshakeFailed, alert: 40},
		{name: "another group", client: func(c *tls.Config) { c.CurvePreferences = []tls.CurveID{tls.CurveP521, tls.CurveP384} }, code: muster.CodeHandshakeFailed, alert: 40},
		{name: "another root", client: func(c *tls.Config) {
			c.Certificates = []tls.Certificate{*newPKI(t).Issue(t, "device.example.com", 0)}
		}, code: muster.CodeAnchorMismatch, alert: 48},
		{name: "six certificates", client: func(c *tls.Config) {
			chain := &c.Certificates[0].Certificate
			*chain = slices.Repeat(*chain, handshake.MaxChain+1)
		}, code: muster.CodeChainTooLong, alert: 42},
		{name: "a large certificate", client: func(c *tls.Config) {
			c.Certificates = []tls.Certificate{*p.Issue(t, "device.example.com", handshake.MaxCertificate)}
		}, code: muster.CodeCertificateTooLarge, alert: 42},
		{name: "no identity", server: func(c *handshake.Config) {
			c.Identity = func() (*tls.Certificate, error) { return nil, errors.New("the file is gone") }
		}, code: muster.CodeHandshakeFailed, alert: 80},
		{name: "an empty identity", server: func(c *handshake.Config) {
			c.Identity = func() (*tls.Certificate, error) { return nil, nil }
		}, code: muster.CodeHandshakeFailed, alert: 80},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			config, client := p.config(t, serverName), p.bare(t)
			if tt.server != nil {
				tt.server(&config)
			}
			if tt.client != nil {
				tt.client(client)
			}
			verified := false
			verify := config.Verify
			config.Verify = func(chain []*x509.Certificate) (muster.Peer, error) {
				verified = true
				return verify(chain)
			}
			r, alert := attack(t, newServer(t, config), client, tt.edit)
			wantCode(t, r.err, tt.code)
			if r.conn != nil || alert != tt.alert {
				t.Errorf("the server returned %v and the client read alert %d, not %d", r.conn, alert, tt.alert)
			}
			if verified && tt.code != muster.CodeAnchorMismatch {
				t.Error("the chain was judged")
			}
		})
	}
}

func TestServerAccepts(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	for name, change := range map[string]func(*handshake.Config, *tls.Config){
		"no SNI where it is optional": func(s *handshake.Config, c *tls.Config) { s.SNIOptional, c.ServerName = true, "" },
		"SNI in upper case":           func(_ *handshake.Config, c *tls.Config) { c.ServerName = "MEF.example.COM" },
		"0xC023":                      func(_ *handshake.Config, c *tls.Config) { c.CipherSuites = []uint16{0xc023} },
		"X25519":                      func(_ *handshake.Config, c *tls.Config) { c.CurvePreferences = []tls.CurveID{tls.X25519} },
		"P-256":                       func(_ *handshake.Config, c *tls.Config) { c.CurvePreferences = []tls.CurveID{tls.CurveP256} },
		"five certificates": func(_ *handshake.Config, c *tls.Config) {
			chain := &c.Certificates[0].Certificate
			*chain = slices.Repeat(*chain, handshake.MaxChain)
		},
	} {
		config, client := p.config(t, serverName), p.bare(t)
		change(&config, client)
		if r, alert := attack(t, newServer(t, config), client, nil); r.err != nil {
			t.Errorf("%s: %v, alert %d", name, r.err, alert)
		}
	}
}

// TestVerdicts has each side refuse with every code and reads the alert that the
// other side gets.
func TestVerdicts(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	for code, want := range map[muster.Code]tls.AlertError{
		muster.CodeAnchorMismatch: 48, muster.CodeExpired: 45, muster.CodeNotYetValid: 45, muster.CodeRevoked: 44,
		muster.CodeKeyUsage: 43, muster.CodeExtendedKeyUsage: 43, muster.CodeCAAsLeaf: 43, muster.CodeKeyAlgorithm: 43,
		muster.CodeSignatureAlgorithm: 43, muster.CodeCriticalExtension: 43, muster.CodeNameUnknown: 46,
		muster.CodeCloneSuspected: 49, muster.CodeNameMismatch: 42, muster.CodeNameWildcard: 42, muster.CodePathInvalid: 42,
		muster.CodeCertificateMalformed: 42, muster.CodeBusy: 80, "": 80,
	} {
		calls := 0
		refuse := func([]*x509.Certificate) (muster.Peer, error) {
			calls++
			if code == "" {
				return muster.Peer{}, errors.New("the store does not answer")
			}
			return muster.Peer{}, muster.Refuse(code, "a test")
		}
		wantErr := code
		if code == "" {
			wantErr = muster.CodeHandshakeFailed
		}
		config := p.config(t, serverName)
		config.Verify = refuse
		r, alert := attack(t, newServer(t, config), p.bare(t), nil)
		wantCode(t, r.err, wantErr)
		if alert != want || calls != 1 {
			t.Errorf("%q: the client read alert %d, not %d, after %d calls", code, alert, want, calls)
		}
		near, far := pair(t)
		wire := &tap{Conn: far}
		read := make(chan tls.AlertError)
		bare := p.bareServer(t)
		go func() {
			_ = tls.Server(wire, bare).Handshake()
			alert := wire.alert()
			_ = far.Close()
			read <- alert
		}()
		config = p.config(t, "device.example.com")
		config.Verify = refuse
		_, err := newClient(t, config).Handshake(t.Context(), near)
		wantCode(t, err, wantErr)
		if alert := <-read; alert != want {
			t.Errorf("%q: the server read alert %d, not %d", code, alert, want)
		}
	}
}

func (p *pki) bareServer(t testing.TB) *tls.Config {
	t.Helper()
	return &tls.Config{
		ClientAuth: tls.RequireAnyClientCert, MaxVersion: tls.VersionTLS12,
		Certificates: []tls.Certificate{*p.Issue(t, serverName, 0)},
	}
}

func TestVerifyOnce(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	var calls atomic.Int32
	server, client := p.config(t, serverName), p.config(t, "device.example.com")
	count := func(chain []*x509.Certificate) (muster.Peer, error) {
		calls.Add(1)
		return p.Verify(chain)
	}
	server.Verify, client.Verify = count, count
	a, b := meet(t, newServer(t, server), newClient(t, client))
	if a.err != nil || b.err != nil || calls.Load() != 2 {
		t.Errorf("%v, %v, %d calls of the two Verify", a.err, b.err, calls.Load())
	}
}

func TestResumptionIsNotOffered(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	server, client := newServer(t, p.config(t, serverName)), p.bare(t)
	client.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	var last []byte
	for range 2 {
		near, far := pair(t)
		ended := serve(t, server, far)
		conn := tls.Client(near, client)
		if err := conn.Handshake(); err != nil {
			t.Fatal(err)
		}
		octets := export(t, <-ended)
		if conn.ConnectionState().DidResume || bytes.Equal(octets, last) {
			t.Error("a session was resumed")
		}
		last = octets
	}
	if _, ok := client.ClientSessionCache.Get(serverName); ok {
		t.Error("the server gave a ticket")
	}
}

// TestClientHello reads what our client offers.
func TestClientHello(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	for _, noCBC := range []bool{false, true} {
		near, far := pair(t)
		config := p.config(t, "device.example.com")
		config.NoCBC = noCBC
		client := newClient(t, config)
		go func() { _, _ = client.Handshake(t.Context(), near) }()
		var hello tls.ClientHelloInfo
		server := p.bareServer(t)
		server.GetConfigForClient = func(info *tls.ClientHelloInfo) (*tls.Config, error) {
			hello = *info
			return nil, nil
		}
		if err := tls.Server(far, server).Handshake(); err != nil {
			t.Fatal(err)
		}
		suites := []uint16{0xc02b, 0xc023}[:2-btoi(noCBC)]
		if !slices.Equal(hello.CipherSuites, suites) {
			t.Errorf("the suites are %#x, not %#x", hello.CipherSuites, suites)
		}
		groups := slices.Sorted(slices.Values(hello.SupportedCurves))
		if !slices.Equal(groups, []tls.CurveID{tls.CurveP256, tls.X25519}) {
			t.Errorf("the groups are %v", groups)
		}
		if !slices.Equal(hello.SupportedVersions, []uint16{tls.VersionTLS12}) || hello.ServerName != serverName {
			t.Errorf("the versions are %#x, server_name %q", hello.SupportedVersions, hello.ServerName)
		}
		if !slices.Contains(hello.Extensions, 23) || slices.Contains(hello.Extensions, 35) {
			t.Errorf("the extensions are %v", hello.Extensions)
		}
	}
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

func TestClientRefusesOneSidedAuthentication(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	near, far := pair(t)
	server := p.bareServer(t)
	server.ClientAuth = tls.NoClientCert
	go func() { _ = tls.Server(far, server).Handshake() }()
	_, err := newClient(t, p.config(t, "device.example.com")).Handshake(t.Context(), near)
	wantCode(t, err, muster.CodeHandshakeFailed)
}

func TestClientRefusesVersions(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	for name, edit := range map[string]func([]byte) []byte{
		"TLS 1.1 in the ServerHello": func(octets []byte) []byte {
			if octets[0] == 22 && octets[5] == 2 {
				octets[10] = 2
			}
			return octets
		},
	} {
		near, far := pair(t)
		go func() { _ = tls.Server(&tap{Conn: far, edit: edit}, p.bareServer(t)).Handshake() }()
		_, err := newClient(t, p.config(t, "device.example.com")).Handshake(t.Context(), near)
		if wantCode(t, err, muster.CodeProtocolVersion); t.Failed() {
			t.Log(name)
		}
	}
	near, far := pair(t)
	server := p.bareServer(t)
	server.MinVersion, server.MaxVersion = tls.VersionTLS13, tls.VersionTLS13
	go func() { _ = tls.Server(far, server).Handshake() }()
	_, err := newClient(t, p.config(t, "device.example.com")).Handshake(t.Context(), near)
	wantCode(t, err, muster.CodePeerAlert)
}

func TestStalledPeer(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	config := p.config(t, serverName)
	config.Timeout = 50 * time.Millisecond
	for name, octets := range map[string][]byte{
		"silence":         nil,
		"half a record":   {22, 3, 1, 0, 100, 1},
		"half a message":  {22, 3, 1, 0, 4, 1, 0, 1, 0},
		"a header's part": {22, 3},
	} {
		near, far := pair(t)
		if _, err := near.Write(octets); err != nil {
			t.Fatal(err)
		}
		if _, err := newServer(t, config).Handshake(t.Context(), far); muster.CodeOf(err) != muster.CodeHandshakeTimeout {
			t.Errorf("%s: the server returned %v", name, err)
		}
		near, _ = pair(t)
		if _, err := newClient(t, config).Handshake(t.Context(), near); muster.CodeOf(err) != muster.CodeHandshakeTimeout {
			t.Errorf("%s: the client returned %v", name, err)
		}
	}
}

func TestGarbage(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	server := newServer(t, p.config(t, serverName))
	random := make([]byte, 4096)
	_, _ = rand.Read(random)
	for name, octets := range map[string][]byte{
		"random octets":       random,
		"HTTP":                []byte("GET / HTTP/1.1\r\nHost: mef.example.com\r\n\r\n"),
		"SSL 2":               {0x80, 0x2e, 1, 0, 2, 0, 0x15, 0, 0, 0, 0x10},
		"a huge record":       append([]byte{22, 3, 3, 0xff, 0xff}, random...),
		"a huge message":      append([]byte{22, 3, 3, 0x0f, 0, 1, 0xff, 0xff, 0xff}, random...),
		"data before a hello": {23, 3, 3, 0, 1, 0},
		"an alert":            {21, 3, 3, 0, 2, 2, 40},
		"nothing":             {},
	} {
		near, far := pair(t)
		ended := serve(t, server, far)
		if _, err := near.Write(octets); err != nil {
			t.Fatal(err)
		}
		_ = near.(*net.TCPConn).CloseWrite()
		if r := <-ended; r.conn != nil || muster.CodeOf(r.err) == "" {
			t.Errorf("%s: the server returned %v, %v", name, r.conn, r.err)
		}
	}
}

func TestConfigIsChecked(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	for name, spoil := range map[string]func(*handshake.Config){
		"no name":          func(c *handshake.Config) { c.Name = muster.FQDN{} },
		"no identity":      func(c *handshake.Config) { c.Identity = nil },
		"no verification":  func(c *handshake.Config) { c.Verify = nil },
		"negative timeout": func(c *handshake.Config) { c.Timeout = -1 },
	} {
		config := p.config(t, serverName)
		spoil(&config)
		if _, err := handshake.NewServer(config); err == nil {
			t.Errorf("%s: NewServer accepted", name)
		}
		if _, err := handshake.NewClient(config); err == nil {
			t.Errorf("%s: NewClient accepted", name)
		}
	}
}

func TestSameName(t *testing.T) {
	t.Parallel()
	fqdn, err := muster.ParseFQDN("k.example.com")
	if err != nil {
		t.Fatal(err)
	}
	for serverName, want := range map[string]bool{
		"k.example.com": true, "K.EXAMPLE.com": true,
		"": false, "k.example.com.": false, "k.example.co": false, "*.example.com": false,
		"\u212a.example.com": false, // the Kelvin sign folds to k
	} {
		if handshake.SameName(serverName, fqdn) != want {
			t.Errorf("SameName(%q) is not %v", serverName, want)
		}
	}
}

func TestParseChain(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	leaf := p.Issue(t, serverName, 0).Certificate[0]
	for name, tt := range map[string]struct {
		raw  [][]byte
		code muster.Code
	}{
		"nothing":    {nil, muster.CodeNoCertificate},
		"one":        {[][]byte{leaf}, ""},
		"five":       {slices.Repeat([][]byte{leaf}, 5), ""},
		"six":        {slices.Repeat([][]byte{leaf}, 6), muster.CodeChainTooLong},
		"no DER":     {[][]byte{leaf, {1, 2, 3}}, muster.CodeCertificateMalformed},
		"too large":  {[][]byte{leaf, make([]byte, handshake.MaxCertificate+1)}, muster.CodeCertificateTooLarge},
		"zero bytes": {[][]byte{{}}, muster.CodeCertificateMalformed},
	} {
		chain, err := handshake.ParseChain(tt.raw)
		if muster.CodeOf(err) != tt.code || (err == nil) != (len(chain) == len(tt.raw) && err == nil) {
			t.Errorf("%s: %d certificates, %v", name, len(chain), err)
		}
	}
}

// TestServerThatEndsTheStream has a server without capacity, which closes: the
// client is to come back.
func TestServerThatEndsTheStream(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	client := newClient(t, p.config(t, "device.example.com"))
	near, far := net.Pipe()
	go func() {
		_, _ = far.Read(make([]byte, 4096))
		_ = far.Close()
	}()
	_, err := client.Handshake(t.Context(), near)
	wantCode(t, err, muster.CodeUnreachable)
}

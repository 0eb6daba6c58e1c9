package dtls12_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pion/dtls/v3"
	"github.com/pion/dtls/v3/pkg/crypto/elliptic"

	"muster"
	"muster/handshake"
	"muster/handshake/dtls12"
	"muster/mustertest"
)

// A tap is a net.PacketConn that keeps what it has read, and may edit what it
// writes.
type tap struct {
	net.PacketConn
	edit func([]byte) []byte

	mu   sync.Mutex
	read [][]byte
}

func (c *tap) ReadFrom(b []byte) (int, net.Addr, error) {
	n, from, err := c.PacketConn.ReadFrom(b)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.read = append(c.read, bytes.Clone(b[:n]))
	return n, from, err
}

func (c *tap) WriteTo(b []byte, to net.Addr) (int, error) {
	if c.edit != nil {
		_, err := c.PacketConn.WriteTo(c.edit(bytes.Clone(b)), to)
		return len(b), err
	}
	return c.PacketConn.WriteTo(b, to)
}

// alert returns the description of the fatal plaintext alert that was read, and 0
// without one.
func (c *tap) alert() tls.AlertError {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, datagram := range c.read {
		for len(datagram) >= 15 {
			if datagram[0] == 21 && datagram[3] == 0 && datagram[4] == 0 && datagram[13] == 2 {
				return tls.AlertError(datagram[14])
			}
			datagram = datagram[min(len(datagram), 13+int(datagram[11])<<8+int(datagram[12])):]
		}
	}
	return 0
}

// bare returns the options of a pion client that is in order.
func (p *pki) bare(t testing.TB) []dtls.ClientOption {
	t.Helper()
	return []dtls.ClientOption{
		dtls.WithServerName(serverName), dtls.WithInsecureSkipVerify(true),
		dtls.WithCertificates(*p.Issue(t, "device.example.com", 0)),
		dtls.WithCipherSuites(dtls.TLS_ECDHE_ECDSA_WITH_AES_128_CCM_8),
		dtls.WithFlightInterval(200 * time.Millisecond),
	}
}

func bareWithKey(identity string, key []byte) []dtls.ClientOption {
	return []dtls.ClientOption{
		dtls.WithServerName(serverName), dtls.WithPSKIdentityHint([]byte(identity)),
		dtls.WithPSK(func([]byte) ([]byte, error) { return key, nil }),
		dtls.WithCipherSuites(dtls.TLS_PSK_WITH_AES_128_CCM_8),
		dtls.WithFlightInterval(200 * time.Millisecond),
	}
}

// attack lets a pion client meet a server and returns the server's end and the
// alert that the client read.
func attack(t testing.TB, server *dtls12.Server, edit func([]byte) []byte, client ...dtls.ClientOption) (result, tls.AlertError) {
	t.Helper()
	near, far := mustertest.NewLossyPair(mustertest.Loss{})
	ended := make(chan result, 1)
	go func() {
		conn, err := server.Handshake(t.Context(), far, near.LocalAddr())
		ended <- result{conn, err}
	}()
	wire := &tap{PacketConn: near, edit: edit}
	conn, err := dtls.ClientWithOptions(wire, far.LocalAddr(), client...)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	over := make(chan result, 1)
	go func() {
		r := <-ended
		over <- r
		if r.err != nil { // an alert ends the client at once; silence does not
			time.AfterFunc(patience/10, cancel)
		}
	}()
	_ = conn.HandshakeContext(ctx)
	r := <-over
	if r.err == nil {
		_ = r.conn.Close()
	}
	return r, wire.alert()
}

func TestServerRefuses(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	withoutEMS := func(octets []byte) []byte {
		return bytes.Replace(octets, []byte{0, 23, 0, 0}, []byte{0xfa, 0x17, 0, 0}, 1)
	}
	version := func(octets []byte) []byte {
		if octets[0] == 22 && octets[13] == 1 {
			octets[26] = 0xff // DTLS 1.0 in the ClientHello
		}
		return octets
	}
	leaf := p.Issue(t, "device.example.com", 0)
	chain := &tls.Certificate{Certificate: slices.Repeat(leaf.Certificate, handshake.MaxChain+1), PrivateKey: leaf.PrivateKey}
	for _, tt := range []struct {
		name   string
		server func(*dtls12.Config)
		client []dtls.ClientOption
		edit   func([]byte) []byte
		code   muster.Code
		alert  tls.AlertError
	}{
		{name: "no client certificate", client: []dtls.ClientOption{dtls.WithGetClientCertificate(func(*dtls.CertificateRequestInfo) (*tls.Certificate, error) { return new(tls.Certificate), nil })}, code: muster.CodeNoCertificate, alert: 40},
		{name: "no EMS", client: []dtls.ClientOption{dtls.WithExtendedMasterSecret(dtls.DisableExtendedMasterSecret)}, code: muster.CodeNoExtendedMasterSecret, alert: 40},
		{name: "EMS taken away", edit: withoutEMS, code: muster.CodeNoExtendedMasterSecret, alert: 40},
		{name: "DTLS 1.0", edit: version, code: muster.CodeProtocolVersion, alert: 70},
		{name: "wrong SNI", client: []dtls.ClientOption{dtls.WithServerName("maf.example.com")}, code: muster.CodeServerName, alert: 112},
		{name: "wrong SNI where it is optional", server: func(c *dtls12.Config) { c.SNIOptional = true }, client: []dtls.ClientOption{dtls.WithServerName("maf.example.com")}, code: muster.CodeServerName, alert: 112},
		{name: "no SNI", client: []dtls.ClientOption{dtls.WithServerName("")}, code: muster.CodeServerName, alert: 112},
		{name: "another suite", client: []dtls.ClientOption{dtls.WithCipherSuites(dtls.TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA)}, code: muster.CodeHandshakeFailed, alert: 40},
		{name: "another group", client: []dtls.ClientOption{dtls.WithEllipticCurves(elliptic.P384)}, code: muster.CodeHandshakeFailed, alert: 40},
		{name: "another root", client: []dtls.ClientOption{dtls.WithCertificates(*newPKI(t).Issue(t, "device.example.com", 0))}, code: muster.CodeAnchorMismatch, alert: 48},
		{name: "six certificates", client: []dtls.ClientOption{dtls.WithCertificates(*chain)}, code: muster.CodeChainTooLong, alert: 42},
		{name: "a large certificate", client: []dtls.ClientOption{dtls.WithCertificates(*p.Issue(t, "device.example.com", handshake.MaxCertificate))}, code: muster.CodeCertificateTooLarge, alert: 42},
		{name: "no identity", server: func(c *dtls12.Config) {
			c.Identity = func() (*tls.Certificate, error) { return nil, errors.New("the file is gone") }
		}, code: muster.CodeHandshakeFailed, alert: 80},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			config := p.config(t, serverName)
			if tt.server != nil {
				tt.server(&config)
			}
			verified := false
			verify := config.Verify
			config.Verify = func(chain []*x509.Certificate) (muster.Peer, error) {
				verified = true
				return verify(chain)
			}
			r, alert := attack(t, newServer(t, config), tt.edit, append(p.bare(t), tt.client...)...)
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
	for name, tt := range map[string]struct {
		change func(*dtls12.Config)
		client dtls.ClientOption
	}{
		"no SNI where it is optional": {func(c *dtls12.Config) { c.SNIOptional = true }, dtls.WithServerName("")},
		"SNI in upper case":           {nil, dtls.WithServerName("MEF.example.COM")},
		"0xC0AC":                      {nil, dtls.WithCipherSuites(dtls.TLS_ECDHE_ECDSA_WITH_AES_128_CCM)},
		"0xC02B":                      {nil, dtls.WithCipherSuites(dtls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256)},
		"0xC0AE":                      {nil, dtls.WithCipherSuites(dtls.TLS_ECDHE_ECDSA_WITH_AES_128_CCM_8)},
		"X25519":                      {nil, dtls.WithEllipticCurves(elliptic.X25519)},
		"P-256":                       {nil, dtls.WithEllipticCurves(elliptic.P256)},
		"a small client MTU":          {nil, dtls.WithMTU(100)}, // its ClientHello comes in fragments
	} {
		config := p.config(t, serverName)
		if tt.change != nil {
			tt.change(&config)
		}
		if r, alert := attack(t, newServer(t, config), nil, append(p.bare(t), tt.client)...); r.err != nil {
			t.Errorf("%s: %v, alert %d", name, r.err, alert)
		}
	}
}

func TestVerdicts(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	for _, code := range []muster.Code{muster.CodeAnchorMismatch, muster.CodeExpired, muster.CodeRevoked, muster.CodeKeyUsage, muster.CodeNameUnknown, muster.CodePathInvalid, ""} {
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
		want := handshake.AlertFor(code)
		config := p.config(t, serverName)
		config.Verify = refuse
		r, alert := attack(t, newServer(t, config), nil, p.bare(t)...)
		wantCode(t, r.err, wantErr)
		if alert != want || calls != 1 {
			t.Errorf("%q: the client read alert %d, not %d, after %d calls", code, alert, want, calls)
		}

		near, far := mustertest.NewLossyPair(mustertest.Loss{})
		wire := &tap{PacketConn: far}
		server, err := dtls.ServerWithOptions(wire, near.LocalAddr(), p.bareServer(t)...)
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error)
		go func() { ended <- server.HandshakeContext(t.Context()) }()
		config = p.config(t, "device.example.com")
		config.Verify = refuse
		_, err = newClient(t, config).Handshake(t.Context(), near, far.LocalAddr())
		wantCode(t, err, wantErr)
		<-ended
		if alert := wire.alert(); alert != want {
			t.Errorf("%q: the server read alert %d, not %d", code, alert, want)
		}
	}
}

func (p *pki) bareServer(t testing.TB) []dtls.ServerOption {
	t.Helper()
	return []dtls.ServerOption{
		dtls.WithClientAuth(dtls.RequireAnyClientCert), dtls.WithCertificates(*p.Issue(t, serverName, 0)),
		dtls.WithCipherSuites(dtls.TLS_ECDHE_ECDSA_WITH_AES_128_CCM_8),
	}
}

// TestClientRefuses has our client meet pion servers that are not in order.
func TestClientRefuses(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	for name, tt := range map[string]struct {
		server dtls.ServerOption
		code   muster.Code
		alert  tls.AlertError
	}{
		"no EMS":                   {dtls.WithExtendedMasterSecret(dtls.DisableExtendedMasterSecret), muster.CodeNoExtendedMasterSecret, 40},
		"one-sided authentication": {dtls.WithClientAuth(dtls.NoClientCert), muster.CodeHandshakeFailed, 0},
	} {
		near, far := mustertest.NewLossyPair(mustertest.Loss{})
		wire := &tap{PacketConn: far}
		server, err := dtls.ServerWithOptions(wire, near.LocalAddr(), append(p.bareServer(t), tt.server)...)
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error)
		go func() { ended <- server.HandshakeContext(t.Context()) }()
		_, err = newClient(t, p.config(t, "device.example.com")).Handshake(t.Context(), near, far.LocalAddr())
		wantCode(t, err, tt.code)
		<-ended
		if alert := wire.alert(); alert != tt.alert {
			t.Errorf("%s: the server read alert %d, not %d", name, alert, tt.alert)
		}
		_ = server.Close()
	}
}

// TestResumptionIsNotOffered has a client that resumes where it can.
func TestResumptionIsNotOffered(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	server := newServer(t, p.config(t, serverName))
	store := &sessions{}
	var last []byte
	for range 2 {
		r, _ := attack(t, server, nil, append(p.bare(t), dtls.WithSessionStore(store))...)
		octets := export(t, r)
		if bytes.Equal(octets, last) {
			t.Error("a session was resumed")
		}
		last = octets
	}
	if store.kept {
		t.Error("the server named a session")
	}
}

type sessions struct{ kept bool }

func (s *sessions) Set([]byte, dtls.Session) error       { s.kept = true; return nil }
func (s *sessions) Get(key []byte) (dtls.Session, error) { return dtls.Session{}, nil }
func (s *sessions) Del([]byte) error                     { return nil }

func TestStalledPeer(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	synctest.Test(t, func(t *testing.T) {
		config := p.config(t, serverName)
		config.CookieTimeout = 0
		near, far := mustertest.NewLossyPair(mustertest.Loss{})
		begun := time.Now()
		_, err := newServer(t, config).Handshake(t.Context(), far, near.LocalAddr())
		if wantCode(t, err, muster.CodeHandshakeTimeout); time.Since(begun) != dtls12.DefaultCookieTimeout {
			t.Errorf("the server waited %v for the cookie", time.Since(begun))
		}
		begun = time.Now()
		_, err = newClient(t, config).Handshake(t.Context(), near, far.LocalAddr())
		if wantCode(t, err, muster.CodeHandshakeTimeout); time.Since(begun) != config.Timeout {
			t.Errorf("the client waited %v for the server", time.Since(begun))
		}
	})
}

func TestGarbage(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	config := p.config(t, serverName)
	synctest.Test(t, func(t *testing.T) {
		near, far := mustertest.NewLossyPair(mustertest.Loss{})
		for i := range 200 {
			_, _ = near.WriteTo(bytes.Repeat([]byte{byte(i), 0xfe, 0xfd, 0, byte(i)}, i), nil)
		}
		_, err := newServer(t, config).Handshake(t.Context(), far, near.LocalAddr())
		if muster.CodeOf(err) == "" {
			t.Errorf("the server returned %v", err)
		}
	})
}

func keyConfig(t testing.TB) (server, client dtls12.Config) {
	t.Helper()
	server = dtls12.Config{
		Name: name(t), Timeout: patience, FlightInterval: 200 * time.Millisecond,
		PSK: func(_ context.Context, asked string) ([]byte, error) {
			if asked != identity {
				return nil, muster.Refuse(muster.CodeKeyUnknown, "%q", asked)
			}
			return key, nil
		},
	}
	client = server
	client.PSK, client.PSKIdentity, client.PSKKey = nil, identity, func() []byte { return key }
	return server, client
}

func TestKey(t *testing.T) {
	t.Parallel()
	server, client := keyConfig(t)
	atServer, atClient := meet(t, newServer(t, server), newClient(t, client), mustertest.Loss{})
	if !bytes.Equal(export(t, atServer), export(t, atClient)) {
		t.Error("the exports differ")
	}
	if a, b := atServer.conn.Session.Peer, atClient.conn.Session.Peer; a.PSKIdentity != identity || b.PSKIdentity != identity {
		t.Errorf("the peers are %v and %v", a, b)
	}
	for _, suite := range []dtls.CipherSuiteID{dtls.TLS_PSK_WITH_AES_128_CCM, dtls.TLS_PSK_WITH_AES_128_GCM_SHA256, dtls.TLS_PSK_WITH_AES_128_CCM_8} {
		if r, alert := attack(t, newServer(t, server), nil, append(bareWithKey(identity, key), dtls.WithCipherSuites(suite))...); r.err != nil {
			t.Errorf("%v: %v, alert %d", suite, r.err, alert)
		}
	}
}

// TestWrongKey compares what a client sees of a wrong key and of an unknown
// identity: the same datagrams, as far as they are not random.
func TestWrongKey(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", muster.MaxPSKIdentity+1)
	type seen struct {
		sizes []int
		after time.Duration
		alert tls.AlertError
	}
	look := func(t *testing.T, identity string, key []byte) (s seen, err error) {
		synctest.Test(t, func(t *testing.T) {
			server, _ := keyConfig(t)
			near, far := mustertest.NewLossyPair(mustertest.Loss{})
			ended := make(chan error)
			go func() {
				_, err := newServer(t, server).Handshake(t.Context(), far, near.LocalAddr())
				ended <- err
			}()
			wire := &tap{PacketConn: near}
			conn, newErr := dtls.ClientWithOptions(wire, far.LocalAddr(), bareWithKey(identity, key)...)
			if newErr != nil {
				t.Fatal(newErr)
			}
			begun := time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
			defer cancel()
			go func() { _ = conn.HandshakeContext(ctx) }()
			err = <-ended
			s.after = time.Since(begun)
			synctest.Wait()
			cancel()
			_ = conn.Close()
			s.alert = wire.alert()
			for _, datagram := range wire.read {
				s.sizes = append(s.sizes, len(datagram))
			}
		})
		return s, err
	}
	wrong, err := look(t, identity, bytes.Repeat([]byte{8}, muster.KeySize))
	if muster.CodeOf(err) == "" {
		t.Errorf("the error is %v", err)
	}
	unknown, err := look(t, "unknown", key)
	wantCode(t, err, muster.CodeKeyUnknown)
	if !slices.Equal(wrong.sizes, unknown.sizes) || wrong.after != unknown.after || wrong.alert != unknown.alert {
		t.Errorf("a client sees %v of a wrong key and %v of an unknown identity", wrong, unknown)
	}
	// The place of the handshake is free for others long before its Timeout.
	if wrong.after != dtls12.DefaultCookieTimeout {
		t.Errorf("a wrong key holds its handshake for %v", wrong.after)
	}
	_, err = look(t, long, key)
	wantCode(t, err, muster.CodeKeyUnknown)
}

// TestLateLookUpDoesNotShow has a search for the key that takes its time for one
// identity only.
func TestLateLookUpDoesNotShow(t *testing.T) {
	t.Parallel()
	after := func(took time.Duration) (after time.Duration) {
		synctest.Test(t, func(t *testing.T) {
			config, _ := keyConfig(t)
			config.LookupTime = 2 * time.Second
			config.PSK = func(context.Context, string) ([]byte, error) {
				time.Sleep(took)
				return key, nil
			}
			server := newServer(t, config)
			near, far := mustertest.NewLossyPair(mustertest.Loss{})
			conn, err := dtls.ClientWithOptions(near, far.LocalAddr(), bareWithKey(identity, bytes.Repeat([]byte{8}, muster.KeySize))...)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
			defer cancel()
			go func() { _ = conn.HandshakeContext(ctx) }()
			begun := time.Now()
			_, err = server.Handshake(t.Context(), far, near.LocalAddr())
			wantCode(t, err, muster.CodeHandshakeTimeout)
			after = time.Since(begun)
			cancel()
			_ = conn.Close()
		})
		return after
	}
	if fast, slow := after(0), after(time.Second); fast != slow {
		t.Errorf("a handshake with a wrong key ends after %v, and after %v if the search took a second", fast, slow)
	}
}

func TestLongIdentityIsNotLookedUp(t *testing.T) {
	t.Parallel()
	server, _ := keyConfig(t)
	server.Timeout = time.Second
	server.PSK = func(context.Context, string) ([]byte, error) {
		t.Error("the identity was looked up")
		return key, nil
	}
	r, _ := attack(t, newServer(t, server), nil, bareWithKey(strings.Repeat("x", muster.MaxPSKIdentity+1), key)...)
	wantCode(t, r.err, muster.CodeKeyUnknown)
}

func TestShortKeyIsNoKey(t *testing.T) {
	t.Parallel()
	server, client := keyConfig(t)
	server.Timeout = time.Second
	server.PSK = func(context.Context, string) ([]byte, error) { return nil, nil }
	r, _ := attack(t, newServer(t, server), nil, bareWithKey(identity, nil)...)
	wantCode(t, r.err, muster.CodeKeyUnknown)
	client.PSKKey = func() []byte { return nil }
	server, _ = keyConfig(t)
	server.Timeout = time.Second
	_, atClient := meet(t, newServer(t, server), newClient(t, client), mustertest.Loss{})
	wantCode(t, atClient.err, muster.CodeHandshakeFailed)
}

func TestContextReachesPSK(t *testing.T) {
	t.Parallel()
	type mark struct{}
	server, client := keyConfig(t)
	var during, after error
	var kept context.Context
	server.PSK = func(ctx context.Context, _ string) ([]byte, error) {
		if ctx.Value(mark{}) == nil {
			t.Error("the context is another one")
		}
		kept, during = ctx, ctx.Err()
		return key, nil
	}
	near, far := mustertest.NewLossyPair(mustertest.Loss{})
	ended := make(chan result)
	go func() {
		conn, err := newServer(t, server).Handshake(context.WithValue(t.Context(), mark{}, 1), far, near.LocalAddr())
		ended <- result{conn, err}
	}()
	conn, err := newClient(t, client).Handshake(t.Context(), near, far.LocalAddr())
	r := <-ended
	if err != nil || r.err != nil {
		t.Fatal(err, r.err)
	}
	defer conn.Close()
	defer r.conn.Close()
	if after = kept.Err(); during != nil || after == nil {
		t.Errorf("the context was %v during the handshake and %v after it", during, after)
	}
}

func TestKeyNeedsServerName(t *testing.T) {
	t.Parallel()
	for name, option := range map[string]dtls.ClientOption{"none": dtls.WithServerName(""), "another": dtls.WithServerName("mef.example.org")} {
		server, _ := keyConfig(t)
		r, alert := attack(t, newServer(t, server), nil, append(bareWithKey(identity, key), option)...)
		if wantCode(t, r.err, muster.CodeServerName); alert != handshake.AlertUnrecognizedName {
			t.Errorf("%s: the client read alert %d", name, alert)
		}
	}
}

func TestConfigIsChecked(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	server, client := keyConfig(t)
	for name, spoil := range map[string]func(*dtls12.Config){
		"no name":           func(c *dtls12.Config) { c.Name = muster.FQDN{} },
		"no identity":       func(c *dtls12.Config) { c.Identity = nil },
		"no verification":   func(c *dtls12.Config) { c.Verify = nil },
		"neither":           func(c *dtls12.Config) { c.Verify, c.Identity = nil, nil },
		"both":              func(c *dtls12.Config) { c.PSK, c.PSKKey, c.PSKIdentity = server.PSK, client.PSKKey, identity },
		"a small MTU":       func(c *dtls12.Config) { c.MTU = dtls12.MinMTU - 1 },
		"a large MTU":       func(c *dtls12.Config) { c.MTU = dtls12.DefaultMTU + 1 },
		"negative timeout":  func(c *dtls12.Config) { c.Timeout = -1 },
		"negative interval": func(c *dtls12.Config) { c.FlightInterval = -1 },
	} {
		config := p.config(t, serverName)
		spoil(&config)
		if _, err := dtls12.NewServer(config); err == nil {
			t.Errorf("%s: NewServer accepted", name)
		}
		if _, err := dtls12.NewClient(config); err == nil {
			t.Errorf("%s: NewClient accepted", name)
		}
	}
	if _, err := dtls12.NewServer(client); err == nil {
		t.Error("NewServer accepted a client's key")
	}
	if _, err := dtls12.NewClient(server); err == nil {
		t.Error("NewClient accepted a server's function")
	}
	client.PSKIdentity = strings.Repeat("x", muster.MaxPSKIdentity+1)
	if _, err := dtls12.NewClient(client); err == nil {
		t.Error("NewClient accepted a long identity")
	}
}

// A stranger is a net.PacketConn that first reads what someone else has sent.
type stranger struct {
	net.PacketConn
	datagram []byte
	from     net.Addr
}

func (s *stranger) ReadFrom(b []byte) (int, net.Addr, error) {
	if s.datagram == nil {
		return s.PacketConn.ReadFrom(b)
	}
	n := copy(b, s.datagram)
	s.datagram = nil
	return n, s.from, nil
}

func TestStrangersAreNotHeard(t *testing.T) {
	t.Parallel()
	alert := []byte{21, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 9, 0, 2, 2, 40}
	for _, from := range []*net.UDPAddr{
		{IP: net.IPv4(127, 0, 0, 1), Port: 3},
		{IP: net.IPv4(127, 0, 0, 2), Port: 2},
	} {
		server, client := keyConfig(t)
		near, far := mustertest.NewLossyPair(mustertest.Loss{})
		ended := make(chan result)
		go func() {
			conn, err := newServer(t, server).Handshake(t.Context(), far, near.LocalAddr())
			ended <- result{conn, err}
		}()
		conn, err := newClient(t, client).Handshake(t.Context(), &stranger{near, alert, from}, far.LocalAddr())
		r := <-ended
		if err != nil || r.err != nil {
			t.Fatalf("a datagram from %v: %v, %v", from, err, r.err)
		}
		_, _ = conn.Close(), r.conn.Close()
	}
}

// TestUnknownIdentityHasNoFixedKey guesses the key that stands for no key.
func TestUnknownIdentityHasNoFixedKey(t *testing.T) {
	t.Parallel()
	for _, guess := range [][]byte{{}, make([]byte, muster.KeySize)} {
		server, _ := keyConfig(t)
		server.Timeout = time.Second
		near, far := mustertest.NewLossyPair(mustertest.Loss{})
		ended := make(chan error)
		go func() {
			_, err := newServer(t, server).Handshake(t.Context(), far, near.LocalAddr())
			ended <- err
		}()
		conn, err := dtls.ClientWithOptions(near, far.LocalAddr(), bareWithKey("unknown", guess)...)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		if err := conn.HandshakeContext(ctx); err == nil {
			t.Errorf("a client with a key of %d zeros has finished", len(guess))
		}
		cancel()
		wantCode(t, <-ended, muster.CodeKeyUnknown)
		_ = conn.Close()
	}
}

// TestNobodyThere is a client of a port that nothing listens on, as while its
// server starts: it can come again.
func TestNobodyThere(t *testing.T) {
	gone, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := gone.LocalAddr()
	gone.Close()
	conn, err := net.Dial("udp", address.String())
	if err != nil {
		t.Fatal(err)
	}
	client, err := dtls12.NewClient(dtls12.Config{
		Name: name(t), PSKIdentity: "id@maf.example.com", PSKKey: func() []byte { return make([]byte, muster.KeySize) }, Timeout: patience,
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Handshake(t.Context(), conn.(net.PacketConn), address); muster.CodeOf(err) != muster.CodeUnreachable {
		t.Errorf("the error is %v", err)
	}
}

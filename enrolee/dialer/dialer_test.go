package dialer_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"testing"

	"muster"
	"muster/binding"
	"muster/binding/coap"
	"muster/cert"
	"muster/enrolee"
	"muster/enrolee/dialer"
	"muster/handshake"
	"muster/handshake/dtls12"
	"muster/mustertest"
	"muster/primitive"
)

const mefName, mafName = "mef.example.com", "maf.example.com"

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// answer is the handler of all servers: it says who asked, or that it is busy.
func answer(_ context.Context, s *muster.Session, r *primitive.Request) (*primitive.Response, error) {
	if r.To == "-/busy" {
		return nil, muster.Refuse(muster.CodeBusy, "at work")
	}
	who := s.Peer.PSKIdentity
	if who == "" {
		who = s.Peer.Name.Text
	}
	return &primitive.Response{Status: primitive.OK, Content: primitive.NewContent(primitive.Object{"who": who})}, nil
}

// A field is a MEF on both transports, a MAF, and a device's configuration.
type field struct {
	pki    *mustertest.PKI
	config dialer.Config
	km     muster.Km
}

func newField(t *testing.T) *field {
	t.Helper()
	f := &field{pki: mustertest.NewPKI(t), km: must(muster.NewKm(make([]byte, 32)))}
	device, mef := f.pki.Enrolee(t, mustertest.DeviceName(t, 1)).TLS(), f.pki.Function(t, mefName).TLS()
	identity := func() (*tls.Certificate, error) { return &mef, nil }
	verify := func(chain []*x509.Certificate) (muster.Peer, error) {
		trust := f.pki.Trust(mustertest.DeviceName(t, 1), cert.UsageClient)
		peer, findings := cert.Verify(chain, trust, f.pki.Now)
		return peer, findings.Err()
	}
	name := must(muster.ParseFQDN(mefName))
	f.config = dialer.Config{
		Identity: &device, MEF: name, MEFAnchors: []*x509.Certificate{f.pki.Root.Certificate}, MAF: must(muster.ParseFQDN(mafName)),
		MEFAddress: f.serveTLS(t, handshake.Config{Name: name, Identity: identity, Verify: verify}),
		MAFAddress: f.serveDTLS(t, dtls12.Config{Name: must(muster.ParseFQDN(mafName)), PSK: func(context.Context, string) ([]byte, error) {
			return f.km.Reveal(), nil
		}}),
	}
	return f
}

func (f *field) serveTLS(t *testing.T, config handshake.Config) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := must(handshake.NewServer(config))
	http := binding.NewServer(binding.Config{Handler: primitive.HandlerFunc(answer)})
	go func() { _ = http.Serve() }()
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				if c, err := server.Handshake(context.Background(), conn); err == nil {
					_ = http.Handle(c)
				}
			}()
		}
	}()
	t.Cleanup(func() {
		_ = listener.Close()
		_ = http.Shutdown(context.Background())
	})
	return listener.Addr().String()
}

func (f *field) serveDTLS(t *testing.T, config dtls12.Config) string {
	t.Helper()
	listener := must(dtls12.Listen("127.0.0.1:0", dtls12.Limits{}))
	server := must(dtls12.NewServer(config))
	ctx, cancel := context.WithCancel(context.Background())
	requests := coap.NewServer(coap.Config{Handler: primitive.HandlerFunc(answer)})
	go func() {
		for {
			conn, peer, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				if c, err := server.Handshake(ctx, conn, peer); err == nil {
					_ = requests.ServeConn(ctx, c)
				}
			}()
		}
	}()
	t.Cleanup(func() {
		cancel()
		_ = listener.Close()
	})
	return listener.Addr().String()
}

// ask sends a request and returns whom the server saw.
func ask(t *testing.T, conn enrolee.Conn) string {
	t.Helper()
	response, err := conn.Do(t.Context(), &primitive.Request{Operation: primitive.Retrieve, To: "-", From: "x", RequestID: "1"})
	if err != nil {
		t.Fatal(err)
	}
	who, _ := must(response.Content.Object())["who"].(string)
	return who
}

func TestMEF(t *testing.T) {
	f := newField(t)
	for name, overUDP := range map[string]bool{"tls": false, "dtls": true} {
		t.Run(name, func(t *testing.T) {
			config := f.config
			config.MEFOverUDP = overUDP
			if overUDP {
				mef := f.pki.Function(t, mefName).TLS()
				config.MEFAddress = f.serveDTLS(t, dtls12.Config{Name: config.MEF, Identity: func() (*tls.Certificate, error) { return &mef, nil },
					Verify: func(chain []*x509.Certificate) (muster.Peer, error) {
						peer, findings := cert.Verify(chain, f.pki.Trust(mustertest.DeviceName(t, 1), cert.UsageClient), f.pki.Now)
						return peer, findings.Err()
					}})
			}
			conn, err := must(dialer.New(config)).DialMEF(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if got := conn.Session().Peer.Name.Text; got != mefName {
				t.Errorf("the MEF is %s", got)
			}
			if _, _, err := muster.EnrolmentKey(conn.Session(), config.MEF); err != nil {
				t.Error(err)
			}
			for range 2 {
				if who := ask(t, conn); who != mustertest.DeviceName(t, 1).Text {
					t.Errorf("the MEF saw %s", who)
				}
			}
			busy := must(conn.Do(t.Context(), &primitive.Request{Operation: primitive.Retrieve, To: "-/busy", From: "x", RequestID: "1"}))
			if refusal, ok := errors.AsType[*primitive.Error](busy.Err()); !ok || refusal.Status != primitive.RequestTimeout || refusal.RetryAfter == 0 {
				t.Errorf("the MEF that is busy says %v", busy)
			}
			if err := conn.Close(); err != nil {
				t.Error(err)
			}
			if _, err := conn.Do(t.Context(), &primitive.Request{Operation: primitive.Retrieve, To: "-", From: "x"}); err == nil {
				t.Error("a request after Close was answered, on another session")
			}
		})
	}
}

func TestMAF(t *testing.T) {
	f := newField(t)
	conn, err := must(dialer.New(f.config)).DialMAF(t.Context(), "identity@maf.example.com", f.km)
	if err != nil {
		t.Fatal(err)
	}
	if who := ask(t, conn); who != "identity@maf.example.com" {
		t.Errorf("the MAF saw %s", who)
	}
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
}

func TestRefusesMEFs(t *testing.T) {
	f := newField(t)
	for name, c := range map[string]struct {
		change func(*dialer.Config)
		want   muster.Code
	}{
		"another root": {func(c *dialer.Config) { c.MEFAnchors = []*x509.Certificate{f.pki.OtherRoot.Certificate} }, muster.CodeAnchorMismatch},
		"nobody there": {func(c *dialer.Config) { c.MEFAddress = "127.0.0.1:1" }, muster.CodeUnreachable},
	} {
		t.Run(name, func(t *testing.T) {
			config := f.config
			c.change(&config)
			if _, err := must(dialer.New(config)).DialMEF(t.Context()); muster.CodeOf(err) != c.want {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
}

func TestIncompleteConfigurations(t *testing.T) {
	f := newField(t)
	for name, spoil := range map[string]func(*dialer.Config){
		"identity": func(c *dialer.Config) { c.Identity = nil }, "anchors": func(c *dialer.Config) { c.MEFAnchors = nil },
		"MEF address": func(c *dialer.Config) { c.MEFAddress = "" }, "MAF address": func(c *dialer.Config) { c.MAFAddress = "" },
		"MEF name": func(c *dialer.Config) { c.MEF = muster.FQDN{} },
	} {
		config := f.config
		spoil(&config)
		if _, err := dialer.New(config); err == nil {
			t.Errorf("made without %s", name)
		}
	}
}

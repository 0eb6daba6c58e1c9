package dialer_test

import (
	"context"
	"errors"
	"net"
	"testing"

	"muster"
	"muster/binding"
	"muster/enrolee/dialer"
	"muster/handshake/dtls12"
	"muster/handshake/tlspsk"
	"muster/primitive"
)

const kpmName = "device-1@factory.example.com"

// withKeys gives the field's device a pre-provisioned key in place of its
// certificate, and both functions a port for keys over TCP, and the MEF one over UDP.
func (f *field) withKeys(t *testing.T, overUDP bool) {
	t.Helper()
	kpm := must(muster.NewKpm(make([]byte, 32)))
	key := func(_ context.Context, identity string) ([]byte, error) {
		if identity == kpmName {
			return kpm.Reveal(), nil
		}
		return nil, errors.New("no such key")
	}
	f.config.Identity, f.config.MEFAnchors = nil, nil
	f.config.KpmID, f.config.Kpm, f.config.MEFOverUDP = must(muster.ParseKpmID(kpmName)), kpm, overUDP
	f.config.MEFAddress = serveKeys(t, tlspsk.Config{Name: f.config.MEF, PSK: key})
	if overUDP {
		f.config.MEFAddress = f.serveDTLS(t, dtls12.Config{Name: f.config.MEF, PSK: key})
	}
	f.config.MAFOverTCP = true
	f.config.MAFAddress = serveKeys(t, tlspsk.Config{Name: f.config.MAF, PSK: func(context.Context, string) ([]byte, error) {
		return f.km.Reveal(), nil
	}})
}

func serveKeys(t *testing.T, config tlspsk.Config) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := must(tlspsk.NewServer(config))
	http := binding.NewServer(binding.Config{Handler: primitive.HandlerFunc(answer)})
	go func() { _ = http.Serve() }()
	go func() {
		for {
			socket, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				if conn, err := server.Handshake(context.Background(), socket); err == nil {
					_ = http.Handle(conn)
				}
			}()
		}
	}()
	t.Cleanup(func() { _, _ = listener.Close(), http.Shutdown(context.Background()) })
	return listener.Addr().String()
}

func TestPreProvisionedKey(t *testing.T) {
	t.Parallel()
	for _, overUDP := range []bool{false, true} {
		f := newField(t)
		f.withKeys(t, overUDP)
		conn := must(must(dialer.New(f.config)).DialMEF(t.Context()))
		if who := ask(t, conn); who != kpmName {
			t.Errorf("the MEF saw %s", who)
		}
		if _, _, err := muster.EnrolmentKey(conn.Session(), f.config.MEF); err != nil {
			t.Error(err)
		}
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestMAFOverTCP(t *testing.T) {
	t.Parallel()
	f := newField(t)
	f.withKeys(t, false)
	for _, suites := range [][]tlspsk.Suite{nil, {tlspsk.TLS_PSK_WITH_AES_128_CBC_SHA256}} {
		f.config.PSKSuites, f.config.RefuseMACThenEncrypt = suites, true
		conn := must(must(dialer.New(f.config)).DialMAF(t.Context(), "identity@maf.example.com", f.km))
		if who := ask(t, conn); who != "identity@maf.example.com" {
			t.Errorf("the MAF saw %s", who)
		}
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := must(dialer.New(f.config)).DialMAF(t.Context(), "identity@maf.example.com", must(muster.NewKm([]byte("another key of thirty-two octets")))); muster.CodeOf(err) != muster.CodePeerAlert {
		t.Errorf("a wrong key: %v", err)
	}
	f.config.MAFAddress = "127.0.0.1:1"
	if _, err := must(dialer.New(f.config)).DialMAF(t.Context(), "identity@maf.example.com", f.km); muster.CodeOf(err) != muster.CodeUnreachable {
		t.Errorf("nobody there: %v", err)
	}
	f.config.PSKSuites = []tlspsk.Suite{1}
	if _, err := must(dialer.New(f.config)).DialMAF(t.Context(), "identity@maf.example.com", f.km); err == nil {
		t.Error("an unknown suite")
	}
}

func TestOneCredential(t *testing.T) {
	t.Parallel()
	certified, keyed := newField(t).config, newField(t)
	keyed.withKeys(t, false)
	for name, spoil := range map[string]func(*dialer.Config){
		"both":          func(c *dialer.Config) { c.Identity = certified.Identity },
		"no identifier": func(c *dialer.Config) { c.KpmID = muster.KpmID{} },
		"no key":        func(c *dialer.Config) { c.Kpm = muster.Kpm{} },
	} {
		config := keyed.config
		spoil(&config)
		if _, err := dialer.New(config); err == nil {
			t.Errorf("made with %s", name)
		}
	}
}

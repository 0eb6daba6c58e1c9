package dtls12_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"muster"
	"muster/handshake"
	"muster/handshake/dtls12"
	"muster/mustertest"
)

// sameExport compares what a program printed with what our Session exports.
func sameExport(t *testing.T, printed string, r result) {
	t.Helper()
	octets, err := hex.DecodeString(strings.ToLower(printed))
	if err != nil || !bytes.Equal(octets, export(t, r)) {
		t.Errorf("the program exported %s (%v)", printed, err)
	}
}

// acceptAll serves and returns the address and how each handshake ended. It
// answers one datagram of application data with itself.
func acceptAll(t *testing.T, server *dtls12.Server) (address string, ended <-chan result) {
	t.Helper()
	listener := listen(t, dtls12.Limits{})
	results := serve(t, listener, server)
	echoed := make(chan result, 1)
	go func() {
		r := <-results
		echoed <- r
		if r.err != nil {
			return
		}
		octets := make([]byte, 100)
		if n, err := r.conn.Read(octets); err == nil {
			_, _ = r.conn.Write(octets[:n])
		}
	}()
	return listener.Addr().String(), echoed
}

// opensslClient returns s_client's arguments for a client of p.
func (p *pki) opensslClient(t *testing.T, address string, more ...string) []string {
	t.Helper()
	leaf, key, root := p.Files(t, p.Issue(t, "device.example.com", 0))
	return append([]string{
		"s_client", "-connect", address, "-dtls1_2", "-servername", serverName, "-cert", leaf, "-key", key, "-CAfile", root,
		"-verify_return_error", "-keymatexport", label, "-keymatexportlen", "48",
	}, more...)
}

const opensslExport = `(?s)Keying material: ([0-9A-F]{96})`

func TestOpenSSLClient(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	for name, args := range map[string][]string{
		"0xC0AC":   {"-cipher", "ECDHE-ECDSA-AES128-CCM"},
		"0xC02B":   {"-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"},
		"0xC0AE":   {"-cipher", "ECDHE-ECDSA-AES128-CCM8"},
		"MTU 300":  {"-cipher", "ECDHE-ECDSA-AES128-CCM8", "-mtu", "300"},
		"X25519":   {"-groups", "X25519:P-256"},
		"defaults": {},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			config := p.config(t, serverName)
			if name == "MTU 300" {
				config.MTU = dtls12.MinMTU
			}
			address, ended := acceptAll(t, newServer(t, config))
			peer := mustertest.StartPeer(t, "openssl", p.opensslClient(t, address, args...)...)
			sameExport(t, peer.Find(t, opensslExport), <-ended)
		})
	}
}

func TestOpenSSLClientRefused(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	for name, tt := range map[string]struct {
		args  []string
		code  muster.Code
		alert string
	}{
		"wrong SNI":     {[]string{"-servername", "maf.example.com"}, muster.CodeServerName, "unrecognized name"},
		"another suite": {[]string{"-cipher", "ECDHE-ECDSA-AES256-GCM-SHA384"}, muster.CodeHandshakeFailed, "handshake failure"},
		"another group": {[]string{"-groups", "P-521"}, muster.CodeHandshakeFailed, "handshake failure"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			address, ended := acceptAll(t, newServer(t, p.config(t, serverName)))
			peer := mustertest.StartPeer(t, "openssl", p.opensslClient(t, address, tt.args...)...)
			peer.Find(t, tt.alert)
			wantCode(t, (<-ended).err, tt.code)
		})
	}
	t.Run("no certificate", func(t *testing.T) {
		t.Parallel()
		address, ended := acceptAll(t, newServer(t, p.config(t, serverName)))
		peer := mustertest.StartPeer(t, "openssl", "s_client", "-connect", address, "-dtls1_2", "-servername", serverName)
		peer.Find(t, "handshake failure")
		wantCode(t, (<-ended).err, muster.CodeNoCertificate)
	})
}

func TestOpenSSLClientWithKey(t *testing.T) {
	t.Parallel()
	for _, suite := range []string{"PSK-AES128-CCM", "PSK-AES128-GCM-SHA256", "PSK-AES128-CCM8"} {
		t.Run(suite, func(t *testing.T) {
			t.Parallel()
			server, _ := keyConfig(t)
			address, ended := acceptAll(t, newServer(t, server))
			peer := mustertest.StartPeer(t, "openssl", "s_client", "-connect", address, "-dtls1_2", "-servername", serverName, "-cipher", suite,
				"-psk", hex.EncodeToString(key), "-psk_identity", identity, "-keymatexport", label, "-keymatexportlen", "48")
			r := <-ended
			sameExport(t, peer.Find(t, opensslExport), r)
			if r.conn.Session.Peer.PSKIdentity != identity {
				t.Errorf("the peer is %v", r.conn.Session.Peer)
			}
		})
	}
}

// opensslServer starts s_server and returns its address.
func opensslServer(t *testing.T, more ...string) (*mustertest.Peer, net.Addr) {
	t.Helper()
	peer := mustertest.StartPeer(t, "openssl", append([]string{
		"s_server", "-accept", "127.0.0.1:0", "-dtls1_2", "-keymatexport", label, "-keymatexportlen", "48", "-naccept", "1",
	}, more...)...)
	return peer, udpAddr(t, peer.Find(t, `ACCEPT (127\.0\.0\.1:\d+)`))
}

func udpAddr(t *testing.T, address string) net.Addr {
	t.Helper()
	addr, err := net.ResolveUDPAddr("udp", address)
	if err != nil {
		t.Fatal(err)
	}
	return addr
}

func TestOpenSSLServer(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	leaf, file, root := p.Files(t, p.Issue(t, serverName, 0))
	for _, suite := range []string{"ECDHE-ECDSA-AES128-CCM", "ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES128-CCM8"} {
		for _, cookie := range [][]string{nil, {"-listen"}} {
			t.Run(suite+strings.Join(cookie, ""), func(t *testing.T) {
				t.Parallel()
				peer, address := opensslServer(t, append([]string{"-cert", leaf, "-key", file, "-CAfile", root, "-Verify", "2", "-verify_return_error", "-cipher", suite}, cookie...)...)
				r := dial(t, newClient(t, p.config(t, "device.example.com")), address)
				sameExport(t, peer.Find(t, opensslExport), r)
				_ = r.conn.Close()
			})
		}
	}
}

func TestOpenSSLServerRefused(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	leaf, file, root := p.Files(t, p.Issue(t, serverName, 0))
	_, address := opensslServer(t, "-cert", leaf, "-key", file, "-CAfile", root)
	r := dial(t, newClient(t, p.config(t, "device.example.com")), address)
	wantCode(t, r.err, muster.CodeHandshakeFailed)
}

func TestOpenSSLServerWithKey(t *testing.T) {
	t.Parallel()
	for _, suite := range []string{"PSK-AES128-CCM", "PSK-AES128-GCM-SHA256", "PSK-AES128-CCM8"} {
		t.Run(suite, func(t *testing.T) {
			t.Parallel()
			_, client := keyConfig(t)
			peer, address := opensslServer(t, "-nocert", "-psk", hex.EncodeToString(key), "-psk_identity", identity, "-cipher", suite)
			r := dial(t, newClient(t, client), address)
			sameExport(t, peer.Find(t, opensslExport), r)
			_ = r.conn.Close()
		})
	}
}

const gnutlsPriority = "NONE:+VERS-DTLS1.2:+SHA256:+AEAD:+SIGN-ALL:+GROUP-SECP256R1:+COMP-NULL:+CTYPE-X509"

const gnutlsExport = `- Key material: ([0-9a-f]{96})`

func gnutlsClient(t *testing.T, address, priority string, more ...string) *mustertest.Peer {
	t.Helper()
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	return mustertest.StartPeer(t, "gnutls-cli", append(more, "--udp", "--port", port, "--sni-hostname", serverName, "--verify-hostname", serverName,
		"--priority", gnutlsPriority+priority, "--keymatexport", label, "--keymatexportsize", "48", host)...)
}

func (p *pki) gnutlsFiles(t *testing.T, name string) []string {
	t.Helper()
	leaf, key, root := p.Files(t, p.Issue(t, name, 0))
	return []string{"--x509certfile", leaf, "--x509keyfile", key, "--x509cafile", root}
}

func TestGnuTLSClient(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	for _, cipher := range []string{"AES-128-CCM", "AES-128-GCM", "AES-128-CCM-8"} {
		t.Run(cipher, func(t *testing.T) {
			t.Parallel()
			address, ended := acceptAll(t, newServer(t, p.config(t, serverName)))
			peer := gnutlsClient(t, address, ":+ECDHE-ECDSA:+"+cipher, p.gnutlsFiles(t, "device.example.com")...)
			sameExport(t, peer.Find(t, gnutlsExport), <-ended)
		})
		t.Run(cipher+" with a key", func(t *testing.T) {
			t.Parallel()
			server, _ := keyConfig(t)
			address, ended := acceptAll(t, newServer(t, server))
			peer := gnutlsClient(t, address, ":+PSK:+"+cipher, "--pskusername", identity, "--pskkey", hex.EncodeToString(key))
			sameExport(t, peer.Find(t, gnutlsExport), <-ended)
		})
	}
}

// gnutlsTrace shows the alerts: over UDP, gnutls-cli goes on waiting after one.
var gnutlsTrace = []string{"-d", "6"}

func TestGnuTLSClientWithoutEMS(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	address, ended := acceptAll(t, newServer(t, p.config(t, serverName)))
	peer := gnutlsClient(t, address, ":+ECDHE-ECDSA:+AES-128-CCM-8:%NO_SESSION_HASH", append(p.gnutlsFiles(t, "device.example.com"), gnutlsTrace...)...)
	peer.Find(t, `Alert\[2\|40\]`)
	wantCode(t, (<-ended).err, muster.CodeNoExtendedMasterSecret)
}

func TestGnuTLSClientDTLS10(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	address, ended := acceptAll(t, newServer(t, p.config(t, serverName)))
	peer := gnutlsClient(t, address, ":-VERS-ALL:+VERS-DTLS1.0:+ECDHE-ECDSA:+AES-128-CBC:+SHA1", append(p.gnutlsFiles(t, "device.example.com"), gnutlsTrace...)...)
	peer.Find(t, `Alert\[2\|70\]`)
	wantCode(t, (<-ended).err, muster.CodeProtocolVersion)
}

// gnutlsServer starts gnutls-serv, which cannot choose a port.
func gnutlsServer(t *testing.T, priority string, more ...string) net.Addr {
	t.Helper()
	for range 5 {
		conn, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		_, port, _ := net.SplitHostPort(conn.LocalAddr().String())
		_ = conn.Close()
		peer := mustertest.StartPeer(t, "gnutls-serv", append(more, "--udp", "--port", port, "--echo", "--noticket", "--priority", gnutlsPriority+priority)...)
		late := time.After(10 * time.Second) // it is content with IPv6 where another has the port for IPv4
		for {
			if strings.Contains(peer.String(), "IPv4 0.0.0.0 port "+port+"...done") {
				return udpAddr(t, net.JoinHostPort("127.0.0.1", port))
			}
			select {
			case <-peer.Ended:
			case <-late:
			case <-time.After(5 * time.Millisecond):
				continue
			}
			break
		}
	}
	t.Fatal("gnutls-serv found no port")
	return nil
}

func TestGnuTLSServer(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	passwd := filepath.Join(t.TempDir(), "psk")
	if err := os.WriteFile(passwd, []byte(identity+":"+hex.EncodeToString(key)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, priority := range map[string]string{"CCM-8": ":+ECDHE-ECDSA:+AES-128-CCM-8", "GCM": ":+ECDHE-ECDSA:+AES-128-GCM", "key": ":+PSK:+AES-128-CCM-8"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			config := p.config(t, "device.example.com")
			args := append(p.gnutlsFiles(t, serverName), "--require-client-cert", "--verify-client-cert")
			if name == "key" {
				_, config = keyConfig(t)
				args = []string{"--pskpasswd", passwd}
			}
			r := dial(t, newClient(t, config), gnutlsServer(t, priority, args...))
			export(t, r)
			defer r.conn.Close()
			if _, err := io.WriteString(r.conn, "hello\n"); err != nil {
				t.Fatal(err)
			}
			octets := make([]byte, 100)
			if n, err := r.conn.Read(octets); err != nil || string(octets[:n]) != "hello\n" {
				t.Errorf("the echo is %q, %v", octets[:n], err)
			}
		})
	}
}

func TestGnuTLSServerWithoutEMS(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	address := gnutlsServer(t, ":+ECDHE-ECDSA:+AES-128-CCM-8:%NO_SESSION_HASH", append(p.gnutlsFiles(t, serverName), "--require-client-cert")...)
	r := dial(t, newClient(t, p.config(t, "device.example.com")), address)
	wantCode(t, r.err, muster.CodeNoExtendedMasterSecret)
}

func TestMbedTLSClient(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	client := mustertest.CompilePeer(t, "../testdata/mbedtls_client.c", "mbedtls", "mbedx509", "mbedcrypto")
	leaf, file, root := p.Files(t, p.Issue(t, "device.example.com", 0))
	withCertificates := []string{"cert", leaf, file, root}
	withKey := []string{"psk", identity, hex.EncodeToString(key)}
	for name, tt := range map[string]struct {
		mtu  string
		args []string
	}{
		"certificates":          {"0", withCertificates},
		"certificates, MTU 256": {"256", withCertificates},
		"key":                   {"0", withKey},
		"key, MTU 256":          {"256", withKey},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			config := p.config(t, serverName)
			if tt.args[0] == "psk" {
				config, _ = keyConfig(t)
			}
			if tt.mtu != "0" {
				config.MTU = dtls12.MinMTU
			}
			address, ended := acceptAll(t, newServer(t, config))
			_, port, _ := net.SplitHostPort(address)
			peer := mustertest.StartPeer(t, client, append([]string{port, serverName, tt.mtu}, tt.args...)...)
			sameExport(t, peer.Find(t, `EXPORT ([0-9a-f]{96})`), <-ended)
			peer.Find(t, "ECHO hello")
		})
	}
}

// TestOpenSSLRenegotiation has a client ask for a new handshake inside its session.
// The server takes no notice: its identity, its verification and its turns are asked
// for once a session, and another session goes on.
func TestOpenSSLRenegotiation(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	config := p.config(t, serverName)
	var taken, verified atomic.Int32
	config.Turn = func(context.Context, handshake.Stage) (func(), error) { taken.Add(1); return func() {}, nil }
	verify := config.Verify
	config.Verify = func(chain []*x509.Certificate) (muster.Peer, error) { verified.Add(1); return verify(chain) }
	listener := listen(t, dtls12.Limits{})
	results := serve(t, listener, newServer(t, config))

	other := dial(t, newClient(t, p.config(t, "device.example.com")), listener.Addr())
	if other.err != nil {
		t.Fatal(other.err)
	}
	beside := <-results
	peer := mustertest.StartPeer(t, "openssl", p.opensslClient(t, listener.Addr().String(), "-msg")...)
	peer.Find(t, opensslExport)
	r := <-results
	if r.err != nil {
		t.Fatal(r.err)
	}
	turns, chains := taken.Load(), verified.Load()
	if _, err := io.WriteString(peer.Stdin, "R\n"); err != nil {
		t.Fatal(err)
	}
	const hello = `\n +01 00 00`
	peer.Find(t, `(?s)RENEGOTIATING.*`+hello+`.*`+hello) // and once more, as there is no answer

	// What follows comes by the same socket, and so after the hellos.
	octets := make([]byte, 10)
	for _, from := range []result{other, beside} {
		to := map[bool]result{true: other, false: beside}[from == beside]
		if _, err := from.conn.Write([]byte("go on")); err != nil {
			t.Fatal(err)
		}
		_ = to.conn.SetReadDeadline(time.Now().Add(patience))
		if n, err := to.conn.Read(octets); err != nil || string(octets[:n]) != "go on" {
			t.Errorf("beside a renegotiation, a session has %q, %v", octets[:n], err)
		}
	}
	_ = r.conn.SetReadDeadline(time.Now())
	n, err := r.conn.Read(octets)
	if timeout, ok := errors.AsType[net.Error](err); !ok || !timeout.Timeout() {
		t.Errorf("the session has %d octets, %v", n, err)
	}
	if taken.Load() != turns || verified.Load() != chains {
		t.Errorf("a renegotiation took %d turns and %d verifications", taken.Load()-turns, verified.Load()-chains)
	}
	if strings.Count(peer.String(), "Keying material: ") != 1 {
		t.Error("the session was renegotiated")
	}
}

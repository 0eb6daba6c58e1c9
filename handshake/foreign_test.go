package handshake_test

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"muster"
	"muster/handshake"
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

func acceptOne(t *testing.T, server *handshake.Server) (address string, ended <-chan result) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	results := make(chan result, 1)
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			results <- result{nil, err}
			return
		}
		t.Cleanup(func() { conn.Close() })
		done, err := server.Handshake(t.Context(), conn)
		results <- result{done, err}
	}()
	return listener.Addr().String(), results
}

// opensslClient returns s_client's arguments for a client of p.
func (p *pki) opensslClient(t *testing.T, address string, more ...string) []string {
	t.Helper()
	leaf, key, root := p.Files(t, p.Issue(t, "device.example.com", 0))
	return append([]string{
		"s_client", "-connect", address, "-tls1_2", "-servername", serverName, "-cert", leaf, "-key", key, "-CAfile", root,
		"-verify_return_error", "-keymatexport", label, "-keymatexportlen", "48",
	}, more...)
}

const opensslExport = `(?s)Keying material: ([0-9A-F]{96})`

func TestOpenSSLClient(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	for _, suite := range []string{"ECDHE-ECDSA-AES128-SHA256", "ECDHE-ECDSA-AES128-GCM-SHA256"} {
		t.Run(suite, func(t *testing.T) {
			t.Parallel()
			address, ended := acceptOne(t, newServer(t, p.config(t, serverName)))
			peer := mustertest.StartPeer(t, "openssl", p.opensslClient(t, address, "-cipher", suite)...)
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
		"TLS 1.1":        {[]string{"-tls1_1", "-cipher", "ALL:@SECLEVEL=0"}, muster.CodeProtocolVersion, "alert protocol version"},
		"wrong SNI":      {[]string{"-servername", "maf.example.com"}, muster.CodeServerName, "unrecognized name"},
		"no SNI":         {[]string{"-noservername"}, muster.CodeServerName, "unrecognized name"},
		"another suite":  {[]string{"-cipher", "ECDHE-ECDSA-AES256-GCM-SHA384"}, muster.CodeHandshakeFailed, "handshake failure"},
		"another group":  {[]string{"-groups", "P-521"}, muster.CodeHandshakeFailed, "handshake failure"},
		"no certificate": {nil, muster.CodeNoCertificate, "handshake failure"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			address, ended := acceptOne(t, newServer(t, p.config(t, serverName)))
			args := p.opensslClient(t, address)
			switch name {
			case "TLS 1.1", "no SNI":
				args = drop(args, map[string]string{"TLS 1.1": "-tls1_2", "no SNI": "-servername"}[name])
			case "no certificate":
				args = drop(drop(args, "-cert"), "-key")
			}
			peer := mustertest.StartPeer(t, "openssl", append(args, tt.args...)...)
			peer.Find(t, tt.alert)
			wantCode(t, (<-ended).err, tt.code)
		})
	}
}

// drop takes an option and its value, if it has one, from args.
func drop(args []string, option string) []string {
	for i, arg := range args {
		if arg == option {
			n := 2
			if strings.HasPrefix(args[i+1], "-") {
				n = 1
			}
			return append(args[:i:i], args[i+n:]...)
		}
	}
	return args
}

// TestOpenSSLResumption looks for anything that a client could resume with:
// s_client writes a session only if the server named one or gave a ticket.
func TestOpenSSLResumption(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	session := filepath.Join(t.TempDir(), "session")
	address, ended := acceptOne(t, newServer(t, p.config(t, serverName)))
	peer := mustertest.StartPeer(t, "openssl", p.opensslClient(t, address, "-sess_out", session)...)
	peer.Find(t, opensslExport)
	r := <-ended
	if r.err != nil {
		t.Fatal(r.err)
	}
	_ = r.conn.Close()
	<-peer.Ended
	if !strings.Contains(peer.String(), "Session-ID: \n") || strings.Contains(peer.String(), "TLS session ticket") {
		t.Error("the server named a session")
	}
	if _, err := os.Stat(session); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("there is a session to resume: %v", err)
	}
}

func TestOpenSSLRenegotiation(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	address, ended := acceptOne(t, newServer(t, p.config(t, serverName)))
	peer := mustertest.StartPeer(t, "openssl", p.opensslClient(t, address)...)
	peer.Find(t, opensslExport)
	r := <-ended
	if r.err != nil {
		t.Fatal(r.err)
	}
	if _, err := io.WriteString(peer.Stdin, "R\n"); err != nil {
		t.Fatal(err)
	}
	if n, err := r.conn.Read(make([]byte, 10)); err == nil {
		t.Errorf("the server read %d octets after a renegotiation", n)
	}
	peer.Find(t, "RENEGOTIATING")
	<-peer.Ended // it fails
	if strings.Count(peer.String(), "Keying material: ") != 1 {
		t.Error("the session was renegotiated")
	}
}

// opensslServer starts s_server with an identity of p and returns its address.
func (p *pki) opensslServer(t *testing.T, more ...string) (*mustertest.Peer, string) {
	t.Helper()
	leaf, key, root := p.Files(t, p.Issue(t, serverName, 0))
	peer := mustertest.StartPeer(t, "openssl", append([]string{
		"s_server", "-accept", "127.0.0.1:0", "-cert", leaf, "-key", key, "-CAfile", root,
		"-keymatexport", label, "-keymatexportlen", "48", "-naccept", "1",
	}, more...)...)
	return peer, peer.Find(t, `ACCEPT (127\.0\.0\.1:\d+)`)
}

func dialTCP(t *testing.T, address string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func TestOpenSSLServer(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	for _, suite := range []string{"ECDHE-ECDSA-AES128-SHA256", "ECDHE-ECDSA-AES128-GCM-SHA256"} {
		t.Run(suite, func(t *testing.T) {
			t.Parallel()
			peer, address := p.opensslServer(t, "-Verify", "2", "-verify_return_error", "-cipher", suite)
			conn, err := newClient(t, p.config(t, "device.example.com")).Handshake(t.Context(), dialTCP(t, address))
			sameExport(t, peer.Find(t, opensslExport), result{conn, err})
		})
	}
}

func TestOpenSSLServerRefused(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	for name, tt := range map[string]struct {
		args []string
		code muster.Code
	}{
		"no request for a certificate": {nil, muster.CodeHandshakeFailed},
		"TLS 1.3 alone":                {[]string{"-Verify", "2", "-tls1_3"}, muster.CodePeerAlert},
		"TLS 1.1 alone":                {[]string{"-Verify", "2", "-tls1_1", "-cipher", "ALL:@SECLEVEL=0"}, muster.CodePeerAlert},
		"P-521 alone":                  {[]string{"-Verify", "2", "-groups", "P-521"}, muster.CodePeerAlert},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, address := p.opensslServer(t, tt.args...)
			_, err := newClient(t, p.config(t, "device.example.com")).Handshake(t.Context(), dialTCP(t, address))
			wantCode(t, err, tt.code)
		})
	}
}

// gnutlsPriority is a suite of the profile in GnuTLS's words.
const gnutlsPriority = "NONE:+VERS-TLS1.2:+ECDHE-ECDSA:+SHA256:+AEAD:+SIGN-ALL:+GROUP-SECP256R1:+COMP-NULL:+CTYPE-X509"

func (p *pki) gnutlsClient(t *testing.T, address, priority string) *mustertest.Peer {
	t.Helper()
	leaf, key, root := p.Files(t, p.Issue(t, "device.example.com", 0))
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	return mustertest.StartPeer(t, "gnutls-cli", "--port", port, "--x509certfile", leaf, "--x509keyfile", key, "--x509cafile", root,
		"--sni-hostname", serverName, "--verify-hostname", serverName, "--priority", priority,
		"--keymatexport", label, "--keymatexportsize", "48", host)
}

const gnutlsExport = `- Key material: ([0-9a-f]{96})`

func TestGnuTLSClient(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	for _, cipher := range []string{"AES-128-CBC", "AES-128-GCM"} {
		t.Run(cipher, func(t *testing.T) {
			t.Parallel()
			address, ended := acceptOne(t, newServer(t, p.config(t, serverName)))
			peer := p.gnutlsClient(t, address, gnutlsPriority+":+"+cipher)
			sameExport(t, peer.Find(t, gnutlsExport), <-ended)
		})
	}
}

func TestGnuTLSClientWithoutEMS(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	address, ended := acceptOne(t, newServer(t, p.config(t, serverName)))
	peer := p.gnutlsClient(t, address, gnutlsPriority+":+AES-128-GCM:%NO_SESSION_HASH")
	peer.Find(t, "Handshake failed")
	wantCode(t, (<-ended).err, muster.CodeNoExtendedMasterSecret)
}

func (p *pki) gnutlsServer(t *testing.T, priority string) string {
	t.Helper()
	leaf, key, root := p.Files(t, p.Issue(t, serverName, 0))
	for range 5 { // gnutls-serv cannot choose a port
		port := freePort(t)
		peer := mustertest.StartPeer(t, "gnutls-serv", "--port", port, "--x509certfile", leaf, "--x509keyfile", key, "--x509cafile", root,
			"--require-client-cert", "--verify-client-cert", "--echo", "--noticket", "--priority", priority)
		if ready(peer) {
			return net.JoinHostPort("127.0.0.1", port)
		}
	}
	t.Fatal("gnutls-serv found no port")
	return ""
}

func freePort(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	return port
}

// ready waits until gnutls-serv listens, and reports false if it has ended, or does
// not listen after some seconds: with the port taken for IPv4, it is content with IPv6.
func ready(peer *mustertest.Peer) bool {
	late := time.After(10 * time.Second)
	for {
		select {
		case <-peer.Ended:
			return false
		case <-late:
			return false
		case <-time.After(5 * time.Millisecond):
			if scanner := bufio.NewScanner(strings.NewReader(peer.String())); scan(scanner, "IPv4 0.0.0.0 port") {
				return true
			}
		}
	}
}

func scan(scanner *bufio.Scanner, part string) bool {
	for scanner.Scan() {
		if line := scanner.Text(); strings.Contains(line, part) && strings.Contains(line, "done") {
			return true
		}
	}
	return false
}

func TestGnuTLSServer(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	for _, cipher := range []string{"AES-128-CBC", "AES-128-GCM"} {
		t.Run(cipher, func(t *testing.T) {
			t.Parallel()
			address := p.gnutlsServer(t, gnutlsPriority+":+"+cipher)
			conn, err := newClient(t, p.config(t, "device.example.com")).Handshake(t.Context(), dialTCP(t, address))
			export(t, result{conn, err})
			if _, err := io.WriteString(conn, "hello\n"); err != nil {
				t.Fatal(err)
			}
			if line, err := bufio.NewReader(conn).ReadString('\n'); err != nil || line != "hello\n" {
				t.Errorf("the echo is %q, %v", line, err)
			}
		})
	}
}

// TestGnuTLSServerWithoutEMS ends in success for crypto/tls, but without a Session.
func TestGnuTLSServerWithoutEMS(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	address := p.gnutlsServer(t, gnutlsPriority+":+AES-128-GCM:%NO_SESSION_HASH")
	conn, err := newClient(t, p.config(t, "device.example.com")).Handshake(t.Context(), dialTCP(t, address))
	if wantCode(t, err, muster.CodeNoExtendedMasterSecret); conn != nil {
		t.Error("there is a connection")
	}
}

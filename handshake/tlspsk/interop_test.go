package tlspsk

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"muster/handshake"
)

// TestInterop records its handshakes in testdata/recorded when this flag is set;
// TestReplay then replays them where the foreign libraries are not at hand.
var recordFlag = flag.Bool("record", false, "record the handshakes with foreign peers")

func TestInterop(t *testing.T) {
	if testing.Short() {
		t.Skip("foreign peers take seconds")
	}
	t.Parallel()
	for name, build := range map[string]func(testing.TB) stack{
		"openssl": openSSL,
		"gnutls":  func(t testing.TB) stack { return program(t, "gnutls", "gnutls") },
		"mbedtls": func(t testing.TB) stack { return program(t, "mbedtls", "mbedtls", "mbedcrypto") },
		"wolfssl": func(t testing.TB) stack { return program(t, "wolfssl", "wolfssl", "m") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := build(t)
			if name == "wolfssl" && os.Getenv("MUSTER_WOLFSSL") == "" {
				lacksStaticPSK(t, s)
			}
			for _, role := range []string{"client", "server"} {
				for _, m := range modes() {
					t.Run(role+"-"+m.String(), func(t *testing.T) { interop(t, s, role, m) })
				}
			}
		})
	}
}

// lacksStaticPSK skips the test if wolfSSL is one, like Debian's 5.5, that was
// built without WOLFSSL_STATIC_PSK and so has neither suite. Recorded handshakes
// with a wolfSSL that has them are replayed all the same.
func lacksStaticPSK(t *testing.T, s stack) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	p := start(t, s.command("client", l.Addr().(*net.TCPAddr).Port, modes()[0], 1))
	if conn, err := l.Accept(); err == nil {
		conn.Close()
	}
	if p.find(`failed (.*) -?\d+`)[1] == "cipher list" {
		t.Skip("this wolfSSL has no plain PSK suites: run testdata/build-wolfssl.sh DIR and set MUSTER_WOLFSSL=DIR")
	}
}

// interop makes one handshake with a foreign peer in a role, compares exports and
// exchanges data both ways up to close_notify.
func interop(t *testing.T, s stack, role string, m mode) {
	payload := 40000
	if *recordFlag {
		payload = 600
	}
	seed := t.Name()
	c := config(t)
	c.Timeout = patience
	c.Rand = &counter{seed: seed}

	var p *process
	var transport net.Conn
	if role == "client" {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		p = start(t, s.command(role, l.Addr().(*net.TCPAddr).Port, m, payload))
		if err := l.(*net.TCPListener).SetDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		if transport, err = l.Accept(); err != nil {
			t.Fatal(err)
		}
	} else {
		p = start(t, s.command(role, 0, m, payload))
		port := p.find(`(?m)^(?:port |ACCEPT 127\.0\.0\.1:)(\d+)$`)[1]
		var err error
		if transport, err = net.Dial("tcp", "127.0.0.1:"+port); err != nil {
			t.Fatal(err)
		}
	}
	recorder := &recorder{Conn: transport}
	conn, exports, err := greet(c, recorder, role == "server")
	if err != nil {
		out, _ := p.output()
		t.Fatalf("%v; the peer says:\n%s", err, out)
	}
	defer conn.Close()
	if got := conn.Conn.(*connection).machine; got.suite != m.suite ||
		got.encryptThenMAC != (m.encryptThenMAC && m.suite == TLS_PSK_WITH_AES_128_CBC_SHA256) {
		t.Fatalf("%v with encrypt_then_mac %v was negotiated for %v", got.suite, got.encryptThenMAC, m)
	}
	if s.cli {
		err = talkToTool(p, conn, role, payload)
	} else {
		err = talk(conn, role == "server", payload)
	}
	if err != nil {
		out, _ := p.output()
		t.Fatalf("%v; the peer says:\n%s", err, out)
	}
	if s.cli {
		if got := p.find(`Keying material: ([0-9A-F]{96})`)[1]; !strings.EqualFold(got, exports["none"]) {
			t.Errorf("the exports differ: %s there, %s here", got, exports["none"])
		}
	} else {
		p.find(`(?m)^done$`)
		for name, here := range exports {
			if got := p.find(`(?m)^` + name + ` ([0-9a-f]{96})$`)[1]; got != here {
				t.Errorf("the export %s differs: %s there, %s here", name, got, here)
			}
		}
	}
	if *recordFlag {
		recorder.save(t, filepath.Join("testdata", "recorded", s.name+"-"+role+"-"+m.String()+".txt"),
			[][2]string{{"role", role}, {"seed", seed}, {"payload", strconv.Itoa(payload)}, {"export", exports["none"]}})
	}
}

// greet makes this side's handshake and its exports.
func greet(c Config, transport net.Conn, asClient bool) (*handshake.Conn, map[string]string, error) {
	var conn *handshake.Conn
	ctx := context.Background()
	if asClient {
		client, err := NewClient(c)
		if err != nil {
			return nil, nil, err
		}
		if conn, err = client.Handshake(ctx, transport); err != nil {
			return nil, nil, err
		}
	} else {
		server, err := NewServer(c)
		if err != nil {
			return nil, nil, err
		}
		if conn, err = server.Handshake(ctx, transport); err != nil {
			return nil, nil, err
		}
	}
	exports := make(map[string]string)
	for name, e := range map[string]struct {
		label   string
		context []byte
	}{
		"none":    {testLabel, nil},
		"empty":   {"EXPERIMENTAL-empty", []byte{}},
		"context": {"EXPERIMENTAL-context", []byte("context")},
	} {
		octets, err := conn.Session.Export(e.label, e.context, 48)
		if err != nil {
			return nil, nil, err
		}
		exports[name] = hex.EncodeToString(octets)
	}
	if conn.Session.Peer.PSKIdentity != testIdentity {
		return nil, nil, fmt.Errorf("the peer is %q", conn.Session.Peer.PSKIdentity)
	}
	return conn, exports, nil
}

// talk exchanges the payload with a program of testdata. The client closes first.
func talk(conn net.Conn, asClient bool, payload int) error {
	_ = conn.SetDeadline(time.Now().Add(patience))
	octets := digits(payload)
	back := make([]byte, payload)
	if asClient {
		if _, err := conn.Write(octets); err != nil {
			return err
		}
		if _, err := io.ReadFull(conn, back); err != nil {
			return err
		}
		if !bytes.Equal(octets, back) {
			return errors.New("other octets came back")
		}
		return conn.Close()
	}
	if _, err := io.ReadFull(conn, back); err != nil {
		return err
	}
	if _, err := conn.Write(back); err != nil {
		return err
	}
	if _, err := conn.Read(back); err != io.EOF {
		return fmt.Errorf("%v instead of close_notify", err)
	}
	return conn.Close()
}

// talkToTool does so with a tool whose standard input and output are the ends.
func talkToTool(p *process, conn net.Conn, role string, payload int) error {
	_ = conn.SetDeadline(time.Now().Add(patience))
	octets := digits(payload)
	pattern := string(octets[:payload-1])[payload-64:]
	back := make([]byte, payload)
	feed := make(chan error, 1)
	go func() {
		_, err := p.stdin.Write(octets)
		feed <- err
	}()
	if _, err := io.ReadFull(conn, back); err != nil {
		return err
	}
	if !bytes.Equal(octets, back) {
		return errors.New("other octets came from the tool")
	}
	if err := <-feed; err != nil {
		return err
	}
	if _, err := conn.Write(back); err != nil {
		return err
	}
	p.find(pattern)
	if role == "client" {
		if err := p.stdin.Close(); err != nil { // then s_client ends
			return err
		}
		if _, err := conn.Read(back); err != io.EOF {
			return fmt.Errorf("%v instead of close_notify", err)
		}
	}
	return conn.Close()
}

// What openssl s_client is told when it is refused. A wrong key and an unknown
// identity must read the same.
func TestOpenSSLIsRefused(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("openssl"); err != nil {
		needed(t, "no openssl: %v", err)
	}
	key := hex.EncodeToString(testKey())
	wrong := strings.Repeat("00", 32)
	for name, test := range map[string]struct {
		args []string
		want string
	}{
		"a wrong key":         {[]string{"-tls1_2", "-psk", wrong, "-psk_identity", testIdentity, "-servername", testName}, "alert number 20"},
		"an unknown identity": {[]string{"-tls1_2", "-psk", key, "-psk_identity", "somebody", "-servername", testName}, "alert number 20"},
		"another name":        {[]string{"-tls1_2", "-psk", key, "-psk_identity", testIdentity, "-servername", "x.example.com"}, "alert number 112"},
		"no name":             {[]string{"-tls1_2", "-psk", key, "-psk_identity", testIdentity, "-noservername"}, "alert number 112"},
		"TLS 1.1":             {[]string{"-tls1_1", "-psk", key, "-psk_identity", testIdentity, "-servername", testName}, "alert number 70"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			cmd := exec.Command("openssl", append([]string{"s_client", "-connect", l.Addr().String(), "-cipher", "PSK:@SECLEVEL=0"}, test.args...)...)
			p := start(t, cmd)
			if err := l.(*net.TCPListener).SetDeadline(time.Now().Add(patience)); err != nil {
				t.Fatal(err)
			}
			transport, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			s, err := NewServer(config(t))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.Handshake(t.Context(), transport); err == nil {
				t.Error("the handshake succeeds")
			}
			p.find(test.want)
		})
	}
}

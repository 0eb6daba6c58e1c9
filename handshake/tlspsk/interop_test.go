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
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"muster/handshake"
)

// TestInterop records its handshakes in testdata/recorded when this flag is set;
// TestReplay then replays them where the foreign libraries are not at hand.
var recordFlag = flag.Bool("record", false, "record the handshakes with foreign peers")

const patience = time.Minute // a bound for what normally takes milliseconds

// mode is what the foreign peer is told to do; this side offers everything.
type mode struct {
	suite          Suite
	encryptThenMAC bool
}

func modes() []mode {
	return []mode{
		{TLS_PSK_WITH_AES_128_GCM_SHA256, true},
		{TLS_PSK_WITH_AES_128_GCM_SHA256, false},
		{TLS_PSK_WITH_AES_128_CBC_SHA256, true},
		{TLS_PSK_WITH_AES_128_CBC_SHA256, false},
	}
}

func (m mode) String() string {
	s := "gcm"
	if m.suite == TLS_PSK_WITH_AES_128_CBC_SHA256 {
		s = "cbc"
	}
	if m.encryptThenMAC {
		return s + "-etm"
	}
	return s + "-plain"
}

// A stack is a foreign implementation that can be run as a program.
type stack struct {
	name string
	// command returns the program in a role, "client" or "server". A server
	// prints the port that it listens on.
	command func(role string, port int, m mode, payload int) *exec.Cmd
	cli     bool // data goes through standard input and output, and only one export
}

// needed skips the test, or fails it where peers are required.
func needed(t testing.TB, format string, args ...any) {
	t.Helper()
	if os.Getenv("MUSTER_REQUIRE_PEERS") != "" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

func openSSL(t testing.TB) stack {
	t.Helper()
	if _, err := exec.LookPath("openssl"); err != nil {
		needed(t, "no openssl: %v", err)
	}
	return stack{name: "openssl", cli: true, command: func(role string, port int, m mode, _ int) *exec.Cmd {
		args := []string{"s_client", "-nocommands", "-connect", fmt.Sprintf("127.0.0.1:%d", port), "-servername", testName}
		if role == "server" {
			args = []string{"s_server", "-accept", "127.0.0.1:0", "-nocert", "-naccept", "1"}
		}
		args = append(args, "-tls1_2", "-psk", hex.EncodeToString(testKey()), "-psk_identity", testIdentity,
			"-cipher", openSSLName(m.suite), "-keymatexport", testLabel, "-keymatexportlen", "48")
		if !m.encryptThenMAC {
			args = append(args, "-no_etm")
		}
		return exec.Command("openssl", args...)
	}}
}

func openSSLName(s Suite) string {
	if s == TLS_PSK_WITH_AES_128_GCM_SHA256 {
		return "PSK-AES128-GCM-SHA256"
	}
	return "PSK-AES128-CBC-SHA256"
}

// program compiles a peer of testdata. MUSTER_WOLFSSL may name the folder that
// testdata/build-wolfssl.sh has filled.
func program(t testing.TB, name string, libraries ...string) stack {
	t.Helper()
	if _, err := exec.LookPath("gcc"); err != nil {
		needed(t, "no C compiler: %v", err)
	}
	binary := filepath.Join(t.TempDir(), name)
	args := []string{"-o", binary}
	if prefix := os.Getenv("MUSTER_WOLFSSL"); name == "wolfssl" && prefix != "" {
		args = append(args, "-I"+prefix+"/include", "-L"+prefix+"/lib")
	}
	args = append(args, filepath.Join("testdata", name+".c"))
	for _, l := range libraries {
		args = append(args, "-l"+l)
	}
	if out, err := exec.Command("gcc", args...).CombinedOutput(); err != nil {
		if strings.Contains(string(out), "No such file") || strings.Contains(string(out), "cannot find -l") {
			needed(t, "no development files of %s: %s", name, out)
		}
		t.Fatalf("gcc: %v\n%s", err, out)
	}
	return stack{name: name, command: func(role string, port int, m mode, payload int) *exec.Cmd {
		suite, etm, _ := strings.Cut(m.String(), "-")
		flag := "0"
		if etm == "etm" {
			flag = "1"
		}
		return exec.Command(binary, role, strconv.Itoa(port), testName, testIdentity, hex.EncodeToString(testKey()),
			suite, flag, strconv.Itoa(payload))
	}}
}

// process is a running foreign peer.
type process struct {
	t     testing.TB
	stdin io.WriteCloser
	mu    sync.Mutex
	out   bytes.Buffer
	grown chan struct{} // closed and replaced at each growth
	ended chan struct{}
}

func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.grown)
	p.grown = make(chan struct{})
	return p.out.Write(b)
}

func (p *process) output() (string, chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.String(), p.grown
}

func start(t testing.TB, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{t: t, grown: make(chan struct{}), ended: make(chan struct{})}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.stdin, cmd.Stdout, cmd.Stderr = stdin, p, p
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = cmd.Wait()
		close(p.ended)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-p.ended
	})
	return p
}

// find waits until the output matches and returns the submatches.
func (p *process) find(pattern string) []string {
	p.t.Helper()
	re := regexp.MustCompile(pattern)
	timeout := time.After(patience)
	for ended := false; ; {
		out, grown := p.output()
		if found := re.FindStringSubmatch(out); found != nil {
			return found
		}
		if ended {
			p.t.Fatalf("the peer ended without %q:\n%s", pattern, out)
		}
		select {
		case <-grown:
		case <-p.ended:
			ended = true // what it said last is there now
		case <-timeout:
			p.t.Fatalf("the peer does not say %q:\n%s", pattern, out)
		}
	}
}

// digits is a payload that no command-line tool takes for a command.
func digits(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = '0' + byte(i%10)
	}
	b[n-1] = '\n'
	return b
}

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

package tlspsk

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

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

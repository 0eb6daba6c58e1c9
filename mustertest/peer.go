package mustertest

import (
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// patience is for a foreign program that is busy; nothing is measured by it.
const patience = 30 * time.Second

// A Peer is a foreign program that runs until it is hung up or the test ends.
type Peer struct {
	Stdin io.WriteCloser
	Ended <-chan struct{} // closed when the program is gone and its output whole

	mu     sync.Mutex
	output bytes.Buffer // guarded by mu
}

// RequirePeer skips a test whose foreign program is missing, unless the
// environment variable MUSTER_REQUIRE_PEERS asks for it: then it fails.
func RequirePeer(t testing.TB, program string) {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		missing(t, err.Error())
	}
}

func missing(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("MUSTER_REQUIRE_PEERS") != "" {
		t.Fatal(what)
	}
	t.Skip(what)
}

// StartPeer runs a foreign program. Its output is logged if the test fails.
func StartPeer(t testing.TB, name string, args ...string) *Peer {
	t.Helper()
	RequirePeer(t, name)
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.WaitDelay = time.Second
	ended := make(chan struct{})
	p := &Peer{Ended: ended}
	cmd.Stdout, cmd.Stderr = p, p
	var err error
	if p.Stdin, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = cmd.Wait()
		close(ended)
	}()
	t.Cleanup(func() {
		cancel()
		<-p.Ended
		if t.Failed() {
			t.Logf("%s %s\n%s", name, strings.Join(args, " "), p)
		}
	})
	return p
}

// CompilePeer builds a C program with gcc and the libraries of Debian, and returns
// its path. A header that is missing counts like a missing program.
func CompilePeer(t testing.TB, source string, libraries ...string) string {
	t.Helper()
	RequirePeer(t, "gcc")
	path := filepath.Join(t.TempDir(), "peer")
	args := []string{"-Wall", "-Wextra", "-o", path, source}
	for _, library := range libraries {
		args = append(args, "-l"+library)
	}
	output, err := exec.CommandContext(t.Context(), "gcc", args...).CombinedOutput()
	switch {
	case err == nil:
	case strings.Contains(string(output), "No such file or directory"):
		missing(t, string(output))
	default:
		t.Fatalf("%v\n%s", err, output)
	}
	return path
}

// Write takes the program's output.
func (p *Peer) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.output.Write(b)
}

// String returns the output so far.
func (p *Peer) String() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.output.String()
}

// Find waits for output that matches a regular expression and returns the last
// submatch.
func (p *Peer) Find(t testing.TB, pattern string) string {
	t.Helper()
	expression := regexp.MustCompile(pattern)
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		over := false
		select {
		case <-p.Ended:
			over = true // what it said last is there now
		default:
		}
		if match := expression.FindStringSubmatch(p.String()); match != nil {
			return match[len(match)-1]
		}
		if over {
			break
		}
	}
	t.Fatalf("the program did not print %q", pattern)
	return ""
}

// HangUp closes the program's standard input, as if its user had, and waits
// until it is gone.
func (p *Peer) HangUp(t testing.TB) {
	t.Helper()
	_ = p.Stdin.Close()
	select {
	case <-p.Ended:
	case <-time.After(patience):
		t.Fatal("the program does not end")
	}
}

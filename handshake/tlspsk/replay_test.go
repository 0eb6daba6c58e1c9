package tlspsk

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// flow is what one side sent before the other had its turn.
type flow struct {
	sent   bool // by this side
	octets []byte
}

// recorder is a transport that keeps what passes.
type recorder struct {
	net.Conn
	mu    sync.Mutex
	flows []flow
}

func (r *recorder) add(sent bool, octets []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := len(r.flows); n > 0 && r.flows[n-1].sent == sent {
		r.flows[n-1].octets = append(r.flows[n-1].octets, octets...)
	} else if len(octets) > 0 {
		r.flows = append(r.flows, flow{sent, bytes.Clone(octets)})
	}
}

func (r *recorder) Read(p []byte) (int, error) {
	n, err := r.Conn.Read(p)
	r.add(false, p[:n])
	return n, err
}

func (r *recorder) Write(p []byte) (int, error) {
	n, err := r.Conn.Write(p)
	r.add(true, p[:n])
	return n, err
}

func (r *recorder) save(t *testing.T, file string, facts [][2]string) {
	t.Helper()
	var b strings.Builder
	for _, f := range facts {
		fmt.Fprintf(&b, "%s %s\n", f[0], f[1])
	}
	for _, f := range r.flows {
		arrow := "<"
		if f.sent {
			arrow = ">"
		}
		for octets := f.octets; len(octets) > 0; octets = octets[min(len(octets), 64):] {
			fmt.Fprintf(&b, "%s %x\n", arrow, octets[:min(len(octets), 64)])
		}
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

// recording is a file that recorder.save wrote.
type recording struct {
	facts map[string]string
	flows []flow
}

func load(t testing.TB, file string) recording {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	r := recording{facts: make(map[string]string)}
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if key != "<" && key != ">" {
			r.facts[key] = value
			continue
		}
		octets, err := hex.DecodeString(value)
		if err != nil {
			t.Fatal(err)
		}
		if n := len(r.flows); n > 0 && r.flows[n-1].sent == (key == ">") {
			r.flows[n-1].octets = append(r.flows[n-1].octets, octets...)
		} else {
			r.flows = append(r.flows, flow{key == ">", octets})
		}
	}
	return r
}

func recordings(t testing.TB) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("testdata", "recorded", "*.txt"))
	if err != nil || len(files) == 0 {
		t.Fatal("no recorded handshakes", err)
	}
	return files
}

// replayer is a transport that plays the peer of a recording, and fails when this
// side sends anything but what it sent then.
type replayer struct {
	net.Conn
	flows []flow
}

func (r *replayer) Read(p []byte) (int, error) {
	if len(r.flows) == 0 {
		return 0, io.EOF
	}
	if r.flows[0].sent {
		return 0, fmt.Errorf("this side waits instead of sending %d octets", len(r.flows[0].octets))
	}
	n := copy(p, r.flows[0].octets)
	r.advance(n)
	return n, nil
}

func (r *replayer) Write(p []byte) (int, error) {
	if len(r.flows) == 0 || !r.flows[0].sent || !bytes.HasPrefix(r.flows[0].octets, p) {
		return 0, errors.New("this side sends what it did not send before")
	}
	r.advance(len(p))
	return len(p), nil
}

func (r *replayer) advance(n int) {
	if r.flows[0].octets = r.flows[0].octets[n:]; len(r.flows[0].octets) == 0 {
		r.flows = r.flows[1:]
	}
}

func (r *replayer) Close() error                     { return nil }
func (r *replayer) SetDeadline(time.Time) error      { return nil }
func (r *replayer) SetReadDeadline(time.Time) error  { return nil }
func (r *replayer) SetWriteDeadline(time.Time) error { return nil }

func TestReplay(t *testing.T) {
	t.Parallel()
	files := recordings(t)
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			r := load(t, file)
			c := config(t)
			c.Rand = &counter{seed: r.facts["seed"]}
			asClient := r.facts["role"] == "server"
			transport := &replayer{flows: r.flows}
			conn, exports, err := greet(c, transport, asClient)
			if err != nil {
				t.Fatal(err)
			}
			if exports["none"] != r.facts["export"] {
				t.Errorf("exported %s, was %s", exports["none"], r.facts["export"])
			}
			payload, err := strconv.Atoi(r.facts["payload"])
			if err != nil {
				t.Fatal(err)
			}
			if strings.HasPrefix(filepath.Base(file), "openssl") {
				err = talkToRecordedTool(conn, asClient, payload)
			} else {
				err = talk(conn, asClient, payload)
			}
			if err != nil {
				t.Fatal(err)
			}
			if len(transport.flows) > 0 && transport.flows[0].sent {
				t.Errorf("%d flows are left", len(transport.flows))
			}
		})
	}
	for _, stack := range []string{"openssl", "gnutls", "mbedtls", "wolfssl"} {
		for _, role := range []string{"client", "server"} {
			for _, m := range modes() {
				file := filepath.Join("testdata", "recorded", stack+"-"+role+"-"+m.String()+".txt")
				if _, err := os.Stat(file); err != nil {
					t.Error(err)
				}
			}
		}
	}
}

// talkToRecordedTool is talkToTool without the tool.
func talkToRecordedTool(conn net.Conn, asClient bool, payload int) error {
	back := make([]byte, payload)
	if _, err := io.ReadFull(conn, back); err != nil {
		return err
	}
	if !bytes.Equal(back, digits(payload)) {
		return errors.New("other octets came from the tool")
	}
	if _, err := conn.Write(back); err != nil {
		return err
	}
	if !asClient {
		if _, err := conn.Read(back); err != io.EOF {
			return fmt.Errorf("%v instead of close_notify", err)
		}
	}
	return conn.Close()
}

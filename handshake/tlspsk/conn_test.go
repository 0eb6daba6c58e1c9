package tlspsk

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"muster"
	"muster/handshake"
)

// outcome is what one side's Handshake returns.
type outcome struct {
	conn *handshake.Conn
	err  error
}

// pair makes a handshake over TCP with a configuration for each side.
func pair(t testing.TB, cc, sc Config) (client, server outcome) {
	t.Helper()
	c, err := NewClient(cc)
	if err != nil {
		t.Fatal(err)
	}
	s, err := NewServer(sc)
	if err != nil {
		t.Fatal(err)
	}
	a, b := loopback(t)
	var wg sync.WaitGroup
	wg.Go(func() { client.conn, client.err = c.Handshake(t.Context(), a) })
	wg.Go(func() { server.conn, server.err = s.Handshake(t.Context(), b) })
	wg.Wait()
	return client, server
}

func connected(t testing.TB, suites ...Suite) (client, server *handshake.Conn) {
	t.Helper()
	c, s := pair(t, config(t, suites...), config(t))
	if c.err != nil || s.err != nil {
		t.Fatal(c.err, s.err)
	}
	return c.conn, s.conn
}

func TestConnCarriesData(t *testing.T) {
	t.Parallel()
	for _, suite := range []Suite{TLS_PSK_WITH_AES_128_GCM_SHA256, TLS_PSK_WITH_AES_128_CBC_SHA256} {
		client, server := connected(t, suite)
		octets := digits(1 << 20)
		var wg sync.WaitGroup
		for _, ends := range [][2]net.Conn{{client, server}, {server, client}} {
			wg.Go(func() {
				if n, err := ends[0].Write(octets); n != len(octets) || err != nil {
					t.Error(n, err)
				}
			})
			wg.Go(func() {
				back := make([]byte, len(octets))
				if _, err := io.ReadFull(ends[1], back); err != nil || !bytes.Equal(back, octets) {
					t.Error("other octets", err)
				}
			})
		}
		wg.Wait()
		if n, err := client.Read(nil); n != 0 || err != nil {
			t.Error(n, err)
		}
		if n, err := client.Write(nil); n != 0 || err != nil {
			t.Error(n, err)
		}
	}
}

func TestSession(t *testing.T) {
	t.Parallel()
	client, server := connected(t)
	for _, conn := range []*handshake.Conn{client, server} {
		if conn.Session.Peer != (muster.Peer{PSKIdentity: testIdentity}) {
			t.Errorf("%+v", conn.Session.Peer)
		}
	}
	a, errA := client.Session.Export(testLabel, nil, 48)
	b, errB := server.Session.Export(testLabel, nil, 48)
	if errA != nil || errB != nil || !bytes.Equal(a, b) {
		t.Error(errA, errB)
	}
	if _, err := client.Session.Export(testLabel, nil, 48); !errors.Is(err, muster.ErrExported) {
		t.Error(err)
	}
	again, _ := connected(t)
	c, err := again.Session.Export(testLabel, nil, 48)
	if err != nil || bytes.Equal(a, c) {
		t.Error("two sessions export alike", err)
	}
}

func TestCloseNotifyAndTruncation(t *testing.T) {
	t.Parallel()
	for _, clean := range []bool{true, false} {
		client, server := connected(t)
		if _, err := client.Write([]byte("last words")); err != nil {
			t.Fatal(err)
		}
		want := io.EOF
		if clean {
			if err := client.Close(); err != nil {
				t.Fatal(err)
			}
		} else {
			want = io.ErrUnexpectedEOF
			if err := client.Conn.(*connection).Conn.Close(); err != nil {
				t.Fatal(err)
			}
		}
		got, err := io.ReadAll(server)
		if clean && err != nil || !clean && err != want || string(got) != "last words" {
			t.Errorf("clean %v: %q, %v", clean, got, err)
		}
		for range 2 {
			if _, err := server.Read(make([]byte, 1)); err != want {
				t.Errorf("clean %v: then %v", clean, err)
			}
		}
		if err := client.Close(); clean && err != nil {
			t.Error("a second Close:", err)
		}
		if _, err := client.Write([]byte("x")); clean && !errors.Is(err, net.ErrClosed) {
			t.Error("a Write after Close:", err)
		}
	}
}

// A record cut short is truncation as well.
func TestTruncatedRecord(t *testing.T) {
	t.Parallel()
	client, server := connected(t)
	raw := client.Conn.(*connection)
	if err := raw.machine.out.append(typeApplicationData, []byte("text")); err != nil {
		t.Fatal(err)
	}
	octets := raw.machine.out.take()
	if _, err := raw.Conn.Write(octets[:len(octets)-1]); err != nil {
		t.Fatal(err)
	}
	raw.Conn.Close()
	if got, err := io.ReadAll(server); err != io.ErrUnexpectedEOF || len(got) > 0 {
		t.Errorf("%q, %v", got, err)
	}
}

func TestAlteredRecordEndsBothDirections(t *testing.T) {
	t.Parallel()
	client, server := connected(t)
	if _, err := client.Conn.(*connection).Conn.Write(record(typeApplicationData, make([]byte, 64))); err != nil {
		t.Fatal(err)
	}
	_, err := server.Read(make([]byte, 1))
	if err == nil || alertOf(t, err) != alertBadRecordMAC {
		t.Error(err)
	}
	if _, err := server.Read(make([]byte, 1)); err == nil {
		t.Error("reading goes on")
	}
	if _, err := server.Write([]byte("x")); err == nil {
		t.Error("writing goes on")
	}
	if _, err := client.Read(make([]byte, 1)); muster.CodeOf(err) != muster.CodePeerAlert || !strings.Contains(err.Error(), "bad_record_mac") {
		t.Errorf("the client learns %v", err)
	}
}

func TestRenegotiationIsRefused(t *testing.T) {
	t.Parallel()
	client, server := connected(t)
	raw := client.Conn.(*connection)
	hello := clientHello{version: version12, suites: []uint16{0xa8}}
	if err := raw.machine.out.append(typeHandshake, message(messageClientHello, hello.marshal())); err != nil {
		t.Fatal(err)
	}
	if _, err := raw.Conn.Write(raw.machine.out.take()); err != nil {
		t.Fatal(err)
	}
	if _, err := server.Read(make([]byte, 1)); err == nil || alertOf(t, err) != alertNoRenegotiation {
		t.Error(err)
	}
	server.Close()
	if _, err := client.Read(make([]byte, 1)); err != io.ErrUnexpectedEOF { // the alert is a warning
		t.Error(err)
	}
}

func TestReadDeadlineIsNotTheEnd(t *testing.T) {
	t.Parallel()
	client, server := connected(t)
	if err := server.SetReadDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if _, err := server.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal(err)
	}
	if err := server.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Write([]byte("text")); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 4)
	if _, err := io.ReadFull(server, got); err != nil || string(got) != "text" {
		t.Errorf("%q, %v", got, err)
	}
}

// A peer that does not read cannot keep Close from returning.
func TestCloseWithAStuckWrite(t *testing.T) {
	t.Parallel()
	client, _ := connected(t)
	result := make(chan error)
	go func() {
		_, err := client.Write(make([]byte, 64<<20))
		result <- err
	}()
	for !locked(&client.Conn.(*connection).writeMu) {
		time.Sleep(time.Millisecond)
	}
	client.Close()
	if err := <-result; err == nil {
		t.Error("64 MiB fit into the buffers of a socket")
	}
}

func locked(mu *sync.Mutex) bool {
	if mu.TryLock() {
		mu.Unlock()
		return false
	}
	return true
}

func TestHandshakeErrors(t *testing.T) {
	t.Parallel()
	wrongKey, wrongName := config(t), config(t)
	wrongKey.Key = make([]byte, 32)
	wrongName.Name = name(t, "mef.example.com")
	unknown := config(t)
	unknown.PSKIdentity = "somebody"
	for what, test := range map[string]struct {
		client         Config
		code           muster.Code
		clientContains string
	}{
		"a wrong key":         {wrongKey, muster.CodeHandshakeFailed, "bad_record_mac"},
		"an unknown identity": {unknown, muster.CodeKeyUnknown, "bad_record_mac"},
		"another name":        {wrongName, muster.CodeServerName, "unrecognized_name"},
	} {
		client, server := pair(t, test.client, config(t))
		if muster.CodeOf(server.err) != test.code {
			t.Errorf("%s: %v", what, server.err)
		}
		if muster.CodeOf(client.err) != muster.CodePeerAlert || !strings.Contains(client.err.Error(), test.clientContains) {
			t.Errorf("%s: the client learns %v", what, client.err)
		}
		for _, err := range []error{client.err, server.err} {
			if strings.Contains(err.Error(), "no such key") == (what != "an unknown identity") && err == server.err {
				t.Errorf("%s: %v", what, err)
			}
		}
		if test.code == muster.CodeKeyUnknown && !errors.Is(server.err, errNoSuchKey) {
			t.Error("the cause is lost")
		}
	}
}

func TestHandshakeEndsWithItsContext(t *testing.T) {
	t.Parallel()
	s, err := NewServer(config(t))
	if err != nil {
		t.Fatal(err)
	}
	silent, conn := loopback(t)
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(10*time.Millisecond, cancel)
	if _, err := s.Handshake(ctx, conn); !errors.Is(err, context.Canceled) || muster.CodeOf(err) != muster.CodeHandshakeTimeout {
		t.Error(err)
	}
	if _, err := silent.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the connection is not closed: %v", err)
	}
	// The time-out of the configuration, while the key is looked for.
	c := config(t)
	c.Timeout = 50 * time.Millisecond
	c.PSK = func(ctx context.Context, _ string) ([]byte, error) {
		<-ctx.Done()
		return testKey(), nil
	}
	cc := config(t)
	client, server := pair(t, cc, c)
	if !errors.Is(server.err, context.DeadlineExceeded) || muster.CodeOf(server.err) != muster.CodeHandshakeTimeout {
		t.Error(server.err)
	}
	if client.err == nil {
		t.Error("the client has a connection")
	}
}

func TestHandshakeTruncated(t *testing.T) {
	t.Parallel()
	s, err := NewServer(config(t))
	if err != nil {
		t.Fatal(err)
	}
	client := newSide(t, config(t), true)
	hello := client.taken()
	for n := range len(hello) {
		a, b := net.Pipe()
		go func() {
			_, _ = a.Write(hello[:n])
			a.Close()
		}()
		if _, err := s.Handshake(t.Context(), b); !errors.Is(err, io.ErrUnexpectedEOF) || muster.CodeOf(err) != muster.CodeHandshakeFailed {
			t.Fatalf("%d octets: %v", n, err)
		}
	}
}

func TestConfigIsChecked(t *testing.T) {
	t.Parallel()
	for what, change := range map[string]func(*Config){
		"no name":                func(c *Config) { c.Name = muster.FQDN{} },
		"a suite of another key": func(c *Config) { c.Suites = []Suite{0x00a9} },
		"a negative timeout":     func(c *Config) { c.Timeout = -1 },
	} {
		c := config(t)
		change(&c)
		if _, err := NewServer(c); err == nil {
			t.Errorf("%s: a server is made", what)
		}
		if _, err := NewClient(c); err == nil {
			t.Errorf("%s: a client is made", what)
		}
	}
	for what, change := range map[string]func(*Config){
		"a short key":        func(c *Config) { c.Key = c.Key[:minKey-1] },
		"a long key":         func(c *Config) { c.Key = make([]byte, maxKey+1) },
		"no identity":        func(c *Config) { c.PSKIdentity = "" },
		"too long a name":    func(c *Config) { c.PSKIdentity = strings.Repeat("x", muster.MaxPSKIdentity+1) },
		"a name not in UTF8": func(c *Config) { c.PSKIdentity = "\xff" },
	} {
		c := config(t)
		change(&c)
		if _, err := NewClient(c); err == nil {
			t.Errorf("%s: a client is made", what)
		}
	}
	c := config(t)
	c.PSK = nil
	if _, err := NewServer(c); err == nil {
		t.Error("a server without keys is made")
	}
}

// No way of printing shows a key or a secret of a session.
func TestNothingPrintsAKey(t *testing.T) {
	t.Parallel()
	c := config(t)
	client, err := NewClient(c)
	if err != nil {
		t.Fatal(err)
	}
	conn, _ := connected(t)
	raw := conn.Conn.(*connection)
	secrets := [][]byte{c.Key, raw.machine.secrets.master[:]}
	type holder struct {
		Config Config
		Client Client
		client *Client
	}
	for _, v := range []any{c, &c, client, *client, []Config{c}, holder{c, *client, client}, conn, *conn, raw, conn.Session} {
		var log bytes.Buffer
		slog.New(slog.NewTextHandler(&log, nil)).Info("x", "v", v)
		slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "v", v)
		text, _ := json.Marshal(v)
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
			text = append(append(text, '\n'), fmt.Sprintf(verb, v)...)
		}
		text = append(text, log.Bytes()...)
		for _, s := range secrets {
			for _, form := range []string{string(s), fmt.Sprintf("%x", s), fmt.Sprintf("%X", s), strings.Trim(fmt.Sprint(s), "[]"), fmt.Sprintf("%q", s)} {
				if strings.Contains(string(text), form) {
					t.Errorf("%T shows a key", v)
				}
			}
		}
	}
}

// TestServerThatEndsTheStream has a server without capacity, which closes: the
// client is to come back.
func TestServerThatEndsTheStream(t *testing.T) {
	t.Parallel()
	client, err := NewClient(config(t))
	if err != nil {
		t.Fatal(err)
	}
	a, b := loopback(t)
	go func() {
		_, _ = b.Read(make([]byte, 1))
		_ = b.Close() // with more to read, which resets the connection
	}()
	if _, err := client.Handshake(t.Context(), a); muster.CodeOf(err) != muster.CodeUnreachable {
		t.Errorf("the client ends with %v", err)
	}
}

package handshake_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"slices"
	"testing"
	"testing/iotest"
	"time"

	"muster"
	"muster/handshake"
)

// A readStream is a connection of which only the reading end works.
type readStream struct {
	net.Conn // nil
	io.Reader
	closed bool
}

func (s *readStream) Read(b []byte) (int, error)      { return s.Reader.Read(b) }
func (s *readStream) SetReadDeadline(time.Time) error { return nil }
func (s *readStream) RemoteAddr() net.Addr            { return &net.TCPAddr{} }
func (s *readStream) Close() error                    { s.closed = true; return nil }

// peek lets Peek see a stream of octets, and returns the suites and all that can
// be read afterwards.
func peek(t testing.TB, r io.Reader) (suites []uint16, rest []byte, err error) {
	t.Helper()
	stream := &readStream{Reader: r}
	conn, suites, err := handshake.Peek(t.Context(), stream)
	if err != nil {
		if !stream.closed {
			t.Error("the connection is left open")
		}
		return nil, nil, err
	}
	if stream.closed {
		t.Error("the connection is closed")
	}
	rest, err = io.ReadAll(conn)
	if err != nil {
		t.Error(err)
	}
	return suites, rest, nil
}

// helloOf is the first flight of a crypto/tls client.
func helloOf(t testing.TB, config *tls.Config) []byte {
	t.Helper()
	near, far := net.Pipe()
	go func() { _ = tls.Client(near, config).Handshake() }()
	octets := make([]byte, 16<<10)
	n, err := far.Read(octets)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = near.Close(), far.Close()
	return octets[:n]
}

// helloWith is a ClientHello with suites and padding in its extensions.
func helloWith(suites []uint16, padding int) []byte {
	body := append([]byte{3, 3}, make([]byte, 32)...)
	body = append(body, 4, 1, 2, 3, 4)
	body = append(body, byte(len(suites)>>7), byte(len(suites)<<1))
	for _, s := range suites {
		body = append(body, byte(s>>8), byte(s))
	}
	body = append(body, 1, 0, byte(padding>>8), byte(padding))
	body = append(body, make([]byte, padding)...)
	return append([]byte{1, byte(len(body) >> 16), byte(len(body) >> 8), byte(len(body))}, body...)
}

// inRecords cuts a handshake message into records of a size.
func inRecords(message []byte, size int) (octets []byte) {
	for part := range slices.Chunk(message, size) {
		octets = append(append(octets, 22, 3, 1, byte(len(part)>>8), byte(len(part))), part...)
	}
	return octets
}

func TestPeekOfRealHellos(t *testing.T) {
	t.Parallel()
	for name, config := range map[string]*tls.Config{
		"TLS 1.2": {ServerName: serverName, MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256}},
		"TLS 1.3": {ServerName: serverName},
	} {
		octets := helloOf(t, config)
		suites, rest, err := peek(t, bytes.NewReader(octets))
		if err != nil || !bytes.Equal(rest, octets) || !slices.Contains(suites, tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256) {
			t.Errorf("%s: suites %#04x, %d of %d octets, %v", name, suites, len(rest), len(octets), err)
		}
	}
}

// TestPeekOfFragments cuts a hello at every size, in records and in the reads of
// the stream.
func TestPeekOfFragments(t *testing.T) {
	t.Parallel()
	want := []uint16{0x00a8, 0xc023, 0x00ae}
	message := helloWith(want, 40)
	for size := 1; size <= len(message); size++ {
		octets := inRecords(message, size)
		for name, r := range map[string]io.Reader{
			"whole": bytes.NewReader(octets), "octet by octet": iotest.OneByteReader(bytes.NewReader(octets)),
		} {
			suites, rest, err := peek(t, r)
			if err != nil || !slices.Equal(suites, want) || !bytes.Equal(rest, octets) {
				t.Errorf("records of %d octets, %s: suites %#04x, %d of %d octets, %v", size, name, suites, len(rest), len(octets), err)
			}
		}
	}
}

func TestPeekJudgesNothing(t *testing.T) {
	t.Parallel()
	good := inRecords(helloWith([]uint16{0x00a8}, 0), 1<<14)
	edit := func(at int, octet byte) []byte {
		octets := bytes.Clone(good)
		octets[at] = octet
		return octets
	}
	many := make([]uint16, 3000)
	for name, octets := range map[string][]byte{
		"HTTP":                     []byte("GET / HTTP/1.1\r\nHost: mef.example.com\r\n\r\n"),
		"zeros":                    make([]byte, 64),
		"an alert":                 {21, 3, 3, 0, 2, 2, 40},
		"SSL 2":                    {0x80, 46, 1, 3, 1, 0, 3, 0, 0, 0, 32},
		"another version":          edit(1, 2),
		"an empty record":          edit(4, 0),
		"another message":          edit(5, 2),
		"a long session":           edit(5+4+2+32, 33),
		"an odd number of octets":  edit(5+4+2+32+5+1, 3),
		"no suites":                edit(5+4+2+32+5+1, 0),
		"suites behind the end":    edit(5+4+2+32+5+1, 200),
		"a record of 17 KiB":       append([]byte{22, 3, 1, 0x44, 0}, make([]byte, 0x4400)...),
		"suites beyond the buffer": inRecords(helloWith(many, 0), 1<<14),
		"one octet a record":       inRecords(helloWith(many[:700], 0), 1),
	} {
		suites, rest, err := peek(t, bytes.NewReader(octets))
		if err != nil || suites != nil || !bytes.Equal(rest, octets) {
			t.Errorf("%s: suites %#04x, %d of %d octets, %v", name, suites, len(rest), len(octets), err)
		}
	}
}

// TestPeekOfHugeHellos has the suites at the front of a hello that is longer than
// what is kept: what follows is left in the stream.
func TestPeekOfHugeHellos(t *testing.T) {
	t.Parallel()
	want := []uint16{0xc02b, 0x00ae}
	octets := inRecords(helloWith(want, 60_000), 1<<14)
	if suites, rest, err := peek(t, bytes.NewReader(octets)); err != nil || !slices.Equal(suites, want) || !bytes.Equal(rest, octets) {
		t.Errorf("suites %#04x, %d of %d octets, %v", suites, len(rest), len(octets), err)
	}
}

func TestPeekOfStreamsThatEnd(t *testing.T) {
	t.Parallel()
	octets := inRecords(helloWith([]uint16{0x00a8}, 0), 7)
	last := slices.Index(octets, 0xa8) // nothing of the hello is needed behind its suites
	for n := range last + 1 {
		if _, _, err := peek(t, bytes.NewReader(octets[:n])); muster.CodeOf(err) != muster.CodeHandshakeFailed || !errors.Is(err, io.EOF) {
			t.Errorf("%d octets: %v", n, err)
		}
	}
	if suites, _, err := peek(t, bytes.NewReader(octets[:last+1])); err != nil || len(suites) != 1 {
		t.Errorf("all suites: %#04x, %v", suites, err)
	}
	if _, _, err := peek(t, iotest.ErrReader(errors.New("broken"))); muster.CodeOf(err) != muster.CodeHandshakeFailed {
		t.Error(err)
	}
}

// TestPeekOfSlowStreams has a stranger that begins and then says nothing.
func TestPeekOfSlowStreams(t *testing.T) {
	t.Parallel()
	for name, octets := range map[string][]byte{"nothing": nil, "a header": {22, 3, 1, 0, 200}, "half a hello": inRecords(helloWith([]uint16{0x00a8}, 0), 99)[:20]} {
		near, far := pair(t)
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if _, err := near.Write(octets); err != nil {
			t.Fatal(err)
		}
		if _, _, err := handshake.Peek(ctx, far); muster.CodeOf(err) != muster.CodeHandshakeTimeout {
			t.Fatalf("%s: %v", name, err)
		}
		if _, err := near.Read(make([]byte, 1)); err == nil {
			t.Errorf("%s: the connection is open", name)
		}
	}
}

// TestPeekLeavesTheConnectionWhole lets crypto/tls handshakes, alerts included,
// run over peeked connections.
func TestPeekLeavesTheConnectionWhole(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	server, err := handshake.NewServer(p.config(t, serverName))
	if err != nil {
		t.Fatal(err)
	}
	for name, wantAlert := range map[string]tls.AlertError{serverName: 0, "other.example.com": handshake.AlertUnrecognizedName} {
		near, far := pair(t)
		ended := make(chan result, 1)
		go func() {
			conn, _, err := handshake.Peek(t.Context(), far)
			if err != nil {
				ended <- result{nil, err}
				return
			}
			c, err := server.Handshake(t.Context(), conn)
			ended <- result{c, err}
		}()
		config := p.bare(t)
		config.ServerName = name
		wire := &tap{Conn: near}
		client := tls.Client(wire, config)
		err := client.Handshake()
		if wantAlert != 0 {
			if alert := wire.alert(); alert != wantAlert {
				t.Errorf("%s: alert %v, want %v", name, alert, wantAlert)
			}
			_ = near.Close()
			if r := <-ended; muster.CodeOf(r.err) != muster.CodeServerName {
				t.Errorf("%s: %v", name, r.err)
			}
			continue
		}
		r := <-ended
		if err != nil || r.err != nil {
			t.Fatal(err, r.err)
		}
		if _, err := client.Write([]byte("hello")); err != nil {
			t.Error(err)
		}
		octets := make([]byte, 5)
		if _, err := io.ReadFull(r.conn, octets); err != nil || string(octets) != "hello" {
			t.Errorf("%q, %v", octets, err)
		}
	}
}

func FuzzPeek(f *testing.F) {
	f.Add(inRecords(helloWith([]uint16{0x00a8, 0x00ae}, 5), 9))
	f.Add(helloOf(f, &tls.Config{ServerName: serverName}))
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Fuzz(func(t *testing.T, octets []byte) {
		suites, rest, err := peek(t, bytes.NewReader(octets))
		if err == nil && !bytes.Equal(rest, octets) {
			t.Errorf("%d of %d octets are left", len(rest), len(octets))
		}
		whole, _, err2 := peek(t, iotest.OneByteReader(bytes.NewReader(octets)))
		if (err == nil) != (err2 == nil) || !slices.Equal(suites, whole) {
			t.Errorf("octet by octet %#04x, %v; at once %#04x, %v", whole, err2, suites, err)
		}
	})
}

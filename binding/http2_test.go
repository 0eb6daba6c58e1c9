package binding_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"muster"
	"muster/binding"
	"muster/handshake"
	"muster/primitive"
)

// patience is for what is expected to happen at once.
const patience = 30 * time.Second

// serving is a world with a handler of its own.
func serving(t *testing.T, handler primitive.Handler) *world {
	t.Helper()
	w := &world{server: binding.NewServer(binding.Config{Handler: handler, Logger: slog.New(slog.DiscardHandler)})}
	go func() { _ = w.server.Serve() }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
		defer cancel()
		_ = w.server.Shutdown(ctx)
	})
	return w
}

func (w *world) client2(t *testing.T, from string) *binding.Client {
	client := binding.NewClient(binding.ClientConfig{
		Authority: "mef.example.org", From: from, HTTP2: true, Timeout: patience, MaxConns: 1,
		Dial: func(ctx context.Context) (*handshake.Conn, error) { return w.dialFor(ctx, handshake.ProtocolHTTP2) },
	})
	t.Cleanup(client.Close)
	return client
}

func TestHTTP2(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	client := w.client2(t, testMAF)
	got, err := client.FetchCredential(t.Context(), must(muster.ParseKeID(testKeID)), muster.SUIDForMAF) // compares the session's peer
	if err != nil || !got.Km.Equal(testKm()) {
		t.Errorf("%v, %v", got, err)
	}
	content := primitive.RawContent(primitive.JSON, []byte(`{"sec:macr":{"adfq":"admin.example.org"}}`))
	created, err := client.Do(t.Context(), &primitive.Request{Operation: primitive.Create, To: "-", From: testEnrolee, ResourceType: 60002, Content: content})
	if err != nil || created.Status != primitive.Created || created.Location != "-/1" {
		t.Errorf("%v, %v", created, err)
	}
	if n := w.dials.Load(); n != 1 {
		t.Errorf("%d connections, want 1", n)
	}
}

// Requests beyond the bound wait for their turn, and each gets its own answer.
func TestHTTP2Streams(t *testing.T) {
	t.Parallel()
	client := newWorld(t).client2(t, "")
	var callers sync.WaitGroup
	for range 100 {
		callers.Go(func() {
			if got, err := client.Do(t.Context(), &primitive.Request{Operation: primitive.Retrieve, To: "-"}); err != nil || got.Status != primitive.OK {
				t.Errorf("%v, %v", got, err)
			}
		})
	}
	callers.Wait()
}

// frame is a frame of RFC 9113 4.1.
func frame(kind, flags byte, stream uint32, payload []byte) []byte {
	f := append([]byte{0, byte(len(payload) >> 8), byte(len(payload)), kind, flags}, binary.BigEndian.AppendUint32(nil, stream)...)
	return append(f, payload...)
}

const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// A peer that opens and resets streams faster than they are worked on loses its
// connection (CVE-2023-44487).
func TestHTTP2RapidReset(t *testing.T) {
	t.Parallel()
	var started atomic.Int32
	release := make(chan struct{})
	w := serving(t, primitive.HandlerFunc(func(context.Context, *muster.Session, *primitive.Request) (*primitive.Response, error) {
		started.Add(1)
		<-release // a store that does not look at its context
		return &primitive.Response{Status: primitive.OK}, nil
	}))
	t.Cleanup(func() { close(release) })
	conn := must(w.dialFor(t.Context(), handshake.ProtocolHTTP2))
	t.Cleanup(func() { _ = conn.Close() })
	go func() {
		if _, err := conn.Write(append([]byte(preface), frame(4, 0, 0, nil)...)); err != nil {
			return
		}
		// GET http://x/- with a request identifier: HPACK, static table and literals.
		headers := []byte{0x82, 0x86, 0x04, 2, '/', '-', 0x41, 1, 'x', 0x00, 8, 'x', '-', 'm', '2', 'm', '-', 'r', 'i', 1, '1'}
		for stream := uint32(1); stream < 100000; stream += 2 {
			if _, err := conn.Write(append(frame(1, 5, stream, headers), frame(3, 0, stream, []byte{0, 0, 0, 8})...)); err != nil {
				return
			}
		}
	}()
	_ = conn.SetReadDeadline(time.Now().Add(patience))
	r := bufio.NewReader(conn)
	for {
		header := make([]byte, 9)
		if _, err := io.ReadFull(r, header); err != nil {
			t.Fatalf("the connection ended without a reason: %v", err)
		}
		payload := make([]byte, int(header[0])<<16|int(header[1])<<8|int(header[2]))
		if _, err := io.ReadFull(r, payload); err != nil {
			t.Fatal(err)
		}
		if header[3] != 7 { // GOAWAY
			continue
		}
		const enhanceYourCalm = 0xb
		if code := binary.BigEndian.Uint32(payload[4:]); code != enhanceYourCalm {
			t.Errorf("the connection ended with code %d", code)
		}
		break
	}
	if n := started.Load(); n > 8 {
		t.Errorf("%d requests reached the handler", n)
	}
}

// What is spoken is what was agreed on.
func TestVersionsAreNotMixed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, tc := range []struct{ agreed, spoken string }{
		{handshake.ProtocolHTTP2, "GET /- HTTP/1.1\r\nHost: x\r\nX-M2M-RI: 1\r\n\r\n"},
		{handshake.ProtocolHTTP1, preface + string(frame(4, 0, 0, nil))},
		{"", preface + string(frame(4, 0, 0, nil))},
	} {
		conn := must(w.dialFor(t.Context(), tc.agreed))
		go func() { _, _ = io.WriteString(conn, tc.spoken) }()
		_ = conn.SetReadDeadline(time.Now().Add(patience))
		got, err := io.ReadAll(conn)
		if timeout, ok := err.(net.Error); ok && timeout.Timeout() {
			t.Errorf("%q: the connection stays open", tc.agreed)
		}
		if len(got) > 0 && !strings.HasPrefix(string(got), "HTTP/1.1 4") && !strings.HasPrefix(string(got), "HTTP/1.1 505") {
			t.Errorf("%q: %.100q", tc.agreed, got)
		}
		_ = conn.Close()
	}
}

// A header that does not end is not collected.
func TestHTTP2HeaderLimit(t *testing.T) {
	t.Parallel()
	conn := must(newWorld(t).dialFor(t.Context(), handshake.ProtocolHTTP2))
	t.Cleanup(func() { _ = conn.Close() })
	sent := make(chan int, 1)
	go func() {
		octets := append([]byte(preface), frame(4, 0, 0, nil)...)
		octets = append(octets, frame(1, 1, 1, []byte{0x82, 0x86, 0x84, 0x41, 1, 'x'})...)
		field := append([]byte{0x00, 1, 'a', 0x7f, 0x81, 0x7e}, strings.Repeat("b", 16256)...)
		total := 0
		for range 100 {
			if _, err := conn.Write(octets); err != nil {
				break
			}
			total += len(octets)
			octets = frame(9, 0, 1, field)
		}
		sent <- total
	}()
	_ = conn.SetReadDeadline(time.Now().Add(patience))
	if _, err := io.Copy(io.Discard, conn); err != nil {
		t.Errorf("the connection does not end: %v", err)
	}
	if total := <-sent; total > 200<<10 {
		t.Errorf("%d octets of a header were taken", total)
	}
}

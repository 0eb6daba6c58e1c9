package websocket_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	ws "github.com/coder/websocket"

	"muster"
	"muster/binding"
	"muster/binding/websocket"
	"muster/handshake"
	"muster/primitive"
)

// patience is for what is expected to happen at once.
const patience = 30 * time.Second

// echo answers a create with its content and a retrieve with who asks.
func echo(_ context.Context, s *muster.Session, r *primitive.Request) (*primitive.Response, error) {
	switch r.Operation {
	case primitive.Create:
		return &primitive.Response{Status: primitive.Created, Location: r.To + "/1", Content: r.Content}, nil
	case primitive.Retrieve:
		return &primitive.Response{Status: primitive.OK, Content: primitive.NewContent(primitive.Object{"who": s.Peer.PSKIdentity})}, nil
	}
	return nil, errors.New("secret cause")
}

type world struct {
	http *binding.Server
	ws   *websocket.Server
}

func newWorld(t *testing.T, c websocket.Config) *world {
	t.Helper()
	if c.Handler == nil {
		c.Handler = primitive.HandlerFunc(echo)
	}
	w := &world{ws: websocket.NewServer(c)}
	w.http = binding.NewServer(binding.Config{Handler: c.Handler, Upgrade: w.ws.Upgrade, Logger: slog.New(slog.DiscardHandler)})
	go func() { _ = w.http.Serve() }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := errors.Join(w.http.Shutdown(ctx), w.ws.Shutdown(ctx)); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
	})
	return w
}

// dial gives the server one end of a connection and returns the other. It is TCP,
// since in a pipe without buffers a ping and an answer would wait for each other.
func (w *world) dial() *handshake.Conn {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	defer listener.Close()
	near, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		panic(err)
	}
	far, err := listener.Accept()
	if err != nil {
		panic(err)
	}
	session := muster.NewSession(muster.Peer{PSKIdentity: "device"}, nil)
	go func() { _ = w.http.Handle(&handshake.Conn{Conn: far, Session: session}) }()
	return &handshake.Conn{Conn: near}
}

func (w *world) client(t *testing.T, f primitive.Format) *websocket.Client {
	t.Helper()
	client, err := websocket.Dial(t.Context(), w.dial(), websocket.ClientConfig{Authority: "mef.example.org", Format: f})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// foreign is a connection by the library itself, which may send what it likes.
func (w *world) foreign(t *testing.T, header http.Header, subprotocols ...string) (*ws.Conn, *http.Response, error) {
	t.Helper()
	transport := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return w.dial(), nil }}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	conn, response, err := ws.Dial(ctx, "ws://mef.example.org/", &ws.DialOptions{
		HTTPClient: &http.Client{Transport: transport}, HTTPHeader: header, Subprotocols: subprotocols,
	})
	if conn != nil {
		t.Cleanup(func() { _ = conn.CloseNow() })
	}
	return conn, response, err
}

func TestDo(t *testing.T) {
	t.Parallel()
	w := newWorld(t, websocket.Config{})
	for _, format := range []primitive.Format{primitive.JSON, primitive.CBOR} {
		client := w.client(t, format)
		for range 3 {
			got, err := client.Do(t.Context(), &primitive.Request{Operation: primitive.Retrieve, To: "-"})
			if err != nil || got.Status != primitive.OK || got.ReleaseVersion != "3" {
				t.Fatalf("%v: %v, %v", format, got, err)
			}
			if o, err := got.Content.Object(); err != nil || o["who"] != "device" {
				t.Errorf("%v: the handler did not see the session: %v, %v", format, o, err)
			}
		}
		failed, err := client.Do(t.Context(), &primitive.Request{Operation: primitive.Delete, To: "-/1"})
		if err != nil || failed.Status != primitive.InternalServerError || !failed.Content.IsZero() {
			t.Errorf("%v: internal error: %v, %v", format, failed, err)
		}
	}
}

func TestCallersTakeTurns(t *testing.T) {
	t.Parallel()
	client := newWorld(t, websocket.Config{}).client(t, primitive.JSON)
	var callers sync.WaitGroup
	for i := range 20 {
		callers.Go(func() {
			content := primitive.NewContent(primitive.Object{"n": int64(i)})
			got, err := client.Do(t.Context(), &primitive.Request{Operation: primitive.Create, To: "-", ResourceType: 60002, Content: content})
			if err != nil {
				t.Error(err)
				return
			}
			if o, err := got.Content.Object(); err != nil || o["n"] != int64(i) {
				t.Errorf("%v, %v, want %d", o, err, i)
			}
		})
	}
	callers.Wait()
}

func TestUpgradeRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t, websocket.Config{Origins: []string{"https://console.example.org"}})
	const head = " HTTP/1.1\r\nHost: mef.example.org\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Key: ud63env87LQLd4uIV20/oQ==\r\n"
	const version, protocol = "Sec-WebSocket-Version: 13\r\n", "Sec-WebSocket-Protocol: oneM2M.json\r\n"
	for name, tc := range map[string]struct {
		request string
		code    int
	}{
		"good":                    {"GET /" + head + version + protocol, 101},
		"good, in two fields":     {"GET /" + head + version + "Sec-WebSocket-Protocol: oneM2M.xml\r\n" + protocol, 101},
		"good, configured origin": {"GET /" + head + version + protocol + "Origin: https://console.example.org\r\n", 101},
		"other path":              {"GET /-" + head + version + protocol, 404},
		"no subprotocol":          {"GET /" + head + version, 400},
		"XML":                     {"GET /" + head + version + "Sec-WebSocket-Protocol: oneM2M.xml\r\n", 400},
		"a browser":               {"GET /" + head + version + protocol + "Origin: https://evil.example\r\n", 403},
		"its own origin":          {"GET /" + head + version + protocol + "Origin: https://mef.example.org\r\n", 403},
		"no page's origin":        {"GET /" + head + version + protocol + "Origin: null\r\n", 403},
		"two origins":             {"GET /" + head + version + protocol + "Origin: https://console.example.org\r\nOrigin: https://evil.example\r\n", 403},
		"no version":              {"GET /" + head + protocol, 400},
		"POST":                    {"POST /" + head + version + protocol, 405},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn := w.dial()
			t.Cleanup(func() { _ = conn.Close() })
			go func() { _, _ = io.WriteString(conn, tc.request+"\r\n") }()
			_ = conn.SetReadDeadline(time.Now().Add(patience))
			response, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			if response.StatusCode != tc.code {
				t.Errorf("%d, want %d", response.StatusCode, tc.code)
			}
			if tc.code == 101 && (response.Header.Get("Sec-WebSocket-Protocol") != "oneM2M.json" || response.Header.Get("Sec-WebSocket-Extensions") != "") {
				t.Errorf("%v", response.Header)
			}
		})
	}
}

// The client's order of subprotocols decides.
func TestSubprotocol(t *testing.T) {
	t.Parallel()
	w := newWorld(t, websocket.Config{})
	for want, offered := range map[string][]string{
		"oneM2M.cbor": {"oneM2M.xml", "oneM2M.cbor", "oneM2M.json"},
		"oneM2M.json": {"oneM2M.json", "oneM2M.cbor"},
	} {
		conn, _, err := w.foreign(t, nil, offered...)
		if err != nil || conn.Subprotocol() != want {
			t.Errorf("%v: %v, %v", offered, conn.Subprotocol(), err)
		}
	}
}

func TestMessages(t *testing.T) {
	t.Parallel()
	w := newWorld(t, websocket.Config{})
	for name, tc := range map[string]struct {
		kind  ws.MessageType
		send  string
		want  string        // of the answer
		close ws.StatusCode // in place of an answer
	}{
		"retrieve":             {ws.MessageText, `{"op":2,"to":"-","rqi":"A1","rvi":"3"}`, `{"pc":{"who":"device"},"rqi":"A1","rsc":2000,"rvi":"3"}`, 0},
		"long names":           {ws.MessageText, `{"operation":2,"to":"-","requestIdentifier":"A1"}`, `{"pc":{"who":"device"},"rqi":"A1","rsc":2000}`, 0},
		"unsupported":          {ws.MessageText, `{"op":2,"to":"-","rqi":"A1","fc":{}}`, `{"pc":{"m2m:dbg":"parameter \"fc\" is not supported with this value"},"rqi":"A1","rsc":5001}`, 0},
		"no identifier":        {ws.MessageText, `{"op":2,"to":"-"}`, `{"pc":{"m2m:dbg":"the Request Identifier is missing"},"rsc":4000}`, 0},
		"not JSON":             {ws.MessageText, `{"op":`, `"rsc":4000`, 0},
		"a response":           {ws.MessageText, `{"rsc":2000,"rqi":"A1"}`, `"rsc":5001`, 0},
		"binary, but JSON":     {ws.MessageBinary, `{"op":2,"to":"-","rqi":"A1"}`, "", ws.StatusUnsupportedData},
		"more than MaxContent": {ws.MessageText, strings.Repeat(" ", primitive.MaxContent+1), "", ws.StatusMessageTooBig},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn, _, err := w.foreign(t, nil, "oneM2M.json")
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			go func() { _ = conn.Write(ctx, tc.kind, []byte(tc.send)) }()
			kind, answer, err := conn.Read(ctx)
			if tc.close != 0 {
				if ws.CloseStatus(err) != tc.close {
					t.Errorf("%s, %v, want it closed with %d", answer, err, tc.close)
				}
				return
			}
			if err != nil || kind != ws.MessageText || !strings.Contains(string(answer), tc.want) {
				t.Errorf("%s, %v, want %s", answer, err, tc.want)
			}
		})
	}
}

// A peer that is silent and answers no ping loses its connection; so does one that
// does not finish a message.
func TestSilence(t *testing.T) {
	t.Parallel()
	w := newWorld(t, websocket.Config{PingInterval: time.Millisecond, RequestTimeout: time.Millisecond, ReadTimeout: 10 * time.Millisecond})
	const head = "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Key: ud63env87LQLd4uIV20/oQ==\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: oneM2M.json\r\n\r\n"
	for name, then := range map[string]string{"silent": "", "half a message": "\x01\x81\x00\x00\x00\x00{"} {
		conn := w.dial()
		go func() { _, _ = io.WriteString(conn, head+then) }()
		_ = conn.SetReadDeadline(time.Now().Add(patience))
		if _, err := io.Copy(io.Discard, conn); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		_ = conn.Close()
	}
	client := newWorld(t, websocket.Config{PingInterval: 20 * time.Millisecond}).client(t, primitive.JSON)
	for range 5 {
		time.Sleep(50 * time.Millisecond)
		if _, err := client.Do(t.Context(), &primitive.Request{Operation: primitive.Retrieve, To: "-"}); err != nil {
			t.Fatalf("our client does not answer pings: %v", err)
		}
	}
}

// Shutdown answers the request under way, tells the peer and waits.
func TestShutdown(t *testing.T) {
	t.Parallel()
	begun, release := make(chan struct{}), make(chan struct{})
	w := newWorld(t, websocket.Config{Handler: primitive.HandlerFunc(func(context.Context, *muster.Session, *primitive.Request) (*primitive.Response, error) {
		close(begun)
		<-release
		return &primitive.Response{Status: primitive.OK}, nil
	})})
	busy, idle := w.client(t, primitive.JSON), w.client(t, primitive.JSON)
	answered := make(chan error, 1)
	go func() {
		got, err := busy.Do(t.Context(), &primitive.Request{Operation: primitive.Retrieve, To: "-"})
		if err == nil && got.Status != primitive.OK {
			err = fmt.Errorf("status %v", got.Status)
		}
		answered <- err
	}()
	<-begun
	short, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := w.ws.Shutdown(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Shutdown does not wait: %v", err)
	}
	close(release)
	if err := <-answered; err != nil {
		t.Errorf("the request under way: %v", err)
	}
	ctx, stop := context.WithTimeout(t.Context(), patience)
	defer stop()
	if err := w.ws.Shutdown(ctx); err != nil {
		t.Error(err)
	}
	if _, err := idle.Do(ctx, &primitive.Request{Operation: primitive.Retrieve, To: "-"}); err == nil || ctx.Err() != nil {
		t.Errorf("a request after Shutdown: %v", err)
	}
	if _, response, err := w.foreign(t, nil, "oneM2M.json"); err == nil || response == nil || response.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("an upgrade after Shutdown: %v, %v", response, err)
	}
}

// hostile plays the server of one connection.
func TestHostileServer(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]string{
		"not a primitive": `{"op":2}`,
		"not JSON":        `{`,
		"too large":       strings.Repeat(" ", 2*primitive.MaxContent+1),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			near, far := net.Pipe()
			server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				conn, err := ws.Accept(w, r, &ws.AcceptOptions{Subprotocols: []string{"oneM2M.json"}})
				if err != nil {
					return
				}
				_, _, _ = conn.Read(context.Background())
				_ = conn.Write(context.Background(), ws.MessageText, []byte(answer))
				_, _, _ = conn.Read(context.Background())
			})}
			listener := &single{conns: make(chan net.Conn, 1)}
			listener.conns <- far
			go func() { _ = server.Serve(listener) }()
			t.Cleanup(func() { _ = server.Close() })
			client, err := websocket.Dial(t.Context(), &handshake.Conn{Conn: near}, websocket.ClientConfig{Authority: "mef.example.org"})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			if got, err := client.Do(ctx, &primitive.Request{Operation: primitive.Retrieve, To: "-"}); err == nil || ctx.Err() != nil {
				t.Errorf("%v, %v", got, err)
			}
		})
	}
}

// single is a listener with one connection.
type single struct{ conns chan net.Conn }

func (s *single) Accept() (net.Conn, error) {
	conn, ok := <-s.conns
	if !ok {
		return nil, net.ErrClosed
	}
	return conn, nil
}
func (s *single) Close() error   { close(s.conns); return nil }
func (s *single) Addr() net.Addr { return &net.TCPAddr{} }

package awkward_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"muster"
	"muster/binding"
	"muster/binding/awkward"
	"muster/binding/coap"
	"muster/binding/websocket"
	"muster/handshake"
	"muster/primitive"
)

const seeds = 10

// echo answers a create with its content, and a retrieve with a resource.
func echo(_ context.Context, _ *muster.Session, r *primitive.Request) (*primitive.Response, error) {
	switch r.Operation {
	case primitive.Create:
		return &primitive.Response{Status: primitive.Created, Content: r.Content}, nil
	case primitive.Retrieve:
		return &primitive.Response{Status: primitive.OK, Content: resource("x")}, nil
	}
	return nil, &primitive.Error{Status: primitive.NotFound, Detail: "none"}
}

func resource(text string) primitive.Content {
	return primitive.NewContent(primitive.Object{"sec:macr": primitive.Object{
		"ri": text, "ct": "20260101T000000", "lt": "20260101T000000", "lbl": []any{"a"}, "et": "20270101T000000",
	}})
}

func session() *muster.Session { return muster.NewSession(muster.Peer{PSKIdentity: "device"}, nil) }

type doer interface {
	Do(ctx context.Context, r *primitive.Request) (*primitive.Response, error)
}

// survives asks many things and wants each answered as it was asked.
func survives(t *testing.T, client doer) {
	t.Helper()
	for i := range 30 {
		text := fmt.Sprint(i, strings.Repeat("x", 200*(i%15))) // some of several blocks
		made, err := client.Do(t.Context(), &primitive.Request{Operation: primitive.Create, To: "-", ResourceType: 60002, Content: resource(text)})
		if err != nil || made.Status != primitive.Created {
			t.Fatalf("request %d: %v, %v", i, made, err)
		}
		content, err := made.Content.Object()
		if err != nil {
			t.Fatal(err)
		}
		if got := content["sec:macr"].(primitive.Object); got["ri"] != text || got["et"] != "20270101T000000" {
			t.Fatalf("request %d is answered with %.100v", i, got)
		}
		refused, err := client.Do(t.Context(), &primitive.Request{Operation: primitive.Delete, To: "-/x"})
		if err != nil || refused.Status != primitive.NotFound || refused.Detail() != "none" {
			t.Fatalf("request %d: %v, %v", i, refused, err)
		}
	}
}

func TestCoAPClientSurvives(t *testing.T) {
	t.Parallel()
	for seed := range uint64(seeds) {
		synctest.Test(t, func(t *testing.T) {
			mode := awkward.New(seed)
			near, far := net.Pipe()
			served := make(chan error, 1)
			go func() {
				server := coap.NewServer(coap.Config{Handler: mode.Handler(primitive.HandlerFunc(echo))})
				served <- server.ServeConn(context.Background(), mode.Datagrams(&handshake.Conn{Conn: far, Session: session()}))
			}()
			client, err := coap.NewClient(queued(t, near), coap.ClientConfig{})
			if err != nil {
				t.Fatal(err)
			}
			survives(t, client)
			_ = client.Close()
			// A repeated answer may be on its way when the client leaves.
			if err := <-served; err != nil && !errors.Is(err, io.ErrClosedPipe) {
				t.Errorf("seed %d: %v", seed, err)
			}
		})
	}
}

// queued is a connection whose other end never waits for it to be read.
func queued(t *testing.T, conn net.Conn) net.Conn {
	t.Helper()
	near, far := net.Pipe()
	datagrams := make(chan []byte, 1024)
	go func() {
		defer close(datagrams)
		buffer := make([]byte, 4096)
		for {
			n, err := conn.Read(buffer)
			if err != nil {
				return
			}
			datagrams <- slices.Clone(buffer[:n])
		}
	}()
	go func() {
		for datagram := range datagrams {
			_, _ = far.Write(datagram)
		}
		_ = far.Close()
	}()
	go func() {
		buffer := make([]byte, 4096)
		for {
			n, err := far.Read(buffer)
			if err != nil {
				_ = conn.Close()
				return
			}
			_, _ = conn.Write(buffer[:n])
		}
	}()
	return near
}

func TestStreamClientsSurvive(t *testing.T) {
	t.Parallel()
	for seed := range uint64(seeds) {
		synctest.Test(t, func(t *testing.T) {
			mode := awkward.New(seed)
			handler := mode.Handler(primitive.HandlerFunc(echo))
			sockets := websocket.NewServer(websocket.Config{Handler: handler})
			server := binding.NewServer(binding.Config{
				Handler: handler, Upgrade: sockets.Upgrade, Decorate: mode.HTTP, Logger: slog.New(slog.DiscardHandler),
			})
			served := make(chan error, 1)
			go func() { served <- server.Serve() }()
			dial := func(protocol string) binding.Dial {
				return func(context.Context) (*handshake.Conn, error) {
					near, far := net.Pipe()
					go func() { _ = server.Handle(&handshake.Conn{Conn: far, Session: session(), Protocol: protocol}) }()
					return &handshake.Conn{Conn: near}, nil
				}
			}
			for _, protocol := range []string{handshake.ProtocolHTTP1, handshake.ProtocolHTTP2} {
				client := binding.NewClient(binding.ClientConfig{Dial: dial(protocol), Authority: "mef.example.org", HTTP2: protocol == handshake.ProtocolHTTP2})
				survives(t, client)
				client.Close()
			}
			conn, err := dial("")(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			socket, err := websocket.Dial(t.Context(), conn, websocket.ClientConfig{Authority: "mef.example.org"})
			if err != nil {
				t.Fatal(err)
			}
			survives(t, socket)
			if err := errors.Join(socket.Close(), sockets.Shutdown(t.Context()), server.Shutdown(t.Context()), <-served); err != nil {
				t.Errorf("seed %d: %v", seed, err)
			}
		})
	}
}

// A separate answer is sent until it is acknowledged, five times at most, and all
// ways to answer are taken.
func TestWaysToAnswer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer near.Close()
		var sent []*coap.Message
		arrived := make(chan struct{})
		go func() {
			defer close(arrived)
			buffer := make([]byte, 4096)
			for {
				n, err := near.Read(buffer)
				if err != nil {
					return
				}
				m, err := coap.Parse(buffer[:n])
				if err != nil {
					t.Error(err)
				}
				sent = append(sent, m)
			}
		}()
		conn := awkward.New(1).Datagrams(&handshake.Conn{Conn: far})
		seen := map[string]bool{}
		for id := range uint16(100) {
			token := []byte{byte(id)}
			octets, err := (&coap.Message{Type: coap.Acknowledgement, Code: coap.CodeContent, ID: id, Token: token}).Marshal()
			if err != nil {
				t.Fatal(err)
			}
			sent = nil
			if _, err := conn.Write(octets); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Hour)
			synctest.Wait()
			var kinds strings.Builder
			confirmable := 0
			for _, m := range sent {
				switch {
				case m.Type == coap.Acknowledgement && m.Code == coap.Empty && m.ID == id:
					kinds.WriteString("E")
				case m.Type == coap.Acknowledgement && m.ID == id && bytes.Equal(m.Token, token):
					kinds.WriteString("A")
				case m.Type == coap.Acknowledgement && m.ID < id:
					kinds.WriteString("o")
				case m.Type == coap.Confirmable && bytes.Equal(m.Token, token):
					confirmable++
					kinds.WriteString("C")
				default:
					t.Fatalf("%+v", m)
				}
			}
			if confirmable > 6 {
				t.Errorf("an answer is sent %d times", confirmable)
			}
			seen[kinds.String()] = true
		}
		for _, want := range []string{"A", "AA", "Ao", "ECCCCC", "CECCCC", "CCCCC", "ECCCCCC"} {
			if !seen[want] {
				t.Errorf("no answer came as %s: %v", want, seen)
			}
		}
		_ = conn.Close()
		<-arrived
	})
}

func TestAcknowledgedAnswersAreNotRepeated(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		conn := awkward.New(1).Datagrams(&handshake.Conn{Conn: far})
		go func() { // the server's reader
			buffer := make([]byte, 4096)
			for {
				if _, err := conn.Read(buffer); err != nil {
					return
				}
			}
		}()
		times := map[uint16]int{}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			buffer := make([]byte, 4096)
			for {
				n, err := near.Read(buffer)
				if err != nil {
					return
				}
				if m, err := coap.Parse(buffer[:n]); err == nil && m.Type == coap.Confirmable {
					times[m.ID]++
					octets, _ := (&coap.Message{Type: coap.Acknowledgement, ID: m.ID}).Marshal()
					_, _ = near.Write(octets)
				}
			}
		}()
		for id := range uint16(50) {
			octets, err := (&coap.Message{Type: coap.Acknowledgement, Code: coap.CodeContent, ID: id}).Marshal()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := conn.Write(octets); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
		}
		_ = conn.Close()
		_ = near.Close()
		<-ended
		if len(times) == 0 {
			t.Error("no answer was separate")
		}
		for id, n := range times {
			if n > 2 {
				t.Errorf("answer %d came %d times", id, n)
			}
		}
	})
}

// What is optional is there sometimes, and what is not, always.
func TestOptionalAttributes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		handler := awkward.New(1).Handler(primitive.HandlerFunc(echo))
		present := map[string]int{}
		const times = 50
		for range times {
			response, err := handler.Serve(t.Context(), session(), &primitive.Request{Operation: primitive.Retrieve})
			if err != nil {
				t.Fatal(err)
			}
			content, err := response.Content.Object()
			if err != nil {
				t.Fatal(err)
			}
			for name := range content["sec:macr"].(primitive.Object) {
				present[name]++
			}
		}
		for name, want := range map[string]bool{"ri": true, "et": true, "ct": false, "lt": false, "lbl": false} {
			if n := present[name]; n == 0 || (n == times) != want {
				t.Errorf("%s is there %d times of %d", name, n, times)
			}
		}
	})
}

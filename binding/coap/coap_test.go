package coap_test

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"muster"
	"muster/binding/coap"
	"muster/handshake"
	"muster/primitive"
)

// echo answers a create and an update with the content it came with, and a
// retrieve with as many octets as the To ends in.
func echo(_ context.Context, _ *muster.Session, r *primitive.Request) (*primitive.Response, error) {
	switch r.Operation {
	case primitive.Create:
		return &primitive.Response{Status: primitive.Created, Location: r.To + "/1", Content: r.Content}, nil
	case primitive.Update:
		return &primitive.Response{Status: primitive.Updated, Content: r.Content}, nil
	case primitive.Delete:
		return &primitive.Response{Status: primitive.Deleted}, nil
	}
	var size int
	if _, err := fmt.Sscanf(r.To, "-/%d", &size); err != nil {
		return nil, muster.Refuse(muster.CodeKeyUnknown, "no size in %s", r.To)
	}
	return &primitive.Response{Status: primitive.OK, Content: sized(size)}, nil
}

// sized returns content whose JSON has size octets, in which each group of seven
// digits tells its place.
func sized(size int) primitive.Content {
	const frame = len(`{"sec:macr":""}`)
	text := strings.Builder{}
	for i := 0; text.Len() < size-frame; i++ {
		fmt.Fprintf(&text, "%06d.", i)
	}
	return primitive.RawContent(primitive.JSON, []byte(`{"sec:macr":"`+text.String()[:max(size-frame, 0)]+`"}`))
}

func serve(t testing.TB, h primitive.Handler, conn *handshake.Conn) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	server := coap.NewServer(coap.Config{Handler: h, Logger: slog.New(slog.DiscardHandler)})
	done := make(chan error, 1)
	go func() { done <- server.ServeConn(ctx, conn) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("ServeConn: %v", err)
		}
	})
}

func newClient(t *testing.T, conn net.Conn) *coap.Client {
	t.Helper()
	client, err := coap.NewClient(conn, coap.ClientConfig{})
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func encoded(t *testing.T, c primitive.Content) string {
	t.Helper()
	octets, err := c.Encode(primitive.JSON)
	if err != nil {
		t.Fatal(err)
	}
	return string(octets)
}

func TestExchange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn, server := datagramPair(t, faithful, faithful)
		serve(t, primitive.HandlerFunc(echo), server)
		client := newClient(t, conn)
		for _, size := range []int{20, 1024, 1025, 3000, 65000} {
			content := sized(size)
			created, err := client.Do(t.Context(), &primitive.Request{Operation: primitive.Create, To: "-", From: "//sp.example/a", ResourceType: 60002, Content: content})
			if err != nil {
				t.Fatalf("create with %d octets: %v", size, err)
			}
			if created.Status != primitive.Created || created.Location != "-/1" || encoded(t, created.Content) != encoded(t, content) {
				t.Errorf("create with %d octets: %v at %q, %d octets", size, created.Status, created.Location, len(encoded(t, created.Content)))
			}
			got, err := client.Do(t.Context(), &primitive.Request{Operation: primitive.Retrieve, To: fmt.Sprintf("-/%d", size)})
			if err != nil {
				t.Fatalf("retrieve %d octets: %v", size, err)
			}
			if got.Status != primitive.OK || encoded(t, got.Content) != encoded(t, content) {
				t.Errorf("retrieve %d octets: %v, %d octets", size, got.Status, len(encoded(t, got.Content)))
			}
		}
		gone, err := client.Do(t.Context(), &primitive.Request{Operation: primitive.Delete, To: "-/1"})
		if err != nil || gone.Status != primitive.Deleted {
			t.Errorf("delete: %v, %v", gone, err)
		}
		unknown, err := client.Do(t.Context(), &primitive.Request{Operation: primitive.Retrieve, To: "-/x"})
		if err != nil || unknown.Status != primitive.NotFound || !unknown.Content.IsZero() {
			t.Errorf("unknown: %v, %v", unknown, err)
		}
	})
}

// Whatever the link does, a create is executed once, and the client either gets
// its answer or an error.
func TestExchangeOnAFaultyLink(t *testing.T) {
	for seed := range uint64(40) {
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 1))
			var mu sync.Mutex
			faulty := func(int) (int, bool) {
				mu.Lock()
				defer mu.Unlock()
				switch random.IntN(10) {
				case 0, 1:
					return 0, false
				case 2, 3:
					return 2, false
				case 4:
					return 1, true
				}
				return 1, false
			}
			conn, server := datagramPair(t, faulty, faulty)
			var executed atomic.Int32
			serve(t, primitive.HandlerFunc(func(ctx context.Context, s *muster.Session, r *primitive.Request) (*primitive.Response, error) {
				executed.Add(1)
				return echo(ctx, s, r)
			}), server)
			client := newClient(t, conn)
			answered := int32(0)
			const requests = 5
			for i := range requests {
				content := sized(40 + i%2*3000)
				response, err := client.Do(t.Context(), &primitive.Request{Operation: primitive.Create, To: "-", ResourceType: 60002, Content: content})
				if err != nil {
					continue
				}
				answered++
				if response.Status != primitive.Created || encoded(t, response.Content) != encoded(t, content) {
					t.Errorf("seed %d: %v with %d octets", seed, response.Status, len(encoded(t, response.Content)))
				}
			}
			if n := executed.Load(); n > requests || n < answered {
				t.Errorf("seed %d: %d requests executed %d times, %d answered", seed, requests, n, answered)
			}
			if answered == 0 {
				t.Errorf("seed %d: no request was answered", seed)
			}
		})
	}
}

func TestClientGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sent atomic.Int32
		conn, _ := datagramPair(t, func(int) (int, bool) { sent.Add(1); return 0, false }, faithful)
		client, err := coap.NewClient(conn, coap.ClientConfig{Jitter: func() float64 { return 0 }})
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		_, err = client.Do(t.Context(), &primitive.Request{Operation: primitive.Retrieve, To: "-"})
		if err != coap.ErrNoAnswer {
			t.Errorf("error %v, want %v", err, coap.ErrNoAnswer)
		}
		if elapsed := time.Since(start); sent.Load() != 5 || elapsed != 62*time.Second {
			t.Errorf("%d transmissions in %v, want 5 in 62 s", sent.Load(), elapsed)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := client.Do(ctx, &primitive.Request{Operation: primitive.Retrieve, To: "-"}); err != context.DeadlineExceeded {
			t.Errorf("error %v, want the context's", err)
		}
	})
}

// TestServerEnds has a server close the association in place of an answer: the client
// may come again.
func TestServerEnds(t *testing.T) {
	t.Parallel()
	conn, server := datagramPair(t, faithful, faithful)
	client := newClient(t, conn)
	go func() {
		_, _ = server.Read(make([]byte, 2048))
		_ = conn.Close() // as pion ends the association of a peer that said farewell
	}()
	for range 2 {
		_, err := client.Do(t.Context(), &primitive.Request{Operation: primitive.Retrieve, To: "-"})
		if code := muster.CodeOf(err); code != muster.CodeUnreachable {
			t.Errorf("the error %v has the code %q", err, code)
		}
	}
}

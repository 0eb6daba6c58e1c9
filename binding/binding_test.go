package binding_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"muster"
	"muster/binding"
	"muster/handshake"
	"muster/primitive"
)

const (
	testKeID    = "000102030405060708090A0B0C0D0E0F@mef.example.org"
	testEnrolee = "//sp.example.org/cse1/C1"
	testMAF     = "maf.example.org"
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func testKm() muster.Km { return must(muster.NewKm([]byte(strings.Repeat("k", 32)))) }

// fetch knows one key for one MAF and one usage.
func fetch(_ context.Context, s *muster.Session, r binding.FetchRequest) (binding.Credential, error) {
	switch {
	case r.From != s.Peer.Name.Text:
		return binding.Credential{}, muster.Refuse(muster.CodeOriginMismatch, "%s is not %s", r.From, s.Peer.Name)
	case strings.HasPrefix(r.KeID.String(), "EE"):
		return binding.Credential{}, muster.Refuse(muster.CodeBusy, "at work")
	case r.KeID.String() != testKeID:
		return binding.Credential{}, muster.Refuse(muster.CodeKeyUnknown, "no key %s", r.KeID)
	case r.SUID != muster.SUIDForMAF:
		return binding.Credential{}, muster.Refuse(muster.CodeNotTarget, "not for SUID %s", r.SUID)
	}
	return binding.Credential{Km: testKm(), EnroleeID: must(muster.ParseEnroleeID(testEnrolee)), Lifetime: time.Hour}, nil
}

// echo answers a create with its content, a retrieve with a fixed resource.
func echo(_ context.Context, _ *muster.Session, r *primitive.Request) (*primitive.Response, error) {
	switch r.Operation {
	case primitive.Create:
		return &primitive.Response{Status: primitive.Created, Location: r.To + "/1", Content: r.Content}, nil
	case primitive.Retrieve:
		return &primitive.Response{Status: primitive.OK, Content: primitive.NewContent(primitive.Object{"sec:macr": primitive.Object{"ri": "1"}})}, nil
	}
	return nil, errors.New("secret cause")
}

type world struct {
	server *binding.Server
	dials  atomic.Int32
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{server: binding.NewServer(binding.Config{
		Handler: primitive.HandlerFunc(echo),
		Fetch:   fetch,
		Logger:  slog.New(slog.DiscardHandler),
	})}
	done := make(chan error, 1)
	go func() { done <- w.server.Serve() }()
	t.Cleanup(func() {
		if err := w.server.Shutdown(context.Background()); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return w
}

// dial gives the server one end of a pipe, as a session of the MAF, and returns
// the other.
func (w *world) dial(ctx context.Context) (*handshake.Conn, error) { return w.dialFor(ctx, "") }

// dialFor is dial after a handshake that agreed on a protocol.
func (w *world) dialFor(_ context.Context, protocol string) (*handshake.Conn, error) {
	w.dials.Add(1)
	near, far := net.Pipe()
	peer := muster.Peer{Name: muster.CertName{Flavour: muster.FlavourFQDN, Text: testMAF}}
	go func() {
		_ = w.server.Handle(&handshake.Conn{Conn: far, Session: muster.NewSession(peer, nil), Protocol: protocol})
	}()
	return &handshake.Conn{Conn: near}, nil
}

func (w *world) client(t *testing.T, from string) *binding.Client {
	client := binding.NewClient(binding.ClientConfig{Dial: w.dial, Authority: "mef.example.org", From: from})
	t.Cleanup(client.Close)
	return client
}

func TestFetchCredential(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	client := w.client(t, testMAF)
	id := must(muster.ParseKeID(testKeID))
	for range 3 {
		got, err := client.FetchCredential(t.Context(), id, muster.SUIDForMAF)
		if err != nil {
			t.Fatal(err)
		}
		if !got.Km.Equal(testKm()) || got.EnroleeID.String() != testEnrolee || got.Lifetime != time.Hour {
			t.Errorf("got %v", got)
		}
		if text := fmt.Sprintf("%v %+v %#v", got, got, got); strings.Contains(text, "kkkk") {
			t.Errorf("the key is printed: %s", text)
		}
	}
	if n := w.dials.Load(); n != 1 {
		t.Errorf("%d connections for three calls, want 1", n)
	}
	client.Close()
	if _, err := client.FetchCredential(t.Context(), id, muster.SUIDForMAF); err != nil || w.dials.Load() != 2 {
		t.Errorf("after Close: %v, %d connections", err, w.dials.Load())
	}
}

func TestFetchCredentialRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	known := must(muster.ParseKeID(testKeID))
	unknown := must(muster.ParseKeID("FF" + testKeID[2:]))
	for _, tc := range []struct {
		name, from string
		id         muster.KeID
		usage      muster.SUID
		want       primitive.Status
	}{
		{"unknown key", testMAF, unknown, muster.SUIDForMAF, primitive.NotFound},
		{"other usage", testMAF, known, muster.SUIDForSAEF, primitive.NotFound},
		{"other origin", "maf.example.com", known, muster.SUIDForMAF, primitive.OriginatorNotAuthenticated},
		{"no origin", "", known, muster.SUIDForMAF, primitive.OriginatorNotAuthenticated},
	} {
		_, err := w.client(t, tc.from).FetchCredential(t.Context(), tc.id, tc.usage)
		if got, ok := errors.AsType[*primitive.Error](err); !ok || got.Status != tc.want {
			t.Errorf("%s: %v, want %v", tc.name, err, tc.want)
		}
	}
}

// raw sends octets on a connection of its own and returns the response with its body.
func (w *world) raw(t *testing.T, request string) (*http.Response, string) {
	t.Helper()
	conn, err := w.dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	go func() { _, _ = io.WriteString(conn, request) }()
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatalf("%.60q: %v", request, err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response, string(body)
}

// The refusals of a key differ in nothing that a peer sees.
func TestFetchRefusalsLookAlike(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var first string
	for i, path := range []string{"FF" + testKeID[2:] + "/21", testKeID + "/22"} {
		response, body := w.raw(t, "GET /fetchCredentials/"+path+" HTTP/1.1\r\nHost: mef.example.org\r\nX-M2M-Origin: "+testMAF+"\r\nX-M2M-RI: 1\r\n\r\n")
		response.Header.Del("Date")
		seen := fmt.Sprint(response.StatusCode, response.Header, body)
		if i == 0 {
			first = seen
		}
		if seen != first {
			t.Errorf("%s gives %s\nthe other %s", path, seen, first)
		}
		var m map[string]any
		if err := json.Unmarshal([]byte(body), &m); err != nil || m["Status"] != false || m["ErrorString"] == "" || len(m) != 2 || response.StatusCode != 404 {
			t.Errorf("answer %d %s", response.StatusCode, body)
		}
	}
}

func TestFetchOnTheWire(t *testing.T) {
	t.Parallel()
	response, body := newWorld(t).raw(t, "GET /fetchCredentials/"+testKeID+"/21 HTTP/1.1\r\nHost: mef.example.org\r\nX-M2M-Origin: "+testMAF+"\r\nX-M2M-RI: 1\r\n\r\n")
	const want = `{"Status":true,"Credential":"a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s=","EnroleeID":"//sp.example.org/cse1/C1","Lifetime":3600}`
	if body != want || response.StatusCode != 200 || response.Header.Get("Cache-Control") != "no-store" || response.Header.Get("X-M2M-RSC") != "2000" {
		t.Errorf("%d %v %s", response.StatusCode, response.Header, body)
	}
}

func TestFetchFromABusyFunction(t *testing.T) {
	t.Parallel()
	response, body := newWorld(t).raw(t, "GET /fetchCredentials/EE"+testKeID[2:]+"/21 HTTP/1.1\r\nHost: mef.example.org\r\nX-M2M-Origin: "+testMAF+"\r\nX-M2M-RI: 1\r\n\r\n")
	if response.StatusCode != 504 || response.Header.Get("Retry-After") != "3" {
		t.Errorf("%d %v %s", response.StatusCode, response.Header, body)
	}
}

func TestDo(t *testing.T) {
	t.Parallel()
	client := newWorld(t).client(t, "")
	content := primitive.RawContent(primitive.JSON, []byte(`{"sec:macr":{"adfq":"admin.example.org"}}`))
	created, err := client.Do(t.Context(), &primitive.Request{Operation: primitive.Create, To: "-", From: testEnrolee, ResourceType: 60002, Content: content})
	if err != nil {
		t.Fatal(err)
	}
	if got := must(created.Content.Encode(primitive.JSON)); created.Status != primitive.Created || created.Location != "-/1" || string(got) != string(must(content.Encode(primitive.JSON))) {
		t.Errorf("%v %q %s", created.Status, created.Location, got)
	}
	failed, err := client.Do(t.Context(), &primitive.Request{Operation: primitive.Delete, To: "-/1"})
	if err != nil || failed.Status != primitive.InternalServerError || !failed.Content.IsZero() {
		t.Errorf("internal error: %v %v", failed, err)
	}
}

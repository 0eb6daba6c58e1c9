package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"muster"
	"muster/console"
	"muster/mustertest"
)

// newHostileServer is an operatorWorld that answers as a test wants.
func newHostileServer(t *testing.T, handler http.HandlerFunc) *operatorWorld {
	t.Helper()
	w := &operatorWorld{t: t, pki: mustertest.NewPKI(t), dir: t.TempDir()}
	w.server = httptest.NewUnstartedServer(handler)
	w.server.TLS = &tls.Config{Certificates: []tls.Certificate{w.pki.Function(t, operatorServer).TLS()}}
	w.server.StartTLS()
	t.Cleanup(w.server.Close)
	w.configure("admin", w.server.URL)
	return w
}

// endless writes until nobody reads.
func endless(rw io.Writer, text string) {
	for {
		if _, err := io.WriteString(rw, text); err != nil {
			return
		}
	}
}

// TestHostileAnswersAreBounded has servers answer as none should.
func TestHostileAnswersAreBounded(t *testing.T) {
	t.Parallel()
	as := func(media string, status int, body string) http.HandlerFunc {
		return func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Content-Type", media)
			rw.WriteHeader(status)
			_, _ = io.WriteString(rw, body)
		}
	}
	const plain, refused = "application/json", "application/problem+json"
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		code   int
		text   string
		args   string // whoami without
	}{
		"another media type": {as("text/html", 200, "<html>"), exitRefused, `it answers with "text/html"`, ""},
		"no media type":      {as("", 200, "{}"), exitRefused, "it answers with", ""},
		"no JSON":            {as(plain, 200, "{"), exitRefused, "unexpected end of JSON input", ""},
		"no object":          {as(plain, 200, "[]"), exitRefused, "cannot unmarshal array", "list anchors"},
		"items of no object": {as(plain, 200, `{"items":[1]}`), exitRefused, "an item of anchors", "list anchors"},
		"wrong members":      {as(plain, 200, `{"role":7}`), exitRefused, "cannot unmarshal number", "sign-in"},
		"too many items":     {as(plain, 200, `{"items":[{},{}]}`), exitRefused, "its pages have no end", "list anchors --limit 1"},
		"the same page":      {as(plain, 200, `{"items":[{}],"next":"x"}`), exitRefused, "its pages have no end", "list anchors --all"},
		"another status":     {as(plain, 418, "{}"), exitRefused, "it answers 418 I'm a teapot", ""},
		"an error within":    {as(refused, 500, `{"title":"Internal Server Error","status":500}`), exitRefused, "answers 500 Internal Server Error: Internal Server Error", ""},
		"a code of tomorrow": {as(refused, 400, `{"title":"x","code":"moon-phase","detail":"moon-phase: it wanes"}`), exitRefused, "answers 400 Bad Request moon-phase: it wanes", ""},
		"controls":           {as(refused, 404, `{"code":"resource-unknown","detail":"resource-unknown: \u001b[2J\nmuster: all is well"}`), exitRefused, `resource-unknown: \x1b[2J\nmuster: all is well`, ""},
		"a long detail":      {as(refused, 404, `{"code":"resource-unknown","detail":"`+strings.Repeat("x", 1<<20)+`"}`), exitRefused, "xxx…\n", ""},
		"a gateway":          {as("text/html", 502, "x"), exitUnreachable, "unreachable: ", "lift x"},
		"a redirection": {func(rw http.ResponseWriter, r *http.Request) {
			http.Redirect(rw, r, "https://elsewhere.example/", http.StatusTemporaryRedirect)
		}, exitRefused, `with a redirection to "https://elsewhere.example/"`, ""},
		"a body without end": {func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Content-Type", plain)
			endless(rw, strings.Repeat(" ", 1<<16))
		}, exitRefused, "its answer has more than 32 MiB", ""},
		"a header without end": {func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("X", strings.Repeat("x", 4*maxAnswerHeader))
		}, exitUnreachable, "unreachable: ", "lift x --timeout 10s"},
		"no event":  {as("text/event-stream", 200, "data: x\n\n"), exitRefused, "it sends an event that is none", "watch"},
		"no events": {as(plain, 200, "{}"), exitRefused, "it answers 200 OK", "watch"},
		"events without a line's end": {func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Content-Type", "text/event-stream")
			endless(rw, strings.Repeat("x", 1<<12))
		}, exitRefused, "it sends a line of more than 65536 octets", "watch"},
		"an audit log of nothing": {as(plain, 200, `{"items":[{}],"next":"x"}`), exitRefused, "audit-broken: ", "audit verify"},
		"another anchor":          {as(plain, 200, `{"id":"x"}`), exitRefused, "it added another anchor", "anchor add ROOT"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHostileServer(t, c.answer)
			if c.args == "" {
				c.args = "whoami"
			}
			h.want(c.code, c.text, strings.Fields(strings.ReplaceAll(c.args, "ROOT", h.pki.Root.WriteFile(t)))...)
		})
	}
}

// TestSilentServerIsGivenUp asks one that takes requests and does not answer.
func TestSilentServerIsGivenUp(t *testing.T) {
	t.Parallel()
	h := newHostileServer(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	h.want(exitUnreachable, "no answer within 50ms", "lift", "x", "--timeout", "50ms")
	h.want(exitUnreachable, "nothing is heard", "watch", "--timeout", "50ms")
}

// TestServersOfOtherProtocols are not spoken to.
func TestServersOfOtherProtocols(t *testing.T) {
	t.Parallel()
	h := newHostileServer(t, nil)
	plain := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(plain.Close)
	h.want(exitRefused, "handshake-failed: ", "whoami", "--server", strings.Replace(plain.URL, "http:", "https:", 1))
	old := httptest.NewUnstartedServer(http.NotFoundHandler())
	old.TLS = &tls.Config{Certificates: h.server.TLS.Certificates, MaxVersion: tls.VersionTLS12}
	old.StartTLS()
	t.Cleanup(old.Close)
	h.want(exitRefused, "protocol version not supported", "whoami", "--server", old.URL)
}

// TestRequestsAreRepeated counts how often one is sent, and with which key.
func TestRequestsAreRepeated(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var keys []string // of requests, guarded by mu
	cut := false      // rather than busy; guarded by mu
	h := newHostileServer(t, func(rw http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		_, _ = io.Copy(io.Discard, r.Body)
		keys = append(keys, r.Header.Get("Idempotency-Key"))
		switch {
		case len(keys) > 2:
			rw.Header().Set("Content-Type", "application/json")
			fmt.Fprint(rw, `{"id":"x"}`)
		case cut:
			panic(http.ErrAbortHandler)
		default:
			rw.Header().Set("Retry-After", "0")
			rw.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	ask := func(broken bool, code int, text string, args ...string) []string {
		mu.Lock()
		keys, cut = nil, broken
		mu.Unlock()
		h.want(code, text, args...)
		mu.Lock()
		defer mu.Unlock()
		return keys
	}
	ban := []string{"ban", "--enrolee", "//sp.example/1", "--reason", "x"}
	for _, broken := range []bool{false, true} {
		if got := ask(broken, exitOK, "banned", ban...); len(got) != 3 || got[0] == "" || got[0] != got[1] || got[1] != got[2] {
			t.Errorf("a POST, broken %v, has the keys %q", broken, got)
		}
		if got := ask(broken, exitOK, "id  x", "whoami"); !slices.Equal(got, []string{"", "", ""}) {
			t.Errorf("a GET, broken %v, has the keys %q", broken, got)
		}
	}
	if got := ask(false, exitOK, "lifted", "lift", "x"); len(got) != 3 {
		t.Errorf("a DELETE of a busy server is sent %d times", len(got))
	}
	// Who knows whether it was performed?
	if got := ask(true, exitUnreachable, "unreachable: ", "lift", "x"); len(got) != 1 {
		t.Errorf("a DELETE without an answer is sent %d times", len(got))
	}
	if first, second := ask(false, exitOK, "banned", ban...), ask(false, exitOK, "banned", ban...); first[0] == second[0] {
		t.Error("two requests have the same key")
	}
}

// TestServerThatIsBusyForLong is left alone.
func TestServerThatIsBusyForLong(t *testing.T) {
	t.Parallel()
	refusal := &laterError{muster.Refuse(muster.CodeBusy, "x"), 0}
	if !repeatable(http.MethodDelete, refusal) || repeatable(http.MethodGet, muster.Refuse(muster.CodePeerRefused, "x")) {
		t.Error("what is repeated?")
	}
	dial := muster.Refuse(muster.CodeUnreachable, "%w", &net.OpError{Op: "dial", Err: io.EOF})
	if !repeatable(http.MethodPut, dial) {
		t.Error("a PUT that was not sent is not repeated")
	}
}

// TestWatch follows events through broken connections, gaps and a new start.
func TestWatch(t *testing.T) {
	t.Parallel()
	connections := make(chan string, 8) // Last-Event-ID of each
	h := newHostileServer(t, func(rw http.ResponseWriter, r *http.Request) {
		connections <- r.Header.Get("Last-Event-ID")
		event := func(id uint64) {
			fmt.Fprintf(rw, "id: %d\nevent: x\ndata: {\"id\":%d,\"time\":\"2026-01-31T12:00:00Z\",\"kind\":\"refused\",\"who\":\"a\\u001b[2J\",\"code\":\"expired\"}\n\n", id, id)
		}
		rw.Header().Set("Content-Type", "text/event-stream")
		switch len(connections) {
		case 1:
			fmt.Fprint(rw, ": hello\n\n")
			event(4)
			event(7)
		case 2:
			event(2)
		default:
			rw.Header().Set("Content-Type", "application/problem+json")
			rw.WriteHeader(http.StatusUnauthorized)
			fmt.Fprintf(rw, `{"code":%q,"detail":"expired"}`, muster.CodeTokenInvalid)
		}
	})
	code, out, notes := h.as("admin", "", "watch", "--since", "3")
	line := `2026-01-31T12:00:00Z  refused    a\x1b[2J  [expired]` + "\n"
	if code != exitRefused || out != strings.Repeat(line, 3) {
		t.Errorf("it ends with %d after\n%s", code, out)
	}
	for _, want := range []string{"2 events are missing, from 5 to 6\n", "the connection ended: unreachable: ", "has started anew", "token-invalid: expired"} {
		if !strings.Contains(notes, want) {
			t.Errorf("%q is not told in\n%s", want, notes)
		}
	}
	if len(connections) != 3 || <-connections != "3" || <-connections != "7" || <-connections != "2" {
		t.Error("it does not go on where it was")
	}
}

// TestWatchOfAConsole follows one until interrupted.
func TestWatchOfAConsole(t *testing.T) {
	t.Parallel()
	w := newOperatorWorld(t)
	w.happen(console.Event{ID: 1, Kind: "enrolled", Enrolee: "//sp.example/1"})
	w.happen(console.Event{ID: 2, Kind: "enrolled", Enrolee: "//sp.example/2"})
	read, write := io.Pipe()
	ended := make(chan int)
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	go func() {
		code := run(ctx, []string{"admin", "--config", w.dir + "/viewer.yaml", "watch", "--since", "1", "--json"}, strings.NewReader(""), write, io.Discard)
		_ = write.Close()
		ended <- code
	}()
	buffer := make([]byte, 1000)
	n, err := read.Read(buffer)
	must(t, err)
	if got := string(buffer[:n]); !strings.HasPrefix(got, `{"id":2,`) {
		t.Errorf("the first event is %s", got)
	}
	interrupt()
	go func() { _, _ = io.Copy(io.Discard, read) }()
	if code := <-ended; code != exitOK {
		t.Errorf("interrupted, it ends with %d", code)
	}
}

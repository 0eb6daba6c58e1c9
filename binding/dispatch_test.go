package binding_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"muster"
	"muster/binding"
	"muster/binding/coap"
	"muster/binding/websocket"
	"muster/handshake"
	"muster/primitive"
)

// mirror answers with all that it sees of a request, or with the status that the
// last segment of To names.
func mirror(_ context.Context, s *muster.Session, r *primitive.Request) (*primitive.Response, error) {
	var code int
	if _, err := fmt.Sscanf(r.To, "-/%d", &code); err == nil {
		return nil, &primitive.Error{Status: primitive.Status(code), Detail: "as asked: \u00e4 <&>"}
	}
	switch r.To {
	case "-/fault":
		return nil, errors.New("secret cause")
	case "-/busy":
		return nil, muster.Refuse(muster.CodeBusy, "secret cause")
	}
	seen := primitive.Object{
		"peer": s.Peer.PSKIdentity, "op": int64(r.Operation), "to": r.To, "fr": r.From, "ty": int64(r.ResourceType), "rcn": int64(r.ResultContent),
		"ec": int64(r.EventCategory), "ot": r.OriginatingTimestamp.UTC().String(), "rqet": r.RequestExpiration.String(), "rset": r.ResultExpiration.String(),
	}
	if !r.Content.IsZero() {
		content, err := r.Content.Object()
		if err != nil {
			return nil, err
		}
		seen["pc"] = content
	}
	response := &primitive.Response{Status: primitive.OK, Content: primitive.NewContent(seen)}
	if r.Operation == primitive.Create {
		response.Status, response.Location = primitive.Created, r.To+"/a b"
	}
	return response, nil
}

// A way is a client over one binding.
type way interface {
	Do(ctx context.Context, r *primitive.Request) (*primitive.Response, error)
}

// ways are the clients of one handler over every binding.
func ways(t *testing.T, f primitive.Format) map[string]way {
	t.Helper()
	handler := primitive.HandlerFunc(mirror)
	session := func() *muster.Session { return muster.NewSession(muster.Peer{PSKIdentity: "device"}, nil) }
	sockets := websocket.NewServer(websocket.Config{Handler: handler})
	server := binding.NewServer(binding.Config{Handler: handler, Upgrade: sockets.Upgrade, Logger: slog.New(slog.DiscardHandler)})
	go func() { _ = server.Serve() }()
	t.Cleanup(func() { _ = errors.Join(sockets.Shutdown(context.Background()), server.Shutdown(context.Background())) })
	dial := func(protocol string) binding.Dial {
		return func(context.Context) (*handshake.Conn, error) {
			near, far := net.Pipe()
			go func() { _ = server.Handle(&handshake.Conn{Conn: far, Session: session(), Protocol: protocol}) }()
			return &handshake.Conn{Conn: near}, nil
		}
	}
	http := func(protocol string) way {
		client := binding.NewClient(binding.ClientConfig{
			Dial: dial(protocol), Authority: "mef.example.org", Format: f, HTTP2: protocol == handshake.ProtocolHTTP2, Timeout: patience,
		})
		t.Cleanup(client.Close)
		return client
	}
	near, far := net.Pipe()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	go func() {
		_ = coap.NewServer(coap.Config{Handler: handler}).ServeConn(ctx, &handshake.Conn{Conn: far, Session: session()})
	}()
	datagrams := must(coap.NewClient(near, coap.ClientConfig{Format: f}))
	t.Cleanup(func() { _ = datagrams.Close() })
	socket := must(websocket.Dial(t.Context(), must(dial("")(t.Context())), websocket.ClientConfig{Authority: "mef.example.org", Format: f}))
	t.Cleanup(func() { _ = socket.Close() })
	return map[string]way{
		"HTTP/1.1": http(handshake.ProtocolHTTP1), "HTTP/2": http(handshake.ProtocolHTTP2), "CoAP": datagrams, "WebSocket": socket,
	}
}

// sameRequests are requests that every binding can carry.
func sameRequests() map[string]primitive.Request {
	now := time.Now().UTC().Truncate(time.Second)
	content := func(o primitive.Object) primitive.Content {
		return primitive.NewContent(primitive.Object{"sec:macr": o})
	}
	attributes := primitive.Object{"adfq": "admin.example", "lbl": []any{"a", "\u00e4\U0001F600"}, "n": int64(-3), "ok": true, "nested": primitive.Object{"x": nil}}
	requests := map[string]primitive.Request{
		"create":         {Operation: primitive.Create, To: "-", From: "//sp.example/a", ResourceType: 60002, Content: content(attributes)},
		"create, no pc":  {Operation: primitive.Create, To: "-", ResourceType: 60002},
		"retrieve":       {Operation: primitive.Retrieve, To: "-/x1"},
		"absolute":       {Operation: primitive.Retrieve, To: "//sp.example/cse/-/x y%2F\u00e4"},
		"update":         {Operation: primitive.Update, To: "-/x", From: "//sp.example/a", Content: content(primitive.Object{"lbl": nil})},
		"delete":         {Operation: primitive.Delete, To: "-/x"},
		"notify":         {Operation: primitive.Notify, To: "-/x", Content: content(attributes)},
		"large":          {Operation: primitive.Update, To: "-/x", Content: content(primitive.Object{"t": strings.Repeat("a", 10000)})},
		"all parameters": {Operation: primitive.Retrieve, To: "-/x", From: "//sp.example/a", RequestID: "A 1", ReleaseVersion: "2a", ResultContent: primitive.ResultAttributes, EventCategory: 2, OriginatingTimestamp: now, RequestExpiration: primitive.Moment{Time: now.Add(time.Hour)}, ResultExpiration: primitive.Moment{Time: now.Add(2 * time.Hour)}},
		"expired":        {Operation: primitive.Retrieve, To: "-/x", RequestExpiration: primitive.Moment{Time: now.Add(-time.Hour)}},
		"later":          {Operation: primitive.Retrieve, To: "-/x", OperationExecution: primitive.Moment{Time: now.Add(time.Hour)}},
		"other release":  {Operation: primitive.Retrieve, To: "-/x", ReleaseVersion: "9"},
		"busy":           {Operation: primitive.Retrieve, To: "-/busy"},
		"fault":          {Operation: primitive.Retrieve, To: "-/fault"},
	}
	for status := range primitive.Statuses() {
		if !status.Success() {
			requests[fmt.Sprint("status ", int(status))] = primitive.Request{Operation: primitive.Update, To: fmt.Sprintf("-/%d", int(status))}
		}
	}
	return requests
}

// The same request gets the same response over every binding, in every coding. A
// response coded as a whole has no Location, and does not say when to come back.
func TestOneDispatcher(t *testing.T) {
	t.Parallel()
	all := map[string]way{}
	for _, format := range []primitive.Format{primitive.JSON, primitive.CBOR} {
		for name, client := range ways(t, format) {
			all[fmt.Sprint(name, " ", format)] = client
		}
	}
	for name, request := range sameRequests() {
		if request.RequestID == "" {
			request.RequestID = "A1"
		}
		if request.ReleaseVersion == "" {
			request.ReleaseVersion = "3"
		}
		direct := primitive.Serve(t.Context(), primitive.HandlerFunc(mirror), muster.NewSession(muster.Peer{PSKIdentity: "device"}, nil), &request, time.Now())
		for _, by := range slices.Sorted(maps.Keys(all)) {
			got, err := all[by].Do(t.Context(), &request)
			if err != nil {
				t.Errorf("%s over %s: %v", name, by, err)
				continue
			}
			want := *direct
			if strings.HasPrefix(by, "WebSocket") {
				want.Location, want.RetryAfter = "", 0
			}
			if got.RetryAfter != want.RetryAfter || want.RetryAfter != 0 && (name != "busy" || want.RetryAfter < 2*time.Second || want.RetryAfter > 5*time.Second) {
				t.Errorf("%s over %s: to come back after %v, want %v", name, by, got.RetryAfter, want.RetryAfter)
			}
			if got.Status != want.Status || got.RequestID != want.RequestID || got.ReleaseVersion != want.ReleaseVersion || got.Location != want.Location {
				t.Errorf("%s over %s: %v\nwant %v", name, by, got, &want)
			}
			if a, b := contentOf(t, got), contentOf(t, &want); !reflect.DeepEqual(a, b) {
				t.Errorf("%s over %s: %v\nwant %v", name, by, a, b)
			}
		}
	}
}

func contentOf(t *testing.T, r *primitive.Response) primitive.Object {
	t.Helper()
	if r.Content.IsZero() {
		return nil
	}
	o, err := r.Content.Object()
	if err != nil {
		t.Error(err)
	}
	return o
}

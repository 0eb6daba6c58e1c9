package coap_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"muster"
	"muster/binding"
	"muster/binding/coap"
	"muster/handshake"
	"muster/primitive"
)

func TestCodeOf(t *testing.T) {
	t.Parallel()
	want := map[primitive.Status]string{
		primitive.OK: "2.05", primitive.Created: "2.01", primitive.Deleted: "2.02", primitive.Updated: "2.04",
		primitive.BadRequest: "4.00", primitive.ContentsUnacceptable: "4.00",
		primitive.CreatorHasNoPrivilege: "4.03", primitive.OriginatorHasNoPrivilege: "4.03", primitive.Conflict: "4.03",
		primitive.OriginatorNotAuthenticated: "4.03", primitive.SecurityAssociationRequired: "4.03",
		primitive.InvalidChildResourceType: "4.03", primitive.OriginatorHasAlreadyRegistered: "4.03",
		primitive.NotFound: "4.04", primitive.TargetNotReachable: "4.04", primitive.OperationNotAllowed: "4.05",
		primitive.NotAcceptable: "4.06", primitive.UnsupportedMediaType: "4.15", primitive.InternalServerError: "5.00",
		primitive.ReleaseVersionNotSupported: "5.01", primitive.NotImplemented: "5.01", primitive.RequestTimeout: "5.04",
	}
	for status := range primitive.Statuses() {
		if got := coap.CodeOf(status, primitive.Retrieve).String(); got != want[status] {
			t.Errorf("%v: %s, want %s", status, got, want[status])
		}
	}
	if got := coap.CodeOf(primitive.OK, primitive.Notify).String(); got != "2.04" {
		t.Errorf("2000 of a notify: %s", got)
	}
	for status, want := range map[primitive.Status]string{2999: "2.05", 4999: "4.00", 5999: "5.00", 0: "5.00"} {
		if got := coap.CodeOf(status, primitive.Retrieve).String(); got != want {
			t.Errorf("%v: %s, want %s", status, got, want)
		}
	}
}

// anyStatus answers a retrieve with the status in the To, a create with its
// content and an update with an error that has a detail.
func anyStatus(_ context.Context, s *muster.Session, r *primitive.Request) (*primitive.Response, error) {
	switch r.Operation {
	case primitive.Create:
		return &primitive.Response{Status: primitive.Created, Location: r.To + "/1", Content: r.Content}, nil
	case primitive.Update:
		if _, err := r.Content.Object(); err != nil {
			return nil, err
		}
		return nil, &primitive.Error{Status: primitive.ContentsUnacceptable, Detail: fmt.Sprint(r.From, r.ResultContent, r.EventCategory, r.OriginatingTimestamp, s.Peer.PSKIdentity)}
	case primitive.Notify:
		return &primitive.Response{Status: primitive.OK}, nil
	}
	var status primitive.Status
	if _, err := fmt.Sscanf(r.To, "-/%d", &status); err != nil {
		return nil, muster.Refuse(muster.CodeNotTarget, "hidden")
	}
	return &primitive.Response{Status: status}, nil
}

type doer interface {
	Do(ctx context.Context, r *primitive.Request) (*primitive.Response, error)
}

// The same request gets the same response over each binding, and the one that
// primitive.Serve gives without a binding.
func TestBindingsAgree(t *testing.T) {
	t.Parallel()
	handler := primitive.HandlerFunc(anyStatus)
	content := primitive.RawContent(primitive.JSON, []byte(`{"sec:macr":{"lbl":["a"]}}`))
	requests := []*primitive.Request{
		{Operation: primitive.Create, To: "-", From: "//sp.example/a", RequestID: "1", ReleaseVersion: "3", ResourceType: 60002, Content: content},
		{Operation: primitive.Create, To: "-", From: "//sp.example/a", RequestID: "2", ReleaseVersion: "3", ResourceType: 60002, Content: sized(10000)},
		{Operation: primitive.Create, To: "/cse/-", RequestID: "3", ReleaseVersion: "3", ResourceType: 60002},
		{Operation: primitive.Create, To: "//maf.example/-", RequestID: "4", ReleaseVersion: "4", ResourceType: 60002, Content: content},
		{Operation: primitive.Update, To: "-/1", From: "//sp.example/ä", RequestID: "5", ReleaseVersion: "3", ResultContent: primitive.ResultNothing, EventCategory: 3, Content: content},
		{Operation: primitive.Update, To: "-/1", RequestID: "6", ReleaseVersion: "3"},
		{Operation: primitive.Notify, To: "-/1", RequestID: "8", ReleaseVersion: "3", Content: content},
		{Operation: primitive.Delete, To: "-/x", RequestID: "9", ReleaseVersion: "3"},
		{Operation: primitive.Retrieve, To: "-/2000", RequestID: "11", ReleaseVersion: "1"},
	}
	for status := range primitive.Statuses() {
		requests = append(requests, &primitive.Request{Operation: primitive.Retrieve, To: fmt.Sprintf("-/%d", status), RequestID: fmt.Sprint("s", int(status)), ReleaseVersion: "2a"})
	}
	session := testSession()
	bindings := map[string]doer{
		"HTTP":         overHTTP(t, handler, session, primitive.JSON),
		"HTTP in CBOR": overHTTP(t, handler, session, primitive.CBOR),
		"CoAP":         overCoAP(t, handler, primitive.JSON),
		"CoAP in CBOR": overCoAP(t, handler, primitive.CBOR),
	}
	for _, request := range requests {
		want := seen(t, primitive.Serve(t.Context(), handler, session, request, now()))
		for name, client := range bindings {
			response, err := client.Do(t.Context(), request)
			if err != nil {
				t.Errorf("%s, request %s: %v", name, request.RequestID, err)
				continue
			}
			if got := seen(t, response); got != want {
				t.Errorf("%s, request %s:\n%s\nwant\n%s", name, request.RequestID, got, want)
			}
		}
	}
}

// seen is what a peer sees of a response.
func seen(t *testing.T, r *primitive.Response) string {
	t.Helper()
	text := "none"
	if !r.Content.IsZero() {
		object, err := r.Content.Object()
		if err != nil {
			t.Fatal(err)
		}
		text = encoded(t, primitive.NewContent(object))
	}
	return fmt.Sprintf("%v %s %s %q %s", r.Status, r.RequestID, r.ReleaseVersion, r.Location, text)
}

func overHTTP(t *testing.T, h primitive.Handler, session *muster.Session, f primitive.Format) doer {
	server := binding.NewServer(binding.Config{Handler: h, Now: now, Logger: slog.New(slog.DiscardHandler)})
	go func() { _ = server.Serve() }()
	client := binding.NewClient(binding.ClientConfig{Authority: "maf.example", Format: f, Dial: func(context.Context) (*handshake.Conn, error) {
		near, far := net.Pipe()
		go func() { _ = server.Handle(&handshake.Conn{Conn: far, Session: session}) }()
		return &handshake.Conn{Conn: near}, nil
	}})
	t.Cleanup(func() {
		client.Close()
		if err := server.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return client
}

func overCoAP(t *testing.T, h primitive.Handler, f primitive.Format) doer {
	conn, server := datagramPair(t, faithful, faithful)
	serve(t, h, server)
	client, err := coap.NewClient(conn, coap.ClientConfig{Format: f})
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func now() time.Time { return time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC) }

func TestContentFormats(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		contentFormat, accept int // -1 for none
		want                  primitive.Status
		answered              uint32
	}{
		{50, -1, primitive.Created, 50}, {60, -1, primitive.Created, 60},
		{10001, -1, primitive.Created, 50}, {10010, -1, primitive.Created, 60},
		{10014, -1, primitive.Created, 50}, {10015, -1, primitive.Created, 60},
		{50, 60, primitive.Created, 60}, {60, 10001, primitive.Created, 50},
		{-1, -1, primitive.UnsupportedMediaType, 0}, {0, -1, primitive.UnsupportedMediaType, 0},
		{41, -1, primitive.UnsupportedMediaType, 0}, {50, 41, primitive.NotAcceptable, 0}, {50, 0, primitive.NotAcceptable, 0},
	} {
		conn, server := datagramPair(t, faithful, faithful)
		serve(t, primitive.HandlerFunc(anyStatus), server)
		m := registration(coap.Confirmable, 1)
		format := primitive.JSON
		if f := tc.contentFormat; f == 60 || f == 10010 || f == 10015 {
			format = primitive.CBOR
		}
		var err error
		if m.Payload, err = primitive.NewContent(primitive.Object{"a": strings.Repeat("x", 10)}).Encode(format); err != nil {
			t.Fatal(err)
		}
		m.Options = m.Options[:1:1]
		m.Options.AddUint(coap.OptionTY, 60002)
		m.Options.Add(coap.OptionRQI, []byte("r1"))
		if tc.contentFormat >= 0 {
			m.Options.AddUint(coap.OptionContentFormat, uint32(tc.contentFormat))
		}
		if tc.accept >= 0 {
			m.Options.AddUint(coap.OptionAccept, uint32(tc.accept))
		}
		if _, err := conn.Write(octets(t, message(t, m))); err != nil {
			t.Fatal(err)
		}
		buffer := make([]byte, 2048)
		n, err := conn.Read(buffer)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := coap.Parse(buffer[:n])
		if err != nil {
			t.Fatal(err)
		}
		status, _ := answer.Options.Uint(coap.OptionRSC)
		answered, _ := answer.Options.Uint(coap.OptionContentFormat)
		if age, ok := answer.Options.Uint(coap.OptionMaxAge); !ok || age != 0 {
			t.Errorf("%+v: the answer may be cached", tc)
		}
		if primitive.Status(status) != tc.want || answered != tc.answered || answer.Code != coap.CodeOf(tc.want, primitive.Create) {
			t.Errorf("%+v: %v with status %d and content format %d", tc, answer.Code, status, answered)
		}
	}
}

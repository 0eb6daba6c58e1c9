package binding_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"

	"muster"
	"muster/binding"
	"muster/handshake"
	"muster/primitive"
)

func TestHTTPStatus(t *testing.T) {
	t.Parallel()
	want := map[primitive.Status]int{
		primitive.OK: 200, primitive.Deleted: 200, primitive.Updated: 200, primitive.Created: 201,
		primitive.BadRequest: 400, primitive.ContentsUnacceptable: 400,
		primitive.CreatorHasNoPrivilege: 403, primitive.OriginatorHasNoPrivilege: 403, primitive.OriginatorNotAuthenticated: 403,
		primitive.SecurityAssociationRequired: 403, primitive.InvalidChildResourceType: 403, primitive.OriginatorHasAlreadyRegistered: 403,
		primitive.NotFound: 404, primitive.TargetNotReachable: 404, primitive.OperationNotAllowed: 405, primitive.NotAcceptable: 406,
		primitive.Conflict: 409, primitive.UnsupportedMediaType: 415, primitive.InternalServerError: 500,
		primitive.ReleaseVersionNotSupported: 501, primitive.NotImplemented: 501, primitive.RequestTimeout: 504,
	}
	for status := range primitive.Statuses() {
		if got := binding.HTTPStatus(status); got != want[status] {
			t.Errorf("%v: %d, want %d", status, got, want[status])
		}
	}
	for status, want := range map[primitive.Status]int{2999: 200, 4999: 400, 5999: 500, 6010: 500, 0: 500} {
		if got := binding.HTTPStatus(status); got != want {
			t.Errorf("%v: %d, want %d", status, got, want)
		}
	}
}

const (
	head    = " HTTP/1.1\r\nHost: maf.example.org\r\nX-M2M-Origin: //sp.example.org/a\r\n"
	withRI  = head + "X-M2M-RI: 1\r\n"
	jsonPC  = `{"sec:macr":{}}`
	length  = "Content-Length: 15\r\n\r\n" + jsonPC
	created = "Content-Type: application/vnd.onem2m-res+json;ty=60002\r\n"
)

func TestRequests(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, tc := range []struct {
		name, request string
		code, status  int
		body          string
	}{
		{"create", "POST /-" + withRI + created + length, 201, 2001, jsonPC},
		{"create, media type in upper case", "POST /-/" + withRI + "Content-Type: Application/JSON; ty=60002\r\n" + length, 201, 2001, jsonPC},
		{"create in CBOR", "POST /-" + withRI + "Content-Type: application/cbor;ty=60002\r\nContent-Length: 1\r\n\r\n\xa0", 201, 2001, "\xa0"},
		{"retrieve", "GET /-/1" + withRI + "\r\n", 200, 2000, `{"sec:macr":{"ri":"1"}}`},
		{"retrieve, CBOR preferred", "GET /-/1" + withRI + "Accept: application/json;q=0.5, application/cbor\r\n\r\n", 200, 2000, "\xa1hsec:macr\xa1bria1"},
		{"retrieve, anything", "GET /-/1" + withRI + "Accept: text/html, */*;q=0.1\r\n\r\n", 200, 2000, `{"sec:macr":{"ri":"1"}}`},
		{"retrieve with query", "GET /-/1?rcn=1&rt=3" + withRI + "\r\n", 200, 2000, `{"sec:macr":{"ri":"1"}}`},
		{"not acceptable", "GET /-/1" + withRI + "Accept: application/xml\r\n\r\n", 406, 5207, ""},
		{"refused by quality", "GET /-/1" + withRI + "Accept: application/json;q=0\r\n\r\n", 406, 5207, ""},
		{"internal error", "DELETE /-/1" + withRI + "\r\n", 500, 5000, ""},
		{"no request identifier", "GET /-/1" + head + "\r\n", 400, 4000, `{"m2m:dbg":"the Request Identifier is missing"}`},
		{"two request identifiers", "GET /-/1" + withRI + "X-M2M-RI: 2\r\n\r\n", 400, 4000, `{"m2m:dbg":"the header field X-M2M-RI is malformed or occurs twice"}`},
		{"malformed time", "GET /-/1" + withRI + "X-M2M-RET: soon\r\n\r\n", 400, 4000, `{"m2m:dbg":"the header field X-M2M-RET is malformed or occurs twice"}`},
		{"expired", "GET /-/1" + withRI + "X-M2M-RET: 20200101T000000\r\n\r\n", 504, 4008, `{"m2m:dbg":"the request has expired"}`},
		{"release 1", "GET /-/1" + withRI + "X-M2M-RVI: 1\r\n\r\n", 501, 4001, ""},
		{"no such method", "PATCH /-/1" + withRI + "\r\n", 405, 4005, ""},
		{"type 0", "POST /-" + withRI + "Content-Type: application/json;ty=0\r\n" + length, 400, 4000, `{"m2m:dbg":"the ty of the Content-Type is not a number from 1 to 65535"}`},
		{"type too large", "POST /-" + withRI + "Content-Type: application/json;ty=65536\r\n" + length, 400, 4000, `{"m2m:dbg":"the ty of the Content-Type is not a number from 1 to 65535"}`},
		{"malformed media type", "POST /-" + withRI + "Content-Type: ;;\r\n" + length, 400, 4000, `{"m2m:dbg":"the Content-Type is malformed"}`},
		{"XML", "POST /-" + withRI + "Content-Type: application/vnd.onem2m-res+xml;ty=60002\r\n" + length, 415, 4015, ""},
		{"no media type", "POST /-" + withRI + length, 415, 4015, ""},
		{"body of a retrieve", "GET /-/1" + withRI + "Content-Type: application/json\r\n" + length, 400, 4000, `{"m2m:dbg":"the request has a body"}`},
		{"body too large", "POST /-" + withRI + created + "Content-Length: 70000\r\n\r\n" + strings.Repeat(" ", 70000), 400, 4000, `{"m2m:dbg":"the body is too large"}`},
		{"unsupported query", "GET /-/1?fu=1" + withRI + "\r\n", 501, 5001, `{"m2m:dbg":"parameter \"fu\" is not supported with this value"}`},
		{"slash in a segment", "GET /-/a%2Fb" + withRI + "\r\n", 400, 4000, `{"m2m:dbg":"the path has an empty segment or a separator in one"}`},
		{"no path", "GET /" + withRI + "\r\n", 400, 4000, `{"m2m:dbg":"the path has an empty segment or a separator in one"}`},
		{"fetch by POST", "POST /fetchCredentials/" + testKeID + "/21" + withRI + "Content-Length: 0\r\n\r\n", 405, 4005, `{"Status":false,"ErrorString":"4005 OPERATION_NOT_ALLOWED"}`},
		{"fetch, malformed KeID", "GET /fetchCredentials/xyz/21" + withRI + "\r\n", 400, 4000, `{"Status":false,"ErrorString":"4000 BAD_REQUEST"}`},
		{"fetch, malformed SUID", "GET /fetchCredentials/" + testKeID + "/0x15" + withRI + "\r\n", 400, 4000, `{"Status":false,"ErrorString":"4000 BAD_REQUEST"}`},
		{"fetch, malformed origin", "GET /fetchCredentials/" + testKeID + "/21 HTTP/1.1\r\nHost: x\r\nX-M2M-Origin: a\r\nX-M2M-Origin: b\r\n\r\n", 400, 4000, `{"Status":false,"ErrorString":"4000 BAD_REQUEST"}`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			response, body := w.raw(t, tc.request)
			if response.StatusCode != tc.code || response.Header.Get("X-M2M-RSC") != fmt.Sprint(tc.status) || body != tc.body {
				t.Errorf("%d, X-M2M-RSC %s, %q\nwant %d, %d, %q", response.StatusCode, response.Header.Get("X-M2M-RSC"), body, tc.code, tc.status, tc.body)
			}
			if response.Header.Get("Cache-Control") != "no-store" {
				t.Error("the answer may be cached")
			}
			if tc.status == 2001 && response.Header.Get("Content-Location") != "/-/1" {
				t.Errorf("Content-Location %q", response.Header.Get("Content-Location"))
			}
		})
	}
}

// A hostile MEF gets nothing past the client.
func TestFetchCredentialFromAHostileServer(t *testing.T) {
	t.Parallel()
	id := must(muster.ParseKeID(testKeID))
	const key = "a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s="
	for name, body := range map[string]string{
		"nothing":         ``,
		"another status":  `{"Status":false,"Credential":"` + key + `","EnroleeID":"//sp.example.org/a","Lifetime":1}`,
		"short key":       `{"Status":true,"Credential":"a2tr","EnroleeID":"//sp.example.org/a","Lifetime":1}`,
		"no key":          `{"Status":true,"EnroleeID":"//sp.example.org/a","Lifetime":1}`,
		"no Enrolee":      `{"Status":true,"Credential":"` + key + `","Lifetime":1}`,
		"other Enrolee":   `{"Status":true,"Credential":"` + key + `","EnroleeID":"/a","Lifetime":1}`,
		"no lifetime":     `{"Status":true,"Credential":"` + key + `","EnroleeID":"//sp.example.org/a"}`,
		"long lifetime":   `{"Status":true,"Credential":"` + key + `","EnroleeID":"//sp.example.org/a","Lifetime":9223372036854775807}`,
		"lifetime a text": `{"Status":true,"Credential":"` + key + `","EnroleeID":"//sp.example.org/a","Lifetime":"1"}`,
		"endless":         strings.Repeat(" ", primitive.MaxContent) + `{"Status":true,"Credential":"` + key + `","EnroleeID":"//sp.example.org/a","Lifetime":1}`,
	} {
		dial := func(context.Context) (*handshake.Conn, error) {
			near, far := net.Pipe()
			go func() {
				defer far.Close()
				buffer := make([]byte, 4096)
				if _, err := far.Read(buffer); err == nil {
					_, _ = fmt.Fprintf(far, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
				}
			}()
			return &handshake.Conn{Conn: near}, nil
		}
		client := binding.NewClient(binding.ClientConfig{Dial: dial, Authority: "mef.example.org"})
		got, err := client.FetchCredential(t.Context(), id, muster.SUIDForMAF)
		if err == nil || !got.Km.IsZero() {
			t.Errorf("%s: %v, %v", name, got, err)
		}
		if err != nil && strings.Contains(err.Error(), key) {
			t.Errorf("%s: the key is in the error: %v", name, err)
		}
		client.Close()
	}
}

func TestDialFails(t *testing.T) {
	t.Parallel()
	cause := errors.New("cause")
	client := binding.NewClient(binding.ClientConfig{Authority: "mef.example.org", Dial: func(context.Context) (*handshake.Conn, error) { return nil, cause }})
	if _, err := client.FetchCredential(t.Context(), must(muster.ParseKeID(testKeID)), muster.SUIDForMAF); !errors.Is(err, cause) {
		t.Errorf("error %v", err)
	}
}

func TestHandleAfterShutdown(t *testing.T) {
	t.Parallel()
	server := binding.NewServer(binding.Config{Handler: primitive.HandlerFunc(echo)})
	if err := server.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	near, far := net.Pipe()
	if err := server.Handle(&handshake.Conn{Conn: far}); !errors.Is(err, binding.ErrServerClosed) {
		t.Errorf("error %v", err)
	}
	if _, err := near.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the connection is not closed: %v", err)
	}
}

// peerProgram returns the path of a foreign program, or skips the test.
func peerProgram(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		if os.Getenv("MUSTER_REQUIRE_PEERS") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	return path
}

func TestCurl(t *testing.T) {
	t.Parallel()
	curl := peerProgram(t, "curl")
	w := newWorld(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_ = w.server.Handle(&handshake.Conn{Conn: conn, Session: muster.NewSession(muster.Peer{Name: muster.CertName{Text: testMAF}}, nil)})
		}
	}()
	for _, tc := range []struct {
		arguments []string
		want      string
	}{
		{[]string{"-d", jsonPC, "-H", "Content-Type: application/json;ty=60002", "/-"}, jsonPC + "201 2001"},
		{[]string{"/-/1"}, `{"sec:macr":{"ri":"1"}}200 2000`},
		{[]string{"-H", "X-M2M-Origin: " + testMAF, "/fetchCredentials/" + testKeID + "/21"}, `{"Status":true,"Credential":"a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s=","EnroleeID":"//sp.example.org/cse1/C1","Lifetime":3600}200 2000`},
	} {
		n := len(tc.arguments) - 1
		arguments := append([]string{"-sS", "--max-time", "30", "-w", "%{http_code} %header{x-m2m-rsc}", "-H", "X-M2M-RI: 1"}, tc.arguments[:n]...)
		command := exec.CommandContext(t.Context(), curl, append(arguments, "http://"+listener.Addr().String()+tc.arguments[n])...)
		var stderr bytes.Buffer
		command.Stderr = &stderr
		if out, err := command.Output(); err != nil || string(out) != tc.want {
			t.Errorf("%v: %s %s %v", tc.arguments, out, stderr.String(), err)
		}
	}
}

func TestSessionReachesTheHandler(t *testing.T) {
	t.Parallel()
	seen := make(chan *muster.Session, 1)
	server := binding.NewServer(binding.Config{Handler: primitive.HandlerFunc(func(_ context.Context, s *muster.Session, _ *primitive.Request) (*primitive.Response, error) {
		seen <- s
		return &primitive.Response{Status: primitive.Deleted}, nil
	})})
	go func() { _ = server.Serve() }()
	t.Cleanup(func() { _ = server.Shutdown(context.Background()) })
	session := muster.NewSession(muster.Peer{PSKIdentity: "x"}, nil)
	client := binding.NewClient(binding.ClientConfig{Authority: "x.example", Dial: func(context.Context) (*handshake.Conn, error) {
		near, far := net.Pipe()
		go func() { _ = server.Handle(&handshake.Conn{Conn: far, Session: session}) }()
		return &handshake.Conn{Conn: near}, nil
	}})
	t.Cleanup(client.Close)
	if _, err := client.Do(t.Context(), &primitive.Request{Operation: primitive.Delete, To: "-/1"}); err != nil {
		t.Fatal(err)
	}
	if <-seen != session {
		t.Error("the handler got another session")
	}
}

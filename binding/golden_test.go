package binding_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httputil"
	"os"
	"slices"
	"testing"
	"time"

	"muster"
	"muster/binding"
	"muster/binding/coap"
	"muster/handshake"
	"muster/primitive"
)

var update = flag.Bool("update", false, "write the golden files anew")

// A goldenPair is a request and the response to it, over both bindings: HTTP as
// text, CoAP as a message in hexadecimal.
type goldenPair struct {
	Name         string `json:"name"`
	HTTPRequest  string `json:"httpRequest"`
	HTTPResponse string `json:"httpResponse"`
	CoAPRequest  string `json:"coapRequest"`
	CoAPResponse string `json:"coapResponse"`
}

// A bareRequest is what a client sends that does not know better than to.
type bareRequest struct {
	name, method, path           string
	format, accept               string // media types of HTTP
	coapFormat, coapAccept, code int    // their numbers of CoAP, -1 for none
	body                         string
}

// TestGoldenRefusals holds how each refusal looks on the wire to
// testdata/refusals.json, which authors of clients may use: those that a binding
// makes itself, and those with which a function ends a request.
func TestGoldenRefusals(t *testing.T) {
	t.Parallel()
	const jsonType, jsonFormat, none = "application/json", 50, -1
	put, get := int(coap.PUT), int(coap.GET)
	requests := []bareRequest{
		{"4015: content of another type", "PUT", "/-/x", "text/plain", "", 0, none, put, "x"},
		{"5207: an answer of another type is wanted", "GET", "/-/x", "", "text/html", none, 0, get, ""},
		{"4000: content that cannot be read", "PUT", "/-/x", jsonType, "", jsonFormat, none, put, "{"},
		{"4008: the function is busy", "GET", "/-/busy", "", "", none, none, get, ""},
		{"5000: a fault of the function", "GET", "/-/fault", "", "", none, none, get, ""},
	}
	for _, status := range slices.Sorted(maps.Keys(primitive.Statuses())) {
		if !status.Success() {
			requests = append(requests, bareRequest{
				fmt.Sprintf("%d: as a function says", int(status)), "GET", fmt.Sprintf("/-/%d", int(status)), "", "", none, none, get, "",
			})
		}
	}
	var pairs []goldenPair
	for _, r := range requests {
		pair := goldenPair{Name: r.name}
		pair.HTTPRequest, pair.HTTPResponse = r.overHTTP(t)
		pair.CoAPRequest, pair.CoAPResponse = r.overCoAP(t)
		pairs = append(pairs, pair)
	}
	const file = "testdata/refusals.json"
	got := must(json.MarshalIndent(pairs, "", "  "))
	if *update {
		must(0, os.WriteFile(file, append(got, '\n'), 0o644))
	}
	if want := must(os.ReadFile(file)); !bytes.Equal(bytes.TrimSpace(got), bytes.TrimSpace(want)) {
		t.Errorf("%s differs; -update writes it anew", file)
	}
}

func goldenSession() *muster.Session {
	return muster.NewSession(muster.Peer{PSKIdentity: "device"}, nil)
}

func (r bareRequest) overHTTP(t *testing.T) (request, response string) {
	t.Helper()
	server := binding.NewServer(binding.Config{Handler: primitive.HandlerFunc(mirror), Logger: slog.New(slog.DiscardHandler)})
	go func() { _ = server.Serve() }()
	defer func() { _ = server.Shutdown(context.Background()) }()
	near, far := net.Pipe()
	defer func() { _ = near.Close() }()
	go func() { _ = server.Handle(&handshake.Conn{Conn: far, Session: goldenSession()}) }()
	request = fmt.Sprintf("%s %s HTTP/1.1\r\nHost: mef.example.org\r\nX-M2M-Origin: //sp.example.org/a\r\nX-M2M-RI: r1\r\nX-M2M-RVI: 3\r\n", r.method, r.path)
	if r.format != "" {
		request += "Content-Type: " + r.format + "\r\n"
	}
	if r.accept != "" {
		request += "Accept: " + r.accept + "\r\n"
	}
	request += fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(r.body), r.body)
	must(0, near.SetDeadline(time.Now().Add(patience)))
	go func() { _, _ = near.Write([]byte(request)) }()
	answer := must(http.ReadResponse(bufio.NewReader(near), nil))
	defer func() { _ = answer.Body.Close() }()
	answer.Header.Del("Date")
	return request, string(must(httputil.DumpResponse(answer, true)))
}

func (r bareRequest) overCoAP(t *testing.T) (request, response string) {
	t.Helper()
	near, far := net.Pipe()
	defer func() { _ = near.Close() }()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		_ = coap.NewServer(coap.Config{Handler: primitive.HandlerFunc(mirror)}).ServeConn(ctx, &handshake.Conn{Conn: far, Session: goldenSession()})
	}()
	m := coap.Message{Type: coap.Confirmable, Code: coap.Code(r.code), ID: 1, Token: []byte{1}, Payload: []byte(r.body)}
	for segment := range bytes.SplitSeq([]byte(r.path[1:]), []byte("/")) {
		m.Options.Add(coap.OptionURIPath, segment)
	}
	m.Options.Add(coap.OptionFR, []byte("//sp.example.org/a"))
	m.Options.Add(coap.OptionRQI, []byte("r1"))
	m.Options.Add(coap.OptionRVI, []byte("3"))
	if r.coapFormat >= 0 {
		m.Options.AddUint(coap.OptionContentFormat, uint32(r.coapFormat))
	}
	if r.coapAccept >= 0 {
		m.Options.AddUint(coap.OptionAccept, uint32(r.coapAccept))
	}
	octets := must(m.Marshal())
	must(0, near.SetDeadline(time.Now().Add(patience)))
	go func() { _, _ = near.Write(octets) }()
	buffer := make([]byte, 2048)
	n := must(near.Read(buffer))
	return hex.EncodeToString(octets), hex.EncodeToString(buffer[:n])
}

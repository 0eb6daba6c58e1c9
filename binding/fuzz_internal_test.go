package binding

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"testing"
	"time"

	"muster/primitive"
)

// A request is read within the limits, and as the same when a client sends it.
func FuzzReadRequest(f *testing.F) {
	const head = " HTTP/1.1\r\nHost: mef.example.org\r\nX-M2M-Origin: //sp.example.org/a\r\nX-M2M-RI: 1\r\nX-M2M-RVI: 3\r\n"
	f.Add([]byte("POST /-" + head + "Content-Type: application/vnd.onem2m-res+json;ty=60002\r\nContent-Length: 15\r\n\r\n{\"sec:macr\":{}}"))
	f.Add([]byte("GET /_/sp.example.org/a%20b?rcn=1&rt=3" + head + "X-M2M-OT: 20250101T000000\r\nX-M2M-RET: 60000\r\nX-M2M-EC: 2\r\n\r\n"))
	f.Add([]byte("PUT /~/x" + head + "Content-Type: application/cbor\r\nContent-Length: 1\r\n\r\n\xa0"))
	f.Add([]byte("GET /~" + head + "\r\n"))
	f.Add([]byte("PATCH /-" + head + "\r\n"))
	f.Fuzz(func(t *testing.T, octets []byte) {
		received, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(octets)))
		if err != nil {
			return
		}
		r, err := readRequest(received)
		if err != nil {
			if refusal, ok := errors.AsType[*primitive.Error](err); !ok || refusal.Status.Success() || refusal.Status == primitive.InternalServerError {
				t.Fatalf("%q is refused with %v", octets, err)
			}
			return
		}
		for _, text := range []string{r.To, r.From, r.RequestID} {
			if len(text) > primitive.MaxIdentifier {
				t.Errorf("%q has %d octets", text, len(text))
			}
		}
		format, ok := formatOf(mediaTypeOf(received.Header))
		if !ok {
			format = primitive.JSON
		}
		method, path, h, body, err := writeRequest(r, format)
		if err != nil {
			t.Fatalf("%q is not written: %v", octets, err)
		}
		target, err := url.ParseRequestURI(path)
		if err != nil {
			t.Fatalf("%q is written to %q: %v", octets, path, err)
		}
		same, err := readRequest(&http.Request{Method: method, URL: target, Header: h, Body: io.NopCloser(bytes.NewReader(body))})
		if err != nil || !reflect.DeepEqual(r, same) {
			t.Fatalf("%q: %+v becomes %+v, %v", octets, r, same, err)
		}
	})
}

func mediaTypeOf(h http.Header) string {
	mediaType, _, _ := contentType(h)
	return mediaType
}

// An answer is read as the same when a server sends it, and what is read as a key
// is one.
func FuzzReadResponse(f *testing.F) {
	f.Add(200, "2000", "/-/1", "", mediaJSON, []byte(`{"Status":true,"Credential":"a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s=","EnroleeID":"//sp.example.org/cse1/C1","Lifetime":3600}`))
	f.Add(504, "4008", "", "3", mediaResourceCBOR, []byte{0xa0})
	f.Add(404, "4004", "/_/sp.example.org/a%20b", "-1", "", []byte(nil))
	f.Add(404, "", "%", "x", ";", []byte("x"))
	f.Fuzz(func(t *testing.T, code int, status, location, retryAfter, media string, body []byte) {
		if c, err := parseCredential(body); err == nil && (c.Km.IsZero() || c.EnroleeID.IsZero() || c.Lifetime < time.Second || c.Lifetime > maxLifetime*time.Second) {
			t.Errorf("%q is read as %v", body, c)
		}
		h := http.Header{headerRequestID: {"1"}, headerStatus: {status}, "Content-Location": {location}, "Retry-After": {retryAfter}, "Content-Type": {media}}
		r, err := (&answer{code, h, body}).response("1")
		if err != nil || HTTPStatus(r.Status) < http.StatusBadRequest && r.RetryAfter > 0 {
			return // refused, or an answer that contradicts itself
		}
		format, ok := formatOf(mediaTypeOf(h))
		if !ok {
			format = primitive.JSON
		}
		sent := httptest.NewRecorder()
		writeResponse(sent, r, format, mediaOf(format))
		same, err := (&answer{sent.Code, sent.Header(), sent.Body.Bytes()}).response("1")
		if err != nil || !reflect.DeepEqual(r, same) {
			t.Fatalf("%+v becomes %+v, %v", r, same, err)
		}
	})
}

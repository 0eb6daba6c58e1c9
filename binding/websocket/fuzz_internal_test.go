package websocket

import (
	"context"
	"testing"

	"muster"
	"muster/primitive"
)

// Whatever a message holds, it is answered, with what the peer can read and under
// the identifier of the request.
func FuzzRespond(f *testing.F) {
	f.Add(false, []byte(`{"op":1,"to":"-","fr":"//sp.example.org/a","rqi":"A1","ty":60002,"rvi":"3","pc":{"sec:macr":{}}}`))
	f.Add(false, []byte(`{"op":9,"rqi":"A1"}`))
	f.Add(false, []byte(`[]`))
	f.Add(true, []byte("\xa4bop\x02bto\x61-crqi\x61Acrvi\x613"))
	handler := primitive.HandlerFunc(func(_ context.Context, _ *muster.Session, r *primitive.Request) (*primitive.Response, error) {
		return &primitive.Response{Status: primitive.OK}, nil
	})
	server := NewServer(Config{Handler: handler})
	f.Fuzz(func(t *testing.T, cbor bool, octets []byte) {
		c := &serverConn{server: server, session: muster.NewSession(muster.Peer{}, nil), format: primitive.JSON}
		if cbor {
			c.format = primitive.CBOR
		}
		response := c.respond(t.Context(), octets)
		answer, err := response.Encode(c.format)
		if err != nil {
			t.Fatalf("%q is answered with %v: %v", octets, response, err)
		}
		read, err := primitive.DecodeResponse(c.format, answer)
		if err != nil || read.Status != response.Status || read.RequestID != response.RequestID || read.ReleaseVersion != response.ReleaseVersion {
			t.Fatalf("%q is answered %q, read as %v, %v", octets, answer, read, err)
		}
	})
}

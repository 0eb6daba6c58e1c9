package binding_test

import (
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"muster/binding"
	"muster/handshake"
)

// A peer that asks nothing costs no more than its connection, and does not keep the
// server from stopping.
func TestHandleWaitsForRequest(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		end  func(t *testing.T, s *binding.Server, peer net.Conn) error
		want error
	}{
		"the peer leaves":  {func(_ *testing.T, _ *binding.Server, peer net.Conn) error { return peer.Close() }, io.EOF},
		"the server stops": {func(t *testing.T, s *binding.Server, _ net.Conn) error { return s.Shutdown(t.Context()) }, binding.ErrServerClosed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := binding.NewServer(binding.Config{ReadTimeout: time.Hour})
			peer, far := net.Pipe()
			handled := make(chan error, 1)
			go func() { handled <- server.Handle(&handshake.Conn{Conn: far}) }()
			if err := test.end(t, server, peer); err != nil {
				t.Fatal(err)
			}
			if err := <-handled; !errors.Is(err, test.want) && !errors.Is(err, io.ErrClosedPipe) {
				t.Errorf("Handle returned %v, want %v", err, test.want)
			}
			if _, err := far.Write([]byte{1}); !errors.Is(err, io.ErrClosedPipe) {
				t.Errorf("the connection is open: %v", err)
			}
		})
	}
}

func TestHandleEndsSilence(t *testing.T) {
	t.Parallel()
	server := binding.NewServer(binding.Config{ReadTimeout: time.Millisecond})
	_, far := net.Pipe()
	var timeout net.Error
	if err := server.Handle(&handshake.Conn{Conn: far}); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("Handle returned %v, want a timeout", err)
	}
}

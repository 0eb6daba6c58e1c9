package handshake_test

import (
	"net"
	"testing"

	"muster/mustertest"
)

// A counter counts what its side sends.
type counter struct {
	net.Conn
	writes, sent int
}

func (c *counter) Write(b []byte) (int, error) {
	c.writes++
	c.sent += len(b)
	return c.Conn.Write(b)
}

// TestCost counts what a server sends in a handshake: each write is a call of the
// system.
func TestCost(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	near, far := net.Pipe()
	defer func() { _ = near.Close() }()
	counted := &counter{Conn: far}
	ended := serve(t, newServer(t, p.config(t, serverName)), counted)
	if _, err := newClient(t, p.config(t, "device.example.com")).Handshake(t.Context(), near); err != nil {
		t.Fatal(err)
	}
	if r := <-ended; r.err != nil {
		t.Fatal(r.err)
	}
	mustertest.Count(t, "writes of a handshake", "writes", float64(counted.writes))
	mustertest.Count(t, "octets of a handshake", "octets", float64(counted.sent))
}

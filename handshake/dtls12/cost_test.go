package dtls12_test

import (
	"net"
	"sync/atomic"
	"testing"

	"muster/mustertest"
)

// A counter counts the datagrams that its side sends.
type counter struct {
	net.PacketConn
	writes, sent atomic.Int64
}

func (c *counter) WriteTo(b []byte, to net.Addr) (int, error) {
	c.writes.Add(1)
	c.sent.Add(int64(len(b)))
	return c.PacketConn.WriteTo(b, to)
}

// TestCost counts what a server sends in a handshake: each datagram is a call of the
// system. On a busy machine one is sent twice now and then, so the least of some
// handshakes counts.
func TestCost(t *testing.T) {
	t.Parallel()
	const attempts = 5
	p := newPKI(t)
	server, client := newServer(t, p.config(t, serverName)), newClient(t, p.config(t, "device.example.com"))
	var writes, sent int64
	for n := range attempts {
		near, far := mustertest.NewLossyPair(mustertest.Loss{})
		counted := &counter{PacketConn: far}
		ended := make(chan result)
		go func() {
			conn, err := server.Handshake(t.Context(), counted, near.LocalAddr())
			ended <- result{conn, err}
		}()
		conn, err := client.Handshake(t.Context(), near, far.LocalAddr())
		if err != nil {
			t.Fatal(err)
		}
		r := <-ended
		if r.err != nil {
			t.Fatal(r.err)
		}
		if n == 0 || counted.writes.Load() < writes {
			writes, sent = counted.writes.Load(), counted.sent.Load()
		}
		_, _ = conn.Close(), r.conn.Close()
	}
	mustertest.Count(t, "datagrams of a handshake", "datagrams", float64(writes))
	mustertest.Count(t, "octets of a handshake", "octets", float64(sent))
}

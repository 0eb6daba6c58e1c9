package dtls12_test

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"muster"
	"muster/handshake/dtls12"
	"muster/mustertest"
)

// holdOpen is how long a server keeps a Conn open after the handshake.
const holdOpen = 5 * time.Minute

// TestLoss runs handshakes over bad paths in a bubble of simulated time. Both
// sides succeed with equal exports, or a side fails cleanly before its deadline.
func TestLoss(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	certServer, certClient := p.config(t, serverName), p.config(t, "device.example.com")
	keyServer, keyClient := keyConfig(t)
	for _, tt := range []struct {
		name    string
		loss    mustertest.Loss
		succeed int // of 20 handshakes, at least; the rest fails cleanly
		mtu     int
	}{
		{name: "none", succeed: 20},
		{name: "10% loss", loss: mustertest.Loss{Drop: 0.1}, succeed: 19},
		{name: "30% loss", loss: mustertest.Loss{Drop: 0.3}, succeed: 12},
		{name: "reordering", loss: mustertest.Loss{Reorder: 0.3}, succeed: 20},
		{name: "duplication", loss: mustertest.Loss{Duplicate: 0.3}, succeed: 20},
		{name: "all of it", loss: mustertest.Loss{Drop: 0.1, Duplicate: 0.2, Reorder: 0.2}, succeed: 18},
		{name: "MTU 256", loss: mustertest.Loss{MTU: dtls12.MinMTU}, succeed: 20, mtu: dtls12.MinMTU},
		{name: "MTU 256 and loss", loss: mustertest.Loss{MTU: dtls12.MinMTU, Drop: 0.05, Reorder: 0.1}, succeed: 15, mtu: dtls12.MinMTU},
		{name: "90% loss", loss: mustertest.Loss{Drop: 0.9}},
	} {
		for kind, sides := range map[string][2]dtls12.Config{"certificates": {certServer, certClient}, "key": {keyServer, keyClient}} {
			t.Run(tt.name+", "+kind, func(t *testing.T) {
				t.Parallel()
				succeeded := 0
				for seed := range uint64(20) {
					loss := tt.loss
					loss.Seed = seed
					for i := range sides {
						sides[i].MTU = tt.mtu
						sides[i].FlightInterval = 0
						sides[i].Timeout = 2 * time.Minute
						sides[i].CookieTimeout = 2 * time.Minute
					}
					if overLoss(t, sides[0], sides[1], loss) {
						succeeded++
					}
				}
				t.Logf("%d of 20 handshakes succeeded", succeeded)
				if succeeded < tt.succeed {
					t.Errorf("%d of 20 handshakes succeeded, fewer than %d", succeeded, tt.succeed)
				}
			})
		}
	}
}

// overLoss reports whether both sides have succeeded, and fails the test if they
// disagree. A server that keeps its Conn open answers a client that has not got
// its last flight.
func overLoss(t *testing.T, server, client dtls12.Config, loss mustertest.Loss) (ok bool) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		near, far := mustertest.NewLossyPair(loss)
		begun := time.Now()
		ended := make(chan result)
		var open sync.WaitGroup
		open.Go(func() {
			conn, err := newServer(t, server).Handshake(t.Context(), far, near.LocalAddr())
			ended <- result{conn, err}
			if err == nil {
				_ = conn.SetReadDeadline(time.Now().Add(holdOpen))
				_, _ = conn.Read(make([]byte, 100))
				_ = conn.Close()
			}
		})
		over := make(chan result)
		go func() {
			conn, err := newClient(t, client).Handshake(t.Context(), near, far.LocalAddr())
			over <- result{conn, err}
		}()
		var atServer, atClient result
		for range 2 {
			select {
			case atServer = <-ended:
			case atClient = <-over:
			}
		}
		if spent := time.Since(begun); spent > server.Timeout+time.Second {
			t.Errorf("the handshake took %v", spent)
		}
		switch {
		case atServer.err == nil && atClient.err == nil:
			ok = true
			if !bytes.Equal(export(t, atServer), export(t, atClient)) {
				t.Errorf("seed %d: both sides succeeded with different exports", loss.Seed)
			}
		case atServer.err != nil && atClient.err == nil:
			t.Errorf("seed %d: the client succeeded alone: %v", loss.Seed, atServer.err)
		}
		for _, r := range []result{atServer, atClient} {
			if r.err != nil && muster.CodeOf(r.err) == "" {
				t.Errorf("seed %d: %v", loss.Seed, r.err)
			}
		}
		if atClient.err == nil {
			_ = atClient.conn.Close()
		}
		open.Wait()
	})
	return ok
}

// TestLastFlightIsRepeated loses the server's last flight several times.
func TestLastFlightIsRepeated(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	server, client := p.config(t, serverName), p.config(t, "device.example.com")
	synctest.Test(t, func(t *testing.T) {
		near, far := mustertest.NewLossyPair(mustertest.Loss{})
		lost := 0
		lossy := &dropper{PacketConn: far, drop: func(datagram []byte) bool {
			if datagram[0] == 20 && lost < 3 { // ChangeCipherSpec begins the last flight
				lost++
				return true
			}
			return false
		}}
		ended := make(chan result)
		go func() {
			conn, err := newServer(t, server).Handshake(t.Context(), lossy, near.LocalAddr())
			ended <- result{conn, err}
		}()
		over := make(chan result)
		go func() {
			conn, err := newClient(t, client).Handshake(t.Context(), near, far.LocalAddr())
			over <- result{conn, err}
		}()
		atServer := <-ended // first: nothing but its last flight is missing
		atClient := <-over
		if !bytes.Equal(export(t, atServer), export(t, atClient)) || lost != 3 {
			t.Errorf("the exports differ, or %d flights were lost", lost)
		}
		_, _ = atClient.conn.Close(), atServer.conn.Close()
	})
}

type dropper struct {
	net.PacketConn
	drop func([]byte) bool
}

func (c *dropper) WriteTo(b []byte, to net.Addr) (int, error) {
	if c.drop(b) {
		return len(b), nil
	}
	return c.PacketConn.WriteTo(b, to)
}

// TestMTU measures every datagram of a handshake.
func TestMTU(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	for _, mtu := range []int{0, dtls12.MinMTU, 500} {
		largest := 0
		limit := mtu
		if limit == 0 {
			limit = dtls12.DefaultMTU
		}
		measure := func(datagram []byte) bool {
			largest = max(largest, len(datagram))
			return false
		}
		server, client := p.config(t, serverName), p.config(t, "device.example.com")
		big := p.Issue(t, serverName, 2000)
		server.Identity = func() (*tls.Certificate, error) { return big, nil }
		server.MTU, client.MTU = mtu, mtu
		near, far := mustertest.NewLossyPair(mustertest.Loss{})
		ended := make(chan result)
		go func() {
			conn, err := newServer(t, server).Handshake(t.Context(), &dropper{far, measure}, near.LocalAddr())
			ended <- result{conn, err}
		}()
		conn, err := newClient(t, client).Handshake(t.Context(), near, far.LocalAddr())
		r := <-ended
		if err != nil || r.err != nil {
			t.Fatal(err, r.err)
		}
		_, _ = conn.Close(), r.conn.Close()
		if largest > limit || largest < limit/2 {
			t.Errorf("%s: the largest datagram has %d octets", fmt.Sprint("MTU ", limit), largest)
		}
	}
}

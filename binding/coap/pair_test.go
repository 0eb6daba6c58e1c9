package coap_test

import (
	"net"
	"slices"
	"sync"
	"testing"

	"muster"
	"muster/handshake"
)

// A fault says what becomes of the n-th datagram of one direction, counted from 0:
// how often it arrives, and whether only after the one that follows it.
type fault func(n int) (copies int, late bool)

func faithful(int) (int, bool) { return 1, false }

// datagramPair returns the two ends of a link on which each Read returns what one
// Write wrote, and no Write waits. The faults are of the client's and of the
// server's datagrams.
func datagramPair(t testing.TB, fromClient, fromServer fault) (client net.Conn, server *handshake.Conn) {
	client, nearClient := net.Pipe()
	serverEnd, nearServer := net.Pipe()
	var pumps sync.WaitGroup
	pump(&pumps, nearClient, nearServer, fromClient)
	pump(&pumps, nearServer, nearClient, fromServer)
	t.Cleanup(func() {
		for _, c := range []net.Conn{client, serverEnd, nearClient, nearServer} {
			_ = c.Close()
		}
		pumps.Wait()
	})
	return client, &handshake.Conn{Conn: serverEnd, Session: testSession()}
}

func testSession() *muster.Session {
	return muster.NewSession(muster.Peer{PSKIdentity: "client"}, func(string, []byte, int) ([]byte, error) {
		return make([]byte, 48), nil
	})
}

func pump(pumps *sync.WaitGroup, from, to net.Conn, f fault) {
	queue := make(chan []byte, 1024)
	pumps.Go(func() {
		defer close(queue)
		buffer := make([]byte, 2048)
		var held [][]byte
		for n := 0; ; n++ {
			size, err := from.Read(buffer)
			if err != nil {
				return
			}
			datagram := slices.Clone(buffer[:size])
			copies, late := f(n)
			if late {
				held = append(held, datagram)
				continue
			}
			for range copies {
				queue <- datagram
			}
			for _, h := range held {
				queue <- h
			}
			held = nil
		}
	})
	pumps.Go(func() {
		for datagram := range queue {
			if _, err := to.Write(datagram); err != nil {
				for range queue {
					continue // so that its writer ends
				}
				return
			}
		}
	})
}

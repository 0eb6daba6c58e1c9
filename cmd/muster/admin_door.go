package main

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"time"
)

// adminTurns is how many handshakes with operators compute at once, whatever the
// devices do: a flood of strangers takes no more than one processor's share from them,
// and theirs keeps no operator out who is to end it.
const adminTurns = 1

// An adminDoor is a listener of connections whose TLS handshake is done. Before it,
// each waits for its turn.
type adminDoor struct {
	net.Listener
	config *tls.Config // an http.Server needs a copy, for it changes its own
	turns  *turnstile
	inside chan net.Conn
	shut   chan struct{} // closed when nobody comes in any more
}

func newAdminDoor(listener net.Listener, config *tls.Config) *adminDoor {
	return &adminDoor{listener, config, newTurnstile(adminTurns), make(chan net.Conn), make(chan struct{})}
}

// Accept implements net.Listener.
func (d *adminDoor) Accept() (net.Conn, error) {
	select {
	case conn := <-d.inside:
		return conn, nil
	case <-d.shut:
		return nil, net.ErrClosed
	}
}

// open lets connections in until the listener is closed.
func (d *adminDoor) open(ctx context.Context) error {
	defer close(d.shut)
	for {
		conn, err := d.Listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			if sleep(ctx, 100*time.Millisecond) != nil {
				return nil
			}
			continue
		}
		go d.admit(ctx, conn)
	}
}

func (d *adminDoor) admit(ctx context.Context, conn net.Conn) {
	ctx, cancel := context.WithTimeout(ctx, adminReadTime)
	defer cancel()
	passing, passed := withPassage(ctx)
	paced := newPacedConn(passing, conn, d.turns)
	secured := tls.Server(paced, d.config)
	err := secured.HandshakeContext(ctx)
	paced.finish()
	passed(err == nil)
	if err != nil {
		_ = conn.Close()
		return
	}
	select {
	case d.inside <- secured:
	case <-d.shut:
		_ = conn.Close()
	}
}

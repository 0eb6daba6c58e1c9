package handshake

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"slices"
	"sync"
	"time"

	"muster"
)

// The parts of a record that matter here (RFC 5246 6.2.1, 7.2).
const (
	recordHeader     = 5
	recordChange     = 20
	recordAlert      = 21
	alertLevelFatal  = 2
	alertBodySize    = 2
	lingerTime       = time.Second
	lingerMaxOctets  = 256 << 10
	alertDescription = recordHeader + 1
)

// An alertConn gives a refused handshake the fitting alert. crypto/tls has one
// description for every error of a callback; as long as no ChangeCipherSpec has
// been written, its alert is a plaintext record, whose description may be
// replaced.
type alertConn struct {
	net.Conn
	attempt *attempt

	mu        sync.Mutex
	done      bool // records are encrypted or the handshake has ended
	lastAlert tls.AlertError
}

// pass ends the examination of records.
func (c *alertConn) pass() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.done = true
}

// sent returns the description of the last fatal alert as the engine chose it,
// and zero without one.
func (c *alertConn) sent() tls.AlertError {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lastAlert
}

// Write implements net.Conn. crypto/tls writes whole records.
func (c *alertConn) Write(octets []byte) (int, error) {
	return c.Conn.Write(c.fit(octets))
}

func (c *alertConn) fit(octets []byte) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	for at := 0; !c.done && at+recordHeader <= len(octets); {
		record := octets[at:]
		length := int(record[3])<<8 | int(record[4])
		switch {
		case record[0] == recordChange:
			c.done = true
		case record[0] == recordAlert && length == alertBodySize && len(record) >= recordHeader+alertBodySize && record[recordHeader] == alertLevelFatal:
			c.lastAlert = tls.AlertError(record[alertDescription])
			if reason := c.attempt.reason(); reason != nil {
				octets = slices.Clone(octets)
				octets[at+alertDescription] = byte(AlertFor(muster.CodeOf(reason)))
			}
		}
		at += recordHeader + length
	}
	return octets
}

// linger closes conn so that an alert reaches its reader: closing a TCP
// connection with unread octets resets it, and the peer may then discard what it
// has not read. The wait is bounded in time and octets.
func linger(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	half, ok := conn.(interface{ CloseWrite() error })
	if !ok || ctx.Err() != nil || half.CloseWrite() != nil {
		return
	}
	if conn.SetReadDeadline(time.Now().Add(lingerTime)) == nil {
		_, _ = io.CopyN(io.Discard, conn, lingerMaxOctets)
	}
}

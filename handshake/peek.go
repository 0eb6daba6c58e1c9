package handshake

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"os"
	"time"

	"muster"
)

// maxPeek bounds in octets what Peek reads: the hellos of the peers we know reach
// the end of their cipher suites within 300.
const maxPeek = 4096

// Peek reads the beginning of a stream as far as the cipher suites of its
// ClientHello, so that a server with certificates and one with pre-shared keys
// can share a port. It returns the suites, in the client's order, and a connection
// on which all that was read is read again.
//
// Peek judges nothing. What is no ClientHello of TLS, or has its suites beyond
// maxPeek octets, has no suites and no error: the server that gets the connection
// refuses it with the fitting alert. An error is a muster.Refusal, and conn is
// closed: the stream ended, failed, or did not come this far before ctx did.
func Peek(ctx context.Context, conn net.Conn) (net.Conn, []uint16, error) {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
	p := &preview{stream: bufio.NewReaderSize(conn, maxPeek)}
	suites, err := p.suites()
	if errors.Is(err, errNoHello) || errors.Is(err, bufio.ErrBufferFull) {
		suites, err = nil, nil
	}
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err == nil {
		err = conn.SetReadDeadline(time.Time{})
	}
	if err != nil {
		_ = conn.Close()
		if ctx.Err() != nil || errors.Is(err, os.ErrDeadlineExceeded) {
			return nil, nil, muster.Refuse(muster.CodeHandshakeTimeout, "no ClientHello came from %v in time: %w", conn.RemoteAddr(), err)
		}
		return nil, nil, muster.Refuse(muster.CodeHandshakeFailed, "no ClientHello came from %v: %w", conn.RemoteAddr(), err)
	}
	return &peeked{Conn: conn, before: p.stream}, suites, nil
}

// errNoHello stands for every stream that does not begin with a ClientHello.
var errNoHello = errors.New("no ClientHello")

// The parts of a ClientHello before its suites (RFC 5246 6.2.1, 7.4.1.2).
const (
	recordHandshake = 22
	majorVersion    = 3
	maxFragment     = 1 << 14
	typeClientHello = 1
	versionRandom   = 2 + 32 // octets
	maxSessionID    = 32     // octets
)

// A preview takes octets of a handshake from the records at the beginning of a
// stream, and leaves them in the stream's buffer.
type preview struct {
	stream *bufio.Reader
	at     int // octets of the stream that have been looked at
	left   int // octets of the record that have not
}

func (p *preview) suites() ([]uint16, error) {
	header, err := p.take(4)
	if err != nil {
		return nil, err
	}
	length := int(header[1])<<16 | int(header[2])<<8 | int(header[3])
	fixed, err := p.take(versionRandom + 1)
	if err != nil {
		return nil, err
	}
	session := int(fixed[versionRandom])
	if header[0] != typeClientHello || session > maxSessionID {
		return nil, errNoHello
	}
	if _, err := p.take(session); err != nil {
		return nil, err
	}
	size, err := p.take(2)
	if err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint16(size))
	if n == 0 || n%2 != 0 || len(fixed)+session+len(size)+n > length {
		return nil, errNoHello
	}
	octets, err := p.take(n)
	if err != nil {
		return nil, err
	}
	suites := make([]uint16, 0, n/2)
	for i := 0; i < n; i += 2 {
		suites = append(suites, binary.BigEndian.Uint16(octets[i:]))
	}
	return suites, nil
}

// take returns the next n octets of the handshake, which may lie in several
// records.
func (p *preview) take(n int) ([]byte, error) {
	var taken []byte
	for len(taken) < n {
		if p.left == 0 {
			header, err := p.look(recordHeader)
			if err != nil {
				return nil, err
			}
			p.left = int(binary.BigEndian.Uint16(header[3:]))
			if header[0] != recordHandshake || header[1] != majorVersion || p.left == 0 || p.left > maxFragment {
				return nil, errNoHello
			}
		}
		part, err := p.look(min(n-len(taken), p.left))
		if err != nil {
			return nil, err
		}
		p.left -= len(part)
		taken = append(taken, part...)
	}
	return taken, nil
}

// look returns the next n octets of the stream. More than the buffer holds is
// bufio.ErrBufferFull.
func (p *preview) look(n int) ([]byte, error) {
	octets, err := p.stream.Peek(p.at + n)
	if err != nil {
		return nil, err
	}
	p.at += n
	return octets[p.at-n:], nil
}

// A peeked is a connection whose first octets wait in a buffer.
type peeked struct {
	net.Conn
	before *bufio.Reader // nil once it is empty; used by the reader alone
}

func (c *peeked) Read(b []byte) (int, error) {
	if c.before != nil && c.before.Buffered() > 0 {
		return c.before.Read(b[:min(len(b), c.before.Buffered())])
	}
	c.before = nil
	return c.Conn.Read(b)
}

// CloseWrite ends the writing side as a TCP connection does, for those that have
// to be sure that an alert arrives.
func (c *peeked) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

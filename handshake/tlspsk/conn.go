package tlspsk

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"muster"
	"muster/handshake"
)

// alertTimeout bounds the sending of the alert that ends a connection.
const alertTimeout = 5 * time.Second

// establish runs a machine on a connection to the end of its handshake.
func establish(ctx context.Context, transport net.Conn, m *machine) (*handshake.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, m.config.Timeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = transport.SetDeadline(time.Unix(1, 0)) })
	asked, err := drive(ctx, transport, m)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err == nil {
		err = transport.SetDeadline(time.Time{})
	}
	if err != nil {
		err = m.handshakeError(ctx, err)
		if !asked.IsZero() {
			if m.config.Idle != nil {
				m.config.Idle(ctx)
			}
			level(ctx, time.Until(asked.Add(m.config.RefusalTime)))
		}
		if f, ok := errors.AsType[*fault](err); ok {
			sendAlert(transport, &m.out, f.alert)
		}
		_ = transport.Close()
		return nil, m.explain(err)
	}
	session := muster.NewSession(muster.Peer{PSKIdentity: m.identity}, m.secrets.export)
	return &handshake.Conn{Conn: &connection{Conn: transport, machine: m}, Session: session}, nil
}

// drive moves octets between a machine and a connection until the handshake is
// done. It is the only caller of Config.PSK, and returns when that was asked.
func drive(ctx context.Context, transport net.Conn, m *machine) (asked time.Time, err error) {
	if m.client {
		if err := m.start(); err != nil {
			return asked, err
		}
	}
	for {
		e, err := m.next()
		if err != nil {
			return asked, err
		}
		if octets := m.out.take(); len(octets) > 0 {
			if _, err := transport.Write(octets); err != nil {
				return asked, err
			}
		}
		switch e {
		case needKey:
			asked = time.Now()
			key, err := m.config.PSK(ctx, m.identity)
			if ctx.Err() != nil {
				return asked, ctx.Err() // perhaps before the deadline that it sets
			}
			m.provide(key, err)
		case handshakeDone:
			return asked, nil
		default:
			if err := fill(transport, &m.in); err != nil {
				return asked, err
			}
		}
	}
}

// level waits out the time after which a refusal tells nothing.
func level(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// fill reads once. A stream that ends here ends without close_notify.
func fill(transport net.Conn, in *incoming) error {
	n, err := transport.Read(in.space())
	in.received(n)
	switch {
	case n > 0:
		return nil // an error will come again
	case err == io.EOF:
		return io.ErrUnexpectedEOF
	}
	return err
}

// handshakeError gives every error of a handshake a code.
func (m *machine) handshakeError(ctx context.Context, err error) error {
	if cause := ctx.Err(); cause != nil {
		return muster.Refuse(muster.CodeHandshakeTimeout, "the handshake was given up: %w", cause)
	}
	if muster.CodeOf(err) != "" {
		return err
	}
	if m.client && handshake.CutOff(err) {
		return muster.Refuse(muster.CodeUnreachable, "the server ended the connection: %w", err)
	}
	return muster.Refuse(muster.CodeHandshakeFailed, "the connection failed: %w", err)
}

// sendAlert sends an alert behind what out still holds, if both can be sent.
func sendAlert(transport net.Conn, out *outgoing, a alert) {
	_ = transport.SetWriteDeadline(time.Now().Add(alertTimeout))
	if out.append(typeAlert, []byte{a.level(), byte(a)}) == nil {
		_, _ = transport.Write(out.take())
	}
}

// A connection is what is left after a handshake. One goroutine may read while
// another writes, and any may close.
type connection struct {
	net.Conn // the transport: addresses and deadlines

	readMu    sync.Mutex
	machine   *machine // but for out
	plaintext []byte   // received, not yet read
	readErr   error    // ends all reading

	writeMu  sync.Mutex // guards machine.out too
	writeErr error      // ends all writing

	closeOnce sync.Once
	closeErr  error
}

// Read returns io.EOF after the peer's close_notify, and io.ErrUnexpectedEOF if
// the stream ends without one, so that truncation shows. After a time-out
// reading may go on, and after close_notify writing may.
func (c *connection) Read(p []byte) (int, error) {
	c.readMu.Lock()
	defer c.readMu.Unlock()
	if len(p) == 0 {
		return 0, nil
	}
	for len(c.plaintext) == 0 {
		if c.readErr != nil {
			return 0, c.readErr
		}
		if err := c.receive(); err != nil {
			return 0, err
		}
	}
	n := copy(p, c.plaintext)
	clear(c.plaintext[:n])
	c.plaintext = c.plaintext[n:]
	return n, nil
}

// receive takes one step towards more plaintext.
func (c *connection) receive() error {
	e, err := c.machine.next()
	switch {
	case err != nil:
		c.readErr = err
		c.abort(err)
	case e == applicationData:
		c.plaintext = c.machine.plaintext
	case e == peerClosed:
		c.readErr = io.EOF
	default:
		err = fill(c.Conn, &c.machine.in)
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			c.readErr = err
		}
		return err
	}
	return nil
}

// abort ends writing too, with an alert if the peer is to be told why. The
// deadline frees a writer that is stuck, so that the lock can be had.
func (c *connection) abort(err error) {
	_ = c.Conn.SetWriteDeadline(time.Now().Add(alertTimeout))
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	if f, ok := errors.AsType[*fault](err); ok && c.writeErr == nil {
		sendAlert(c.Conn, &c.machine.out, f.alert)
	}
	if c.writeErr == nil {
		c.writeErr = err
	}
}

// Write sends p in records of at most 16 KiB, of which a connection carries 2^24.
// After an error of the transport, also a time-out, nothing can be written any
// more, as a record may be half sent.
func (c *connection) Write(p []byte) (int, error) {
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	written := 0
	for written < len(p) {
		if c.writeErr != nil {
			return written, c.writeErr
		}
		chunk := p[written:min(len(p), written+maxPlaintext)]
		if err := c.machine.out.append(typeApplicationData, chunk); err != nil {
			return written, err
		}
		if _, err := c.Conn.Write(c.machine.out.take()); err != nil {
			c.writeErr = err
			return written, err
		}
		written += len(chunk)
	}
	return written, c.writeErr
}

// Close sends close_notify, unless a Write is under way or has failed, and closes
// the transport. Further calls return what the first one did.
func (c *connection) Close() error {
	c.closeOnce.Do(func() {
		if c.writeMu.TryLock() {
			if c.writeErr == nil {
				c.writeErr = net.ErrClosed
				sendAlert(c.Conn, &c.machine.out, alertCloseNotify)
			}
			c.writeMu.Unlock()
		}
		c.closeErr = c.Conn.Close()
	})
	return c.closeErr
}

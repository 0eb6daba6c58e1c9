package coap

import (
	"bytes"
	"context"
	cryptorand "crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"time"

	"muster"
	"muster/primitive"
)

// Transmission parameters of RFC 7252 4.8.
const (
	ackTimeout      = 2 * time.Second
	ackRandomFactor = 1.5
	maxRetransmit   = 4
)

var (
	// ErrNoAnswer is returned when the server acknowledged no transmission, or did
	// acknowledge and then not answer in time.
	ErrNoAnswer error = muster.Refuse(muster.CodeUnreachable, "no answer from the CoAP server")
	// ErrReset is returned when the server rejected the message.
	ErrReset = errors.New("the CoAP server rejected the message")
)

// A ClientConfig configures a Client; zero means the default.
type ClientConfig struct {
	Version         string           // release version, default "3"
	Format          primitive.Format // of contents sent and asked for, default primitive.JSON
	BlockSize       int              // octets of the largest block sent, 16 to 1024, default 1024
	ResponseTimeout time.Duration    // from a bare acknowledgement to the answer, default 30 s
	Random          io.Reader        // for tokens and message identifiers, default crypto/rand
	Jitter          func() float64   // in [0,1), spreads retransmissions, default math/rand
}

// A Client sends requests over one connection, one at a time (NSTART is 1). Its
// methods may be called by many goroutines.
type Client struct {
	conn   net.Conn
	config ClientConfig
	turn   chan struct{} // holds the right to use what follows
	lastID uint16
	acked  uint16 // the last separate response, in case its acknowledgement is lost
	buffer []byte
}

// NewClient returns a Client on a connection of which each Read returns one
// datagram. The Client reads only while a request waits for its answer.
func NewClient(conn net.Conn, c ClientConfig) (*Client, error) {
	if c.Version == "" {
		c.Version = "3"
	}
	if c.Format == 0 {
		c.Format = primitive.JSON
	}
	if c.BlockSize == 0 {
		c.BlockSize = defaultBlockSize
	}
	if c.ResponseTimeout == 0 {
		c.ResponseTimeout = 30 * time.Second
	}
	if c.Random == nil {
		c.Random = cryptorand.Reader
	}
	if c.Jitter == nil {
		c.Jitter = rand.Float64
	}
	first := make([]byte, 2)
	if _, err := io.ReadFull(c.Random, first); err != nil {
		return nil, err
	}
	return &Client{
		conn:   conn,
		config: c,
		turn:   make(chan struct{}, 1),
		lastID: binary.BigEndian.Uint16(first),
		buffer: make([]byte, maxMessage+1),
	}, nil
}

// Close closes the connection.
func (c *Client) Close() error { return c.conn.Close() }

// Do sends a request primitive and returns the response, whatever its status. An
// absent Request Identifier or Release Version is filled in. An error means that
// there was no valid answer; whether the request was executed is then unknown.
func (c *Client) Do(ctx context.Context, p *primitive.Request) (*primitive.Response, error) {
	request := *p
	if request.RequestID == "" {
		request.RequestID = cryptorand.Text()
	}
	if request.ReleaseVersion == "" {
		request.ReleaseVersion = c.config.Version
	}
	m, err := writeRequest(&request, c.config.Format)
	if err != nil {
		return nil, err
	}
	select {
	case c.turn <- struct{}{}:
		defer func() { <-c.turn }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	answer, err := c.exchange(ctx, m)
	if err != nil {
		return nil, err
	}
	return readResponse(answer, request.RequestID)
}

// exchange sends a request, in blocks if it is large, and returns the answer as a
// whole.
func (c *Client) exchange(ctx context.Context, m *Message) (*Message, error) {
	answer, err := c.upload(ctx, m)
	if err != nil {
		return nil, err
	}
	return c.download(ctx, m, answer)
}

// upload is RFC 7959 2.5 from the client's side.
func (c *Client) upload(ctx context.Context, m *Message) (*Message, error) {
	b := block{szx: szxOf(c.config.BlockSize)}
	if len(m.Payload) <= b.size() {
		return c.roundTrip(ctx, m)
	}
	for {
		end := min(b.offset()+b.size(), len(m.Payload))
		b.more = end < len(m.Payload)
		part := &Message{Code: m.Code, Options: slices.Clone(m.Options), Payload: m.Payload[b.offset():end]}
		part.Options.AddUint(OptionBlock1, b.value())
		if b.number == 0 {
			part.Options.AddUint(OptionSize1, uint32(len(m.Payload)))
		}
		answer, err := c.roundTrip(ctx, part)
		if err != nil || answer.Code != CodeContinue {
			return answer, err
		}
		value, ok := answer.Options.Uint(OptionBlock1)
		echo, valid := parseBlock(value)
		if !ok || !valid || echo.number != b.number || !b.more {
			return nil, errors.New("the server continues a transfer that it was not asked to")
		}
		b.szx = min(b.szx, echo.szx)
		b.number = uint32(end / b.size())
	}
}

// download is RFC 7959 2.4 from the client's side.
func (c *Client) download(ctx context.Context, request, first *Message) (*Message, error) {
	value, ok := first.Options.Uint(OptionBlock2)
	if !ok {
		return first, nil
	}
	b, ok := parseBlock(value)
	if !ok || b.number != 0 {
		return nil, errors.New("the answer begins in its middle")
	}
	whole := *first
	tag, _ := first.Options.Get(OptionETag)
	for b.more {
		if len(whole.Payload)%b.size() != 0 || len(whole.Payload) == 0 {
			return nil, errors.New("a block of the answer is cut off")
		}
		next := block{number: uint32(len(whole.Payload) / b.size()), szx: b.szx}
		part := &Message{Code: request.Code, Options: withoutBody(request.Options)}
		part.Options.AddUint(OptionBlock2, next.value())
		answer, err := c.roundTrip(ctx, part)
		if err != nil {
			return nil, err
		}
		value, ok := answer.Options.Uint(OptionBlock2)
		b, ok = mustBlock(value, ok)
		etag, _ := answer.Options.Get(OptionETag)
		switch {
		case answer.Code != first.Code || !ok || b.offset() != len(whole.Payload) || !bytes.Equal(etag, tag),
			b.more && len(answer.Payload) != b.size(): // an empty one would never end
			return nil, fmt.Errorf("the answer breaks off with %v", answer.Code)
		case len(whole.Payload)+len(answer.Payload) > primitive.MaxContent:
			return nil, fmt.Errorf("the answer exceeds %d octets", primitive.MaxContent)
		}
		whole.Payload = append(whole.Payload, answer.Payload...)
	}
	return &whole, nil
}

func mustBlock(value uint32, present bool) (block, bool) {
	b, ok := parseBlock(value)
	return b, ok && present
}

func withoutBody(o Options) Options {
	return slices.DeleteFunc(slices.Clone(o), func(option Option) bool { return option.Number == OptionContentFormat })
}

// roundTrip sends one confirmable message until it is acknowledged, and returns
// the response to it: RFC 7252 4.2, 5.2, 5.3.2.
func (c *Client) roundTrip(ctx context.Context, m *Message) (*Message, error) {
	c.lastID++
	m.Type, m.ID, m.Token = Confirmable, c.lastID, make([]byte, maxToken)
	if _, err := io.ReadFull(c.config.Random, m.Token); err != nil {
		return nil, err
	}
	datagram, err := m.Marshal()
	if err != nil {
		return nil, err
	}
	interrupt := context.AfterFunc(ctx, func() { _ = c.conn.SetReadDeadline(time.Now()) })
	defer interrupt()
	timeout := time.Duration(float64(ackTimeout) * (1 + c.config.Jitter()*(ackRandomFactor-1)))
	for range 1 + maxRetransmit {
		if _, err := c.conn.Write(datagram); err != nil {
			return nil, cutOff(err)
		}
		answer, acknowledged, err := c.await(ctx, m, time.Now().Add(timeout))
		if answer != nil || err != nil {
			return answer, err
		}
		if acknowledged {
			answer, _, err = c.await(ctx, m, time.Now().Add(c.config.ResponseTimeout))
			if answer == nil && err == nil {
				err = fmt.Errorf("%w after its acknowledgement", ErrNoAnswer)
			}
			return answer, err
		}
		timeout *= 2
	}
	return nil, ErrNoAnswer
}

// await reads until the response or a bare acknowledgement is there, the deadline
// is over (all results are then zero) or the context ends.
func (c *Client) await(ctx context.Context, m *Message, deadline time.Time) (answer *Message, acknowledged bool, err error) {
	for {
		if err := c.conn.SetReadDeadline(deadline); err != nil {
			return nil, false, err
		}
		if ctx.Err() != nil {
			return nil, false, context.Cause(ctx)
		}
		n, err := c.conn.Read(c.buffer)
		if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
			if ctx.Err() != nil {
				return nil, false, context.Cause(ctx)
			}
			return nil, false, nil
		}
		if err != nil {
			return nil, false, cutOff(err)
		}
		answer, acknowledged, err = c.accept(m, c.buffer[:n])
		if answer != nil || acknowledged || err != nil {
			return answer, acknowledged, err
		}
	}
}

// cutOff is the error for an association that ends before the answer: a server closes
// it when it stops, or has no capacity for the session, and may be asked again later.
func cutOff(err error) error {
	return muster.Refuse(muster.CodeUnreachable, "the association has ended: %w", err)
}

// accept looks at a datagram while m waits for its answer. All results are zero if
// the datagram is not about m.
func (c *Client) accept(m *Message, datagram []byte) (answer *Message, acknowledged bool, err error) {
	received, err := Parse(datagram)
	if received == nil {
		return nil, false, nil
	}
	isResponse := err == nil && received.Code.class() != classRequest
	mine := isResponse && bytes.Equal(received.Token, m.Token)
	switch received.Type {
	case Reset:
		if err == nil && received.ID == m.ID {
			return nil, false, ErrReset
		}
	case Acknowledgement:
		switch {
		case err != nil || received.ID != m.ID:
		case received.Code == Empty:
			return nil, true, nil
		case mine:
			return c.understand(received)
		}
	case Confirmable:
		if mine {
			c.acked = received.ID
			return c.separate(received)
		}
		if isResponse && received.ID == c.acked {
			return nil, false, c.write(&Message{Type: Acknowledgement, ID: received.ID})
		}
		return nil, false, c.write(&Message{Type: Reset, ID: received.ID})
	case NonConfirmable:
		if mine {
			return c.understand(received)
		}
	}
	return nil, false, nil
}

// separate acknowledges a response that comes in a message of its own.
func (c *Client) separate(received *Message) (*Message, bool, error) {
	answer, _, err := c.understand(received)
	kind := Acknowledgement
	if err != nil {
		kind = Reset
	}
	return answer, false, errors.Join(err, c.write(&Message{Type: kind, ID: received.ID}))
}

func (c *Client) understand(received *Message) (*Message, bool, error) {
	kept, bad, ok := received.Options.filter(true)
	if !ok {
		return nil, false, fmt.Errorf("the answer has the unknown critical option %d", bad)
	}
	received.Options = kept
	return received, false, nil
}

func (c *Client) write(m *Message) error {
	datagram, err := m.Marshal()
	if err != nil {
		return err
	}
	_, err = c.conn.Write(datagram)
	return err
}

package coap

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"muster"
	"muster/handshake"
	"muster/primitive"
)

// A Config configures a Server. Handler is needed; zero means the default
// elsewhere.
type Config struct {
	Handler primitive.Handler

	Now            func() time.Time // default time.Now
	RequestTimeout time.Duration    // for a request to be answered, default 10 s
	IdleTimeout    time.Duration    // after the last message on a connection, default 5 min
	BlockSize      int              // octets of the largest block sent, 16 to 1024, default 1024
	Logger         *slog.Logger     // for panics of the handler, default slog.Default
}

const (
	defaultRequestTimeout = 10 * time.Second
	defaultIdleTimeout    = 5 * time.Minute
	defaultBlockSize      = 1024
	maxRunning            = 8 // requests worked on at once for a connection
)

// A Server answers CoAP requests. Its methods may be called by several goroutines.
type Server struct{ config Config }

// NewServer returns a Server.
func NewServer(c Config) *Server {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.RequestTimeout == 0 {
		c.RequestTimeout = defaultRequestTimeout
	}
	if c.IdleTimeout == 0 {
		c.IdleTimeout = defaultIdleTimeout
	}
	if c.BlockSize == 0 {
		c.BlockSize = defaultBlockSize
	}
	return &Server{c}
}

// ServeConn answers the requests on a connection, of which each Read returns one
// datagram, until it is idle, closed or ctx ends. Then it waits for the requests
// that are being worked on, closes the connection and returns; only an unexpected
// fault of the connection is an error.
func (s *Server) ServeConn(ctx context.Context, c *handshake.Conn) error {
	sc := &serverConn{
		server:    s,
		conn:      c,
		recent:    newRecent(),
		uploads:   transfers{},
		downloads: transfers{},
		running:   make(chan struct{}, maxRunning),
	}
	stop := context.AfterFunc(ctx, func() { _ = c.SetReadDeadline(time.Now()) })
	err := sc.read(ctx)
	stop()
	sc.workers.Wait()
	sc.forget()
	return errors.Join(err, c.Close())
}

// A serverConn is the server's side of one connection.
type serverConn struct {
	server  *Server
	conn    *handshake.Conn
	running chan struct{}
	workers sync.WaitGroup

	mu        sync.Mutex // guards what follows
	recent    *recent
	uploads   transfers
	downloads transfers
	lastID    uint16
	lastTag   uint64
}

func (c *serverConn) read(ctx context.Context) error {
	buffer := make([]byte, maxMessage+1)
	for {
		if err := c.conn.SetReadDeadline(time.Now().Add(c.server.config.IdleTimeout)); err != nil {
			return ignoreEnd(err)
		}
		if ctx.Err() != nil {
			return nil
		}
		n, err := c.conn.Read(buffer)
		if err != nil {
			return ignoreEnd(err)
		}
		c.accept(ctx, buffer[:n])
	}
}

// ignoreEnd returns nil for the ways in which a connection ends in good order.
func ignoreEnd(err error) error {
	if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
		return nil
	}
	if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// accept takes in a datagram: RFC 7252 4.2, 4.3, 4.5.
func (c *serverConn) accept(ctx context.Context, datagram []byte) {
	m, err := Parse(datagram)
	if m == nil {
		return
	}
	isRequest := err == nil && m.Code != Empty && m.Code.class() == classRequest
	switch {
	case m.Type == Acknowledgement, m.Type == Reset:
		return // of nothing: the server sends no confirmable message
	case !isRequest && m.Type == Confirmable:
		c.write(&Message{Type: Reset, ID: m.ID})
		return
	case !isRequest:
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if known := c.recent.find(m.ID, now); known != nil {
		if m.Type == Confirmable && known.answer != nil {
			_, _ = c.conn.Write(known.answer) // as unreliable as the first time
		}
		return
	}
	select {
	case c.running <- struct{}{}:
	default:
		return // the peer sends a confirmable message again
	}
	entry := c.recent.add(m.ID, now)
	if reply := c.prepare(m, now); reply != nil {
		<-c.running
		c.reply(m, reply, entry)
		return
	}
	c.workers.Go(func() {
		defer func() { <-c.running }()
		c.work(ctx, m, entry)
	})
}

// prepare does what needs no handler. It returns the reply, or nil after making
// the message whole.
func (c *serverConn) prepare(m *Message, now time.Time) *Message {
	kept, bad, ok := m.Options.filter(false)
	if !ok {
		if bad == OptionProxyURI || bad == OptionProxyScheme {
			return &Message{Code: CodeProxyingNotSupported}
		}
		return &Message{Code: CodeBadOption}
	}
	m.Options = kept
	whole, reply := c.uploads.receive(m, now)
	if reply != nil {
		return reply
	}
	szx := szxOf(c.server.config.BlockSize)
	if answer := c.downloads.resume(whole, szx, now); answer != nil {
		return answer
	}
	if b, _ := requestedBlock(whole, szx); b.number > 0 && m.Code != GET {
		return &Message{Code: CodeEntityIncomplete}
	}
	*m = *whole
	return nil
}

func (c *serverConn) work(ctx context.Context, m *Message, entry *handled) {
	answer := c.answer(ctx, m)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lastTag++
	part := c.downloads.send(m, answer, szxOf(c.server.config.BlockSize), c.lastTag, time.Now())
	if value, ok := m.Options.Uint(OptionBlock1); ok {
		part.Options.AddUint(OptionBlock1, value)
	}
	c.reply(m, part, entry)
}

// answer never fails: a panic of the handler becomes an internal error, since one
// peer's request must not end the service of all others.
func (c *serverConn) answer(ctx context.Context, m *Message) (answer *Message) {
	defer func() {
		if fault := recover(); fault != nil {
			c.server.config.Logger.ErrorContext(ctx, "the handler panicked", "fault", fault)
			answer = &Message{Code: CodeInternalServerError}
			answer.Options.AddUint(OptionRSC, uint32(primitive.InternalServerError))
		}
	}()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.server.config.RequestTimeout)
	defer cancel()
	request, err := readRequest(m)
	format, acceptable := negotiate(m.Options)
	if err == nil && !acceptable {
		err = &primitive.Error{Status: primitive.NotAcceptable}
	}
	if err == nil {
		response := primitive.Serve(ctx, c.server.config.Handler, c.session(), request, c.server.config.Now())
		return writeResponse(response, request.Operation, format)
	}
	response := primitive.Fail(err)
	response.RequestID, response.ReleaseVersion = request.RequestID, request.ReleaseVersion
	if !acceptable {
		response.Content = primitive.Content{}
	}
	return writeResponse(response, request.Operation, format)
}

func (c *serverConn) session() *muster.Session { return c.conn.Session }

// reply sends an answer and remembers it. A confirmable request is answered in
// its acknowledgement; a rejected option of another one by a reset.
func (c *serverConn) reply(request, answer *Message, entry *handled) {
	answer.Token = request.Token
	switch {
	case request.Type == Confirmable:
		answer.Type, answer.ID = Acknowledgement, request.ID
	case answer.Code == CodeBadOption:
		answer = &Message{Type: Reset, ID: request.ID}
	default:
		c.lastID++
		answer.Type, answer.ID = NonConfirmable, c.lastID
	}
	entry.answer = c.write(answer)
}

// write sends a message and returns its octets. A datagram that cannot be sent is
// as good as lost.
func (c *serverConn) write(m *Message) []byte {
	datagram, err := m.Marshal()
	if err != nil {
		return nil
	}
	_, _ = c.conn.Write(datagram)
	return datagram
}

// forget drops the octets of answers and bodies, which may be of keys.
func (c *serverConn) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.recent.order) > 0 {
		c.recent.forget(c.recent.order[0])
	}
	for key := range c.uploads {
		c.uploads.drop(key)
	}
	for key := range c.downloads {
		c.downloads.drop(key)
	}
}

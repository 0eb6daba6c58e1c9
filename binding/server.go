// Package binding carries oneM2M primitives over HTTP/1.1 and HTTP/2 (TS-0009), on
// connections that are through their handshake. Package coap does the same over
// CoAP, and package websocket over WebSocket.
//
// The bindings know primitives and sessions; what a request means is up to the
// primitive.Handler, and who may ask is up to the procedures behind it.
package binding

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"muster"
	"muster/handshake"
	"muster/primitive"
)

// ErrServerClosed is returned for a connection that comes after Shutdown.
var ErrServerClosed = errors.New("the server is shut down")

// A Config configures a Server. Handler is needed; a zero duration or nil means
// the default.
type Config struct {
	Handler primitive.Handler
	// Fetch, if set, answers GET /fetchCredentials/<KeID>/<SUID>.
	Fetch FetchFunc
	// Upgrade, if set, takes over the requests to upgrade HTTP/1.1 to WebSocket.
	Upgrade UpgradeFunc
	// Decorate, if set, goes around all that answers requests, in a way that the
	// session is still found.
	Decorate func(http.Handler) http.Handler

	Now            func() time.Time // default time.Now
	RequestTimeout time.Duration    // from the last octet of a request to its answer, default 10 s
	ReadTimeout    time.Duration    // for a whole request, default 10 s
	IdleTimeout    time.Duration    // between requests on a connection, default 2 min
	Logger         *slog.Logger     // for faults of net/http, default slog.Default
}

// An UpgradeFunc answers a request to upgrade a connection of an authenticated peer
// to WebSocket, and returns when the connection has ended.
type UpgradeFunc func(w http.ResponseWriter, r *http.Request, s *muster.Session)

const (
	maxHeaderOctets       = 8 << 10
	maxStreams            = 8 // requests worked on at once for a connection of HTTP/2
	defaultRequestTimeout = 10 * time.Second
	defaultReadTimeout    = 10 * time.Second
	defaultIdleTimeout    = 2 * time.Minute
)

// A Server answers HTTP requests on connections given to it one by one. Its
// methods may be called by several goroutines.
type Server struct {
	config   Config
	http1    *door
	http2    *door
	stopping context.Context // ends with Shutdown
	stop     context.CancelFunc
}

// A door is net/http for the connections that speak one version of HTTP. There is
// one for each, so that what ALPN agreed on is what is spoken.
type door struct {
	server *http.Server
	conns  *handOver
}

// NewServer returns a Server that runs once Serve is called.
func NewServer(c Config) *Server {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	c.RequestTimeout = orDefault(c.RequestTimeout, defaultRequestTimeout)
	c.ReadTimeout = orDefault(c.ReadTimeout, defaultReadTimeout)
	c.IdleTimeout = orDefault(c.IdleTimeout, defaultIdleTimeout)
	s := &Server{config: c}
	s.stopping, s.stop = context.WithCancel(context.Background())
	var version1, version2 http.Protocols
	version1.SetHTTP1(true)
	version2.SetUnencryptedHTTP2(true) // what net/http takes a connection for that is not its own TLS
	s.http1, s.http2 = s.newDoor(&version1), s.newDoor(&version2)
	return s
}

func (s *Server) newDoor(versions *http.Protocols) *door {
	c := s.config
	var handler http.Handler = http.HandlerFunc(s.serve)
	if c.Decorate != nil {
		handler = c.Decorate(handler)
	}
	return &door{conns: newHandOver(), server: &http.Server{
		Handler:           handler,
		Protocols:         versions,
		ConnContext:       withSession,
		ReadHeaderTimeout: c.ReadTimeout,
		ReadTimeout:       c.ReadTimeout,
		WriteTimeout:      c.ReadTimeout + c.RequestTimeout,
		IdleTimeout:       c.IdleTimeout,
		MaxHeaderBytes:    maxHeaderOctets,
		ErrorLog:          slog.NewLogLogger(c.Logger.Handler(), slog.LevelWarn),
		// net/http ends a connection whose peer opens and resets streams faster
		// than they are worked on, by a multiple of MaxConcurrentStreams.
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams:          maxStreams,
			MaxReadFrameSize:              16 << 10,
			MaxReceiveBufferPerStream:     primitive.MaxContent,
			MaxReceiveBufferPerConnection: maxStreams * primitive.MaxContent,
			MaxDecoderHeaderTableSize:     4 << 10,
			WriteByteTimeout:              c.ReadTimeout,
		},
	}}
}

func orDefault(d, otherwise time.Duration) time.Duration {
	if d == 0 {
		return otherwise
	}
	return d
}

// Serve answers requests on the connections that Handle is given, until Shutdown,
// and then returns nil.
func (s *Server) Serve() error {
	var both errgroup.Group
	both.Go(s.http1.serve)
	both.Go(s.http2.serve)
	return both.Wait()
}

func (d *door) serve() error {
	if err := d.server.Serve(d.conns); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// Handle gives a connection to the server once its peer has begun to ask, and closes
// it if the peer leaves or does not begin within ReadTimeout; the server closes it in
// the end. It is served by HTTP/2 if that is its Protocol. Without a running Serve it
// blocks. After Shutdown it closes the connection and returns ErrServerClosed.
//
// Many a device asks nothing: it has what it came for after the handshake. To set
// net/http up for it would be a twentieth of its enrolment.
func (s *Server) Handle(c *handshake.Conn) error {
	if err := s.awaitRequest(c); err != nil {
		return errors.Join(err, c.Close())
	}
	entrance := s.http1
	if c.Protocol == handshake.ProtocolHTTP2 {
		entrance = s.http2
	}
	if err := entrance.conns.put(c); err != nil {
		return errors.Join(err, c.Close())
	}
	return nil
}

// awaitRequest returns when the first octet has come.
func (s *Server) awaitRequest(c *handshake.Conn) error {
	if err := c.SetReadDeadline(time.Now().Add(s.config.ReadTimeout)); err != nil {
		return err
	}
	first := &begun{Conn: c.Conn}
	waiting := context.AfterFunc(s.stopping, func() { _ = first.Conn.SetReadDeadline(time.Unix(1, 0)) })
	_, err := io.ReadFull(first.Conn, first.octet[:])
	if !waiting() { // its deadline has passed, or is about to
		return ErrServerClosed
	}
	if err != nil {
		return err
	}
	c.Conn = first
	return nil
}

// A begun is a connection whose first octet was read and is read again.
type begun struct {
	net.Conn
	octet [1]byte
	again bool // used by the reader alone
}

func (c *begun) Read(b []byte) (int, error) {
	if c.again || len(b) == 0 {
		return c.Conn.Read(b)
	}
	c.again = true
	return copy(b, c.octet[:]), nil
}

// Shutdown takes no more connections, waits until the running requests are
// answered and closes all connections; when ctx ends first, it closes them at
// once and returns the context's error. Connections that were upgraded are no
// longer the server's.
func (s *Server) Shutdown(ctx context.Context) error {
	s.stop()
	var both errgroup.Group
	both.Go(func() error { return s.http1.shutdown(ctx) })
	both.Go(func() error { return s.http2.shutdown(ctx) })
	return both.Wait()
}

func (d *door) shutdown(ctx context.Context) error {
	err := d.server.Shutdown(ctx)
	if err != nil {
		err = errors.Join(err, d.server.Close())
	}
	return errors.Join(err, d.conns.Close())
}

type sessionKey struct{}

func withSession(ctx context.Context, c net.Conn) context.Context {
	if established, ok := c.(*handshake.Conn); ok {
		return context.WithValue(ctx, sessionKey{}, established.Session)
	}
	return ctx
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	session, _ := r.Context().Value(sessionKey{}).(*muster.Session)
	if s.config.Upgrade != nil && asksForWebSocket(r) {
		s.config.Upgrade(w, r, session)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), s.config.RequestTimeout)
	defer cancel()
	r.Body = http.MaxBytesReader(w, r.Body, primitive.MaxContent)
	if keID, suid, ok := fetchPath(r); ok && s.config.Fetch != nil {
		s.serveFetch(ctx, w, r, session, keID, suid)
		return
	}
	format, media, acceptable := negotiate(r)
	request, err := readRequest(r)
	if err == nil && !acceptable {
		err = &primitive.Error{Status: primitive.NotAcceptable}
	}
	if err == nil {
		writeResponse(w, primitive.Serve(ctx, s.config.Handler, session, request, s.config.Now()), format, media)
		return
	}
	response := primitive.Fail(err)
	response.RequestID, response.ReleaseVersion = request.RequestID, request.ReleaseVersion
	if !acceptable {
		response.Content = primitive.Content{}
	}
	writeResponse(w, response, format, media)
}

// asksForWebSocket reports whether a request is the opening handshake of RFC 6455
// 4.1. HTTP/2 has another one, which TS-0020 does not know.
func asksForWebSocket(r *http.Request) bool {
	return r.ProtoMajor == 1 && strings.EqualFold(r.Header.Get("Upgrade"), "websocket")
}

// handOver is a net.Listener whose connections come from put.
type handOver struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newHandOver() *handOver {
	return &handOver{conns: make(chan net.Conn), closed: make(chan struct{})}
}

func (h *handOver) put(c net.Conn) error {
	select {
	case <-h.closed:
		return ErrServerClosed
	default:
	}
	select {
	case h.conns <- c:
		return nil
	case <-h.closed:
		return ErrServerClosed
	}
}

func (h *handOver) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.closed:
		return nil, net.ErrClosed
	}
}

func (h *handOver) Close() error {
	h.once.Do(func() { close(h.closed) })
	return nil
}

func (h *handOver) Addr() net.Addr { return handOverAddr{} }

type handOverAddr struct{}

func (handOverAddr) Network() string { return "handover" }
func (handOverAddr) String() string  { return "connections after their handshake" }

// Package binding carries oneM2M primitives over HTTP/1.1 (TS-0009), on
// connections that are through their handshake. Package coap does the same over
// CoAP.
//
// The bindings know primitives and sessions; what a request means is up to the
// primitive.Handler, and who may ask is up to the procedures behind it.
package binding

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

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

	Now            func() time.Time // default time.Now
	RequestTimeout time.Duration    // from the last octet of a request to its answer, default 10 s
	ReadTimeout    time.Duration    // for a whole request, default 10 s
	IdleTimeout    time.Duration    // between requests on a connection, default 2 min
	Logger         *slog.Logger     // for faults of net/http, default slog.Default
}

const (
	maxHeaderOctets       = 8 << 10
	defaultRequestTimeout = 10 * time.Second
	defaultReadTimeout    = 10 * time.Second
	defaultIdleTimeout    = 2 * time.Minute
)

// A Server answers HTTP requests on connections given to it one by one. Its
// methods may be called by several goroutines.
type Server struct {
	config   Config
	http     *http.Server
	listener *handOver
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
	s := &Server{config: c, listener: newHandOver()}
	s.http = &http.Server{
		Handler:           http.HandlerFunc(s.serve),
		ConnContext:       withSession,
		ReadHeaderTimeout: c.ReadTimeout,
		ReadTimeout:       c.ReadTimeout,
		WriteTimeout:      c.ReadTimeout + c.RequestTimeout,
		IdleTimeout:       c.IdleTimeout,
		MaxHeaderBytes:    maxHeaderOctets,
		ErrorLog:          slog.NewLogLogger(c.Logger.Handler(), slog.LevelWarn),
	}
	return s
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
	if err := s.http.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// Handle gives a connection to the server, which closes it in the end. Without a
// running Serve it blocks. After Shutdown it closes the connection and returns
// ErrServerClosed.
func (s *Server) Handle(c *handshake.Conn) error {
	if err := s.listener.put(c); err != nil {
		return errors.Join(err, c.Close())
	}
	return nil
}

// Shutdown takes no more connections, waits until the running requests are
// answered and closes all connections; when ctx ends first, it closes them at
// once and returns the context's error.
func (s *Server) Shutdown(ctx context.Context) error {
	err := s.http.Shutdown(ctx)
	if err != nil {
		err = errors.Join(err, s.http.Close())
	}
	return errors.Join(err, s.listener.Close())
}

type sessionKey struct{}

func withSession(ctx context.Context, c net.Conn) context.Context {
	if established, ok := c.(*handshake.Conn); ok {
		return context.WithValue(ctx, sessionKey{}, established.Session)
	}
	return ctx
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), s.config.RequestTimeout)
	defer cancel()
	session, _ := ctx.Value(sessionKey{}).(*muster.Session)
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

// Package websocket carries oneM2M primitives over WebSocket (TS-0020), on
// connections that are through their handshake and speak HTTP/1.1. Each message is
// one primitive, coded as a whole.
//
// A request is upgraded by package binding, which has the connection until then.
package websocket

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	ws "github.com/coder/websocket"

	"muster"
	"muster/primitive"
)

// The subprotocols (TS-0020 6.2.2.9). That of XML is not spoken.
const (
	subprotocolJSON = "oneM2M.json"
	subprotocolCBOR = "oneM2M.cbor"
)

// A Config configures a Server. Handler is needed; zero means the default
// elsewhere.
type Config struct {
	Handler primitive.Handler
	// Origins are the web origins, as https://console.example.org, whose pages may
	// connect. A device sends none; a browser that holds a certificate sends that
	// of whatever page asks it to.
	Origins []string

	Now            func() time.Time // default time.Now
	RequestTimeout time.Duration    // for a request to be answered, default 10 s
	ReadTimeout    time.Duration    // from the first octet of a message to its last, default 10 s
	PingInterval   time.Duration    // after which a peer has to show that it is there, default 2 min
}

const (
	defaultRequestTimeout = 10 * time.Second
	defaultReadTimeout    = 10 * time.Second
	defaultPingInterval   = 2 * time.Minute
)

// A Server answers requests on the connections that are upgraded, one at a time on
// each. Its methods may be called by many goroutines.
type Server struct {
	config Config
	base   context.Context // ends when Shutdown begins
	cancel context.CancelFunc
	mu     sync.Mutex
	closed bool // guarded by mu
	guests sync.WaitGroup
}

// NewServer returns a Server.
func NewServer(c Config) *Server {
	if c.Now == nil {
		c.Now = time.Now
	}
	c.RequestTimeout = orDefault(c.RequestTimeout, defaultRequestTimeout)
	c.ReadTimeout = orDefault(c.ReadTimeout, defaultReadTimeout)
	c.PingInterval = orDefault(c.PingInterval, defaultPingInterval)
	s := &Server{config: c}
	s.base, s.cancel = context.WithCancel(context.Background())
	return s
}

func orDefault(d, otherwise time.Duration) time.Duration {
	if d == 0 {
		return otherwise
	}
	return d
}

// Upgrade answers an opening handshake, and then the requests on the connection,
// until it is closed, its peer is gone, or Shutdown. It is a binding.UpgradeFunc.
func (s *Server) Upgrade(w http.ResponseWriter, r *http.Request, session *muster.Session) {
	if !s.enter() {
		http.Error(w, "the server is shut down", http.StatusServiceUnavailable)
		return
	}
	defer s.guests.Done()
	format, subprotocol, code := s.admit(r)
	if code != http.StatusSwitchingProtocols {
		http.Error(w, http.StatusText(code), code)
		return
	}
	conn, err := ws.Accept(w, r, &ws.AcceptOptions{
		Subprotocols:       []string{subprotocol},
		InsecureSkipVerify: true, // of the Origin, which admit has looked at
	})
	if err != nil {
		return // the peer has been told
	}
	defer func() { _ = conn.CloseNow() }()
	conn.SetReadLimit(primitive.MaxContent)
	c := &serverConn{server: s, conn: conn, session: session, format: format}
	stop := context.AfterFunc(s.base, c.goAway)
	defer stop()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go c.ping(ctx)
	c.serve(ctx)
}

func (s *Server) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.guests.Add(1)
	}
	return !s.closed
}

// Shutdown upgrades no more connections, waits until the requests under way are
// answered and closes all connections. When ctx ends first it returns the
// context's error; the connections then end when their requests do.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.cancel()
	gone := make(chan struct{})
	go func() {
		s.guests.Wait()
		close(gone)
	}()
	select {
	case <-gone:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// admit judges an opening handshake. The code is that of the answer. Of several
// subprotocols the client's order decides (TS-0020 6.2.2.7).
func (s *Server) admit(r *http.Request) (f primitive.Format, subprotocol string, code int) {
	if r.URL.Path != "/" {
		return 0, "", http.StatusNotFound
	}
	for _, origin := range r.Header.Values("Origin") {
		if !slices.Contains(s.config.Origins, origin) {
			return 0, "", http.StatusForbidden
		}
	}
	for offered := range strings.SplitSeq(strings.Join(r.Header.Values("Sec-WebSocket-Protocol"), ","), ",") {
		switch name := strings.TrimSpace(offered); {
		case strings.EqualFold(name, subprotocolJSON):
			return primitive.JSON, subprotocolJSON, http.StatusSwitchingProtocols
		case strings.EqualFold(name, subprotocolCBOR):
			return primitive.CBOR, subprotocolCBOR, http.StatusSwitchingProtocols
		}
	}
	return 0, "", http.StatusBadRequest
}

// messageType returns how a format is carried (TS-0020 6.2.2.9).
func messageType(f primitive.Format) ws.MessageType {
	if f == primitive.CBOR {
		return ws.MessageBinary
	}
	return ws.MessageText
}

// A serverConn is the server's side of one connection.
type serverConn struct {
	server  *Server
	conn    *ws.Conn
	session *muster.Session
	format  primitive.Format
	turn    sync.Mutex // held while a request is answered
}

// goAway closes the connection once the request under way is answered.
func (c *serverConn) goAway() {
	c.turn.Lock()
	defer c.turn.Unlock()
	_ = c.conn.Close(ws.StatusGoingAway, "the server is shut down")
}

// ping closes the connection when the peer is no longer there. An answer can be
// read only between two requests, for which it waits.
func (c *serverConn) ping(ctx context.Context) {
	ticker := time.NewTicker(c.server.config.PingInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		waiting, cancel := context.WithTimeout(ctx, c.server.config.RequestTimeout+c.server.config.ReadTimeout)
		err := c.conn.Ping(waiting)
		cancel()
		if err != nil {
			_ = c.conn.CloseNow()
			return
		}
	}
}

func (c *serverConn) serve(ctx context.Context) {
	for {
		kind, octets, err := c.read(ctx)
		switch {
		case errors.Is(err, ws.ErrMessageTooBig):
			_ = c.conn.Close(ws.StatusMessageTooBig, "")
			return
		case err != nil:
			return
		case kind != messageType(c.format):
			_ = c.conn.Close(ws.StatusUnsupportedData, "the message is not of the type that the subprotocol has")
			return
		}
		if err := c.answer(ctx, octets); err != nil {
			return
		}
	}
}

// read waits as long as it takes for a message to begin, and not for its end.
func (c *serverConn) read(ctx context.Context) (ws.MessageType, []byte, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	kind, r, err := c.conn.Reader(ctx)
	if err != nil {
		return 0, nil, err
	}
	timer := time.AfterFunc(c.server.config.ReadTimeout, cancel)
	defer timer.Stop()
	octets, err := io.ReadAll(r)
	return kind, octets, err
}

func (c *serverConn) answer(ctx context.Context, octets []byte) error {
	c.turn.Lock()
	defer c.turn.Unlock()
	ctx, cancel := context.WithTimeout(ctx, c.server.config.RequestTimeout)
	defer cancel()
	response := c.respond(ctx, octets)
	answer, err := response.Encode(c.format)
	if err != nil {
		failed := primitive.Response{Status: primitive.InternalServerError, RequestID: response.RequestID, ReleaseVersion: response.ReleaseVersion}
		if answer, err = failed.Encode(c.format); err != nil {
			return err
		}
	}
	defer clear(answer)
	writing, stop := context.WithTimeout(context.WithoutCancel(ctx), c.server.config.ReadTimeout)
	defer stop()
	return c.conn.Write(writing, messageType(c.format), answer)
}

func (c *serverConn) respond(ctx context.Context, octets []byte) *primitive.Response {
	request, err := primitive.DecodeRequest(c.format, octets)
	if err == nil {
		return primitive.Serve(ctx, c.server.config.Handler, c.session, request, c.server.config.Now())
	}
	response := primitive.Fail(err)
	response.RequestID, response.ReleaseVersion = request.RequestID, request.ReleaseVersion
	return response
}

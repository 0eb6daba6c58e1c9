package websocket

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/http"

	ws "github.com/coder/websocket"

	"muster/handshake"
	"muster/primitive"
)

// A ClientConfig configures a Client; zero means the default.
type ClientConfig struct {
	Authority string           // the server's FQDN, for the Host field; needed
	Version   string           // release version, default "3"
	Format    primitive.Format // of all messages, default primitive.JSON
}

// A Client sends requests over one connection, one at a time. Its methods may be
// called by many goroutines.
type Client struct {
	conn    *ws.Conn
	config  ClientConfig
	turn    chan struct{} // holds the right to send a request
	answers chan *primitive.Response
	ended   chan struct{}
	cause   error // why it ended; read after ended
}

// Dial upgrades a connection that speaks HTTP/1.1. The connection is closed with
// the Client, and on an error. The context is for the upgrade only.
func Dial(ctx context.Context, conn *handshake.Conn, c ClientConfig) (*Client, error) {
	if c.Version == "" {
		c.Version = "3"
	}
	if c.Format == 0 {
		c.Format = primitive.JSON
	}
	subprotocol := subprotocolJSON
	if c.Format == primitive.CBOR {
		subprotocol = subprotocolCBOR
	}
	once := make(chan net.Conn, 1)
	once <- conn
	transport := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		select {
		case conn := <-once:
			return conn, nil
		default:
			return nil, errors.New("the connection was not upgraded")
		}
	}}
	upgraded, _, err := ws.Dial(ctx, "ws://"+c.Authority+"/", &ws.DialOptions{
		HTTPClient: &http.Client{Transport: transport}, Subprotocols: []string{subprotocol},
	})
	if err == nil && upgraded.Subprotocol() != subprotocol {
		err = errors.New("the server speaks another subprotocol")
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", c.Authority, err), conn.Close())
	}
	upgraded.SetReadLimit(2 * primitive.MaxContent) // a content that fits, and its parameters
	client := &Client{
		conn: upgraded, config: c,
		turn: make(chan struct{}, 1), answers: make(chan *primitive.Response, 1), ended: make(chan struct{}),
	}
	go client.read()
	return client, nil
}

// Close closes the connection.
func (c *Client) Close() error {
	err := c.conn.Close(ws.StatusNormalClosure, "")
	<-c.ended
	if errors.Is(err, net.ErrClosed) || ws.CloseStatus(err) != -1 {
		return nil
	}
	return err
}

// read takes in answers, and with them the pings of the server, until the
// connection ends.
func (c *Client) read() {
	defer close(c.ended)
	for {
		kind, octets, err := c.conn.Read(context.Background())
		if err != nil {
			c.cause = err
			return
		}
		if kind != messageType(c.config.Format) {
			c.cause = errors.New("the message is not of the type that the subprotocol has")
			_ = c.conn.CloseNow()
			return
		}
		response, err := primitive.DecodeResponse(c.config.Format, octets)
		if err != nil {
			c.cause = err
			_ = c.conn.CloseNow()
			return
		}
		select {
		case <-c.answers: // of a request that nobody waits for any more
		default:
		}
		c.answers <- response // has room: this is the only sender
	}
}

// Do sends a request primitive and returns the response, whatever its status. An
// absent Request Identifier or Release Version is filled in. The response has no
// Location. An error means that there was no valid answer; whether the request was
// executed is then unknown.
func (c *Client) Do(ctx context.Context, p *primitive.Request) (*primitive.Response, error) {
	request := *p
	if request.RequestID == "" {
		request.RequestID = rand.Text()
	}
	if request.ReleaseVersion == "" {
		request.ReleaseVersion = c.config.Version
	}
	octets, err := request.Encode(c.config.Format)
	if err != nil {
		return nil, err
	}
	select {
	case c.turn <- struct{}{}:
		defer func() { <-c.turn }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if err := c.conn.Write(ctx, messageType(c.config.Format), octets); err != nil {
		return nil, fmt.Errorf("%s: %w", c.config.Authority, err)
	}
	for {
		select {
		case response := <-c.answers:
			if response.RequestID == request.RequestID {
				return response, nil
			}
		case <-c.ended:
			select {
			case response := <-c.answers: // the last before the end
				if response.RequestID == request.RequestID {
					return response, nil
				}
			default:
			}
			return nil, fmt.Errorf("%s: %w", c.config.Authority, c.cause)
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

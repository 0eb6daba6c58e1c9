package dialer

import (
	"context"
	"errors"
	"net"

	"muster"
	"muster/binding"
	"muster/binding/coap"
	"muster/enrolee"
	"muster/handshake"
	"muster/primitive"
)

// once gives a connection out a single time: the session is the enrolment, so
// there is no other to dial when it is gone.
func once(conn *handshake.Conn) binding.Dial {
	conns := make(chan *handshake.Conn, 1)
	conns <- conn
	return func(context.Context) (*handshake.Conn, error) {
		select {
		case conn := <-conns:
			return conn, nil
		default:
			return nil, errors.New("the connection has ended")
		}
	}
}

// A stream is HTTP over TLS.
type stream struct {
	*binding.Client
	conn *handshake.Conn
}

func (s *stream) Session() *muster.Session { return s.conn.Session }

func (s *stream) Do(ctx context.Context, r *primitive.Request) (*primitive.Response, error) {
	response, err := s.Client.Do(ctx, r)
	return response, unanswered(err)
}

// Close closes the connection, which the HTTP client may have closed already.
func (s *stream) Close() error {
	s.Client.Close()
	if err := s.conn.Close(); !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// datagrams is CoAP over DTLS.
type datagrams struct {
	*coap.Client
	session *muster.Session
}

func newDatagrams(conn *handshake.Conn) (enrolee.Conn, error) {
	client, err := coap.NewClient(conn, coap.ClientConfig{})
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return &datagrams{client, conn.Session}, nil
}

func (d *datagrams) Do(ctx context.Context, r *primitive.Request) (*primitive.Response, error) {
	response, err := d.Client.Do(ctx, r)
	return response, unanswered(err)
}

// unanswered gives an error that says nothing but that no valid answer came the
// code by which a caller tries again.
func unanswered(err error) error {
	if err == nil || muster.CodeOf(err) != "" {
		return err
	}
	return muster.Refuse(muster.CodeUnreachable, "no answer: %w", err)
}

func (d *datagrams) Session() *muster.Session { return d.session }

package awkward

import (
	"errors"
	"net"
	"sync"
	"time"

	"muster/binding/coap"
	"muster/handshake"
)

// Times of RFC 7252 4.2 and 4.8.
const (
	ackTimeout    = 2 * time.Second
	maxRetransmit = 4
)

// The ways to answer a confirmable request (RFC 7252 5.2).
const (
	piggybacked  = iota // as our server does
	twice               // the same, as if the network had doubled it
	stale               // after the answer to the request before it, once more
	separate            // after a bare acknowledgement
	overtaking          // before its acknowledgement
	unannounced         // without one: the answer stands for it
	repeated            // separate, and again at once, as if the client's acknowledgement were lost
	waysToAnswer        // how many there are
)

// Datagrams answers confirmable requests of CoAP in all the ways in which they may
// be answered. A separate answer is confirmable, and sent until it is acknowledged.
func (m *Mode) Datagrams(c *handshake.Conn) *handshake.Conn {
	return &handshake.Conn{
		Conn: &datagrams{Conn: c.Conn, mode: m, lastID: uint16(m.pick(1 << 16)), waiting: map[uint16]*time.Timer{}}, Session: c.Session,
	}
}

// datagrams is a connection of CoAP below its server.
type datagrams struct {
	net.Conn
	mode *Mode

	mu      sync.Mutex // guards what follows
	lastID  uint16
	before  []byte                 // the piggybacked answer before
	waiting map[uint16]*time.Timer // separate answers to be acknowledged
	closed  bool
}

// Read takes note of acknowledgements, which our server does not expect.
func (d *datagrams) Read(b []byte) (int, error) {
	n, err := d.Conn.Read(b)
	if err != nil {
		return n, err
	}
	if m, _ := coap.Parse(b[:n]); m != nil && (m.Type == coap.Acknowledgement || m.Type == coap.Reset) {
		d.mu.Lock()
		d.settle(m.ID)
		d.mu.Unlock()
	}
	return n, nil
}

func (d *datagrams) settle(id uint16) {
	if timer := d.waiting[id]; timer != nil {
		timer.Stop()
		delete(d.waiting, id)
	}
}

// Close implements net.Conn.
func (d *datagrams) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	for id := range d.waiting {
		d.settle(id)
	}
	clear(d.before)
	return d.Conn.Close()
}

// Write sends a message as it is, unless it is a piggybacked answer.
func (d *datagrams) Write(b []byte) (int, error) {
	m, err := coap.Parse(b)
	if err != nil || m.Type != coap.Acknowledgement || m.Code == coap.Empty {
		return d.Conn.Write(b)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.answer(d.mode.pick(waysToAnswer), m, b); err != nil {
		return 0, err
	}
	return len(b), nil
}

func (d *datagrams) answer(way int, m *coap.Message, b []byte) error {
	switch way {
	case piggybacked, twice, stale:
		return d.piggyback(way, b)
	}
	bare, err := (&coap.Message{Type: coap.Acknowledgement, ID: m.ID}).Marshal()
	if err != nil {
		return err
	}
	d.lastID++
	id := d.lastID
	m.Type, m.ID = coap.Confirmable, id
	apart, err := m.Marshal()
	if err != nil {
		return err
	}
	var octets [][]byte
	switch way {
	case separate:
		octets = [][]byte{bare, apart}
	case overtaking:
		octets = [][]byte{apart, bare}
	case unannounced:
		octets = [][]byte{apart}
	case repeated:
		octets = [][]byte{bare, apart, apart}
	}
	d.sendAgain(id, apart, ackTimeout, maxRetransmit)
	return d.send(octets...)
}

func (d *datagrams) piggyback(way int, b []byte) error {
	octets := [][]byte{b}
	switch {
	case way == twice:
		octets = append(octets, b)
	case way == stale && d.before != nil:
		octets = append(octets, d.before)
	}
	err := d.send(octets...)
	clear(d.before) // it may have been of a key
	d.before = append([]byte(nil), b...)
	return err
}

func (d *datagrams) send(octets ...[]byte) error {
	var errs []error
	for _, b := range octets {
		_, err := d.Conn.Write(b)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// sendAgain repeats an answer until it is acknowledged or there is no hope.
func (d *datagrams) sendAgain(id uint16, b []byte, after time.Duration, times int) {
	if times == 0 || d.closed {
		delete(d.waiting, id)
		return
	}
	d.waiting[id] = time.AfterFunc(after, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.waiting[id] == nil || d.closed {
			return
		}
		_ = d.send(b) // as unreliable as the first time
		d.sendAgain(id, b, 2*after, times-1)
	})
}

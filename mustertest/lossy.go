package mustertest

import (
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"time"
)

// Loss says what a network does to datagrams. The zero Loss delivers each one
// once, in order.
type Loss struct {
	Drop      float64 // probability that a datagram is lost
	Duplicate float64 // probability that it arrives twice
	Reorder   float64 // probability that it is overtaken by later ones
	MTU       int     // larger datagrams, in octets, are lost; 0 means no limit
	Seed      uint64  // of the pseudo-random choices
}

// overtaken is how long a reordered datagram is held back.
const overtaken = 20 * time.Millisecond

// pathQueue is the number of datagrams that wait for a reader; further ones are lost.
const pathQueue = 256

// chance draws the fate of datagrams.
type chance struct {
	Loss
	mu     sync.Mutex
	random *rand.Rand // guarded by mu
}

func newChance(loss Loss) *chance {
	return &chance{Loss: loss, random: rand.New(rand.NewPCG(loss.Seed, loss.Seed))}
}

// send calls deliver as often and as late as fate has it. deliver must not block.
func (c *chance) send(datagram []byte, deliver func([]byte)) {
	c.mu.Lock()
	lost := c.random.Float64() < c.Drop || c.MTU > 0 && len(datagram) > c.MTU
	twice := c.random.Float64() < c.Duplicate
	late := c.random.Float64() < c.Reorder
	c.mu.Unlock()
	if lost {
		return
	}
	datagram = append([]byte(nil), datagram...)
	if late {
		time.AfterFunc(overtaken, func() { deliver(datagram) })
	} else {
		deliver(datagram)
	}
	if twice {
		deliver(datagram)
	}
}

// NewLossyPair returns the two ends of a path in memory that loses, duplicates
// and reorders datagrams in both directions. It runs in a testing/synctest bubble
// as well. Each end reads what the other writes, whatever the address; closing an
// end lets only its own reads and writes fail.
func NewLossyPair(loss Loss) (a, b net.PacketConn) {
	fate := newChance(loss)
	left := newLossyEnd(fate, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1})
	right := newLossyEnd(fate, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 2})
	left.other, right.other = right, left
	return left, right
}

type lossyEnd struct {
	fate  *chance
	addr  *net.UDPAddr
	other *lossyEnd
	queue chan []byte

	mu       sync.Mutex
	closed   chan struct{}
	deadline time.Time     // guarded by mu, as those below
	expired  chan struct{} // closed when the deadline has passed
	timer    *time.Timer
}

func newLossyEnd(fate *chance, addr *net.UDPAddr) *lossyEnd {
	return &lossyEnd{
		fate: fate, addr: addr, queue: make(chan []byte, pathQueue),
		closed: make(chan struct{}), expired: make(chan struct{}),
	}
}

func (e *lossyEnd) ReadFrom(b []byte) (int, net.Addr, error) {
	e.mu.Lock()
	expired := e.expired
	e.mu.Unlock()
	select {
	case <-e.closed:
		return 0, nil, net.ErrClosed
	case <-expired:
		return 0, nil, os.ErrDeadlineExceeded
	default:
	}
	select {
	case datagram := <-e.queue:
		return copy(b, datagram), e.other.addr, nil
	case <-e.closed:
		return 0, nil, net.ErrClosed
	case <-expired:
		return 0, nil, os.ErrDeadlineExceeded
	}
}

func (e *lossyEnd) WriteTo(b []byte, _ net.Addr) (int, error) {
	select {
	case <-e.closed:
		return 0, net.ErrClosed
	default:
	}
	e.fate.send(b, func(datagram []byte) {
		select {
		case e.other.queue <- datagram:
		default:
		}
	})
	return len(b), nil
}

func (e *lossyEnd) Close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	select {
	case <-e.closed:
	default:
		close(e.closed)
	}
	if e.timer != nil {
		e.timer.Stop()
	}
	return nil
}

func (e *lossyEnd) LocalAddr() net.Addr { return e.addr }

func (e *lossyEnd) SetDeadline(t time.Time) error { return e.SetReadDeadline(t) }

// SetWriteDeadline does nothing: a write does not wait.
func (e *lossyEnd) SetWriteDeadline(time.Time) error { return nil }

func (e *lossyEnd) SetReadDeadline(t time.Time) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.timer != nil {
		e.timer.Stop()
		e.timer = nil
	}
	// A reader that waits holds the present channel: keep it unless it has fired.
	select {
	case <-e.expired:
		e.expired = make(chan struct{})
	default:
	}
	e.deadline = t
	if t.IsZero() {
		return nil
	}
	expired := e.expired
	expire := func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		if e.deadline.Equal(t) && e.expired == expired {
			close(expired)
		}
	}
	if wait := time.Until(t); wait > 0 {
		e.timer = time.AfterFunc(wait, expire)
	} else {
		close(expired)
	}
	return nil
}

// A LossyProxy stands between UDP clients and one UDP server on loopback and
// treats what passes in both directions as its Loss says.
type LossyProxy struct {
	fate   *chance
	front  *net.UDPConn
	target *net.UDPAddr

	wg    sync.WaitGroup
	mu    sync.Mutex
	backs map[string]*net.UDPConn // guarded by mu; by client address, nil after Close
}

// NewLossyProxy returns a proxy in front of target, which must be closed.
func NewLossyProxy(target net.Addr, loss Loss) (*LossyProxy, error) {
	address, err := net.ResolveUDPAddr("udp", target.String())
	if err != nil {
		return nil, err
	}
	front, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, err
	}
	p := &LossyProxy{fate: newChance(loss), front: front, target: address, backs: map[string]*net.UDPConn{}}
	p.wg.Go(p.forward)
	return p, nil
}

// Addr returns the address for clients.
func (p *LossyProxy) Addr() net.Addr { return p.front.LocalAddr() }

// Close ends the proxy and waits for its goroutines.
func (p *LossyProxy) Close() error {
	err := p.front.Close()
	p.mu.Lock()
	for _, back := range p.backs {
		_ = back.Close()
	}
	p.backs = nil
	p.mu.Unlock()
	p.wg.Wait()
	return err
}

func (p *LossyProxy) forward() {
	buffer := make([]byte, 1<<16)
	for {
		n, from, err := p.front.ReadFromUDP(buffer)
		if err != nil {
			return
		}
		if back := p.back(from); back != nil {
			p.fate.send(buffer[:n], func(datagram []byte) { _, _ = back.Write(datagram) })
		}
	}
}

// back returns the socket to the server that stands for a client.
func (p *LossyProxy) back(client *net.UDPAddr) *net.UDPConn {
	p.mu.Lock()
	defer p.mu.Unlock()
	if back, ok := p.backs[client.String()]; ok || p.backs == nil {
		return back
	}
	back, err := net.DialUDP("udp", nil, p.target)
	if err != nil {
		return nil
	}
	p.backs[client.String()] = back
	p.wg.Go(func() {
		buffer := make([]byte, 1<<16)
		for {
			n, err := back.Read(buffer)
			if err != nil {
				if p.ended() {
					return
				}
				continue // an ICMP error: the server may come back
			}
			p.fate.send(buffer[:n], func(datagram []byte) { _, _ = p.front.WriteToUDP(datagram, client) })
		}
	})
	return back
}

func (p *LossyProxy) ended() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.backs == nil
}

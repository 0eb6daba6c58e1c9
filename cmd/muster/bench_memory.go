package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"
)

// A benchMemory is what sessions take of the server's heap and stacks, in octets
// each. A half-open one has had the server's answer to its first message: over TLS
// the certificate, over DTLS the cookie. The system's own memory, as for the
// buffers of sockets, is not in it.
type benchMemory struct {
	Sessions int     `json:"sessions"`
	Idle     float64 `json:"idle_octets"`
	HalfOpen float64 `json:"half_open_octets"`
}

// maxHalfOpen is fewer half-open handshakes than a function takes from one network.
const maxHalfOpen = 48

// memory opens sessions with the function that the operation is about, and none of
// their devices says anything.
func (b *bench) memory(ctx context.Context, servers *benchServers, devices *factory) (*benchMemory, error) {
	server, address := servers.maf, devices.config.MAF.Address
	if b.operation == opEnrolment {
		server, address = servers.mef, devices.config.MEF.Address
	}
	m := &benchMemory{Sessions: b.sessions}
	var err error
	if m.Idle, err = growth(ctx, server, b.sessions, func() (func(), error) { return b.idle(ctx, devices) }); err != nil {
		return nil, fmt.Errorf("idle sessions: %w", err)
	}
	hello, err := b.hello(ctx, devices)
	if err != nil {
		return nil, err
	}
	m.HalfOpen, err = growth(ctx, server, min(b.sessions, maxHalfOpen), func() (func(), error) { return b.halfOpen(address, hello) })
	if err != nil {
		return nil, fmt.Errorf("half-open sessions: %w", err)
	}
	return m, nil
}

// growth is by how much each of some openings makes a server grow.
func growth(ctx context.Context, server *child, n int, open func() (closing func(), err error)) (float64, error) {
	before, err := server.memory(ctx)
	if err != nil {
		return 0, err
	}
	for range n {
		closing, err := open()
		if err != nil {
			return 0, err
		}
		defer closing()
	}
	after, err := server.memory(ctx)
	return float64(after-before) / float64(n), err
}

func (b *bench) idle(ctx context.Context, devices *factory) (closing func(), err error) {
	device, err := devices.device()
	if err != nil {
		return nil, err
	}
	if b.operation == opEnrolment {
		conn, err := device.dial.DialMEF(ctx)
		if err != nil {
			return nil, err
		}
		return func() { _ = conn.Close() }, nil
	}
	attachment, err := device.Ensure(ctx)
	if err != nil {
		return nil, err
	}
	return func() { _ = attachment.Close() }, nil
}

func (b *bench) network() string {
	if b.via == overDTLS {
		return "udp"
	}
	return "tcp"
}

// halfOpen sends a first message, and nothing after the answer.
func (b *bench) halfOpen(address string, hello []byte) (closing func(), err error) {
	conn, err := net.Dial(b.network(), address)
	if err != nil {
		return nil, err
	}
	closing = func() { _ = conn.Close() }
	answer := make([]byte, 1)
	err = conn.SetDeadline(time.Now().Add(benchPatience))
	if err == nil {
		_, err = conn.Write(hello)
	}
	if err == nil {
		_, err = conn.Read(answer)
	}
	if err != nil {
		closing()
		return nil, err
	}
	return closing, nil
}

// hello is the first message that a device sends: it is taken down by somebody in
// the place of the server.
func (b *bench) hello(ctx context.Context, devices *factory) ([]byte, error) {
	device, err := devices.device()
	if err != nil {
		return nil, err
	}
	if b.operation != opEnrolment {
		if _, err := device.Enrol(ctx); err != nil { // for an identifier that the MAF can look up
			return nil, err
		}
	}
	taken, address, err := takeDown(b.network())
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, benchPatience)
	defer cancel()
	go func() {
		if conn, err := device.dialAt(ctx, b.operation == opEnrolment, address); err == nil {
			_ = conn.Close() // never: nobody answers
		}
	}()
	select {
	case hello := <-taken:
		return hello, nil
	case <-ctx.Done():
		return nil, errors.Join(errors.New("the device has sent nothing"), ctx.Err())
	}
}

// takeDown returns the first octets that arrive at an address.
func takeDown(network string) (taken <-chan []byte, address string, err error) {
	first := make(chan []byte, 1)
	octets := make([]byte, 4096)
	if network == "udp" {
		socket, err := net.ListenPacket(network, "127.0.0.1:0")
		if err != nil {
			return nil, "", err
		}
		go func() {
			defer func() { _ = socket.Close() }()
			if n, _, err := socket.ReadFrom(octets); err == nil {
				first <- octets[:n]
			}
		}()
		return first, socket.LocalAddr().String(), nil
	}
	listener, err := net.Listen(network, "127.0.0.1:0")
	if err != nil {
		return nil, "", err
	}
	go func() {
		defer func() { _ = listener.Close() }()
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer func() { _ = conn.Close() }()
		if n, err := conn.Read(octets); err == nil {
			first <- octets[:n]
		}
	}()
	return first, listener.Addr().String(), nil
}

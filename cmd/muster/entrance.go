package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"runtime/debug"
	"sync/atomic"
	"time"

	"muster"
	"muster/handshake"
	"muster/handshake/dtls12"
	"muster/metrics"
	"muster/tracing"
)

// drainTime is how long a function that is told to stop waits for what it has begun.
const drainTime = 10 * time.Second

// An entrance brings strangers in: handshake, record, service, in this order.
// What established has not made durable is not served.
type entrance struct {
	log         *slog.Logger
	refusals    *refusalLog     // may be nil
	set         *metrics.Set    // may be nil
	tracer      *tracing.Tracer // may be nil
	established func(ctx context.Context, s *muster.Session) error
	serve       func(ctx context.Context, c *handshake.Conn)

	turns     *turnstile // of a stream listener
	shedAt    time.Time  // when a shed connection was logged; of the goroutine that accepts
	threshold threshold
	crowd     crowd
	busy      atomic.Uint64 // handshakes that the function had no capacity for
	guests    staff
}

// acceptTLS takes connections until the listener is closed. Connections beyond
// the bound are closed at once: the client backs off and returns.
func (e *entrance) acceptTLS(ctx context.Context, listener net.Listener, server streamServer) error {
	for {
		conn, err := listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			e.log.Warn("accept failed", "error", err)
			if err := sleep(ctx, 100*time.Millisecond); err != nil {
				return nil
			}
			continue
		}
		if e.turns.full() {
			e.shed(conn)
			e.busy.Add(1 + turnAway(listener, e.turns.full))
			continue
		}
		leave, ok := e.threshold.enter(conn)
		if !ok {
			e.shed(conn)
			continue
		}
		passing, passed := e.turns.arrive(ctx)
		e.guests.Go(func() {
			defer e.survive(conn)
			e.admit(passing, conn.RemoteAddr(), overTLS, func(ctx context.Context) (done *handshake.Conn, err error) {
				defer leave()
				defer func() { passed(done != nil) }()
				return server.Handshake(withSource(ctx, conn.RemoteAddr()), conn)
			})
		})
	}
}

// shed closes a connection before its peer has said a word. Where many are shed, a
// line for each would cost more than that, so that there is one in a second.
func (e *entrance) shed(conn net.Conn) {
	if now := time.Now(); now.Sub(e.shedAt) > time.Second {
		e.shedAt = now
		e.log.Warn("shed", "code", muster.CodeBusy, "remote", conn.RemoteAddr())
	}
	_ = conn.Close()
}

// acceptDTLS takes associations until the listener is closed.
func (e *entrance) acceptDTLS(ctx context.Context, listener *dtls12.Listener, server *dtls12.Server) error {
	for {
		conn, peer, err := listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		passing, passed := withPassage(ctx)
		e.guests.Go(func() {
			defer e.survive(conn)
			e.admit(passing, peer, overDTLS, func(ctx context.Context) (done *handshake.Conn, err error) {
				defer func() { passed(done != nil) }()
				return server.Handshake(withSource(ctx, peer), conn, peer)
			})
		})
	}
}

func (e *entrance) admit(ctx context.Context, remote net.Addr, via transport, shake func(ctx context.Context) (*handshake.Conn, error)) {
	log := e.log.With("remote", remote.String(), "transport", via)
	begun := time.Now()
	traced, span := e.tracer.Start(ctx, "handshake", tracing.Server)
	span.Set("network.transport", string(via))
	conn, err := shake(traced)
	span.End(spanCode(err))
	e.set.Handshake(string(via), time.Since(begun), err)
	if err != nil {
		if muster.CodeOf(err) == muster.CodeBusy {
			e.busy.Add(1)
		}
		logRefusal(log.With(e.refusals.note(remote, via, err)...), "handshake refused", err)
		return
	}
	conn.Session.Decorate(e.set.Exporter)
	err = e.established(traced, conn.Session)
	e.set.Session(string(via), err)
	if err != nil {
		logRefusal(log, "session refused", err)
		_ = conn.Close()
		return
	}
	if oldest := e.crowd.join(conn); oldest != nil {
		log.Warn("too many connections of one peer: the oldest is closed", "peer", conn.Session.Peer.Name, "identity", conn.Session.Peer.PSKIdentity)
		_ = oldest.Close()
	}
	e.serve(ctx, conn)
}

// survive ends one connection at a panic, and not the service of all others.
func (e *entrance) survive(conn io.Closer) {
	if fault := recover(); fault != nil {
		e.log.Error("a connection met a fault", "fault", fault, "stack", string(debug.Stack()))
		_ = conn.Close()
	}
}

// logRefusal writes one line with the stable code of what failed.
func logRefusal(log *slog.Logger, message string, err error) {
	level, code := slog.LevelInfo, muster.CodeOf(err)
	if code == "" {
		level = slog.LevelError
	}
	log.Log(context.Background(), level, message, "code", code, "error", err)
}

// wait returns when all that came in is gone, or when ctx ends.
func (e *entrance) wait(ctx context.Context) {
	gone := make(chan struct{})
	go func() {
		e.guests.Wait()
		close(gone)
	}()
	select {
	case <-gone:
	case <-ctx.Done():
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

package main

import (
	"context"
	"errors"
	"math"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"muster"
	"muster/handshake"
)

// How long newcomers wait for their turn before the turnstile sheds: once the
// wait has exceeded maxDelay for shedAfter, and until it is half of it, those that
// have waited longer are refused. A queue that only passes a burst on does not
// last that long (RFC 8289).
const (
	maxDelay  = 400 * time.Millisecond
	shedAfter = time.Second
	// maxTurn ends the turn of a handshake that waits for something other than a
	// processor, as for the status of a certificate, and maxGlance that of one that
	// may be forged, and made so that nothing is answered.
	maxTurn   = 50 * time.Millisecond
	maxGlance = 5 * time.Millisecond
)

// A turnstile lets as many handshakes compute at once as the processors bear. What
// is beyond waits before its first asymmetric operation, or its search for a
// pre-shared key, where it has cost little, and is shed when the wait gets long; a
// handshake that has begun takes its next turn before all newcomers, so that what
// was spent on it is not lost. Newcomers and those whose address is not proved take
// turns: neither keeps the other out. It may be used by several goroutines.
type turnstile struct {
	mu        sync.Mutex
	free      int // turns; guarded by mu, as all below
	begun     []chan error
	newcomers []newcomer
	unproved  []chan error
	odd       bool      // the next turn is a newcomer's, and else an unproved one's, if both wait
	longSince time.Time // since when newcomers have waited longer than maxDelay
	last      time.Time // when a newcomer had its turn, or began to wait for the first
	// pace is the mean time from one newcomer's turn to the next while others wait, of
	// the last passes or so.
	pace, passes time.Duration
}

type newcomer struct {
	turn chan error
	came time.Time
}

func newTurnstile(turns int) *turnstile { return &turnstile{free: turns} }

// turnsOfMachine keeps the processors busy while some handshakes write or log.
func turnsOfMachine() int { return 2 * runtime.GOMAXPROCS(0) }

// enter waits for a turn, which ends with the first call of leave. A newcomer may
// be refused, with muster.CodeBusy.
func (t *turnstile) enter(at handshake.Stage) (leave func(), err error) {
	if err := t.wait(at); err != nil {
		return nil, err
	}
	end, longest := sync.OnceFunc(t.next), maxTurn
	if at == handshake.Unproved {
		longest = maxGlance
	}
	timer := time.AfterFunc(longest, end)
	return func() {
		timer.Stop()
		end()
	}, nil
}

// turnKey is the context key of the turn that a handshake has.
type turnKey struct{}

// withTurn returns the context of a handshake whose turns endTurn can end.
func withTurn(ctx context.Context) context.Context {
	return context.WithValue(ctx, turnKey{}, new(atomic.Pointer[func()]))
}

// endTurn ends the turn of a handshake that is about to wait for something other
// than a processor. It may be called without one.
func endTurn(ctx context.Context) {
	if turn, ok := ctx.Value(turnKey{}).(*atomic.Pointer[func()]); ok {
		if leave := turn.Load(); leave != nil {
			(*leave)()
		}
	}
}

// take is enter for a handshake with a context of withTurn.
func (t *turnstile) take(ctx context.Context, at handshake.Stage) (leave func(), err error) {
	leave, err = t.enter(at)
	if turn, ok := ctx.Value(turnKey{}).(*atomic.Pointer[func()]); ok && err == nil {
		turn.Store(&leave)
	}
	return leave, err
}

func (t *turnstile) wait(at handshake.Stage) error {
	t.mu.Lock()
	if t.free > 0 { // then nobody waits
		t.free--
		t.longSince = time.Time{}
		t.mu.Unlock()
		return nil
	}
	turn := make(chan error, 1)
	switch at {
	case handshake.Unproved:
		t.unproved = append(t.unproved, turn)
	case handshake.Newcomer:
		if len(t.newcomers) == 0 {
			t.last = time.Now()
		}
		t.newcomers = append(t.newcomers, newcomer{turn, time.Now()})
	default:
		t.begun = append(t.begun, turn)
	}
	t.mu.Unlock()
	return <-turn
}

// lately is how many turns of newcomers tell how fast turns pass: they come in
// bursts, of which more than one is to count.
const lately = 64

// leastRoom is how many newcomers may wait however slow the turns have been lately:
// without any, nothing better would be learnt.
const leastRoom = 8

// room returns how many more newcomers would have their turn within maxDelay, as fast
// as newcomers have had theirs lately; 0 means that it is better to turn away whoever
// comes. To do so before they have said a word costs a fiftieth of their handshake.
func (t *turnstile) room() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.pace == 0 {
		return math.MaxInt
	}
	return max(0, max(leastRoom, int(maxDelay/t.pace))-len(t.newcomers))
}

// passed learns from the turn of a newcomer. The caller holds mu.
func (t *turnstile) passed(now time.Time) {
	t.passes = min(t.passes+1, lately)
	t.pace = max(1, t.pace+(now.Sub(t.last)-t.pace)/t.passes)
	t.last = now
}

// next passes a turn that has ended on.
func (t *turnstile) next() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if pass(&t.begun) {
		return
	}
	if t.odd = !t.odd; t.odd && pass(&t.unproved) {
		return
	}
	for now := time.Now(); len(t.newcomers) > 0; {
		first := t.newcomers[0]
		t.newcomers = t.newcomers[1:]
		if !t.tooLong(now.Sub(first.came), now) {
			t.passed(now)
			first.turn <- nil
			return
		}
		first.turn <- muster.Refuse(muster.CodeBusy, "handshakes have waited longer than %v for a processor for %v", maxDelay, shedAfter)
	}
	if !pass(&t.unproved) {
		t.free++
	}
}

// pass gives a turn to the first of those that wait, if any does.
func pass(waiting *[]chan error) bool {
	if len(*waiting) == 0 {
		return false
	}
	(*waiting)[0] <- nil
	*waiting = (*waiting)[1:]
	return true
}

// tooLong judges the wait of the oldest newcomer. The caller holds mu.
func (t *turnstile) tooLong(waited time.Duration, now time.Time) bool {
	switch {
	case waited <= maxDelay/2: // not at maxDelay: shedding itself brings the wait there
		t.longSince = time.Time{}
	case waited <= maxDelay:
	case t.longSince.IsZero():
		t.longSince = now
	default:
		return now.Sub(t.longSince) > shedAfter
	}
	return false
}

// A pacedServer takes its handshakes through a turnstile.
type pacedServer struct {
	server streamServer
	turns  *turnstile
}

// Handshake implements streamServer.
func (s pacedServer) Handshake(ctx context.Context, conn net.Conn) (*handshake.Conn, error) {
	paced := newPacedConn(ctx, conn, s.turns)
	done, err := s.server.Handshake(ctx, paced)
	paced.finish()
	return done, err
}

// A pacedConn gives its turn back while its handshake waits for the peer. The
// handshake's goroutine is the only one that reads until finish is called. It
// writes less than a socket's buffer holds, so that writing does not wait.
type pacedConn struct {
	net.Conn
	ctx     context.Context // of the handshake
	turns   *turnstile
	stage   handshake.Stage // of its next turn
	leave   func()          // nil without a turn
	passing bool
}

func newPacedConn(ctx context.Context, conn net.Conn, turns *turnstile) *pacedConn {
	return &pacedConn{Conn: conn, ctx: ctx, turns: turns, stage: handshake.Newcomer}
}

// Read implements net.Conn.
func (c *pacedConn) Read(p []byte) (int, error) {
	if c.passing {
		return c.Conn.Read(p)
	}
	c.pause()
	n, err := c.Conn.Read(p)
	if err != nil {
		return n, err
	}
	leave, err := c.turns.take(c.ctx, c.stage)
	if err != nil {
		_ = c.Conn.Close() // a farewell would cost what there is too little of
		return 0, err
	}
	c.leave, c.stage = leave, handshake.Begun
	return n, nil
}

// CloseWrite ends what this side sends. The handshake has failed by then, and what
// it still reads is thrown away.
func (c *pacedConn) CloseWrite() error {
	c.finish()
	half, ok := c.Conn.(interface{ CloseWrite() error })
	if !ok {
		return errors.ErrUnsupported
	}
	return half.CloseWrite()
}

func (c *pacedConn) pause() {
	if c.leave != nil {
		c.leave()
		c.leave = nil
	}
}

func (c *pacedConn) finish() {
	c.pause()
	c.passing = true
}

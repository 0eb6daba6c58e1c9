package main

import (
	"context"
	"errors"
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
	maxDelay  = 200 * time.Millisecond
	shedAfter = time.Second
	// maxTurn ends the turn of a handshake that waits for something other than a
	// processor, as for the status of a certificate.
	maxTurn = 50 * time.Millisecond
	// maxAway is how long a handshake counts that is to come back for its next turn.
	// As many as may be under way can be had in it: slow devices do not slow others.
	maxAway = maxDelay / 2
	// maxSilence is how long a connection counts that is to say its first word, which
	// comes with the end of the handshake of TCP. Who keeps silent to have others
	// turned away needs as many connections in each such time as can be had in maxDelay.
	maxSilence = maxDelay / 10
)

// A turnstile lets as many handshakes compute at once as the processors bear. What
// is beyond waits before its first asymmetric operation, or its search for a
// pre-shared key, where it has cost little, and is refused where the wait would be
// long, or has been. Newcomers and those whose address is not proved take turns:
// neither keeps the other out. It may be used by several goroutines.
//
// A newcomer's first turn is the smaller part of its handshake, and while it is away
// for the rest, processors may be idle: whoever then let in all that wait would have
// them all come back at once. So newcomers go first, which keeps processors busy
// later on, until the handshakes that are under way would take half of maxDelay if all
// came back now. Then these go first, so that what was spent on them is not lost, and
// so does one that has waited that long for newcomers that left.
type turnstile struct {
	mu        sync.Mutex
	free      int // turns; guarded by mu, as all below
	begun     []waiting
	newcomers []waiting
	unproved  []waiting
	// newcomerLast tells whose turn it was last, of newcomers and unproved ones.
	newcomerLast bool
	away         int           // handshakes that have had their first turn, and are expected back
	arriving     int           // connections that were accepted, and are expected to say something
	longSince    time.Time     // since when newcomers have waited longer than maxDelay
	cost         time.Duration // of a handshake in turns, in the mean of the last ones
	turns        int           // altogether; never changes
}

// A waiting handshake is one that asked for a turn.
type waiting struct {
	turn chan grant
	came time.Time
}

// A grant is a turn that begins, or the reason why there is none.
type grant struct {
	begins time.Time
	err    error
}

// What is taken for the cost of a handshake before one is known, and how many tell it.
const (
	firstCost = 5 * time.Millisecond
	lately    = 32
)

func newTurnstile(turns int) *turnstile {
	return &turnstile{free: turns, turns: turns, cost: firstCost}
}

// turnsOfMachine keeps the processors busy while some handshakes write or log.
func turnsOfMachine() int { return 2 * runtime.GOMAXPROCS(0) }

// A passage is the way of one handshake through a turnstile.
type passage struct {
	leave    atomic.Pointer[func()]    // ends its turn
	expected atomic.Pointer[func()]    // ends its being arriving or away
	through  atomic.Pointer[turnstile] // where it has had its first turn
	cost     atomic.Int64              // of its turns, in nanoseconds
}

// passageKey is the context key of a handshake's passage.
type passageKey struct{}

// withPassage returns the context of a handshake that takes turns, and what is
// called when it has ended. What a handshake costs is learnt from those that succeed:
// others can be made to cost anything.
func withPassage(ctx context.Context) (passing context.Context, passed func(well bool)) {
	p := new(passage)
	return context.WithValue(ctx, passageKey{}, p), func(well bool) {
		finish(&p.leave)
		finish(&p.expected)
		if t := p.through.Swap(nil); t != nil && well {
			t.learn(time.Duration(p.cost.Load()))
		}
	}
}

func finish(f *atomic.Pointer[func()]) {
	if f := f.Swap(nil); f != nil {
		(*f)()
	}
}

// endTurn ends the turn of a handshake that is about to wait for something other
// than a processor. It may be called without one.
func endTurn(ctx context.Context) {
	if p, ok := ctx.Value(passageKey{}).(*passage); ok {
		finish(&p.leave)
	}
}

// arrive is withPassage for a connection that was just accepted. It is taken for one
// that will wait for its first turn, until it does or has said nothing for too long.
func (t *turnstile) arrive(ctx context.Context) (passing context.Context, passed func(well bool)) {
	passing, passed = withPassage(ctx)
	t.mu.Lock()
	t.arriving++
	t.mu.Unlock()
	t.expect(passing.Value(passageKey{}).(*passage), &t.arriving, maxSilence)
	return passing, passed
}

// expect has a handshake counted where it is until it comes, or ends, or has taken too
// long.
func (t *turnstile) expect(p *passage, where *int, longest time.Duration) {
	came := onceWithin(longest, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		*where--
		t.pass()
	})
	p.expected.Store(&came)
}

// take waits for a turn of a handshake with a context of withPassage. The turn ends
// with the first call of leave. A newcomer may be refused, with muster.CodeBusy.
func (t *turnstile) take(ctx context.Context, at handshake.Stage) (leave func(), err error) {
	p := ctx.Value(passageKey{}).(*passage)
	finish(&p.expected)
	turn := t.wait(at)
	if turn.err != nil {
		return nil, turn.err
	}
	if at == handshake.Newcomer {
		t.expect(p, &t.away, maxAway)
		p.through.Store(t)
	}
	leave = onceWithin(maxTurn, func() {
		p.cost.Add(int64(time.Since(turn.begins)))
		t.next()
	})
	p.leave.Store(&leave)
	return leave, nil
}

// onceWithin calls f at the first call of the result, or when the time is over.
func onceWithin(d time.Duration, f func()) func() {
	once := sync.OnceFunc(f)
	timer := time.AfterFunc(d, once)
	return func() {
		timer.Stop()
		once()
	}
}

func (t *turnstile) wait(at handshake.Stage) grant {
	one := waiting{make(chan grant, 1), time.Now()}
	t.mu.Lock()
	switch at {
	case handshake.Unproved:
		t.unproved = append(t.unproved, one)
	case handshake.Newcomer:
		if len(t.newcomers) >= t.capacity() {
			t.mu.Unlock()
			return grant{err: muster.Refuse(muster.CodeBusy, "as many handshakes as can be begun in %v wait for a processor", maxDelay)}
		}
		t.newcomers = append(t.newcomers, one)
	default:
		t.begun = append(t.begun, one)
	}
	t.pass()
	t.mu.Unlock()
	return <-one.turn
}

// leastCapacity is how many newcomers may wait however slow handshakes have been
// lately: without any, nothing better would be learnt.
const leastCapacity = 8

// capacity returns how many handshakes can be had in maxDelay, as fast as they have
// been lately. The caller holds mu.
func (t *turnstile) capacity() int {
	return max(leastCapacity, int(time.Duration(t.turns)*maxDelay/t.cost))
}

// learn notes what a handshake has cost.
func (t *turnstile) learn(cost time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.cost = max(1, t.cost+(cost-t.cost)/lately)
}

// room returns how many more newcomers would have their turn within maxDelay.
func (t *turnstile) room() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return max(0, t.capacity()-len(t.newcomers))
}

// full reports whether it is better to turn a connection away. To do so before it has
// said a word costs a fiftieth of its handshake. A quarter of the room is left to those
// that come over DTLS, who would else have none while connections fill it.
func (t *turnstile) full() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.newcomers)+t.arriving >= t.capacity()*3/4
}

// next passes a turn that has ended on.
func (t *turnstile) next() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.free++
	t.pass()
}

// pass gives the turns that are free to those that wait. The caller holds mu.
func (t *turnstile) pass() {
	for now := time.Now(); t.free > 0; t.free-- {
		t.shed(now)
		admits := len(t.newcomers) > 0 && t.away+len(t.begun) < t.capacity()/2
		var next waiting
		switch {
		case len(t.begun) > 0 && (!admits || now.Sub(t.begun[0].came) > maxAway):
			next = first(&t.begun)
		case len(t.unproved) > 0 && (t.newcomerLast || !admits):
			next = first(&t.unproved)
			t.newcomerLast = false
		case admits:
			next = first(&t.newcomers)
			t.newcomerLast = true
			t.away++
		default:
			return
		}
		next.turn <- grant{begins: now}
	}
}

func first[T any](waiting *[]T) T {
	one := (*waiting)[0]
	*waiting = (*waiting)[1:]
	return one
}

// shed refuses those newcomers that have waited too long. The caller holds mu.
func (t *turnstile) shed(now time.Time) {
	for len(t.newcomers) > 0 && t.tooLong(now.Sub(t.newcomers[0].came), now) {
		first(&t.newcomers).turn <- grant{err: muster.Refuse(muster.CodeBusy, "handshakes have waited longer than %v for a processor for %v", maxDelay, shedAfter)}
	}
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
	ctx     context.Context // of withPassage
	turns   *turnstile
	stage   handshake.Stage // of its next turn
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
	endTurn(c.ctx)
	n, err := c.Conn.Read(p)
	if err != nil {
		return n, err
	}
	if _, err := c.turns.take(c.ctx, c.stage); err != nil {
		_ = c.Conn.Close() // a farewell would cost what there is too little of
		return 0, err
	}
	c.stage = handshake.Begun
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

func (c *pacedConn) finish() {
	endTurn(c.ctx)
	c.passing = true
}

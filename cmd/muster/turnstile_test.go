package main

import (
	"io"
	"math"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"muster"
	"muster/handshake"
	"muster/tef"
)

// TestOverloadKeepsThroughput offers a turnstile ten times what it can bear: it
// gets through nearly as many handshakes as without the excess, and none of those
// that it lets in waits for long or is given up half-way.
func TestOverloadKeepsThroughput(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const (
			turns    = 2
			work     = 20 * time.Millisecond // of each of the two turns of a handshake
			capacity = turns * int(time.Second/(2*work))
			lasts    = 20 // seconds
		)
		stile := newTurnstile(turns)
		var mu sync.Mutex
		var took []time.Duration
		shed, waiting := 0, 0
		device := func() {
			begun := time.Now()
			for n := range 2 {
				leave, err := stile.enter(handshake.Newcomer + handshake.Stage(n))
				if err != nil {
					mu.Lock()
					defer mu.Unlock()
					if shed++; n > 0 || muster.CodeOf(err) != muster.CodeBusy {
						t.Errorf("turn %d was refused: %v", n+1, err)
					}
					return
				}
				time.Sleep(work)
				leave()
				time.Sleep(30 * time.Millisecond) // the network
			}
			mu.Lock()
			defer mu.Unlock()
			took = append(took, time.Since(begun))
		}
		for range 10 * capacity * lasts {
			go device()
			time.Sleep(time.Second / time.Duration(10*capacity))
			stile.mu.Lock()
			waiting = max(waiting, len(stile.begun)+len(stile.newcomers))
			stile.mu.Unlock()
		}
		mu.Lock()
		done := len(took)
		mu.Unlock()
		if done < capacity*lasts*8/10 {
			t.Errorf("%d handshakes in %d s, of which it bears %d in each", done, lasts, capacity)
		}
		if bound := 2 * 10 * capacity; waiting > bound {
			t.Errorf("%d wait at once, more than %d", waiting, bound)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		settled := slices.Sorted(slices.Values(took[len(took)/4:]))
		if p99 := settled[len(settled)*99/100]; p99 > time.Second {
			t.Errorf("once it sheds, one in a hundred takes %v", p99)
		}
		if shed+len(took) != 10*capacity*lasts || stile.free != turns {
			t.Errorf("%d done, %d shed, %d turns are free", len(took), shed, stile.free)
		}
	})
}

// TestTurnsAreShared has handshakes of every stage wait for one turn: what has begun
// goes first, and neither of the others keeps the other out.
func TestTurnsAreShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stile := newTurnstile(1)
		must(t, stile.wait(handshake.Begun))
		var had []handshake.Stage // guarded by the one turn
		for _, at := range []handshake.Stage{handshake.Unproved, handshake.Newcomer, handshake.Begun} {
			for range 3 {
				go func() {
					must(t, stile.wait(at))
					had = append(had, at)
					stile.next()
				}()
			}
		}
		synctest.Wait()
		stile.next()
		synctest.Wait()
		const u, n, b = handshake.Unproved, handshake.Newcomer, handshake.Begun
		if !slices.Equal(had, []handshake.Stage{b, b, b, u, n, u, n, u, n}) {
			t.Errorf("the turns were of %v", had)
		}
		if stile.free != 1 {
			t.Errorf("%d turns are free", stile.free)
		}
	})
}

// TestGlanceEnds has hellos that are never answered, as such that are made so: they
// keep turns for a moment only.
func TestGlanceEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stile := newTurnstile(1)
		begun := time.Now()
		for range 5 {
			if _, err := stile.enter(handshake.Unproved); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(begun); took != 4*maxGlance {
			t.Errorf("five turns that do not end took %v", took)
		}
	})
}

// TestBurstIsNotShed has many come at once, who are through before it counts as a
// lasting overload.
func TestBurstIsNotShed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stile := newTurnstile(1)
		var group sync.WaitGroup
		for range 130 {
			group.Go(func() {
				leave, err := stile.enter(handshake.Newcomer)
				if err != nil {
					t.Error(err)
					return
				}
				time.Sleep(10 * time.Millisecond)
				leave()
			})
		}
		group.Wait()
	})
}

// TestTurnEnds has handshakes that never give their turn back, as when a function
// that they call waits.
func TestTurnEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stile := newTurnstile(1)
		begun := time.Now()
		for range 5 {
			if _, err := stile.enter(handshake.Newcomer); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(begun); took != 4*maxTurn {
			t.Errorf("five turns that do not end took %v", took)
		}
	})
}

// idle fails the test unless all turns are free, and nobody waits.
func (s *turnstile) idle(t testing.TB) {
	t.Helper()
	await(t, "a turn is not given back", func() (struct{}, bool) {
		s.mu.Lock()
		defer s.mu.Unlock()
		return struct{}{}, s.free == turnsOfMachine() && len(s.begun)+len(s.newcomers)+len(s.unproved) == 0
	})
}

// TestHandshakesGiveTheirTurnBack enrols and attaches devices over every transport.
func TestHandshakesGiveTheirTurnBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	w.maf.Listen.TLS = "127.0.0.1:0"
	w.startMEF()
	w.startMAF()
	for n, via := range []transport{overTLS, overDTLS} {
		config := w.deviceConfig(n, via)
		if via == overTLS {
			config.MAF.Transport, config.MAF.Address = overTLS, w.mafTLS
		}
		w.attached(config)
	}
	w.mefService.turns.idle(t)
	w.mafService.turns.idle(t)
}

// crammed takes all turns of a service and lets it be overloaded for long, until
// the result is called.
func crammed(t testing.TB, s *service) (empty func()) {
	t.Helper()
	s.turns.mu.Lock()
	defer s.turns.mu.Unlock()
	if s.turns.free != turnsOfMachine() {
		t.Fatalf("%d turns are free", s.turns.free)
	}
	s.turns.free = 0
	s.turns.longSince = time.Now().Add(-2 * shedAfter)
	return sync.OnceFunc(func() {
		for range turnsOfMachine() {
			s.turns.next()
		}
	})
}

// TestOverloadedFunctions has both functions without a turn for longer than they
// let anybody wait. Newcomers are shed, with an error after which a device comes
// back; sessions go on.
func TestOverloadedFunctions(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	w.maf.Listen.TLS = "127.0.0.1:0"
	w.startMEF()
	w.startMAF()
	w.attached(w.deviceConfig(0, overTLS))
	session, err := w.device(w.deviceConfig(0, overTLS)).Ensure(t.Context())
	must(t, err)
	defer func() { must(t, session.Close()) }()
	w.mefService.turns.idle(t)
	w.mafService.turns.idle(t)

	for n, via := range []transport{overTLS, overDTLS} {
		empty := crammed(t, w.mefService)
		ended := make(chan error, 1)
		config := w.deviceConfig(1+n, via)
		config.Handshake.Timeout = 2 * time.Second
		device := w.device(config)
		go func() {
			_, err := device.Enrol(t.Context())
			ended <- err
		}()
		await(t, "nobody waits for a turn", func() (struct{}, bool) {
			w.mefService.turns.mu.Lock()
			defer w.mefService.turns.mu.Unlock()
			return struct{}{}, len(w.mefService.turns.newcomers)+len(w.mefService.turns.unproved) > 0
		})
		if via == overTLS { // over DTLS it waits for its first turn until it gives up
			time.Sleep(maxDelay + maxDelay/4)
			empty()
		}
		if err := <-ended; exitCode(err) != exitUnreachable {
			t.Errorf("over %s, a device that was shed: %v", via, err)
		}
		empty()
		_, err := device.Enrol(t.Context())
		must(t, err)
		w.mefService.turns.idle(t)
	}
	w.mefLog.await(t, muster.CodeBusy)
	defer crammed(t, w.mafService)()
	registration := tef.KeyRegistration{Usage: tef.SUIDMAFForSAEF, Targets: []string{w.deviceConfig(1, overTLS).EnroleeID.String()}}
	if _, err := session.RegisterKey(t.Context(), registration); err != nil {
		t.Errorf("a session ends in overload: %v", err)
	}
}

// TestShedConnectionIsClosed has a handshake that waits for its first turn refused.
func TestShedConnectionIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stile := newTurnstile(0)
		near, far := net.Pipe()
		refused := make(chan error)
		go func() {
			_, err := newPacedConn(t.Context(), far, stile).Read(make([]byte, 1))
			refused <- err
		}()
		_, err := near.Write([]byte{22})
		must(t, err)
		synctest.Wait()
		stile.longSince = time.Now()
		time.Sleep(2 * shedAfter)
		stile.next()
		if err := <-refused; muster.CodeOf(err) != muster.CodeBusy {
			t.Errorf("the handshake ends with %v", err)
		}
		if _, err := near.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("the client sees %v", err)
		}
	})
}

// TestRoomForNewcomers has newcomers kept away once the oldest has waited for too long.
func TestRoomForNewcomers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const pace = maxDelay / 10 // of the turns, of which ten newcomers may wait for theirs
		stile := newTurnstile(1)
		must(t, stile.wait(handshake.Newcomer))
		check := func(room int, when string) {
			t.Helper()
			synctest.Wait()
			if got := stile.room(); got != room {
				t.Errorf("room for %d %s, want %d", got, when, room)
			}
		}
		come := func(newcomers int) {
			for range newcomers {
				go func() { _ = stile.wait(handshake.Newcomer) }()
			}
			synctest.Wait()
		}
		turns := func(n int, each time.Duration) {
			for range n {
				time.Sleep(each)
				stile.next()
			}
		}
		come(20)
		check(math.MaxInt, "before it is known how long a turn takes")
		turns(1, pace)
		check(0, "with 19 that wait")
		turns(10, pace)
		check(1, "with 9 that wait")
		come(2)
		check(0, "with 11 that wait")
		turns(11, pace)
		check(10, "when all have had their turn")
		time.Sleep(time.Hour) // in which nobody waited for anything
		for range 20 {
			come(20)
			turns(20, pace/4)
		}
		check(39, "when turns have become shorter") // almost
		for range 200 {
			come(1)
			turns(1, maxDelay)
		}
		check(leastRoom, "when turns take very long")
	})
}

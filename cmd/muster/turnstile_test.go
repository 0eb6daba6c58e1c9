package main

import (
	"context"
	"io"
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
	const ms = time.Millisecond
	for name, load := range map[string]struct{ first, second, network, known time.Duration }{
		"equal turns":        {20 * ms, 20 * ms, 30 * ms, 40 * ms},
		"a short first turn": {2 * ms, 18 * ms, 5 * ms, 20 * ms},
		"a short second":     {9 * ms, 1 * ms, 100 * ms, 10 * ms},
		"far away":           {2 * ms, 18 * ms, 150 * ms, 20 * ms},
		"farther":            {2 * ms, 18 * ms, 300 * ms, 20 * ms},
		"small devices":      {2 * ms, 18 * ms, 2000 * ms, 20 * ms},
		"nothing known":      {2 * ms, 18 * ms, 50 * ms, firstCost},
		"fast until now":     {2 * ms, 18 * ms, 50 * ms, 1 * ms},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				stile := newTurnstile(2)
				stile.cost = load.known
				overload(t, stile, load.first, load.second, load.network)
			})
		})
	}
}

// overload has devices come whose handshakes compute twice, and wait for the network
// or the device after each.
func overload(t *testing.T, stile *turnstile, first, second, network time.Duration) {
	const lasts = 20 // seconds
	turns := stile.free
	capacity := int(time.Duration(turns) * time.Second / (first + second)) // in a second
	var mu sync.Mutex
	var took []time.Duration
	shed, waiting := 0, 0
	device := func() {
		begun := time.Now()
		passing, passed := withPassage(t.Context())
		for n, work := range []time.Duration{first, second} {
			leave, err := stile.take(passing, handshake.Newcomer+handshake.Stage(n))
			if err != nil {
				mu.Lock()
				defer mu.Unlock()
				passed(false)
				if shed++; n > 0 || muster.CodeOf(err) != muster.CodeBusy {
					t.Errorf("turn %d was refused: %v", n+1, err)
				}
				return
			}
			time.Sleep(work)
			leave()
			time.Sleep(network)
		}
		passed(true)
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
	if ended := float64(capacity) * (lasts*time.Second - 2*network).Seconds(); float64(done) < .8*ended {
		t.Errorf("%d handshakes in %d s, of which it bears %d in each", done, lasts, capacity)
	}
	if bound := 2 * 10 * capacity; waiting > bound {
		t.Errorf("%d wait at once, more than %d", waiting, bound)
	}
	time.Sleep(time.Minute)
	synctest.Wait()
	settled := slices.Sorted(slices.Values(took[len(took)/4:]))
	if p99 := settled[len(settled)*99/100] - 2*network; p99 > time.Second {
		t.Errorf("once it sheds, one in a hundred waits for %v", p99)
	}
	if shed+len(took) != 10*capacity*lasts || stile.free != turns || stile.away != 0 {
		t.Errorf("%d done, %d shed, %d turns are free, %d are away", len(took), shed, stile.free, stile.away)
	}
}

// TestTurnsAreShared has handshakes of every stage wait for one turn. Of newcomers and
// those whose address is not proved, neither keeps the other out; what has begun goes
// before them if there is much of it.
func TestTurnsAreShared(t *testing.T) {
	const u, n, b = handshake.Unproved, handshake.Newcomer, handshake.Begun
	for name, tt := range map[string]struct {
		away int // handshakes
		want []handshake.Stage
	}{"few under way": {0, []handshake.Stage{n, u, n, u, n, b, b, b, u}}, "many under way": {1000, []handshake.Stage{b, b, b, u, u, u}}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				stile := newTurnstile(1)
				must(t, stile.wait(b).err)
				stile.away = tt.away
				var had []handshake.Stage // guarded by the one turn
				for _, at := range []handshake.Stage{u, n, b} {
					for range 3 {
						go func() {
							must(t, stile.wait(at).err)
							had = append(had, at)
							stile.next()
						}()
					}
				}
				synctest.Wait()
				stile.next()
				synctest.Wait()
				if !slices.Equal(had, tt.want) || stile.free != 1 {
					t.Errorf("the turns were of %v, %d are free", had, stile.free)
				}
				stile.mu.Lock()
				defer synctest.Wait()
				defer stile.mu.Unlock()
				stile.away = 0
				stile.pass()
			})
		})
	}
}

// enter takes the first turn of a handshake of its own.
func enter(t *testing.T, stile *turnstile) (leave func(), err error) {
	passing, _ := withPassage(t.Context())
	return stile.take(passing, handshake.Newcomer)
}

// TestBurstIsNotShed has as many come at once as may wait. They take longer than was
// thought, but are through before it counts as a lasting overload.
func TestBurstIsNotShed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stile := newTurnstile(1)
		var group sync.WaitGroup
		for range stile.capacity() {
			group.Go(func() {
				leave, err := enter(t, stile)
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
			if _, err := enter(t, stile); err != nil {
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
			passing, _ := withPassage(t.Context())
			_, err := newPacedConn(passing, far, stile).Read(make([]byte, 1))
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

// TestFull has connections come, of which those that have said nothing yet count for a
// moment.
func TestFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stile := newTurnstile(1)
		stile.cost = maxDelay / 8
		come := func(n int) (passing context.Context, passed func(bool)) {
			for range n {
				passing, passed = stile.arrive(t.Context())
			}
			return passing, passed
		}
		check := func(full bool, when string) {
			t.Helper()
			synctest.Wait()
			if stile.full() != full {
				t.Errorf("full is %t %s", !full, when)
			}
		}
		_, gone := come(5)
		check(false, "with five")
		come(1)
		check(true, "with six of eight: the others may come over DTLS")
		gone(false)
		check(false, "when one has left")
		time.Sleep(maxSilence)
		come(5)
		check(false, "when those before have been silent")
		passing, _ := come(1)
		must(t, stile.wait(handshake.Newcomer).err)
		go func() { _, _ = stile.take(passing, handshake.Newcomer) }()
		check(true, "with one that waits, and five that are to")
		time.Sleep(maxSilence)
		check(false, "with one that waits")
		stile.next()
	})
}

// TestHangUps has many strangers leave after their first turn, whose server has
// computed in vain: honest devices do not wait for them for long.
func TestHangUps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const first, second, rate, lasts = time.Millisecond, 3 * time.Millisecond, 2100, 10
		stile := newTurnstile(2)
		come := func(honest bool) {
			passing, passed := withPassage(t.Context())
			begun := time.Now()
			defer func() {
				if took := time.Since(begun); honest && took > time.Second {
					t.Errorf("an honest handshake takes %v", took)
				}
			}()
			leave, err := stile.take(passing, handshake.Newcomer)
			if err != nil {
				passed(false)
				return
			}
			time.Sleep(first)
			leave()
			if honest {
				time.Sleep(30 * time.Millisecond)
				leave, err = stile.take(passing, handshake.Begun)
				must(t, err)
				time.Sleep(second)
				leave()
			}
			passed(honest)
		}
		for n := range rate * lasts {
			go come(n%100 == 0)
			time.Sleep(time.Second / rate)
		}
		time.Sleep(time.Minute)
		stile.mu.Lock()
		defer stile.mu.Unlock()
		if stile.cost < first+second {
			t.Errorf("a handshake is thought to cost %v", stile.cost)
		}
	})
}

// TestRoomForNewcomers has as many newcomers wait as can be served soon.
func TestRoomForNewcomers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const cost = maxDelay / 10
		stile := newTurnstile(1)
		stile.cost = cost
		must(t, stile.wait(handshake.Newcomer).err)
		check := func(room int, when string) {
			t.Helper()
			synctest.Wait()
			if got := stile.room(); got != room {
				t.Errorf("room for %d %s, want %d", got, when, room)
			}
		}
		check(10, "when nobody waits")
		passing, passed := withPassage(t.Context())
		go func() { _, _ = stile.take(passing, handshake.Newcomer) }()
		check(9, "when one waits for its turn")
		for range 9 {
			go func() {
				passing, passed := withPassage(t.Context())
				_, err := stile.take(passing, handshake.Newcomer)
				must(t, err)
				passed(true)
			}()
		}
		check(0, "when ten wait")
		if refused := stile.wait(handshake.Newcomer); muster.CodeOf(refused.err) != muster.CodeBusy {
			t.Errorf("one too many is answered %v", refused.err)
		}
		stile.next()
		check(1, "when the first has its turn")
		passed(true)
		synctest.Wait()
		if room := stile.room(); room < 10 || stile.free != 1 {
			t.Errorf("room for %d when all are through, %d turns are free", room, stile.free)
		}
	})
}

// TestCostIsLearnt has handshakes that cost more and less than those before.
func TestCostIsLearnt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stile := newTurnstile(2)
		for _, tt := range []struct {
			turn     time.Duration // of two
			capacity int
		}{{maxDelay / 10, 20}, {maxDelay / 100, 200}, {maxDelay, leastCapacity}} {
			for range 20 * lately {
				passing, passed := withPassage(t.Context())
				for _, at := range []handshake.Stage{handshake.Unproved, handshake.Newcomer, handshake.Begun} {
					leave, err := stile.take(passing, at)
					must(t, err)
					if at != handshake.Unproved {
						time.Sleep(min(tt.turn/2, maxTurn-1))
					}
					leave()
				}
				passed(true)
			}
			if got := stile.capacity(); got < tt.capacity*9/10 || got > tt.capacity*11/10 {
				t.Errorf("with handshakes of %v, %d can be had in %v, want %d", tt.turn, got, maxDelay, tt.capacity)
			}
		}
	})
}

package main

import (
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"muster"
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
				leave, err := stile.enter(n == 0)
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
		if shed+len(took) != 10*capacity*lasts || stile.free != turns || int(stile.shed.Load()) != shed {
			t.Errorf("%d done, %d shed, %d turns are free", len(took), shed, stile.free)
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
				leave, err := stile.enter(true)
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
			if _, err := stile.enter(true); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(begun); took != 4*maxTurn {
			t.Errorf("five turns that do not end took %v", took)
		}
	})
}

// TestEnrolmentGoesThroughTheTurnstile enrols devices one by one with a turnstile
// of one turn: each handshake gives it back.
func TestEnrolmentGoesThroughTheTurnstile(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	w.startMEF()
	stile := w.mefService.turns
	for n := range 3 {
		_, err := w.device(w.deviceConfig(n, overTLS)).Enrol(t.Context())
		must(t, err)
	}
	stile.mu.Lock()
	defer stile.mu.Unlock()
	if stile.free != turnsOfMachine() || len(stile.begun)+len(stile.newcomers) != 0 {
		t.Errorf("%d of %d turns are free", stile.free, turnsOfMachine())
	}
}

// TestShedConnectionIsClosed has a handshake that waits for its first turn refused.
func TestShedConnectionIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stile := newTurnstile(0)
		near, far := net.Pipe()
		refused := make(chan error)
		go func() {
			_, err := (&pacedConn{Conn: far, turns: stile}).Read(make([]byte, 1))
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

package mustertest

import (
	"errors"
	"sync/atomic"
	"time"

	"muster"
	"muster/mef"
)

func (c mefCase) fetchCount() {
	e := c.mustCreate(c.enrolment(1, 1))
	for n := range 3 {
		fetched, err := c.fetchBy(e.KeID, c.maf(), 0, 3)
		wantError(c, "within the number", err, nil)
		if err == nil && !fetched.Ke.Equal(e.Ke) {
			c.Errorf("fetch %d gives another key", n+1)
		}
	}
	_, err := c.fetchBy(e.KeID, c.maf(), 0, 3)
	wantError(c, "one fetch more", err, mef.ErrUnknown)
	_, err = c.fetchBy(e.KeID, c.maf(), 0, 4)
	wantError(c, "a refused fetch does not count", err, nil)
}

func (c mefCase) fetchWindow() {
	e := c.mustCreate(c.enrolment(1, 1))
	for _, step := range []struct {
		after time.Duration
		want  error
	}{
		{hour, nil}, // the first, whenever it comes
		{hour + window - time.Second, nil},
		{hour + window, nil},
		{hour + window + time.Second, mef.ErrUnknown},
		{hour - time.Second, nil}, // a clock that was set back
		{2 * hour, mef.ErrUnknown},
	} {
		_, err := c.fetchBy(e.KeID, c.maf(), step.after, plenty)
		wantError(c, "after "+step.after.String(), err, step.want)
	}
}

func (c mefCase) fetchTarget() {
	e := c.mustCreate(c.enrolment(1, 1))
	_, err := c.fetchBy(e.KeID, c.other(), 0, plenty)
	wantError(c, "a MAF that is no target", err, mef.ErrUnknown)
	_, err = c.fetchBy(keID(c, 99), c.maf(), 0, plenty)
	wantError(c, "an unknown KeID", err, mef.ErrUnknown)
	elsewhere := muster.NewKeID(e.KeID.Relative(), fqdn(c, "other-mef.example.org"))
	_, err = c.fetchBy(elsewhere, c.maf(), 0, plenty)
	wantError(c, "the octets of a KeID at another MEF", err, mef.ErrUnknown)
	_, err = c.fetchBy(e.KeID, c.maf(), 0, 1)
	wantError(c, "the target, whose only fetch nobody has used up", err, nil)
}

func (c mefCase) rowFor() {
	e := c.mustCreate(c.enrolment(1, 1))
	want := e
	want.Targets, want.Ke = []muster.FQDN{c.maf()}, muster.Ke{}
	row := func(what string, maf muster.FQDN, wanted error) {
		got, err := c.store.EnrolmentFor(c.Context(), e.KeID, maf)
		if wantError(c, what, err, wanted); wanted == nil {
			c.wantSame(what, got, want)
		}
	}
	row("of another MAF", c.other(), mef.ErrUnknown)
	for range 3 {
		row("before its fetch", c.maf(), nil)
	}
	fetched, err := c.fetchBy(e.KeID, c.maf(), 0, 1)
	wantError(c, "the only fetch", err, nil)
	if !fetched.Ke.Equal(e.Ke) {
		c.Error("another key is fetched")
	}
	row("after its fetch", c.maf(), nil)
	wantError(c, "erase", c.store.EraseEnrolment(c.Context(), e.KeID, c.maf()), nil)
	row("erased", c.maf(), nil)
	_, err = c.store.EnrolmentFor(c.Context(), keID(c, 99), c.maf())
	wantError(c, "an unknown KeID", err, mef.ErrUnknown)
}

func (c mefCase) fetchExpired() {
	e := c.mustCreate(c.enrolment(1, 1))
	_, err := c.fetchBy(e.KeID, c.maf(), 24*hour, plenty)
	wantError(c, "at expiry", err, mef.ErrUnknown)
	_, err = c.fetchBy(e.KeID, c.maf(), 24*hour-time.Second, plenty)
	wantError(c, "a second before", err, nil)
}

func (c mefCase) erase() {
	e := c.enrolment(1, 1)
	e.Targets = []muster.FQDN{c.maf(), c.other()}
	c.mustCreate(e)
	for range 2 {
		wantError(c, "erase", c.store.EraseEnrolment(c.Context(), e.KeID, c.maf()), nil)
	}
	c.wantFetch("erased", e, mef.ErrUnknown)
	if stored := c.mustCreate(e); stored.Ke.IsZero() {
		c.Error("erased for one of two targets, the Ke is gone for both")
	}
	_, err := c.fetchBy(e.KeID, c.other(), 0, plenty)
	wantError(c, "fetch for the other target", err, nil)
	wantError(c, "erase for the other target", c.store.EraseEnrolment(c.Context(), e.KeID, c.other()), nil)
	if stored := c.mustCreate(e); !stored.Ke.IsZero() {
		c.Error("erased for all targets, the Ke is still kept")
	}
	wantError(c, "an unknown KeID", c.store.EraseEnrolment(c.Context(), keID(c, 99), c.maf()), mef.ErrUnknown)
	wantError(c, "an unknown MAF", c.store.EraseEnrolment(c.Context(), e.KeID, fqdn(c, "x.example.org")), mef.ErrUnknown)
}

func (c mefCase) wantSwept(what string, after, grace time.Duration, limit, want int) {
	c.Helper()
	n, err := c.store.Sweep(c.Context(), start().Add(after), window, grace, limit)
	wantError(c, what, err, nil)
	if n != want {
		c.Errorf("%s: %d rows swept, want %d", what, n, want)
	}
}

func (c mefCase) sweepExpired() {
	e := c.enrolment(1, 1)
	c.mustCreate(e)
	c.wantSwept("before expiry", 24*hour-time.Second, hour, plenty, 0)
	c.wantFetch("after a sweep before expiry", e, nil)
	e2 := c.enrolment(2, 2)
	c.mustCreate(e2)
	c.wantSwept("the end of the window of one", hour, hour, plenty, 1)
	c.wantSwept("at expiry", 24*hour, hour, plenty, 1)
	c.wantSwept("at expiry again", 24*hour, hour, plenty, 0)
	// The clock is set back, and the key stays erased.
	c.wantFetch("an expired key under an earlier clock", e2, mef.ErrUnknown)
	if stored := c.mustCreate(e2); !stored.Ke.IsZero() {
		c.Error("the expired Ke is still kept")
	}
}

func (c mefCase) sweepWindows() {
	fetched, fresh := c.enrolment(1, 1), c.enrolment(2, 2)
	c.mustCreate(fetched)
	c.mustCreate(fresh)
	c.wantFetch("the first", fetched, nil)
	c.wantSwept("at the end of the window", window, hour, plenty, 0)
	c.wantFetch("within the window", fetched, nil)
	c.wantSwept("after the window", window+time.Second, hour, plenty, 1)
	c.wantFetch("the window has ended", fetched, mef.ErrUnknown)
	c.wantFetch("never fetched before", fresh, nil)
}

func (c mefCase) sweepForgets() {
	e := c.enrolment(1, 1)
	e.Targets = []muster.FQDN{c.maf(), c.other()}
	c.mustCreate(e)
	c.wantSwept("at expiry", 24*hour, hour, plenty, 2)
	c.wantSwept("before the grace ends", 25*hour-time.Second, hour, plenty, 0)
	_, err := c.store.CreateEnrolment(c.Context(), func() mef.Enrolment { other := e; other.Session[0] ^= 1; return other }(), plenty)
	wantError(c, "a tombstone's KeID with another session", err, mef.ErrConflict)
	c.wantSwept("when the grace ends", 25*hour, hour, plenty, 2)
	wantError(c, "erase what was forgotten", c.store.EraseEnrolment(c.Context(), e.KeID, c.maf()), mef.ErrUnknown)

	live := c.enrolment(2, 2)
	c.mustCreate(live)
	c.wantSwept("a key that nobody swept in time", 48*hour, hour, plenty, 1)
	wantError(c, "it too is forgotten", c.store.EraseEnrolment(c.Context(), live.KeID, c.maf()), mef.ErrUnknown)
	if g := c.mustCreate(c.enrolment(3, 1)).Generation; g != 1 {
		c.Errorf("with no row kept the generation is %d, want 1", g)
	}
}

func (c mefCase) sweepLimit() {
	const rows, limit = 25, 10
	for n := range rows {
		c.mustCreate(c.enrolment(n, n))
	}
	c.wantSwept("nothing allowed", 24*hour, hour, 0, 0)
	c.wantSwept("the first ten", 24*hour, hour, limit, limit)
	erased := 0
	for n := range rows {
		if c.mustCreate(c.enrolment(n, n)).Ke.IsZero() {
			erased++
		}
	}
	if erased != limit {
		c.Errorf("%d keys erased, want %d", erased, limit)
	}
	c.wantSwept("ten more", 24*hour, hour, limit, limit)
	c.wantSwept("the rest", 24*hour, hour, limit, rows-2*limit)
	c.wantSwept("forget all", 30*hour, hour, plenty, rows)
	c.wantSwept("nothing left", 30*hour, hour, plenty, 0)
}

func (c mefCase) raceFetch() {
	e := c.mustCreate(c.enrolment(1, 1))
	var won atomic.Int32
	race(1000, func(int) {
		switch fetched, err := c.fetchBy(e.KeID, c.maf(), 0, 1); {
		case err == nil && fetched.Ke.Equal(e.Ke):
			won.Add(1)
		case !errors.Is(err, mef.ErrUnknown):
			c.Errorf("a racer got %v", err)
		}
	})
	if won.Load() != 1 {
		c.Errorf("%d racers won, want 1", won.Load())
	}
}

func (c mefCase) raceReplay() {
	const writers, enrolments = 16, 40
	race(writers, func(i int) {
		for k := range enrolments {
			n := (k + i*7) % enrolments
			stored, err := c.store.CreateEnrolment(c.Context(), c.enrolment(n, n), 1)
			if err != nil || stored.Generation != 1 {
				c.Errorf("writer %d, enrolment %d: generation %d, %v", i, n, stored.Generation, err)
			}
		}
	})
	c.wantSwept("all rows", 48*hour, hour, plenty, enrolments)
}

func (c mefCase) raceGenerations() {
	const handshakes = 64
	stored := make([]mef.Enrolment, handshakes)
	race(handshakes, func(i int) {
		var err error
		if stored[i], err = c.store.CreateEnrolment(c.Context(), c.enrolment(i, 1), plenty); err != nil {
			c.Errorf("handshake %d: %v", i, err)
		}
	})
	seen := make(map[int64]bool)
	for _, e := range stored {
		if e.Generation < 1 || e.Generation > handshakes || seen[e.Generation] {
			c.Errorf("generation %d is out of range or given twice", e.Generation)
		}
		seen[e.Generation] = true
		var want error
		if e.Generation < handshakes {
			want = mef.ErrUnknown
		}
		c.wantFetch("only the newest is fetched", e, want)
	}
}

// raceMaxLive: however handshakes and fetches mix, no more than the maximum is ever
// fetched, and a device that comes alone reaches it.
func (c mefCase) raceMaxLive() {
	const most = 5
	var fetched atomic.Int32
	enrol := func(i int) {
		_, err := c.store.CreateEnrolment(c.Context(), c.enrolment(i, 1), most)
		if err == nil {
			if _, err = c.fetch(keID(c, i)); err == nil {
				fetched.Add(1)
				return
			}
		}
		if !errors.Is(err, mef.ErrTooMany) && !errors.Is(err, mef.ErrUnknown) {
			c.Errorf("handshake %d: %v", i, err)
		}
	}
	race(100, enrol)
	if n := fetched.Load(); n < 1 || n > most {
		c.Errorf("%d enrolments fetched, want 1 to %d", n, most)
	}
	for i := range 2 * most {
		enrol(100 + i)
	}
	if n := fetched.Load(); n != most {
		c.Errorf("%d enrolments fetched, want %d", n, most)
	}
}

func (c mefCase) raceConflict() {
	var owner atomic.Int32
	race(100, func(i int) {
		e := c.enrolment(1, i)
		switch stored, err := c.store.CreateEnrolment(c.Context(), e, 1); {
		case err == nil && stored.EnroleeID == e.EnroleeID:
			owner.Add(1)
		case !errors.Is(err, mef.ErrConflict):
			c.Errorf("Enrolee %d: %v", i, err)
		}
	})
	if owner.Load() != 1 {
		c.Errorf("the KeID belongs to %d Enrolees", owner.Load())
	}
}

func (c mefCase) ofSession() {
	first := c.enrolment(1, 1)
	first.Targets = []muster.FQDN{c.other(), c.maf()}
	first = c.mustCreate(first)
	second := c.mustCreate(c.enrolment(2, 1))
	of := func(what string, e mef.Enrolment, after time.Duration, want error) mef.Enrolment {
		c.Helper()
		got, err := c.store.EnrolmentOf(c.Context(), e.EnroleeID, e.Session, start().Add(after))
		wantError(c, what, err, want)
		return got
	}
	c.wantSame("the second", of("the second", second, 0, nil), second)
	if got := of("the first, superseded for one target", first, 0, nil); got.KeID != first.KeID || !got.Ke.Equal(first.Ke) {
		c.Errorf("the first session has %v", got)
	}
	of("before expiry", second, 24*hour-time.Second, nil)
	of("at expiry", second, 24*hour, mef.ErrUnknown)
	of("another session", c.enrolment(3, 1), 0, mef.ErrUnknown)
	stranger := second
	stranger.EnroleeID = enroleeID(c, 2)
	of("the session of another Enrolee", stranger, 0, mef.ErrUnknown)
	wantError(c, "erase", c.store.EraseEnrolment(c.Context(), second.KeID, c.maf()), nil)
	erased := second
	erased.Ke = muster.Ke{}
	c.wantSame("erased", of("erased", second, 0, nil), erased)
}

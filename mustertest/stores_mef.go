package mustertest

import (
	"context"
	"slices"
	"testing"
	"time"

	"muster"
	"muster/mef"
)

// MEFStore holds a store to the contract of mef.Store.
func MEFStore[S mef.Store](t *testing.T, open func(testing.TB) (S, func() S)) {
	for name, test := range map[string]func(mefCase){
		"create returns what is stored":             mefCase.create,
		"a replay changes nothing":                  mefCase.replay,
		"another use of a KeID is a conflict":       mefCase.conflict,
		"generations count per Enrolee":             mefCase.generations,
		"a new enrolment supersedes the unfetched":  mefCase.supersede,
		"what was fetched lives until the next":     mefCase.overlap,
		"targets are erased one by one":             mefCase.targetsApart,
		"the number of live enrolments is bounded":  mefCase.maxLive,
		"what is cut off is not counted":            mefCase.cutOff,
		"a session finds its own enrolment":         mefCase.ofSession,
		"a fetch is bounded in number":              mefCase.fetchCount,
		"a fetch is bounded in time":                mefCase.fetchWindow,
		"only a target fetches":                     mefCase.fetchTarget,
		"a row is read without being fetched":       mefCase.rowFor,
		"nothing expired is fetched":                mefCase.fetchExpired,
		"erasing is final":                          mefCase.erase,
		"sweeping erases what expired":              mefCase.sweepExpired,
		"sweeping closes fetch windows":             mefCase.sweepWindows,
		"sweeping forgets after the grace":          mefCase.sweepForgets,
		"sweeping keeps to its limit":               mefCase.sweepLimit,
		"times are whole seconds":                   mefCase.wholeSeconds,
		"everything survives a restart":             mefCase.restart,
		"a caller that gives up repeats":            mefCase.cancelled,
		"one of a thousand fetches wins":            mefCase.raceFetch,
		"replays by sixteen writers make one row":   mefCase.raceReplay,
		"handshakes at once get distinct numbers":   mefCase.raceGenerations,
		"handshakes at once keep to the maximum":    mefCase.raceMaxLive,
		"a KeID used by two at once belongs to one": mefCase.raceConflict,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store, reopen := open(t)
			test(mefCase{t, store, func() mef.Store { return reopen() }})
		})
	}
}

type mefCase struct {
	*testing.T
	store  mef.Store
	reopen func() mef.Store
}

const (
	plenty = 1000 // as a maximum that no test means to reach
	hour   = time.Hour
	window = 300 * time.Second
)

// enrolment returns the nth enrolment of an Enrolee for one MAF, good for a day.
func (c mefCase) enrolment(n, enrolee int) mef.Enrolment {
	c.Helper()
	ke := octets("Ke", n)
	key, err := muster.NewKe(ke[:])
	return mef.Enrolment{
		KeID: keID(c, n), EnroleeID: enroleeID(c, enrolee), Targets: []muster.FQDN{c.maf()},
		Session: octets("session", n), Certificate: octets("certificate", enrolee), Ke: must(c, key, err),
		Created: start(), Expires: start().Add(24 * hour),
	}
}

func (c mefCase) maf() muster.FQDN   { return fqdn(c, "maf.example.org") }
func (c mefCase) other() muster.FQDN { return fqdn(c, "another-maf.example.org") }

func (c mefCase) mustCreate(e mef.Enrolment) mef.Enrolment {
	c.Helper()
	stored, err := c.store.CreateEnrolment(c.Context(), e, plenty)
	return must(c, stored, err)
}

func (c mefCase) fetchBy(id muster.KeID, maf muster.FQDN, after time.Duration, most int) (mef.Enrolment, error) {
	return c.store.FetchEnrolment(c.Context(), mef.Fetch{KeID: id, MAF: maf, Now: start().Add(after), Window: window, Max: most})
}

func (c mefCase) fetch(id muster.KeID) (mef.Enrolment, error) {
	return c.fetchBy(id, c.maf(), 0, plenty)
}

func (c mefCase) wantFetch(what string, e mef.Enrolment, want error) {
	c.Helper()
	fetched, err := c.fetch(e.KeID)
	wantError(c, what, err, want)
	if err == nil && !fetched.Ke.Equal(e.Ke) {
		c.Errorf("%s: another Ke is fetched", what)
	}
}

// wantSame compares all fields of two enrolments.
func (c mefCase) wantSame(what string, got, want mef.Enrolment) {
	c.Helper()
	if got.KeID != want.KeID || got.EnroleeID != want.EnroleeID || !slices.Equal(got.Targets, want.Targets) ||
		got.Generation != want.Generation || got.Session != want.Session || got.Certificate != want.Certificate ||
		!got.Created.Equal(want.Created) || !got.Expires.Equal(want.Expires) {
		c.Errorf("%s:\n got %v\nwant %v", what, got, want)
	}
	if got.Ke.IsZero() != want.Ke.IsZero() || !want.Ke.IsZero() && !got.Ke.Equal(want.Ke) {
		c.Errorf("%s: another Ke", what)
	}
}

func (c mefCase) create() {
	e := c.enrolment(1, 1)
	e.Targets = []muster.FQDN{c.maf(), c.other()}
	stored := c.mustCreate(e)
	want := e
	want.Generation = 1
	want.Targets = []muster.FQDN{c.other(), c.maf()}
	c.wantSame("created, with sorted targets", stored, want)

	for _, maf := range e.Targets {
		fetched, err := c.fetchBy(e.KeID, maf, 0, 1)
		wantError(c, "fetch by "+maf.String(), err, nil)
		want.Targets = []muster.FQDN{maf}
		c.wantSame("fetched by "+maf.String(), fetched, want)
	}
}

func (c mefCase) replay() {
	e := c.enrolment(1, 1)
	e.Targets = []muster.FQDN{c.maf(), c.other()}
	first := c.mustCreate(e)
	again := e
	again.Targets = []muster.FQDN{c.other(), c.maf()}
	again.Created, again.Expires = e.Created.Add(hour), e.Expires.Add(hour)
	c.wantSame("a replay with other times and order", c.mustCreate(again), first)
	stored, err := c.store.CreateEnrolment(c.Context(), e, 1)
	wantError(c, "a replay at the maximum", err, nil)
	c.wantSame("a replay at the maximum", stored, first)

	newer := c.mustCreate(c.enrolment(2, 1))
	if newer.Generation != 2 {
		c.Errorf("after replays the next generation is %d, want 2", newer.Generation)
	}
	c.mustCreate(e)
	c.wantFetch("the newer one after a replay of the older", newer, nil)
	c.wantFetch("the older one after its replay", first, mef.ErrUnknown)
}

func (c mefCase) conflict() {
	e := c.enrolment(1, 1)
	c.mustCreate(e)
	for what, change := range map[string]func(*mef.Enrolment){
		"another session":     func(e *mef.Enrolment) { e.Session[0] ^= 1 },
		"another certificate": func(e *mef.Enrolment) { e.Certificate[0] ^= 1 },
		"another Enrolee":     func(e *mef.Enrolment) { e.EnroleeID = enroleeID(c, 2) },
		"another target":      func(e *mef.Enrolment) { e.Targets = []muster.FQDN{c.other()} },
		"a target more":       func(e *mef.Enrolment) { e.Targets = []muster.FQDN{c.maf(), c.other()} },
	} {
		changed := e
		change(&changed)
		_, err := c.store.CreateEnrolment(c.Context(), changed, plenty)
		wantError(c, what, err, mef.ErrConflict)
	}
	c.wantFetch("the first after all conflicts", e, nil)
	if g := c.mustCreate(c.enrolment(2, 2)).Generation; g != 1 {
		c.Errorf("a refused Enrolee has left a row: its first generation is %d", g)
	}
}

func (c mefCase) generations() {
	for n := range 3 {
		if g := c.mustCreate(c.enrolment(n, 1)).Generation; g != int64(n+1) {
			c.Errorf("enrolment %d has generation %d", n, g)
		}
	}
	if g := c.mustCreate(c.enrolment(10, 2)).Generation; g != 1 {
		c.Errorf("another Enrolee begins with generation %d", g)
	}
	e := c.enrolment(11, 1)
	e.Targets = []muster.FQDN{c.other()}
	if g := c.mustCreate(e).Generation; g != 4 {
		c.Errorf("an enrolment for another target has generation %d, want 4", g)
	}
}

func (c mefCase) supersede() {
	older, stranger := c.enrolment(1, 1), c.enrolment(2, 2)
	c.mustCreate(older)
	c.mustCreate(stranger)
	newer := c.mustCreate(c.enrolment(3, 1))
	c.wantFetch("superseded", older, mef.ErrUnknown)
	c.wantFetch("the newer one", newer, nil)
	c.wantFetch("another Enrolee's", stranger, nil)
	if tombstone := c.mustCreate(older); !tombstone.Ke.IsZero() || tombstone.Generation != 1 {
		c.Errorf("the tombstone is %v with Ke %t, want generation 1 and no Ke", tombstone, !tombstone.Ke.IsZero())
	}
}

func (c mefCase) overlap() {
	c.mustCreate(c.enrolment(0, 1))
	older := c.mustCreate(c.enrolment(1, 1))
	c.wantFetch("the older one", older, nil)
	newer := c.mustCreate(c.enrolment(2, 1))
	c.wantFetch("the older one, fetched before the newer came", older, nil)
	c.wantFetch("the newer one", newer, nil)
	c.wantFetch("the older one after the newer was fetched", older, mef.ErrUnknown)
	c.wantFetch("the newer one again", newer, nil)
	if tombstone := c.mustCreate(c.enrolment(1, 1)); !tombstone.Ke.IsZero() {
		c.Error("the Ke that was replaced is still kept")
	}
}

func (c mefCase) targetsApart() {
	both := []muster.FQDN{c.maf(), c.other()}
	older := c.enrolment(1, 1)
	older.Targets = both
	c.mustCreate(older)
	newer := c.mustCreate(c.enrolment(2, 1))
	c.wantFetch("superseded for the target of the newer one", older, mef.ErrUnknown)
	_, err := c.fetchBy(older.KeID, c.other(), 0, plenty)
	wantError(c, "the older one for its other target", err, nil)

	newest := c.enrolment(3, 1)
	newest.Targets = both
	c.wantFetch("the newer one", newer, nil)
	c.mustCreate(newest)
	c.wantFetch("the newer one, fetched by this MAF", newer, nil)
	_, err = c.fetchBy(newest.KeID, c.other(), 0, plenty)
	wantError(c, "the newest by the other MAF", err, nil)
	_, err = c.fetchBy(older.KeID, c.other(), 0, plenty)
	wantError(c, "the oldest by the other MAF, which has the newest", err, mef.ErrUnknown)
	c.wantFetch("the newer one by the MAF that does not have the newest", newer, nil)
}

func (c mefCase) maxLive() {
	const most = 3
	create := func(n int, at time.Duration) error {
		e := c.enrolment(n, 1)
		e.Created, e.Expires = start().Add(at), start().Add(at+10*hour)
		_, err := c.store.CreateEnrolment(c.Context(), e, most)
		return err
	}
	createAndFetch := func(n int, at time.Duration) {
		c.Helper()
		wantError(c, "below the maximum", create(n, at), nil)
		_, err := c.fetchBy(keID(c, n), c.maf(), at, 1)
		wantError(c, "fetch", err, nil)
	}
	for n := range most {
		createAndFetch(n, time.Duration(n)*hour)
	}
	wantError(c, "erase", c.store.EraseEnrolment(c.Context(), keID(c, 2), c.maf()), nil)
	wantError(c, "at the maximum, most of them erased", create(10, 3*hour), mef.ErrTooMany)
	wantError(c, "a replay at the maximum", create(2, 2*hour), nil)
	wantError(c, "a second before the first expires", create(10, 10*hour-time.Second), mef.ErrTooMany)
	createAndFetch(10, 10*hour) // when the first expires
	wantError(c, "at the maximum again", create(11, 10*hour), mef.ErrTooMany)
	e := c.enrolment(20, 2)
	_, err := c.store.CreateEnrolment(c.Context(), e, most)
	wantError(c, "another Enrolee", err, nil)
	if g := c.mustCreate(c.enrolment(12, 1)).Generation; g != 5 {
		c.Errorf("refused enrolments count: the generation is %d, want 5", g)
	}
}

// cutOff: handshakes that nobody follows up do not use up the Enrolee's number, and
// only so many of them are kept.
func (c mefCase) cutOff() {
	const most, handshakes = 3, 20
	both := []muster.FQDN{c.other(), c.maf()}
	create := func(n int) error {
		e := c.enrolment(n, 1)
		e.Targets = both
		_, err := c.store.CreateEnrolment(c.Context(), e, most)
		return err
	}
	wantError(c, "the first", create(0), nil)
	_, err := c.fetchBy(keID(c, 0), c.maf(), 0, plenty)
	wantError(c, "its fetch", err, nil)
	for n := 1; n <= handshakes; n++ {
		wantError(c, "handshakes that are cut off", create(n), nil)
	}
	wantError(c, "the fetched one for the MAF that has not", c.store.EraseEnrolment(c.Context(), keID(c, 0), c.other()), nil)
	for n := 1; n <= handshakes; n++ {
		var want error
		if n <= handshakes-most {
			want = mef.ErrUnknown
		}
		for _, maf := range both {
			wantError(c, "the row of a handshake", c.store.EraseEnrolment(c.Context(), keID(c, n), maf), want)
		}
	}
	wantError(c, "the next", create(handshakes+1), nil)
	if _, err = c.fetchBy(keID(c, handshakes+1), c.maf(), 0, plenty); err != nil {
		c.Errorf("the handshake that was not cut off: %v", err)
	}
}

// wholeSeconds: a store may keep less than it was given and must not round up.
func (c mefCase) wholeSeconds() {
	e := c.enrolment(1, 1)
	e.Created, e.Expires = e.Created.Add(900*time.Millisecond), e.Expires.Add(900*time.Millisecond)
	stored := c.mustCreate(e)
	want := c.enrolment(1, 1)
	want.Generation = 1
	c.wantSame("times with a fraction", stored, want)
	c.wantSame("the replay", c.mustCreate(e), stored)
	_, err := c.fetchBy(e.KeID, c.maf(), 24*hour-time.Millisecond, plenty)
	wantError(c, "just before expiry", err, nil)
}

func (c mefCase) restart() {
	older, newer := c.enrolment(1, 1), c.enrolment(2, 1)
	c.mustCreate(older)
	newer = c.mustCreate(newer)
	_, err := c.fetchBy(newer.KeID, c.maf(), 0, 2)
	wantError(c, "fetch", err, nil)
	gone := c.mustCreate(c.enrolment(3, 3))
	wantError(c, "erase", c.store.EraseEnrolment(c.Context(), gone.KeID, c.maf()), nil)

	c.store = c.reopen()
	c.wantSame("a replay after a restart", c.mustCreate(newer), newer)
	_, err = c.fetchBy(newer.KeID, c.maf(), 0, 2)
	wantError(c, "the second fetch", err, nil)
	_, err = c.fetchBy(newer.KeID, c.maf(), 0, 2)
	wantError(c, "the third fetch of two", err, mef.ErrUnknown)
	c.wantFetch("superseded before the restart", older, mef.ErrUnknown)
	c.wantFetch("erased before the restart", gone, mef.ErrUnknown)
	if g := c.mustCreate(c.enrolment(4, 1)).Generation; g != 3 {
		c.Errorf("the next generation is %d, want 3", g)
	}
}

// cancelled: a call under a context that has ended may have worked or not, and
// its repetition succeeds.
func (c mefCase) cancelled() {
	for n := range 50 {
		ctx, cancel := context.WithCancel(c.Context())
		done := make(chan error)
		e := c.enrolment(n, n)
		go func() {
			_, err := c.store.CreateEnrolment(ctx, e, 1)
			done <- err
		}()
		cancel()
		if err := <-done; err != nil {
			wantError(c, "the cancelled call", err, context.Canceled)
		}
		stored, err := c.store.CreateEnrolment(c.Context(), e, 1)
		wantError(c, "the repeated call", err, nil)
		if stored.Generation != 1 {
			c.Errorf("the repeated call has generation %d, want 1", stored.Generation)
		}
		c.wantFetch("after the repeated call", stored, nil)
	}
}

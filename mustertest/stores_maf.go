package mustertest

import (
	"context"
	"testing"
	"time"

	"muster"
	"muster/maf"
)

// MAFStore holds a store to the contract of maf.Store.
func MAFStore[S maf.Store](t *testing.T, open func(testing.TB) (S, func() S)) {
	for name, test := range map[string]func(mafCase){
		"a credential is found by both identifiers":  mafCase.put,
		"a replay changes nothing":                   mafCase.replay,
		"another use of an identifier is a conflict": mafCase.conflict,
		"an expired credential is unknown":           mafCase.expired,
		"a KeID has an end of its own":               mafCase.keIDUntil,
		"a KeID's end moves to earlier times":        mafCase.limitKeID,
		"activation retires the KeID":                mafCase.activate,
		"activation retires what is older":           mafCase.retireOlder,
		"activation needs a usable credential":       mafCase.activateUnknown,
		"activation never prolongs a KeID":           mafCase.activateLate,
		"a retired credential never returns":         mafCase.putRetired,
		"sweeping erases what expired":               mafCase.sweepExpired,
		"sweeping forgets after the grace":           mafCase.sweepForgets,
		"sweeping keeps to its limit":                mafCase.sweepLimit,
		"times are whole seconds":                    mafCase.wholeSeconds,
		"everything survives a restart":              mafCase.restart,
		"a caller that gives up repeats":             mafCase.cancelled,
		"puts at once make one credential":           mafCase.racePut,
		"activations at once all succeed":            mafCase.raceActivate,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store, reopen := open(t)
			test(mafCase{t, store, func() maf.Store { return reopen() }})
		})
	}
}

type mafCase struct {
	*testing.T
	store  maf.Store
	reopen func() maf.Store
}

// credential returns the nth credential of an Enrolee, good for a day, its KeID
// for an hour.
func (c mafCase) credential(n, enrolee int) maf.Credential {
	c.Helper()
	octets := octets("Km", n)
	km, err := muster.NewKm(octets[:])
	must(c, km, err)
	owner := fqdn(c, "maf.example.org")
	return maf.Credential{
		KmID: km.KmID(owner), KeID: keID(c, n), EnroleeID: enroleeID(c, enrolee), MAF: owner, Km: km,
		Created: start(), Expires: start().Add(24 * hour), KeIDUntil: start().Add(hour),
	}
}

func (c mafCase) mustPut(n, enrolee int) maf.Credential {
	c.Helper()
	stored := c.credential(n, enrolee)
	wantError(c, "put", c.store.PutCredential(c.Context(), stored), nil)
	return stored
}

func (c mafCase) byKeID(stored maf.Credential, after time.Duration) (maf.Credential, error) {
	return c.store.CredentialByKeID(c.Context(), stored.KeID, start().Add(after))
}

func (c mafCase) byKmID(stored maf.Credential, after time.Duration) (maf.Credential, error) {
	return c.store.CredentialByKmID(c.Context(), stored.KmID, start().Add(after))
}

// wantKmID looks a credential up by its KmID and compares the key.
func (c mafCase) wantKmID(what string, stored maf.Credential, after time.Duration, want error) {
	c.Helper()
	got, err := c.byKmID(stored, after)
	wantError(c, what+", by KmID", err, want)
	if err == nil && (!got.Km.Equal(stored.Km) || got.KmID != stored.KmID) {
		c.Errorf("%s: another credential answers the KmID", what)
	}
}

// wantKeID looks a credential up by its KeID and compares the key.
func (c mafCase) wantKeID(what string, stored maf.Credential, after time.Duration, want error) {
	c.Helper()
	got, err := c.byKeID(stored, after)
	wantError(c, what+", by KeID", err, want)
	if err == nil && (!got.Km.Equal(stored.Km) || got.KeID != stored.KeID) {
		c.Errorf("%s: another credential answers the KeID", what)
	}
}

func (c mafCase) activateAt(stored maf.Credential, after time.Duration) error {
	return c.store.ActivateKmID(c.Context(), stored.KmID, start().Add(after))
}

func (c mafCase) wantSame(what string, got, want maf.Credential) {
	c.Helper()
	if got.KmID != want.KmID || got.KeID != want.KeID || got.EnroleeID != want.EnroleeID || got.MAF != want.MAF ||
		!got.Created.Equal(want.Created) || !got.Expires.Equal(want.Expires) || !got.KeIDUntil.Equal(want.KeIDUntil) {
		c.Errorf("%s:\n got %v\nwant %v", what, got, want)
	}
	if !got.Km.Equal(want.Km) {
		c.Errorf("%s: another Km", what)
	}
}

func (c mafCase) put() {
	stored := c.mustPut(1, 1)
	second := c.mustPut(2, 1)
	for _, want := range []maf.Credential{stored, second} {
		got, err := c.byKeID(want, 0)
		wantError(c, "by KeID", err, nil)
		c.wantSame("by KeID", got, want)
		got, err = c.byKmID(want, 0)
		wantError(c, "by KmID", err, nil)
		c.wantSame("by KmID", got, want)
	}
	absent := c.credential(3, 1)
	_, err := c.byKeID(absent, 0)
	wantError(c, "an unknown KeID", err, maf.ErrUnknown)
	_, err = c.byKmID(absent, 0)
	wantError(c, "an unknown KmID", err, maf.ErrUnknown)
}

func (c mafCase) replay() {
	stored := c.mustPut(1, 1)
	again := stored
	again.Created, again.Expires, again.KeIDUntil = start().Add(hour), start().Add(48*hour), start().Add(9*hour)
	wantError(c, "a replay", c.store.PutCredential(c.Context(), again), nil)
	got, err := c.byKmID(stored, 0)
	wantError(c, "after a replay", err, nil)
	c.wantSame("after a replay with other times", got, stored)
}

func (c mafCase) conflict() {
	stored := c.mustPut(1, 1)
	strange := c.credential(2, 1)
	for what, change := range map[string]func(*maf.Credential){
		"another KmID":                  func(n *maf.Credential) { n.KmID = strange.KmID },
		"another KeID":                  func(n *maf.Credential) { n.KeID = strange.KeID },
		"another Enrolee":               func(n *maf.Credential) { n.EnroleeID = enroleeID(c, 2) },
		"another Km":                    func(n *maf.Credential) { n.Km = strange.Km },
		"another Km and another KmID":   func(n *maf.Credential) { n.Km, n.KmID = strange.Km, strange.KmID },
		"another Km and another KeID":   func(n *maf.Credential) { n.Km, n.KeID = strange.Km, strange.KeID },
		"another Km and another Entity": func(n *maf.Credential) { n.Km, n.EnroleeID = strange.Km, enroleeID(c, 2) },
	} {
		changed := stored
		change(&changed)
		wantError(c, what, c.store.PutCredential(c.Context(), changed), maf.ErrConflict)
	}
	second := c.mustPut(3, 3)
	mixed := stored
	mixed.KmID = second.KmID
	wantError(c, "the KeID of one and the KmID of another", c.store.PutCredential(c.Context(), mixed), maf.ErrConflict)
	got, err := c.byKeID(stored, 0)
	wantError(c, "after all conflicts", err, nil)
	c.wantSame("after all conflicts", got, stored)
}

func (c mafCase) expired() {
	stored := c.credential(1, 1)
	stored.KeIDUntil = stored.Expires.Add(hour)
	wantError(c, "put", c.store.PutCredential(c.Context(), stored), nil)
	c.wantKeID("before expiry", stored, 24*hour-time.Second, nil)
	c.wantKmID("before expiry", stored, 24*hour-time.Second, nil)
	c.wantKeID("at expiry", stored, 24*hour, maf.ErrRetired)
	c.wantKmID("at expiry", stored, 24*hour, maf.ErrUnknown)
}

func (c mafCase) keIDUntil() {
	stored := c.mustPut(1, 1)
	c.wantKeID("before its end", stored, hour-time.Second, nil)
	c.wantKeID("at its end", stored, hour, maf.ErrRetired)
	c.wantKmID("at the KeID's end", stored, hour, nil)
}

func (c mafCase) limitKeID() {
	stored := c.mustPut(1, 1)
	limit := func(what string, to time.Duration, want error) {
		c.Helper()
		wantError(c, what, c.store.LimitKeID(c.Context(), stored.KeID, start().Add(to)), want)
	}
	limit("to a later time", 2*hour, nil)
	c.wantKeID("not moved", stored, hour, maf.ErrRetired)
	limit("to an earlier time", time.Minute, nil)
	limit("to the first time again", hour, nil)
	c.wantKeID("just before", stored, time.Minute-time.Second, nil)
	c.wantKeID("moved", stored, time.Minute, maf.ErrRetired)
	c.wantKmID("moved", stored, hour, nil)
	wantError(c, "an unknown KeID", c.store.LimitKeID(c.Context(), keID(c, 9), start()), maf.ErrUnknown)
}

func (c mafCase) activate() {
	stored := c.mustPut(1, 1)
	for after := range 3 {
		wantError(c, "activate", c.activateAt(stored, time.Duration(after+1)*time.Minute), nil)
	}
	c.wantKeID("activated", stored, time.Minute, maf.ErrRetired)
	c.wantKeID("activated, and the clock is set back", stored, 0, maf.ErrRetired)
	c.wantKmID("activated", stored, time.Minute, nil)
	got, err := c.byKmID(stored, time.Minute)
	wantError(c, "activated", err, nil)
	want := stored
	want.KeIDUntil = start().Add(time.Minute)
	c.wantSame("activated", got, want)
}

func (c mafCase) retireOlder() {
	oldest, older := c.mustPut(1, 1), c.mustPut(2, 1)
	stranger := c.mustPut(3, 3)
	wantError(c, "activate the older", c.activateAt(older, 0), nil)
	c.wantKmID("the oldest", oldest, 0, maf.ErrUnknown)
	newer, newest := c.mustPut(4, 1), c.mustPut(5, 1)
	wantError(c, "activate the older again", c.activateAt(older, 0), nil)
	c.wantKmID("the older beside unused newer ones", older, 0, nil)
	c.wantKeID("the newer, not yet activated", newer, 0, nil)
	wantError(c, "activate the newer", c.activateAt(newer, 0), nil)

	c.wantKmID("replaced", older, 0, maf.ErrUnknown)
	c.wantKeID("replaced", older, 0, maf.ErrRetired)
	c.wantKeID("replaced without having been used", oldest, 0, maf.ErrRetired)
	c.wantKmID("activated", newer, 0, nil)
	c.wantKmID("the newest, stored later", newest, 0, nil)
	c.wantKeID("the newest, stored later", newest, 0, nil)
	c.wantKmID("another Enrolee's", stranger, 0, nil)
	wantError(c, "activate what was replaced", c.activateAt(older, 0), maf.ErrUnknown)
}

func (c mafCase) activateUnknown() {
	wantError(c, "an unknown KmID", c.activateAt(c.credential(1, 1), 0), maf.ErrUnknown)
	older, newer := c.mustPut(2, 1), c.mustPut(3, 1)
	wantError(c, "expired", c.activateAt(newer, 24*hour), maf.ErrUnknown)
	c.wantKmID("after a refused activation", older, 0, nil)
	wantError(c, "in time", c.activateAt(newer, 0), nil)
	wantError(c, "activated and expired", c.activateAt(newer, 24*hour), maf.ErrUnknown)
}

func (c mafCase) activateLate() {
	stored := c.mustPut(1, 1)
	wantError(c, "activate after the KeID's end", c.activateAt(stored, 2*hour), nil)
	got, err := c.byKmID(stored, 2*hour)
	wantError(c, "activated", err, nil)
	c.wantSame("activated after the KeID's end", got, stored)
}

func (c mafCase) putRetired() {
	older, newer := c.mustPut(1, 1), c.mustPut(2, 1)
	wantError(c, "activate", c.activateAt(newer, 0), nil)
	wantError(c, "a replay of what is retired", c.store.PutCredential(c.Context(), older), nil)
	c.wantKeID("retired and replayed", older, 0, maf.ErrRetired)
	c.wantKmID("retired and replayed", older, 0, maf.ErrUnknown)
	strange := older
	strange.EnroleeID = enroleeID(c, 9)
	wantError(c, "a retired KeID for another Enrolee", c.store.PutCredential(c.Context(), strange), maf.ErrConflict)
	wantError(c, "a replay of what is activated", c.store.PutCredential(c.Context(), newer), nil)
	c.wantKeID("activated and replayed", newer, 0, maf.ErrRetired)
	c.wantKmID("activated and replayed", newer, 0, nil)
}

func (c mafCase) wantSwept(what string, after, grace time.Duration, limit, want int) {
	c.Helper()
	n, err := c.store.SweepCredentials(c.Context(), start().Add(after), grace, limit)
	wantError(c, what, err, nil)
	if n != want {
		c.Errorf("%s: %d rows swept, want %d", what, n, want)
	}
}

func (c mafCase) sweepExpired() {
	fresh, used := c.mustPut(1, 1), c.mustPut(2, 2)
	wantError(c, "activate", c.activateAt(used, 0), nil)
	c.wantSwept("before expiry", 24*hour-time.Second, hour, plenty, 0)
	c.wantSwept("at expiry", 24*hour, hour, plenty, 2)
	c.wantSwept("at expiry again", 24*hour, hour, plenty, 0)
	// The clock is set back, and the keys stay erased.
	for _, stored := range []maf.Credential{fresh, used} {
		c.wantKmID("swept", stored, 0, maf.ErrUnknown)
		c.wantKeID("swept", stored, 0, maf.ErrRetired)
	}
}

func (c mafCase) sweepForgets() {
	older, newer := c.mustPut(1, 1), c.mustPut(2, 1)
	wantError(c, "activate", c.activateAt(newer, 0), nil)
	c.wantSwept("at expiry the newer one has a key to erase", 24*hour, hour, plenty, 1)
	c.wantSwept("before the grace ends", 25*hour-time.Second, hour, plenty, 0)
	c.wantKeID("kept", older, 24*hour, maf.ErrRetired)
	c.wantSwept("when the grace ends", 25*hour, hour, plenty, 2)
	c.wantKeID("forgotten", older, 25*hour, maf.ErrUnknown)
	c.mustPut(3, 3)
	c.wantSwept("a key that nobody swept in time", 48*hour, hour, plenty, 1)
	c.wantSwept("nothing left", 48*hour, hour, plenty, 0)
}

func (c mafCase) sweepLimit() {
	const rows, limit = 25, 10
	for n := range rows {
		c.mustPut(n, n)
	}
	c.wantSwept("nothing allowed", 24*hour, hour, 0, 0)
	c.wantSwept("ten", 24*hour, hour, limit, limit)
	gone := 0
	for n := range rows {
		if _, err := c.byKmID(c.credential(n, n), 0); err != nil {
			gone++
		}
	}
	if gone != limit {
		c.Errorf("%d keys erased, want %d", gone, limit)
	}
	c.wantSwept("the rest", 24*hour, hour, plenty, rows-limit)
	c.wantSwept("forget twenty", 48*hour, hour, 2*limit, 2*limit)
	c.wantSwept("forget the rest", 48*hour, hour, limit, rows-2*limit)
}

func (c mafCase) wholeSeconds() {
	want := c.credential(1, 1)
	stored := want
	const fraction = 900 * time.Millisecond
	stored.Created, stored.Expires, stored.KeIDUntil = want.Created.Add(fraction), want.Expires.Add(fraction), want.KeIDUntil.Add(fraction)
	wantError(c, "put", c.store.PutCredential(c.Context(), stored), nil)
	got, err := c.byKmID(stored, 0)
	wantError(c, "get", err, nil)
	c.wantSame("times with a fraction", got, want)
	c.wantKeID("just before the KeID's end", stored, hour-time.Millisecond, nil)
	c.wantKeID("at the KeID's end", stored, hour, maf.ErrRetired)
}

func (c mafCase) restart() {
	older, newer, fresh := c.mustPut(1, 1), c.mustPut(2, 1), c.mustPut(3, 3)
	wantError(c, "activate", c.activateAt(newer, 0), nil)
	c.store = c.reopen()
	got, err := c.byKeID(fresh, 0)
	wantError(c, "fresh", err, nil)
	c.wantSame("fresh", got, fresh)
	c.wantKmID("retired", older, 0, maf.ErrUnknown)
	c.wantKeID("activated", newer, 0, maf.ErrRetired)
	c.wantKmID("activated", newer, 0, nil)
	newest := c.mustPut(4, 1)
	wantError(c, "activate the newest", c.activateAt(newest, 0), nil)
	c.wantKmID("stored before the restart", newer, 0, maf.ErrUnknown)
}

func (c mafCase) cancelled() {
	for n := range 50 {
		stored := c.credential(n, n)
		for what, call := range map[string]func(context.Context) error{
			"put":      func(ctx context.Context) error { return c.store.PutCredential(ctx, stored) },
			"activate": func(ctx context.Context) error { return c.store.ActivateKmID(ctx, stored.KmID, start()) },
		} {
			wantError(c, "the credential", c.store.PutCredential(c.Context(), stored), nil)
			ctx, cancel := context.WithCancel(c.Context())
			done := make(chan error)
			go func() { done <- call(ctx) }()
			cancel()
			if err := <-done; err != nil {
				wantError(c, "cancelled: "+what, err, context.Canceled)
			}
			wantError(c, "repeated: "+what, call(c.Context()), nil)
		}
		c.wantKmID("after repeated calls", stored, 0, nil)
		c.wantKeID("after repeated calls", stored, 0, maf.ErrRetired)
	}
}

func (c mafCase) racePut() {
	stored := c.credential(1, 1)
	race(100, func(int) {
		if err := c.store.PutCredential(c.Context(), stored); err != nil {
			c.Errorf("put: %v", err)
		}
	})
	c.wantKeID("put by many", stored, 0, nil)
	c.wantSwept("all rows", 48*hour, hour, plenty, 1)
}

func (c mafCase) raceActivate() {
	older, newer := c.mustPut(1, 1), c.mustPut(2, 1)
	race(100, func(int) {
		if err := c.activateAt(newer, 0); err != nil {
			c.Errorf("activate: %v", err)
		}
		if _, err := c.byKeID(newer, 0); err == nil {
			c.Error("the KeID is good after the activation")
		}
		if _, err := c.byKmID(older, 0); err == nil {
			c.Error("the older credential is good after the activation")
		}
	})
	c.wantKmID("activated by many", newer, 0, nil)
}

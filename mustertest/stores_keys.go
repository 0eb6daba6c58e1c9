package mustertest

import (
	"context"
	"slices"
	"testing"
	"time"

	"muster"
	"muster/tef"
)

// KeyStore holds a store to the contract of tef.KeyStore.
func KeyStore[S tef.KeyStore](t *testing.T, open func(testing.TB) (S, func() S)) {
	for name, test := range map[string]func(keyCase){
		"a key is created and read":                 keyCase.create,
		"a registration may have no key":            keyCase.keyless,
		"a replay changes nothing":                  keyCase.replay,
		"another use of an identifier is refused":   keyCase.conflict,
		"nobody else knows the key":                 keyCase.strangers,
		"functions do not share identifiers":        keyCase.functions,
		"fetches are bounded":                       keyCase.fetches,
		"an update replaces targets":                keyCase.update,
		"an update needs a live key of its source":  keyCase.updateUnknown,
		"a deleted key is gone, its identifier not": keyCase.remove,
		"an expired key is unknown":                 keyCase.expired,
		"the number of keys is bounded":             keyCase.maxLive,
		"sweeping removes what expired":             keyCase.sweep,
		"what is returned is the caller's":          keyCase.aliasing,
		"everything survives a restart":             keyCase.restart,
		"a caller that gives up repeats":            keyCase.cancelled,
		"an identifier wanted by many goes to one":  keyCase.raceConflict,
		"one of many deletions succeeds":            keyCase.raceDelete,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store, reopen := open(t)
			test(keyCase{t, store, func() tef.KeyStore { return reopen() }})
		})
	}
}

type keyCase struct {
	*testing.T
	store  tef.KeyStore
	reopen func() tef.KeyStore
}

// registration returns the nth key, of an Enrolee for two targets, good for a day.
func (c keyCase) registration(n, source int) tef.KeyRegistration {
	c.Helper()
	octets := octets("Kc", n)
	kc, err := muster.NewKc(octets[:])
	must(c, kc, err)
	return tef.KeyRegistration{
		ID: tef.NewKeyID(keID(c, n).Relative(), fqdn(c, "maf.example.org")), Source: enroleeID(c, source),
		AdminFQDN: fqdn(c, "admin.example.org"), Usage: tef.SUIDMAFForESDataEncryption,
		Targets: []string{enroleeID(c, 100).String(), fqdn(c, "target.example.org").String()}, Labels: []string{"b", "a"},
		Key: kc, Created: start(), Modified: start(), Expires: start().Add(24 * hour), Latest: start().Add(48 * hour),
	}
}

func (c keyCase) mustCreate(r tef.KeyRegistration) tef.KeyRegistration {
	c.Helper()
	stored, err := c.store.CreateKey(c.Context(), r, plenty)
	return must(c, stored, err)
}

func (c keyCase) get(r tef.KeyRegistration, identity string, after time.Duration) (tef.KeyRegistration, error) {
	return c.store.Key(c.Context(), r.ID, identity, start().Add(after))
}

func (c keyCase) wantStored(what string, want tef.KeyRegistration) {
	c.Helper()
	for _, identity := range append([]string{want.Source.String()}, want.Targets...) {
		got, err := c.get(want, identity, 0)
		wantError(c, what+", for "+identity, err, nil)
		c.wantSame(what, got, want)
	}
}

func (c keyCase) wantSame(what string, got, want tef.KeyRegistration) {
	c.Helper()
	if got.ID != want.ID || got.Source != want.Source || got.AdminFQDN != want.AdminFQDN || got.Usage != want.Usage ||
		!slices.Equal(got.Targets, want.Targets) || !slices.Equal(got.Labels, want.Labels) || (got.Labels == nil) != (want.Labels == nil) ||
		!got.Created.Equal(want.Created) || !got.Modified.Equal(want.Modified) || !got.Expires.Equal(want.Expires) || !got.Latest.Equal(want.Latest) {
		c.Errorf("%s:\n got %v\nwant %v", what, got, want)
	}
	if !got.Key.Equal(want.Key) && !(got.Key.IsZero() && want.Key.IsZero()) {
		c.Errorf("%s: another key", what)
	}
}

func (c keyCase) create() {
	want := c.registration(1, 1)
	r := want
	const fraction = 900 * time.Millisecond
	r.Created, r.Modified, r.Expires, r.Latest = r.Created.Add(fraction), r.Modified.Add(fraction), r.Expires.Add(fraction), r.Latest.Add(fraction)
	r.Targets = []string{want.Targets[1], want.Targets[0]}
	c.wantSame("created, sorted and in whole seconds", c.mustCreate(r), want)
	c.wantStored("created", want)
}

func (c keyCase) keyless() {
	r := c.registration(1, 1)
	r.Key, r.Labels, r.Targets, r.Latest = muster.Kc{}, []string{}, r.Targets[:1], time.Time{}
	want := r
	want.Labels = nil
	c.wantSame("created", c.mustCreate(r), want)
	c.wantStored("created", want)
	c.wantSame("replayed", c.mustCreate(r), want)
}

func (c keyCase) replay() {
	want := c.mustCreate(c.registration(1, 1))
	again := want
	again.Targets, again.Labels, again.Expires, again.Created = []string{"x.example.org"}, nil, start().Add(hour), start().Add(hour)
	c.wantSame("replayed", c.mustCreate(again), want)
	c.wantStored("after a replay", want)
}

func (c keyCase) conflict() {
	stored := c.mustCreate(c.registration(1, 1))
	for what, change := range map[string]func(*tef.KeyRegistration){
		"another source":        func(r *tef.KeyRegistration) { r.Source = enroleeID(c, 2) },
		"another administrator": func(r *tef.KeyRegistration) { r.AdminFQDN = fqdn(c, "other.example.org") },
		"another usage":         func(r *tef.KeyRegistration) { r.Usage = tef.SUIDMAFForSAEF },
		"another key":           func(r *tef.KeyRegistration) { r.Key = c.registration(2, 1).Key },
		"no key":                func(r *tef.KeyRegistration) { r.Key = muster.Kc{} },
		"long after expiry": func(r *tef.KeyRegistration) {
			r.Source, r.Created = enroleeID(c, 2), start().Add(99*hour)
		},
	} {
		changed := stored
		change(&changed)
		_, err := c.store.CreateKey(c.Context(), changed, plenty)
		wantError(c, what, err, tef.ErrConflict)
	}
	c.wantStored("after all conflicts", stored)
}

func (c keyCase) strangers() {
	stored := c.mustCreate(c.registration(1, 1))
	for _, identity := range []string{"", enroleeID(c, 2).String(), "target.example.net", "TARGET.example.org"} {
		_, err := c.get(stored, identity, 0)
		wantError(c, "for "+identity, err, tef.ErrUnknown)
	}
	_, err := c.get(c.registration(2, 1), stored.Source.String(), 0)
	wantError(c, "another identifier", err, tef.ErrUnknown)
	wantError(c, "deleted by another", c.store.DeleteKey(c.Context(), stored.ID, enroleeID(c, 100)), tef.ErrUnknown)
	changed := stored
	changed.Source = enroleeID(c, 100)
	_, err = c.store.UpdateKey(c.Context(), changed)
	wantError(c, "updated by another", err, tef.ErrUnknown)
	c.wantStored("after all", stored)
}

func (c keyCase) functions() {
	one, two := c.registration(1, 1), c.registration(1, 2)
	two.ID = tef.NewKeyID(two.ID.Relative(), fqdn(c, "mef.example.org"))
	c.mustCreate(one)
	c.mustCreate(two)
	wantError(c, "delete", c.store.DeleteKey(c.Context(), one.ID, one.Source), nil)
	c.wantStored("after the other function deleted its own", two)
}

func (c keyCase) update() {
	stored := c.mustCreate(c.registration(1, 1))
	changed := stored
	changed.Targets, changed.Labels = []string{enroleeID(c, 100).String(), enroleeID(c, 101).String()}, []string{"new"}
	changed.Modified, changed.Expires = start().Add(hour), start().Add(30*hour)
	want := changed
	changed.Created, changed.Usage, changed.Key, changed.Latest = start().Add(hour), 1, muster.Kc{}, time.Time{}
	got, err := c.store.UpdateKey(c.Context(), changed)
	wantError(c, "update", err, nil)
	c.wantSame("updated", got, want)
	c.wantStored("updated", want)
	_, err = c.get(stored, "target.example.org", 0)
	wantError(c, "a target that was taken away", err, tef.ErrUnknown)
}

func (c keyCase) updateUnknown() {
	stored := c.mustCreate(c.registration(1, 1))
	late := stored
	late.Modified, late.Expires = start().Add(24*hour), start().Add(48*hour)
	_, err := c.store.UpdateKey(c.Context(), late)
	wantError(c, "after expiry", err, tef.ErrUnknown)
	_, err = c.store.UpdateKey(c.Context(), c.registration(2, 1))
	wantError(c, "an unknown identifier", err, tef.ErrUnknown)
	wantError(c, "delete", c.store.DeleteKey(c.Context(), stored.ID, stored.Source), nil)
	_, err = c.store.UpdateKey(c.Context(), stored)
	wantError(c, "a deleted key", err, tef.ErrUnknown)
}

func (c keyCase) remove() {
	stored := c.mustCreate(c.registration(1, 1))
	wantError(c, "delete", c.store.DeleteKey(c.Context(), stored.ID, stored.Source), nil)
	wantError(c, "delete again", c.store.DeleteKey(c.Context(), stored.ID, stored.Source), tef.ErrUnknown)
	for _, identity := range append([]string{stored.Source.String()}, stored.Targets...) {
		_, err := c.get(stored, identity, 0)
		wantError(c, "deleted, for "+identity, err, tef.ErrUnknown)
	}
	_, err := c.store.CreateKey(c.Context(), stored, plenty)
	wantError(c, "the same again", err, tef.ErrConflict)
	n, err := c.store.SweepKeys(c.Context(), start().Add(24*hour), plenty)
	if err != nil || n != 1 {
		c.Errorf("%d swept: %v", n, err)
	}
	c.wantSame("after the sweep", c.mustCreate(stored), stored)
}

func (c keyCase) expired() {
	stored := c.mustCreate(c.registration(1, 1))
	for _, identity := range append([]string{stored.Source.String()}, stored.Targets...) {
		_, err := c.get(stored, identity, 24*hour-time.Second)
		wantError(c, "before expiry", err, nil)
		_, err = c.get(stored, identity, 24*hour)
		wantError(c, "at expiry", err, tef.ErrUnknown)
	}
}

func (c keyCase) maxLive() {
	const most = 3
	create := func(n, source int, after time.Duration) error {
		r := c.registration(n, source)
		r.Created, r.Expires = start().Add(after), start().Add(after+time.Duration(n)*hour)
		_, err := c.store.CreateKey(c.Context(), r, most)
		return err
	}
	for n := 1; n <= most; n++ {
		wantError(c, "below the maximum", create(n, 1, 0), nil)
	}
	wantError(c, "beyond the maximum", create(4, 1, 0), tef.ErrTooMany)
	wantError(c, "a replay", create(3, 1, 0), nil)
	wantError(c, "of another source", create(5, 2, 0), nil)
	wantError(c, "before the first has expired", create(4, 1, hour-time.Second), tef.ErrTooMany)
	wantError(c, "when the first has expired", create(4, 1, hour), nil)
	wantError(c, "beyond again", create(6, 1, hour), tef.ErrTooMany)
	wantError(c, "delete", c.store.DeleteKey(c.Context(), c.registration(4, 1).ID, enroleeID(c, 1)), nil)
	wantError(c, "after a deletion", create(6, 1, hour), nil)
}

func (c keyCase) sweep() {
	for n := range 25 {
		r := c.registration(n, n)
		r.Expires = start().Add(time.Duration(n) * hour)
		c.mustCreate(r)
	}
	for _, step := range []struct {
		after       time.Duration
		limit, want int
	}{
		{10*hour - time.Second, plenty, 10}, {10 * hour, plenty, 1}, {10 * hour, plenty, 0},
		{24 * hour, 0, 0}, {24 * hour, 10, 10}, {24 * hour, 10, 4}, {24 * hour, 10, 0},
	} {
		n, err := c.store.SweepKeys(c.Context(), start().Add(step.after), step.limit)
		wantError(c, "sweep", err, nil)
		if n != step.want {
			c.Errorf("at %s, limit %d: %d swept, want %d", step.after, step.limit, n, step.want)
		}
	}
}

func (c keyCase) aliasing() {
	r := c.registration(1, 1)
	stored := c.mustCreate(r)
	stored.Labels[0], stored.Targets[0] = "changed", "changed"
	got, err := c.get(r, r.Source.String(), 0)
	wantError(c, "get", err, nil)
	got.Labels[0], got.Targets[0] = "changed", "changed"
	c.wantStored("after the caller changed its own", c.registration(1, 1))
}

func (c keyCase) restart() {
	kept, gone := c.mustCreate(c.registration(1, 1)), c.mustCreate(c.registration(2, 2))
	wantError(c, "delete", c.store.DeleteKey(c.Context(), gone.ID, gone.Source), nil)
	c.store = c.reopen()
	c.wantStored("kept", kept)
	_, err := c.get(gone, gone.Source.String(), 0)
	wantError(c, "deleted", err, tef.ErrUnknown)
	_, err = c.store.CreateKey(c.Context(), gone, plenty)
	wantError(c, "its identifier", err, tef.ErrConflict)
}

func (c keyCase) cancelled() {
	for n := range 50 {
		r := c.registration(n, n)
		ctx, cancel := context.WithCancel(c.Context())
		done := make(chan error)
		go func() {
			_, err := c.store.CreateKey(ctx, r, plenty)
			done <- err
		}()
		cancel()
		if err := <-done; err != nil {
			wantError(c, "cancelled", err, context.Canceled)
		}
		c.wantSame("repeated", c.mustCreate(r), r)
	}
}

func (c keyCase) raceConflict() {
	owners := make([]bool, 100)
	race(len(owners), func(i int) {
		_, err := c.store.CreateKey(c.Context(), c.registration(1, i), plenty)
		if owners[i] = err == nil; !owners[i] {
			wantError(c, "not the first", err, tef.ErrConflict)
		}
	})
	n := 0
	for i, owner := range owners {
		if owner {
			n++
			c.wantStored("of the first", c.registration(1, i))
		}
	}
	if n != 1 {
		c.Errorf("the identifier went to %d sources", n)
	}
}

func (c keyCase) raceDelete() {
	stored := c.mustCreate(c.registration(1, 1))
	deleted := make([]bool, 100)
	race(len(deleted), func(i int) {
		err := c.store.DeleteKey(c.Context(), stored.ID, stored.Source)
		if deleted[i] = err == nil; !deleted[i] {
			wantError(c, "not the first", err, tef.ErrUnknown)
		}
	})
	if n := len(slices.DeleteFunc(deleted, func(ok bool) bool { return !ok })); n != 1 {
		c.Errorf("%d deletions succeeded", n)
	}
}

// fetches: a key whose hand-over is counted goes to targets only, so many times,
// within a window from the first.
func (c keyCase) fetches() {
	r := c.mustCreate(c.registration(1, 1))
	fetch := func(what string, n int, target string, after time.Duration, most int, want error) {
		c.Helper()
		got, err := c.store.FetchKey(c.Context(), tef.KeyFetch{
			ID: c.registration(n, 1).ID, Target: target, Now: start().Add(after), Window: window, Max: most,
		})
		wantError(c, what, err, want)
		if err == nil {
			c.wantSame(what, got, r)
		}
	}
	target := r.Targets[0]
	fetch("an unknown key", 2, target, 0, 3, tef.ErrUnknown)
	fetch("its source", 1, r.Source.String(), 0, 3, tef.ErrUnknown)
	fetch("the first, whenever it comes", 1, target, hour, 3, nil)
	fetch("after the window", 1, target, hour+window+time.Second, 3, tef.ErrUnknown)
	fetch("at the end of the window", 1, target, hour+window, 3, nil)
	c.store = c.reopen()
	fetch("the third", 1, target, hour, 3, nil)
	fetch("the fourth of three", 1, target, hour, 3, tef.ErrUnknown)
	r = c.mustCreate(c.registration(3, 1))
	fetch("at expiry", 3, target, 24*hour, 3, tef.ErrUnknown)
	wantError(c, "delete", c.store.DeleteKey(c.Context(), r.ID, r.Source), nil)
	fetch("deleted", 3, target, 0, 3, tef.ErrUnknown)
}

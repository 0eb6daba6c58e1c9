package mustertest

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"muster"
	"muster/mef"
)

// KpmStore holds a store to the contract of mef.KpmStore.
func KpmStore[S mef.KpmStore](t *testing.T, open func(testing.TB) (S, func() S)) {
	for name, test := range map[string]func(kpmCase){
		"an imported key is found":               kpmCase.imported,
		"a replay changes nothing":               kpmCase.replay,
		"a conflict changes nothing":             kpmCase.conflict,
		"a key is replaced when asked":           kpmCase.replace,
		"a newer key ends the older ones":        kpmCase.overlap,
		"the later of a list is the newer":       kpmCase.order,
		"activation erases the older ones":       kpmCase.activate,
		"activation needs a usable key":          kpmCase.activateUnknown,
		"an erased key never returns":            kpmCase.tombstone,
		"a dry run changes nothing":              kpmCase.dryRun,
		"sweeping erases what has ended":         kpmCase.sweep,
		"times are whole seconds":                kpmCase.wholeSeconds,
		"everything survives a restart":          kpmCase.restart,
		"a caller that gives up repeats":         kpmCase.cancelled,
		"looking up and failing changes nothing": kpmCase.lookups,
		"imports at once make one key":           kpmCase.race,
		"a long list is one import":              kpmCase.many,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store, reopen := open(t)
			test(kpmCase{t, store, func() mef.KpmStore { return reopen() }})
		})
	}
}

type kpmCase struct {
	*testing.T
	store  mef.KpmStore
	reopen func() mef.KpmStore
}

const overlap = 24 * hour

// kpm returns the nth key, of an Enrolee.
func (c kpmCase) kpm(n, enrolee int) mef.ProvisionedKpm {
	c.Helper()
	id, err := muster.ParseKpmID(fmt.Sprintf("key-%d@factory.example.org", n))
	must(c, id, err)
	secret := octets("Kpm", n)
	key, err := muster.NewKpm(secret[:])
	return mef.ProvisionedKpm{KpmID: id, EnroleeID: enroleeID(c, enrolee), Kpm: must(c, key, err), Created: start()}
}

func (c kpmCase) put(list mef.Import) (mef.Imported, error) {
	list.Overlap = overlap
	return c.store.ImportKpms(c.Context(), list)
}

func (c kpmCase) mustPut(kpms ...mef.ProvisionedKpm) {
	c.Helper()
	done, err := c.put(mef.Import{Kpms: kpms})
	if err != nil || done.Added != len(kpms) || done.Conflicts != nil {
		c.Fatalf("import: %+v, %v", done, err)
	}
}

// want looks a key up and compares all of it.
func (c kpmCase) want(what string, kpm mef.ProvisionedKpm, after time.Duration, want error) {
	c.Helper()
	got, err := c.store.Kpm(c.Context(), kpm.KpmID, start().Add(after))
	wantError(c, what, err, want)
	if err == nil && (got.KpmID != kpm.KpmID || got.EnroleeID != kpm.EnroleeID || !got.Kpm.Equal(kpm.Kpm) || !got.Created.Equal(kpm.Created)) {
		c.Errorf("%s: another key, %v", what, got)
	}
}

func (c kpmCase) activateAt(kpm mef.ProvisionedKpm, after time.Duration) error {
	return c.store.ActivateKpm(c.Context(), kpm.KpmID, start().Add(after))
}

func (c kpmCase) imported() {
	c.mustPut(c.kpm(1, 1), c.kpm(2, 2))
	c.mustPut(c.kpm(3, 3))
	for n := 1; n <= 3; n++ {
		c.want("at once", c.kpm(n, n), 0, nil)
		c.want("after years", c.kpm(n, n), 87600*hour, nil)
	}
	c.want("another", c.kpm(4, 4), 0, mef.ErrUnknown)
	other := c.kpm(1, 1)
	id, err := muster.ParseKpmID("KEY-1@factory.example.org")
	other.KpmID = must(c, id, err)
	c.want("another case", other, 0, mef.ErrUnknown)
}

func (c kpmCase) replay() {
	c.mustPut(c.kpm(1, 1))
	wantError(c, "activate", c.activateAt(c.kpm(1, 1), 0), nil)
	again := c.kpm(1, 1)
	again.Created = start().Add(hour)
	for _, replace := range []bool{false, true} {
		done, err := c.put(mef.Import{Kpms: []mef.ProvisionedKpm{again, c.kpm(1, 1)}, Replace: replace})
		if err != nil || done.Unchanged != 2 || done.Added != 0 || done.Replaced != 0 {
			c.Errorf("again: %+v, %v", done, err)
		}
	}
	c.want("after replays", c.kpm(1, 1), 0, nil)
}

func (c kpmCase) conflict() {
	c.mustPut(c.kpm(1, 1), c.kpm(2, 2))
	otherKey, otherEnrolee := c.kpm(1, 1), c.kpm(2, 3)
	otherKey.Kpm = c.kpm(9, 9).Kpm
	twice := c.kpm(4, 4)
	twice.Kpm = c.kpm(9, 9).Kpm
	done, err := c.put(mef.Import{Kpms: []mef.ProvisionedKpm{c.kpm(3, 3), otherKey, c.kpm(1, 1), otherEnrolee, c.kpm(4, 4), twice}})
	wantError(c, "conflicts", err, mef.ErrConflict)
	if !slices.Equal(done.Conflicts, []int{1, 3, 5}) {
		c.Errorf("conflicts %v, want 1, 3 and 5", done.Conflicts)
	}
	c.want("the first", c.kpm(1, 1), 0, nil)
	c.want("the second", c.kpm(2, 2), 0, nil)
	c.want("beside conflicts", c.kpm(3, 3), 0, mef.ErrUnknown)
	done, err = c.put(mef.Import{Kpms: []mef.ProvisionedKpm{otherEnrolee}, Replace: true})
	wantError(c, "another Enrolee, replacing", err, mef.ErrConflict)
	if !slices.Equal(done.Conflicts, []int{0}) {
		c.Errorf("conflicts %v, want 0", done.Conflicts)
	}
}

func (c kpmCase) replace() {
	older, kpm, other := c.kpm(1, 1), c.kpm(2, 1), c.kpm(3, 3)
	c.mustPut(older, kpm, other)
	changed := kpm
	changed.Kpm = c.kpm(9, 9).Kpm
	done, err := c.put(mef.Import{Kpms: []mef.ProvisionedKpm{changed, other}, Replace: true})
	if err != nil || done.Replaced != 1 || done.Unchanged != 1 {
		c.Errorf("replace: %+v, %v", done, err)
	}
	c.want("replaced", changed, 0, nil)
	c.want("the older one", older, 0, nil)
	wantError(c, "activate what was replaced", c.activateAt(changed, 0), nil)
	c.want("the older one, after that", older, 0, mef.ErrUnknown)
}

func (c kpmCase) overlap() {
	older, newer, stranger := c.kpm(1, 1), c.kpm(2, 1), c.kpm(3, 2)
	c.mustPut(older, stranger)
	newer.Created = start().Add(hour)
	c.mustPut(newer)
	c.want("the older one, within the overlap", older, hour+overlap-time.Second, nil)
	c.want("the older one, after it", older, hour+overlap, mef.ErrUnknown)
	c.want("the newer one", newer, hour+overlap, nil)
	c.want("another Enrolee's", stranger, hour+overlap, nil)
	newest := c.kpm(4, 1)
	newest.Created = start().Add(10 * hour)
	c.mustPut(newest)
	c.want("the oldest is not prolonged", older, hour+overlap, mef.ErrUnknown)
	c.want("the one before", newer, 10*hour+overlap-time.Second, nil)
	c.want("the one before, after the overlap", newer, 10*hour+overlap, mef.ErrUnknown)
}

func (c kpmCase) order() {
	c.mustPut(c.kpm(1, 1), c.kpm(2, 1), c.kpm(3, 1))
	wantError(c, "activate the middle one", c.activateAt(c.kpm(2, 1), 0), nil)
	c.want("the first", c.kpm(1, 1), 0, mef.ErrUnknown)
	c.want("the middle", c.kpm(2, 1), 0, nil)
	c.want("the last", c.kpm(3, 1), 0, nil)
}

func (c kpmCase) activate() {
	c.mustPut(c.kpm(1, 1), c.kpm(2, 2))
	wantError(c, "activate the only one", c.activateAt(c.kpm(1, 1), 0), nil)
	c.mustPut(c.kpm(3, 1))
	wantError(c, "activate the older one again", c.activateAt(c.kpm(1, 1), 0), nil)
	c.want("the newer one, unused", c.kpm(3, 1), 0, nil)
	for range 2 {
		wantError(c, "activate the newer one", c.activateAt(c.kpm(3, 1), 0), nil)
	}
	c.want("the newer one", c.kpm(3, 1), 0, nil)
	c.want("the older one", c.kpm(1, 1), 0, mef.ErrUnknown)
	c.want("another Enrolee's", c.kpm(2, 2), 0, nil)
	wantError(c, "activate what is erased", c.activateAt(c.kpm(1, 1), 0), mef.ErrUnknown)
}

func (c kpmCase) activateUnknown() {
	wantError(c, "activate the unknown", c.activateAt(c.kpm(1, 1), 0), mef.ErrUnknown)
	c.mustPut(c.kpm(1, 1), c.kpm(2, 1))
	wantError(c, "activate after the overlap", c.activateAt(c.kpm(1, 1), overlap), mef.ErrUnknown)
	wantError(c, "activate in time", c.activateAt(c.kpm(1, 1), 0), nil)
	wantError(c, "activate after the overlap what was activated before", c.activateAt(c.kpm(1, 1), overlap), mef.ErrUnknown)
}

func (c kpmCase) tombstone() {
	c.mustPut(c.kpm(1, 1), c.kpm(2, 1))
	wantError(c, "activate", c.activateAt(c.kpm(2, 1), 0), nil)
	for _, replace := range []bool{false, true} {
		done, err := c.put(mef.Import{Kpms: []mef.ProvisionedKpm{c.kpm(1, 1)}, Replace: replace})
		wantError(c, "import what is erased", err, mef.ErrConflict)
		if !slices.Equal(done.Conflicts, []int{0}) {
			c.Errorf("conflicts %v, want 0", done.Conflicts)
		}
	}
	c.want("erased", c.kpm(1, 1), 0, mef.ErrUnknown)
}

func (c kpmCase) dryRun() {
	c.mustPut(c.kpm(1, 1))
	changed := c.kpm(1, 1)
	changed.Kpm = c.kpm(9, 9).Kpm
	done, err := c.put(mef.Import{Kpms: []mef.ProvisionedKpm{changed, c.kpm(2, 1)}, Replace: true, DryRun: true})
	if err != nil || done.Added != 1 || done.Replaced != 1 {
		c.Errorf("dry run: %+v, %v", done, err)
	}
	c.want("not replaced", c.kpm(1, 1), overlap, nil)
	c.want("not added", c.kpm(2, 1), 0, mef.ErrUnknown)
}

func (c kpmCase) wantSwept(what string, after time.Duration, limit, want int) {
	c.Helper()
	n, err := c.store.SweepKpms(c.Context(), start().Add(after), limit)
	wantError(c, what, err, nil)
	if n != want {
		c.Errorf("%s: %d rows swept, want %d", what, n, want)
	}
}

func (c kpmCase) sweep() {
	for n := range 5 {
		c.mustPut(c.kpm(10+n, n), c.kpm(20+n, n))
	}
	c.wantSwept("before the end", overlap-time.Second, plenty, 0)
	c.wantSwept("at the end", overlap, 3, 3)
	c.wantSwept("the rest", overlap, plenty, 2)
	c.wantSwept("again", overlap, plenty, 0)
	c.want("swept, and the clock is set back", c.kpm(10, 0), 0, mef.ErrUnknown)
	c.want("the newer one", c.kpm(20, 0), 2*overlap, nil)
}

func (c kpmCase) wholeSeconds() {
	kpm := c.kpm(1, 1)
	kpm.Created = kpm.Created.Add(900 * time.Millisecond)
	c.mustPut(kpm)
	c.want("a fraction", c.kpm(1, 1), 0, nil)
}

func (c kpmCase) restart() {
	c.mustPut(c.kpm(1, 1), c.kpm(2, 1), c.kpm(3, 3))
	wantError(c, "activate", c.activateAt(c.kpm(2, 1), 0), nil)
	c.store = c.reopen()
	c.want("erased", c.kpm(1, 1), 0, mef.ErrUnknown)
	c.want("activated", c.kpm(2, 1), 0, nil)
	c.want("unused", c.kpm(3, 3), 0, nil)
	done, err := c.put(mef.Import{Kpms: []mef.ProvisionedKpm{c.kpm(2, 1), c.kpm(3, 3), c.kpm(4, 1)}})
	if err != nil || done.Unchanged != 2 || done.Added != 1 {
		c.Errorf("after a restart: %+v, %v", done, err)
	}
}

func (c kpmCase) cancelled() {
	ended, cancel := context.WithCancel(c.Context())
	cancel()
	list := mef.Import{Kpms: []mef.ProvisionedKpm{c.kpm(1, 1)}, Overlap: overlap}
	if _, err := c.store.ImportKpms(ended, list); err == nil {
		c.Error("import with an ended context succeeded")
	}
	if done, err := c.put(list); err != nil || done.Added+done.Unchanged != 1 {
		c.Errorf("import again: %+v, %v", done, err)
	}
	if c.store.ActivateKpm(ended, c.kpm(1, 1).KpmID, start()) == nil {
		c.Error("activate with an ended context succeeded")
	}
	wantError(c, "activate again", c.activateAt(c.kpm(1, 1), 0), nil)
}

// lookups is what a stranger can do with a KpmID: to have it looked up.
func (c kpmCase) lookups() {
	c.mustPut(c.kpm(1, 1), c.kpm(2, 1))
	for range 100 {
		c.want("a stranger's attempt", c.kpm(1, 1), 0, nil)
	}
	wantError(c, "activate", c.activateAt(c.kpm(1, 1), 0), nil)
}

func (c kpmCase) race() {
	race(16, func(i int) {
		list := mef.Import{Kpms: []mef.ProvisionedKpm{c.kpm(1, 1), c.kpm(2, 2)}, Overlap: overlap}
		done, err := c.store.ImportKpms(c.Context(), list)
		if err != nil || done.Added+done.Unchanged != 2 {
			c.Errorf("at once: %+v, %v", done, err)
		}
		wantError(c, "activate at once", c.activateAt(c.kpm(2, 2), 0), nil)
	})
	c.want("the first", c.kpm(1, 1), overlap, nil)
	c.want("the second", c.kpm(2, 2), overlap, nil)
}

func (c kpmCase) many() {
	const n = 2000
	var kpms []mef.ProvisionedKpm
	for i := range n {
		kpms = append(kpms, c.kpm(i, i))
	}
	c.mustPut(kpms...)
	for _, i := range []int{0, 1, n / 2, n - 1} {
		c.want("one of many", c.kpm(i, i), 0, nil)
	}
}

package mustertest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"muster"
	"muster/maf"
	"muster/mef"
	"muster/tef"
)

// A Sealing is a store whose keys are sealed under data keys, in tables whose rows
// have the columns data_key and sealed.
type Sealing interface {
	mef.Store
	mef.KpmStore
	maf.Store
	tef.KeyStore

	// RotateDataKey begins a new data key. It changes no record.
	RotateDataKey(ctx context.Context) error
	// Reseal seals at most limit records anew that are not under the newest data
	// key, and returns how many. When no more are left it forgets the data keys
	// under which nothing is sealed. A record that does not open is left alone, as
	// is its data key; the others are resealed and an error returned.
	Reseal(ctx context.Context, limit int) (int, error)
}

// SealedStore holds a store to the contract of Sealing. The last of what open
// returns runs an SQL statement on the database, which the store has open, and
// returns the first value of its answer.
func SealedStore[S Sealing](t *testing.T, open func(testing.TB) (store S, reopen func() S, sql func(statement string) string)) {
	for name, test := range map[string]func(sealedCase){
		"everything is resealed":              sealedCase.everything,
		"nothing to reseal is left alone":     sealedCase.nothing,
		"a damaged record keeps its data key": sealedCase.damaged,
		"an erased key is not revived":        sealedCase.erased,
		"writers go on meanwhile":             sealedCase.race,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store, reopen, sql := open(t)
			test(sealedCase{t, store, func() Sealing { return reopen() }, sql})
		})
	}
}

type sealedCase struct {
	*testing.T
	store  Sealing
	reopen func() Sealing
	sql    func(statement string) string
}

// A sealedSet is a record of each kind.
type sealedSet struct {
	enrolment  mef.Enrolment
	credential maf.Credential
	key        tef.KeyRegistration
	kpm        mef.ProvisionedKpm
}

// records is how many sealed records a set has: the enrolment is for two MAFs.
const records = 5

func (c sealedCase) put(n int) sealedSet {
	c.Helper()
	set := sealedSet{
		mefCase{T: c.T}.enrolment(n, n), mafCase{T: c.T}.credential(n, n), keyCase{T: c.T}.registration(n, n), kpmCase{T: c.T}.kpm(n, n),
	}
	set.enrolment.Targets = append(set.enrolment.Targets, mefCase{T: c.T}.other())
	_, err1 := c.store.CreateEnrolment(c.Context(), set.enrolment, plenty)
	err2 := c.store.PutCredential(c.Context(), set.credential)
	_, err3 := c.store.CreateKey(c.Context(), set.key, plenty)
	_, err4 := c.store.ImportKpms(c.Context(), mef.Import{Kpms: []mef.ProvisionedKpm{set.kpm}})
	wantError(c, fmt.Sprintf("set %d", n), errors.Join(err1, err2, err3, err4), nil)
	return set
}

// want fails unless all of a set opens as it was stored.
func (c sealedCase) want(what string, set sealedSet) {
	c.Helper()
	for _, target := range set.enrolment.Targets {
		fetched, err := c.store.FetchEnrolment(c.Context(), mef.Fetch{KeID: set.enrolment.KeID, MAF: target, Now: start(), Window: window, Max: plenty})
		if err != nil || !fetched.Ke.Equal(set.enrolment.Ke) {
			c.Errorf("%s: an enrolment: %v", what, err)
		}
	}
	credential, err := c.store.CredentialByKmID(c.Context(), set.credential.KmID, start())
	if err != nil || !credential.Km.Equal(set.credential.Km) {
		c.Errorf("%s: a credential: %v", what, err)
	}
	key, err := c.store.Key(c.Context(), set.key.ID, set.key.Targets[0], start())
	if err != nil || !key.Key.Equal(set.key.Key) {
		c.Errorf("%s: a registered key: %v", what, err)
	}
	kpm, err := c.store.Kpm(c.Context(), set.kpm.KpmID, start())
	if err != nil || !kpm.Kpm.Equal(set.kpm.Kpm) {
		c.Errorf("%s: a pre-provisioned key: %v", what, err)
	}
}

func (c sealedCase) rotate() {
	c.Helper()
	wantError(c, "rotate", c.store.RotateDataKey(c.Context()), nil)
}

func (c sealedCase) wantResealed(what string, limit, want int) {
	c.Helper()
	if n, err := c.store.Reseal(c.Context(), limit); n != want || err != nil {
		c.Errorf("%s: %d records resealed, want %d, %v", what, n, want, err)
	}
}

func (c sealedCase) wantDataKeys(what, want string) {
	c.Helper()
	if n := c.sql("SELECT count(*) FROM data_key"); n != want {
		c.Errorf("%s: %s data keys, want %s", what, n, want)
	}
}

// everything restarts the store between the slices, as a crash does, and rotates
// once more when some records are done.
func (c sealedCase) everything() {
	const sets = 4
	var all []sealedSet
	for n := range sets {
		all = append(all, c.put(n))
		c.rotate()
	}
	c.wantDataKeys("before", "5")
	want := func(what string) {
		for _, set := range all {
			c.want(what, set)
		}
	}
	c.wantResealed("the first slice", 7, 7)
	want("after the first slice")
	c.store = c.reopen()
	want("after a restart")
	c.rotate()
	for range 2 {
		c.wantResealed("a later slice", 9, 9)
		c.store = c.reopen()
		want("after a later slice")
	}
	c.wantResealed("the last slice", 9, sets*records-18)
	c.wantDataKeys("afterwards", "1")
	want("afterwards")
	c.wantResealed("once more", 9, 0)
	c.store = c.reopen()
	all = append(all, c.put(sets))
	want("after a restart without the old data keys")
	c.wantDataKeys("in the end", "1")
}

func (c sealedCase) nothing() {
	c.wantResealed("an empty store", plenty, 0)
	set := c.put(1)
	before := c.sql("SELECT sealed FROM credential")
	c.wantResealed("a store with one data key", plenty, 0)
	if c.sql("SELECT sealed FROM credential") != before {
		c.Error("a record under the newest data key was resealed")
	}
	c.rotate()
	c.wantResealed("no more than allowed", 0, 0)
	c.wantDataKeys("with records under both", "2")
	c.want("afterwards", set)
}

// damaged swaps two records, which open nowhere, and swaps them back.
func (c sealedCase) damaged() {
	const swap = "UPDATE credential SET sealed = o.sealed FROM (SELECT ke_id, sealed FROM credential) AS o WHERE o.ke_id <> credential.ke_id"
	one, two := c.put(1), c.put(2)
	c.sql(swap)
	c.rotate()
	if n, err := c.store.Reseal(c.Context(), plenty); n != 2*records-2 || err == nil {
		c.Errorf("%d records resealed, want all but two, %v", n, err)
	}
	if _, err := c.store.CredentialByKmID(c.Context(), one.credential.KmID, start()); err == nil {
		c.Error("a swapped record opens")
	}
	c.wantDataKeys("with damaged records", "2")
	c.sql(swap)
	c.wantResealed("when they are well again", plenty, 2)
	c.wantDataKeys("afterwards", "1")
	c.want("afterwards", one)
	c.want("afterwards", two)
}

func (c sealedCase) erased() {
	set := c.put(1)
	for _, target := range set.enrolment.Targets {
		wantError(c, "erase", c.store.EraseEnrolment(c.Context(), set.enrolment.KeID, target), nil)
	}
	wantError(c, "delete", c.store.DeleteKey(c.Context(), set.key.ID, set.key.Source), nil)
	c.rotate()
	c.wantResealed("what is left", plenty, 2)
	c.wantDataKeys("afterwards", "1")
	_, err := c.store.FetchEnrolment(c.Context(), mef.Fetch{KeID: set.enrolment.KeID, MAF: set.enrolment.Targets[0], Now: start(), Window: window, Max: plenty})
	wantError(c, "fetch what was erased", err, mef.ErrUnknown)
	_, err = c.store.Key(c.Context(), set.key.ID, set.key.Targets[0], start())
	wantError(c, "get what was deleted", err, tef.ErrUnknown)
}

// race rotates and reseals while others store, replace and erase. Whatever was
// acknowledged last is there in the end.
func (c sealedCase) race() {
	const sets, resealers = 24, 2
	all := make([]sealedSet, sets)
	var stored, stopped sync.WaitGroup
	var done atomic.Bool
	for range resealers {
		stopped.Go(func() {
			for !done.Load() {
				err := c.store.RotateDataKey(c.Context())
				for n := 1; n > 0 && err == nil; {
					n, err = c.store.Reseal(c.Context(), 3)
				}
				if err != nil {
					c.Errorf("while others write: %v", err)
				}
			}
		})
	}
	for n := range sets {
		stored.Go(func() {
			all[n] = c.put(n)
			again := kpmCase{T: c.T}.kpm(sets+n, n)
			all[n].kpm.Kpm = again.Kpm
			_, err := c.store.ImportKpms(c.Context(), mef.Import{Kpms: []mef.ProvisionedKpm{all[n].kpm}, Replace: true})
			wantError(c, "replace", err, nil)
			wantError(c, "activate", c.store.ActivateKmID(c.Context(), all[n].credential.KmID, start()), nil)
			c.want("at once", all[n])
			if n%2 == 0 {
				wantError(c, "erase", c.store.EraseEnrolment(c.Context(), all[n].enrolment.KeID, all[n].enrolment.Targets[0]), nil)
			}
		})
	}
	stored.Wait()
	done.Store(true)
	stopped.Wait()
	c.rotate()
	c.wantResealed("in the end", plenty, sets*records-sets/2)
	c.wantDataKeys("in the end", "1")
	for n, set := range all {
		if n%2 == 0 {
			erased := set.enrolment.Targets[0]
			_, err := c.store.FetchEnrolment(c.Context(), mef.Fetch{KeID: set.enrolment.KeID, MAF: erased, Now: start(), Window: window, Max: plenty})
			wantError(c, "fetch what was erased", err, mef.ErrUnknown)
			set.enrolment.Targets = []muster.FQDN{set.enrolment.Targets[1]}
		}
		c.want("in the end", set)
	}
}

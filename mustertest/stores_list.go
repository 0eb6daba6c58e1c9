package mustertest

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"muster"
	"muster/maf"
	"muster/mef"
	"muster/tef"
)

// A Lister is a store of a MEF and of a MAF that lists what it keeps.
type Lister interface {
	mef.Store
	mef.Register
	mef.KpmStore
	mef.KpmRegister
	maf.Store
	maf.Register
	tef.KeyStore
	tef.KeyRegister
}

// Registers holds a store to the contracts of mef.Register, mef.KpmRegister,
// maf.Register and tef.KeyRegister.
func Registers[S Lister](t *testing.T, open func(testing.TB) (S, func() S)) {
	for list, of := range map[string]func(listCase) register{
		"enrolments": enrolmentRegister, "credentials": credentialRegister,
		"registered keys": keyRegister, "pre-provisioned keys": kpmRegister,
	} {
		for name, test := range map[string]func(listCase, register){
			"the order is that of octets":           listCase.order,
			"pages make the whole":                  listCase.pages,
			"a prefix has no patterns":              listCase.prefixes,
			"what no identifier has finds nothing":  listCase.hostile,
			"a page follows one that was forgotten": listCase.swept,
			"writers beside move nothing":           listCase.writers,
		} {
			t.Run(list+"/"+name, func(t *testing.T) {
				t.Parallel()
				store, _ := open(t)
				c := listCase{t, store}
				test(c, of(c))
			})
		}
	}
	for name, test := range map[string]func(listCase){
		"enrolments have a state for each MAF": listCase.enrolmentStates,
		"credentials have a state":             listCase.credentialStates,
		"keys are shown without their value":   listCase.keyStates,
		"pre-provisioned keys have a state":    listCase.kpmStates,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store, _ := open(t)
			test(listCase{t, store})
		})
	}
}

type listCase struct {
	*testing.T
	store Lister
}

func (c listCase) mef() mefCase { return mefCase{c.T, c.store, nil} }
func (c listCase) maf() mafCase { return mafCase{c.T, c.store, nil} }
func (c listCase) tef() keyCase { return keyCase{c.T, c.store, nil} }
func (c listCase) kpm() kpmCase { return kpmCase{c.T, c.store, nil} }

// A register is what the four lists have in common.
type register struct {
	// put stores the nth record of all, of an Enrolee, which expires so many hours
	// after the start.
	put   func(n int, enrolee muster.EnroleeID, hours int) error
	page  func(prefix string, after place, limit int) ([]place, error)
	sweep func(hours int) error // forgets what has expired; nil if nothing is ever forgotten
}

// places returns those of a page, and checks that no record shows a key.
func places[T any](c listCase, page []T, err error, at func(T) place) ([]place, error) {
	var marks []place
	for _, record := range page {
		wantNoKey(c, reflect.ValueOf(record))
		marks = append(marks, at(record))
	}
	return marks, err
}

// wantNoKey fails if there is a secret in a record.
func wantNoKey(t testing.TB, v reflect.Value) {
	t.Helper()
	if secret, ok := v.Interface().(interface {
		IsZero() bool
		Reveal() []byte
	}); ok && !secret.IsZero() {
		t.Errorf("a list shows a %s", v.Type())
	} else if v.Kind() == reflect.Struct {
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				wantNoKey(t, v.Field(i))
			}
		}
	}
}

func enrolmentRegister(c listCase) register {
	return register{
		put: func(n int, enrolee muster.EnroleeID, hours int) error {
			e := c.mef().enrolment(n, 0)
			e.EnroleeID, e.Expires = enrolee, start().Add(time.Duration(hours)*hour)
			_, err := c.store.CreateEnrolment(c.Context(), e, plenty)
			return err
		},
		page: func(prefix string, after place, limit int) ([]place, error) {
			page, err := c.store.Enrolments(c.Context(), mef.EnrolmentQuery{
				EnroleePrefix: prefix, After: mef.EnrolmentPosition{EnroleeID: after.id, Generation: after.number, MAF: after.part}, Limit: limit,
			})
			return places(c, page, err, func(r mef.EnrolmentRecord) place { return place{r.EnroleeID.String(), r.Generation, r.MAF.String()} })
		},
		sweep: func(hours int) error {
			_, err := c.store.Sweep(c.Context(), start().Add(time.Duration(hours)*hour), window, 0, plenty)
			return err
		},
	}
}

func credentialRegister(c listCase) register {
	return register{
		put: func(n int, enrolee muster.EnroleeID, hours int) error {
			credential := c.maf().credential(n, 0)
			credential.EnroleeID, credential.Expires = enrolee, start().Add(time.Duration(hours)*hour)
			return c.store.PutCredential(c.Context(), credential)
		},
		page: func(prefix string, after place, limit int) ([]place, error) {
			page, err := c.store.Credentials(c.Context(), maf.CredentialQuery{
				EnroleePrefix: prefix, After: maf.CredentialPosition{EnroleeID: after.id, Generation: after.number}, Limit: limit,
			})
			return places(c, page, err, func(r maf.CredentialRecord) place { return place{r.EnroleeID.String(), r.Generation, ""} })
		},
		sweep: func(hours int) error {
			_, err := c.store.SweepCredentials(c.Context(), start().Add(time.Duration(hours)*hour), 0, plenty)
			return err
		},
	}
}

func keyRegister(c listCase) register {
	return register{
		put: func(n int, enrolee muster.EnroleeID, hours int) error {
			r := c.tef().registration(n, 0)
			r.Source, r.Expires = enrolee, start().Add(time.Duration(hours)*hour)
			_, err := c.store.CreateKey(c.Context(), r, plenty)
			return err
		},
		page: func(prefix string, after place, limit int) ([]place, error) {
			q := tef.KeyQuery{SourcePrefix: prefix, After: tef.KeyPosition{Source: after.id}, Limit: limit, Now: start()}
			if after.part != "" {
				id, err := tef.ParseKeyID(after.part)
				q.After.ID = must(c, id, err)
			}
			page, err := c.store.RegisteredKeys(c.Context(), q)
			return places(c, page, err, func(r tef.KeyRecord) place { return place{r.Source.String(), 0, r.ID.String()} })
		},
		sweep: func(hours int) error {
			_, err := c.store.SweepKeys(c.Context(), start().Add(time.Duration(hours)*hour), plenty)
			return err
		},
	}
}

func kpmRegister(c listCase) register {
	return register{
		put: func(n int, enrolee muster.EnroleeID, _ int) error {
			kpm := c.kpm().kpm(n, 0)
			kpm.EnroleeID = enrolee
			_, err := c.kpm().put(mef.Import{Kpms: []mef.ProvisionedKpm{kpm}})
			return err
		},
		page: func(prefix string, after place, limit int) ([]place, error) {
			page, err := c.store.Kpms(c.Context(), mef.KpmQuery{
				EnroleePrefix: prefix, After: mef.KpmPosition{EnroleeID: after.id, Generation: after.number}, Limit: limit,
			})
			return places(c, page, err, func(r mef.KpmRecord) place { return place{r.EnroleeID.String(), r.Generation, ""} })
		},
	}
}

// named returns the Enrolee-ID that ends in a name.
func (c listCase) named(name string) muster.EnroleeID {
	c.Helper()
	id, err := muster.ParseEnroleeID("//sp.example.org/" + name)
	return must(c, id, err)
}

// names are sorted by their octets, which is neither the order of a language, nor
// that of UTF-16, nor one that folds case.
func names() []string {
	return []string{"B", "a", "a-b", "a_b", "ab", "b", "z", "é", "éa", "中", "﨎", "😀", "😀a"}
}

// fill stores two records of each name, out of their order, and returns the list.
func (c listCase) fill(r register) []place {
	c.Helper()
	ids := names()
	for n := range 2 * len(ids) {
		wantError(c, "put", r.put(n, c.named(ids[n*5%len(ids)]), 24), nil)
	}
	all := c.mustPage(r, "", place{}, plenty)
	if len(all) != 2*len(ids) {
		c.Fatalf("%d records are listed, want %d", len(all), 2*len(ids))
	}
	return all
}

func (c listCase) mustPage(r register, prefix string, after place, limit int) []place {
	c.Helper()
	page, err := r.page(prefix, after, limit)
	return must(c, page, err)
}

func (c listCase) order(r register) {
	all := c.fill(r)
	for i, name := range names() {
		for n, at := range all[2*i : 2*i+2] {
			if at.id != c.named(name).String() || at.number != 0 && at.number != int64(n+1) {
				c.Errorf("record %d is %v, want one of %s", 2*i+n, at, name)
			}
		}
		if all[2*i].compare(all[2*i+1]) >= 0 {
			c.Errorf("%v is before %v", all[2*i], all[2*i+1])
		}
	}
}

// walk returns all records that begin with a prefix, read in pages.
func (c listCase) walk(r register, prefix string, limit int) (all []place) {
	c.Helper()
	var after place
	for {
		page := c.mustPage(r, prefix, after, limit)
		all = append(all, page...)
		if len(page) > limit {
			c.Fatalf("a page of at most %d has %d", limit, len(page))
		}
		if len(page) < limit {
			return all
		}
		after = page[len(page)-1]
	}
}

func (c listCase) pages(r register) {
	all := c.fill(r)
	for _, limit := range []int{1, 2, 3, len(all) - 1, len(all), len(all) + 1} {
		if got := c.walk(r, "", limit); !slices.Equal(got, all) {
			c.Errorf("pages of %d make %v, want %v", limit, got, all)
		}
	}
	for i, at := range all {
		if got := c.mustPage(r, "", at, plenty); !slices.Equal(got, all[i+1:]) {
			c.Errorf("after %v: %v", at, got)
		}
	}
}

func (c listCase) prefixes(r register) {
	all := c.fill(r)
	whole := c.named("a").String()
	for _, prefix := range []string{
		"", "/", "//sp.example.org/", whole, whole + "_", whole + "-", whole + "?", whole + "%", "%", "_", "//sp_example.org/",
		c.named("A").String(), c.named("é").String(), c.named("e").String(), c.named("😀").String(), c.named("中").String(), c.named("z").String(), "~", "\\", "'",
	} {
		var want []place
		for _, at := range all {
			if strings.HasPrefix(at.id, prefix) {
				want = append(want, at)
			}
		}
		for _, limit := range []int{1, 4, plenty} {
			if got := c.walk(r, prefix, limit); !slices.Equal(got, want) {
				c.Errorf("%q by pages of %d: %v, want %v", prefix, limit, got, want)
			}
		}
	}
	middle := all[len(all)/2]
	if got := c.mustPage(r, all[0].id, middle, plenty); len(got) != 0 {
		c.Errorf("after %v there is %v with the prefix %s", middle, got, all[0].id)
	}
	if last := all[len(all)-1]; !slices.Equal(c.mustPage(r, last.id, middle, plenty), []place{all[len(all)-2], last}) {
		c.Errorf("after %v not all with the prefix %s", middle, last.id)
	}
}

func (c listCase) hostile(r register) {
	c.fill(r)
	for _, text := range []string{"\xff", "//sp.example.org/\xc3", "//sp.example.org/a\x00", "\xed\xa0\x80"} {
		if got := c.mustPage(r, text, place{}, plenty); len(got) != 0 {
			c.Errorf("with the prefix %q: %v", text, got)
		}
		if got := c.mustPage(r, "", place{id: text, number: 1}, plenty); len(got) != 0 {
			c.Errorf("after %q: %v", text, got)
		}
	}
}

func (c listCase) swept(r register) {
	if r.sweep == nil {
		return // a tombstone stays
	}
	for n := range 6 {
		hours := 24
		if n == 2 || n == 3 {
			hours = 1
		}
		wantError(c, "put", r.put(n, enroleeID(c, n), hours), nil)
	}
	all := c.mustPage(r, "", place{}, plenty)
	page := c.mustPage(r, "", place{}, 3)
	wantError(c, "sweep", r.sweep(1), nil)
	if next := c.mustPage(r, "", page[2], 3); !slices.Equal(next, all[4:]) {
		c.Errorf("after %v: %v, want %v", page[2], next, all[4:])
	}
	if left := c.walk(r, "", 2); !slices.Equal(left, append(page[:2:2], all[4:]...)) {
		c.Errorf("left is %v of %v", left, all)
	}
}

// writers: who walks through a list while others write sees in order, and once,
// all that was there before.
func (c listCase) writers(r register) {
	const before, writers, each = 20, 4, 15
	enrolee := func(n int) muster.EnroleeID { return enroleeID(c, n*7%(before+writers*each)) }
	for n := range before {
		wantError(c, "put", r.put(n, enrolee(n), 24), nil)
	}
	old := c.walk(r, "", 6)
	var all sync.WaitGroup
	for w := range writers {
		all.Go(func() {
			for n := before + w*each; n < before+(w+1)*each; n++ {
				wantError(c, "put beside a reader", r.put(n, enrolee(n), 24), nil)
			}
		})
	}
	for range 10 {
		seen := c.walk(r, "", 6)
		if !slices.IsSortedFunc(seen, place.compare) || len(slices.Compact(slices.Clone(seen))) != len(seen) {
			c.Errorf("beside writers the list is %v", seen)
		}
		for _, at := range old {
			if !slices.Contains(seen, at) {
				c.Errorf("%v is missing beside writers", at)
			}
		}
	}
	all.Wait()
	if n := len(c.walk(r, "", 6)); n != before+writers*each {
		c.Errorf("%d records at the end, want %d", n, before+writers*each)
	}
}

// wantRecords compares the answer to a query with what it must be.
func wantRecords[T comparable](t testing.TB, what string, got []T, err error, want ...T) {
	t.Helper()
	wantError(t, what, err, nil)
	if !slices.Equal(got, want) {
		t.Errorf("%s:\n got %s\nwant %s", what, lines(got), lines(want))
	}
}

func lines[T any](records []T) string {
	var b strings.Builder
	for _, r := range records {
		fmt.Fprintf(&b, "\n%+v", r)
	}
	return b.String()
}

package mustertest

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"muster"
	"muster/tef"
)

// TEFStore holds a store to the contract of tef.Store.
func TEFStore[S tef.Store](t *testing.T, open func(testing.TB) (S, func() S)) {
	for name, test := range map[string]func(tefCase){
		"a registration is created and read":       tefCase.create,
		"a registration without options":           tefCase.bare,
		"replacing keeps the time of creation":     tefCase.replace,
		"another client's identifier is refused":   tefCase.conflict,
		"another client's registration is unknown": tefCase.strangers,
		"functions do not share identifiers":       tefCase.functions,
		"an expired registration is unknown":       tefCase.expired,
		"a deleted registration is unknown":        tefCase.remove,
		"sweeping removes what expired":            tefCase.sweep,
		"what is returned is the caller's":         tefCase.aliasing,
		"a page has what was asked for":            tefCase.pages,
		"everything survives a restart":            tefCase.restart,
		"a caller that gives up repeats":           tefCase.cancelled,
		"an identifier wanted by many goes to one": tefCase.raceConflict,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store, reopen := open(t)
			test(tefCase{t, store, func() tef.Store { return reopen() }})
		})
	}
}

type tefCase struct {
	*testing.T
	store  tef.Store
	reopen func() tef.Store
}

// registration returns the nth registration of a client, good for a day.
func (c tefCase) registration(n, client int) tef.ClientRegistration {
	c.Helper()
	kmID, err := muster.ParseKmID("ABCDEF" + strconv.Itoa(n) + "@maf.example.org")
	must(c, kmID, err)
	return tef.ClientRegistration{
		ID: "registration-" + strconv.Itoa(n), Function: fqdn(c, "maf.example.org"), ClientID: enroleeID(c, client),
		AdminFQDN: fqdn(c, "admin.example.org"), Labels: []string{"b", "a", "é\"\\\n"}, AssignedSymmKeyID: kmID,
		Created: start(), Modified: start(), Expires: start().Add(24 * hour),
	}
}

func (c tefCase) mustPut(r tef.ClientRegistration) tef.ClientRegistration {
	c.Helper()
	stored, err := c.store.PutRegistration(c.Context(), r)
	return must(c, stored, err)
}

func (c tefCase) get(r tef.ClientRegistration, after time.Duration) (tef.ClientRegistration, error) {
	return c.store.Registration(c.Context(), r.Function, r.ClientID, r.ID, start().Add(after))
}

func (c tefCase) wantStored(what string, want tef.ClientRegistration) {
	c.Helper()
	got, err := c.get(want, 0)
	wantError(c, what, err, nil)
	c.wantSame(what, got, want)
}

func (c tefCase) wantSame(what string, got, want tef.ClientRegistration) {
	c.Helper()
	if got.ID != want.ID || got.Function != want.Function || got.ClientID != want.ClientID || got.AdminFQDN != want.AdminFQDN ||
		!slices.Equal(got.Labels, want.Labels) || (got.Labels == nil) != (want.Labels == nil) ||
		got.AssignedSymmKeyID != want.AssignedSymmKeyID || !got.Created.Equal(want.Created) ||
		!got.Modified.Equal(want.Modified) || !got.Expires.Equal(want.Expires) {
		c.Errorf("%s:\n got %v\nwant %v", what, got, want)
	}
}

func (c tefCase) create() {
	r := c.registration(1, 1)
	fraction := r
	fraction.Created, fraction.Modified = r.Created.Add(900*time.Millisecond), r.Modified.Add(900*time.Millisecond)
	fraction.Expires = r.Expires.Add(900 * time.Millisecond)
	c.wantSame("created, in whole seconds", c.mustPut(fraction), r)
	c.wantStored("created", r)
	_, err := c.get(c.registration(2, 1), 0)
	wantError(c, "another identifier", err, tef.ErrUnknown)
}

func (c tefCase) bare() {
	r := c.registration(1, 1)
	r.AdminFQDN, r.AssignedSymmKeyID, r.Labels = muster.FQDN{}, muster.KmID{}, []string{}
	want := r
	want.Labels = nil
	c.wantSame("created", c.mustPut(r), want)
	c.wantStored("created", want)
}

func (c tefCase) replace() {
	c.mustPut(c.registration(1, 1))
	r := c.registration(1, 1)
	r.Created, r.Modified, r.Expires = start().Add(hour), start().Add(hour), start().Add(48*hour)
	r.Labels, r.AssignedSymmKeyID = []string{"new"}, c.registration(7, 1).AssignedSymmKeyID
	want := r
	want.Created = start()
	c.wantSame("replaced", c.mustPut(r), want)
	c.wantStored("replaced", want)
}

func (c tefCase) pages() {
	const n = 7
	for i := range n {
		r := c.registration(i, i%2) // the clients are two
		if i == 6 {
			r.AdminFQDN = fqdn(c, "other.example.org")
		}
		c.mustPut(r)
	}
	ended := c.registration(8, 0)
	ended.Expires = start().Add(hour)
	c.mustPut(ended)
	foreign := c.registration(9, 0)
	foreign.Function = fqdn(c, "other.example.org")
	c.mustPut(foreign)

	all := tef.RegistrationQuery{Function: fqdn(c, "maf.example.org"), Limit: 100, Now: start().Add(hour)}
	for what, tt := range map[string]struct {
		change func(q *tef.RegistrationQuery)
		want   []int
	}{
		"all":                   {func(*tef.RegistrationQuery) {}, []int{0, 1, 2, 3, 4, 5, 6}},
		"the first page":        {func(q *tef.RegistrationQuery) { q.Limit = 3 }, []int{0, 1, 2}},
		"the next page":         {func(q *tef.RegistrationQuery) { q.Limit, q.After = 3, c.registration(2, 0).ID }, []int{3, 4, 5}},
		"one client":            {func(q *tef.RegistrationQuery) { q.ClientPrefix = enroleeID(c, 1).String() }, []int{1, 3, 5}},
		"one client by a page":  {func(q *tef.RegistrationQuery) { q.ClientPrefix, q.Limit = enroleeID(c, 0).String(), 2 }, []int{0, 2}},
		"nobody":                {func(q *tef.RegistrationQuery) { q.ClientPrefix = "//nobody.example.org/" }, nil},
		"a pattern is a letter": {func(q *tef.RegistrationQuery) { q.ClientPrefix = "%" }, nil},
		"one stakeholder":       {func(q *tef.RegistrationQuery) { q.AdminFQDN = fqdn(c, "other.example.org") }, []int{6}},
		"earlier":               {func(q *tef.RegistrationQuery) { q.Now = start() }, []int{0, 1, 2, 3, 4, 5, 6, 8}},
		"another function":      {func(q *tef.RegistrationQuery) { q.Function = fqdn(c, "other.example.org") }, []int{9}},
	} {
		q := all
		tt.change(&q)
		page, err := c.store.Registrations(c.Context(), q)
		wantError(c, what, err, nil)
		var got []int
		for _, r := range page {
			i, _ := strconv.Atoi(strings.TrimPrefix(r.ID, "registration-"))
			got = append(got, i)
		}
		if !slices.Equal(got, tt.want) {
			c.Errorf("%s: %v, want %v", what, got, tt.want)
			continue
		}
		if what == "the first page" {
			c.wantSame(what, page[1], c.registration(1, 1))
		}
	}
}

func (c tefCase) conflict() {
	r := c.registration(1, 1)
	c.mustPut(r)
	for what, change := range map[string]func(*tef.ClientRegistration){
		"another client":        func(r *tef.ClientRegistration) { r.ClientID = enroleeID(c, 2) },
		"another administrator": func(r *tef.ClientRegistration) { r.AdminFQDN = fqdn(c, "other.example.org") },
		"long after expiry": func(r *tef.ClientRegistration) {
			r.ClientID, r.Created, r.Modified = enroleeID(c, 2), start().Add(99*hour), start().Add(99*hour)
		},
	} {
		changed := r
		change(&changed)
		_, err := c.store.PutRegistration(c.Context(), changed)
		wantError(c, what, err, tef.ErrConflict)
	}
	c.wantStored("after all conflicts", r)
}

func (c tefCase) strangers() {
	r := c.mustPut(c.registration(1, 1))
	_, err := c.store.Registration(c.Context(), r.Function, enroleeID(c, 2), r.ID, start())
	wantError(c, "read by another client", err, tef.ErrUnknown)
	wantError(c, "deleted by another client", c.store.DeleteRegistration(c.Context(), r.Function, enroleeID(c, 2), r.ID), tef.ErrUnknown)
	c.wantStored("after all", r)
}

func (c tefCase) functions() {
	one, two := c.registration(1, 1), c.registration(1, 2)
	two.Function = fqdn(c, "mef.example.org")
	c.mustPut(one)
	c.mustPut(two)
	c.wantStored("of one function", one)
	c.wantStored("of another function", two)
	wantError(c, "delete", c.store.DeleteRegistration(c.Context(), one.Function, one.ClientID, one.ID), nil)
	c.wantStored("after the other function deleted its own", two)
}

func (c tefCase) expired() {
	r := c.mustPut(c.registration(1, 1))
	_, err := c.get(r, 24*hour-time.Second)
	wantError(c, "before expiry", err, nil)
	_, err = c.get(r, 24*hour)
	wantError(c, "at expiry", err, tef.ErrUnknown)
	r.Expires = start().Add(48 * hour)
	c.mustPut(r)
	_, err = c.get(r, 24*hour)
	wantError(c, "prolonged", err, nil)
}

func (c tefCase) remove() {
	r := c.mustPut(c.registration(1, 1))
	wantError(c, "delete", c.store.DeleteRegistration(c.Context(), r.Function, r.ClientID, r.ID), nil)
	_, err := c.get(r, 0)
	wantError(c, "deleted", err, tef.ErrUnknown)
	wantError(c, "delete again", c.store.DeleteRegistration(c.Context(), r.Function, r.ClientID, r.ID), tef.ErrUnknown)
	r.ClientID = enroleeID(c, 2)
	c.wantSame("the identifier is free again", c.mustPut(r), r)
}

func (c tefCase) sweep() {
	for n := range 25 {
		r := c.registration(n, n)
		r.Expires = start().Add(time.Duration(n) * hour)
		c.mustPut(r)
	}
	for _, step := range []struct {
		after       time.Duration
		limit, want int
	}{
		{10*hour - time.Second, plenty, 10}, {10 * hour, plenty, 1}, {10 * hour, plenty, 0},
		{24 * hour, 0, 0}, {24 * hour, 10, 10}, {24 * hour, 10, 4}, {24 * hour, 10, 0},
	} {
		n, err := c.store.SweepRegistrations(c.Context(), start().Add(step.after), step.limit)
		wantError(c, "sweep", err, nil)
		if n != step.want {
			c.Errorf("at %s, limit %d: %d swept, want %d", step.after, step.limit, n, step.want)
		}
	}
}

func (c tefCase) aliasing() {
	r := c.registration(1, 1)
	stored := c.mustPut(r)
	stored.Labels[0] = "changed"
	got, err := c.get(r, 0)
	wantError(c, "get", err, nil)
	got.Labels[0] = "changed"
	c.wantStored("after the caller changed its own", c.registration(1, 1))
}

func (c tefCase) restart() {
	kept := c.mustPut(c.registration(1, 1))
	gone := c.mustPut(c.registration(2, 2))
	wantError(c, "delete", c.store.DeleteRegistration(c.Context(), gone.Function, gone.ClientID, gone.ID), nil)
	c.store = c.reopen()
	c.wantStored("kept", kept)
	_, err := c.get(gone, 0)
	wantError(c, "deleted", err, tef.ErrUnknown)
}

func (c tefCase) cancelled() {
	for n := range 50 {
		r := c.registration(n, n)
		ctx, cancel := context.WithCancel(c.Context())
		done := make(chan error)
		go func() {
			_, err := c.store.PutRegistration(ctx, r)
			done <- err
		}()
		cancel()
		if err := <-done; err != nil {
			wantError(c, "cancelled", err, context.Canceled)
		}
		c.wantSame("repeated", c.mustPut(r), r)
	}
}

func (c tefCase) raceConflict() {
	owners := make([]bool, 100)
	race(len(owners), func(i int) {
		stored, err := c.store.PutRegistration(c.Context(), c.registration(1, i))
		if owners[i] = err == nil && stored.ClientID == enroleeID(c, i); !owners[i] {
			wantError(c, "not the first", err, tef.ErrConflict)
		}
	})
	n := 0
	for i, owner := range owners {
		if owner {
			n++
			got, err := c.get(c.registration(1, i), 0)
			wantError(c, "get", err, nil)
			if got.ClientID != enroleeID(c, i) {
				c.Errorf("client %d was told that it owns what belongs to %s", i, got.ClientID)
			}
		}
	}
	if n != 1 {
		c.Errorf("the identifier went to %d clients", n)
	}
}

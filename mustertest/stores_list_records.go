package mustertest

import (
	"time"

	"muster"
	"muster/maf"
	"muster/mef"
	"muster/tef"
)

// enrolmentStates: one Enrolee has an enrolment for two MAFs, which ends for each
// of them in its own way.
func (c listCase) enrolmentStates() {
	m := c.mef()
	one := m.enrolment(1, 1)
	one.Targets = []muster.FQDN{m.maf(), m.other()}
	one = m.mustCreate(one)
	record := func(e mef.Enrolment, target muster.FQDN) mef.EnrolmentRecord {
		return mef.EnrolmentRecord{
			KeID: e.KeID, EnroleeID: e.EnroleeID, MAF: target, Generation: e.Generation, Certificate: e.Certificate,
			State: mef.EnrolmentIssued, Created: e.Created, Expires: e.Expires,
		}
	}
	want := func(what string, q mef.EnrolmentQuery, records ...mef.EnrolmentRecord) {
		c.Helper()
		q.Limit = plenty
		got, err := c.store.Enrolments(c.Context(), q)
		wantRecords(c, what, got, err, records...)
	}
	all := mef.EnrolmentQuery{}
	other, main := record(one, m.other()), record(one, m.maf()) // another-maf sorts first
	want("issued", all, other, main)

	for n := range 2 {
		_, err := m.fetchBy(one.KeID, m.maf(), time.Duration(n+1)*time.Second, plenty)
		wantError(c, "fetch", err, nil)
	}
	main.State, main.Fetches, main.FetchedAt = mef.EnrolmentDelivered, 2, start().Add(time.Second)
	want("delivered", all, other, main)

	two := m.mustCreate(m.enrolmentFor(2, 1, m.other()))
	other.State = mef.EnrolmentSuperseded
	second := record(two, m.other())
	want("superseded for one", all, other, main, second)
	want("by KeID", mef.EnrolmentQuery{KeID: one.KeID}, other, main)
	want("by KeID, after the first", mef.EnrolmentQuery{
		KeID: one.KeID, After: mef.EnrolmentPosition{EnroleeID: one.EnroleeID.String(), Generation: 1, MAF: m.other().String()},
	}, main)
	want("by KeID and prefix", mef.EnrolmentQuery{KeID: two.KeID, EnroleePrefix: "//sp.example.org/device"}, second)
	want("by KeID and another's prefix", mef.EnrolmentQuery{KeID: one.KeID, EnroleePrefix: enroleeID(c, 2).String()})
	want("by an unknown KeID", mef.EnrolmentQuery{KeID: keID(c, 9)})

	wantError(c, "erase", c.store.EraseEnrolment(c.Context(), one.KeID, m.maf()), nil)
	wantError(c, "erase what is superseded", c.store.EraseEnrolment(c.Context(), one.KeID, m.other()), nil)
	main.State = mef.EnrolmentErased
	want("erased", all, other, main, second)

	_, err := c.store.Sweep(c.Context(), start().Add(24*hour), window, hour, plenty)
	wantError(c, "sweep", err, nil)
	second.State = mef.EnrolmentExpired
	want("expired", all, other, main, second)

	three := m.enrolment(3, 2)
	three.Expires = start().Add(99 * hour)
	three = m.mustCreate(three)
	_, err = m.fetch(three.KeID)
	wantError(c, "fetch", err, nil)
	_, err = c.store.Sweep(c.Context(), start().Add(25*hour), window, hour, plenty)
	wantError(c, "sweep", err, nil)
	last := record(three, m.maf())
	last.State, last.Fetches, last.FetchedAt = mef.EnrolmentErased, 1, start()
	want("the first are forgotten, and a window has ended", all, last)
}

// enrolmentFor is enrolment for another MAF.
func (c mefCase) enrolmentFor(n, enrolee int, target muster.FQDN) mef.Enrolment {
	c.Helper()
	e := c.enrolment(n, enrolee)
	e.Targets = []muster.FQDN{target}
	return e
}

func (c listCase) credentialStates() {
	m := c.maf()
	record := func(stored maf.Credential, generation int64) maf.CredentialRecord {
		return maf.CredentialRecord{
			KmID: stored.KmID, KeID: stored.KeID, EnroleeID: stored.EnroleeID, Generation: generation,
			State: maf.CredentialIssued, Created: stored.Created, Expires: stored.Expires, KeIDUntil: stored.KeIDUntil,
		}
	}
	want := func(what string, q maf.CredentialQuery, records ...maf.CredentialRecord) {
		c.Helper()
		q.Limit = plenty
		got, err := c.store.Credentials(c.Context(), q)
		wantRecords(c, what, got, err, records...)
	}
	all := maf.CredentialQuery{}
	one, two, three := m.mustPut(1, 1), m.mustPut(2, 1), m.mustPut(3, 2)
	first, second, third := record(one, 1), record(two, 2), record(three, 1)
	want("issued", all, first, second, third)

	wantError(c, "activate", m.activateAt(two, time.Minute), nil)
	first.State, first.KeIDUntil = maf.CredentialSuperseded, start().Add(time.Minute)
	second.State, second.KeIDUntil = maf.CredentialUsed, start().Add(time.Minute)
	want("used", all, first, second, third)

	wantError(c, "limit", c.store.LimitKeID(c.Context(), three.KeID, start().Add(time.Second)), nil)
	third.KeIDUntil = start().Add(time.Second)
	want("by KeID", maf.CredentialQuery{KeID: three.KeID}, third)
	want("by KmID", maf.CredentialQuery{KmID: two.KmID}, second)
	want("by both", maf.CredentialQuery{KeID: one.KeID, KmID: one.KmID}, first)
	want("by the identifiers of two", maf.CredentialQuery{KeID: one.KeID, KmID: two.KmID})
	want("by KeID and another's prefix", maf.CredentialQuery{KeID: one.KeID, EnroleePrefix: three.EnroleeID.String()})
	want("by KmID and another's prefix", maf.CredentialQuery{KmID: one.KmID, EnroleePrefix: three.EnroleeID.String()})
	want("by KmID, after it", maf.CredentialQuery{KmID: one.KmID, After: maf.CredentialPosition{EnroleeID: one.EnroleeID.String(), Generation: 1}})
	want("by an unknown KeID", maf.CredentialQuery{KeID: keID(c, 9)})

	_, err := c.store.SweepCredentials(c.Context(), start().Add(24*hour), hour, plenty)
	wantError(c, "sweep", err, nil)
	second.State, third.State = maf.CredentialExpired, maf.CredentialExpired
	want("expired", all, first, second, third)
	_, err = c.store.SweepCredentials(c.Context(), start().Add(25*hour), hour, plenty)
	wantError(c, "sweep", err, nil)
	want("forgotten", all)
}

func (c listCase) keyStates() {
	k := c.tef()
	derived := k.registration(2, 2)
	derived.Key, derived.Labels, derived.Latest = muster.Kc{}, nil, time.Time{}
	short := k.registration(4, 4)
	short.Expires = start().Add(hour)
	want := []tef.KeyRecord{
		{KeyRegistration: k.mustCreate(k.registration(1, 1)), Sealed: true, Fetches: 2},
		{KeyRegistration: k.mustCreate(derived)},
		{KeyRegistration: k.mustCreate(k.registration(3, 3)), Deleted: true},
		{KeyRegistration: k.mustCreate(short), Sealed: true},
	}
	for range 2 {
		_, err := c.store.FetchKey(c.Context(), tef.KeyFetch{ID: want[0].ID, Target: want[0].Targets[0], Now: start(), Window: window, Max: plenty})
		wantError(c, "fetch", err, nil)
	}
	wantError(c, "delete", c.store.DeleteKey(c.Context(), want[2].ID, want[2].Source), nil)

	list := func(now time.Time) []tef.KeyRecord {
		c.Helper()
		got, err := c.store.RegisteredKeys(c.Context(), tef.KeyQuery{Limit: plenty, Now: now})
		return must(c, got, err)
	}
	for what, tt := range map[string]struct {
		now  time.Time
		want []tef.KeyRecord
	}{
		"before the expiry of one": {start().Add(hour - time.Second), want},
		"at the expiry of one":     {start().Add(hour), want[:3]},
		"whatever has expired":     {time.Time{}, want},
	} {
		got := list(tt.now)
		if len(got) != len(tt.want) {
			c.Errorf("%s: %d keys, want %d", what, len(got), len(tt.want))
			continue
		}
		for i, r := range got {
			want := tt.want[i]
			want.Key = muster.Kc{}
			k.wantSame(what, r.KeyRegistration, want.KeyRegistration)
			if r.Sealed != want.Sealed || r.Deleted != want.Deleted || r.Fetches != want.Fetches {
				c.Errorf("%s: sealed %t, deleted %t, %d fetches: %s", what, r.Sealed, r.Deleted, r.Fetches, r.ID)
			}
		}
	}
	got := list(start())
	got[0].Targets[0], got[0].Labels[0] = "changed", "changed"
	k.wantStored("after the caller changed its own", want[0].KeyRegistration)
}

func (c listCase) kpmStates() {
	k := c.kpm()
	record := func(n, enrolee int, generation int64) mef.KpmRecord {
		kpm := k.kpm(n, enrolee)
		return mef.KpmRecord{KpmID: kpm.KpmID, EnroleeID: kpm.EnroleeID, Generation: generation, State: mef.KpmImported, Created: kpm.Created}
	}
	want := func(what string, records ...mef.KpmRecord) {
		c.Helper()
		got, err := c.store.Kpms(c.Context(), mef.KpmQuery{Limit: plenty})
		wantRecords(c, what, got, err, records...)
	}
	k.mustPut(k.kpm(1, 1), k.kpm(2, 2), k.kpm(3, 1))
	first, newer, second := record(1, 1, 1), record(3, 1, 2), record(2, 2, 1)
	first.Until = start().Add(overlap)
	want("imported", first, newer, second)

	wantError(c, "activate", k.activateAt(k.kpm(1, 1), 0), nil)
	first.State = mef.KpmUsed
	want("used", first, newer, second)

	replaced := k.kpm(1, 1)
	replaced.Kpm = k.kpm(9, 9).Kpm
	_, err := k.put(mef.Import{Kpms: []mef.ProvisionedKpm{replaced}, Replace: true})
	wantError(c, "replace", err, nil)
	first.State = mef.KpmImported
	want("replaced, and not used since", first, newer, second)

	wantError(c, "activate", k.activateAt(k.kpm(3, 1), 0), nil)
	first.State, newer.State = mef.KpmSuperseded, mef.KpmUsed
	want("superseded", first, newer, second)

	k.mustPut(k.kpm(4, 2))
	fourth := record(4, 2, 2)
	_, err = c.store.SweepKpms(c.Context(), start().Add(overlap), plenty)
	wantError(c, "sweep", err, nil)
	second.State, second.Until = mef.KpmExpired, start().Add(overlap)
	want("expired", first, newer, second, fourth)
}

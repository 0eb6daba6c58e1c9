package mustertest

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"unicode/utf8"

	"muster"
	"muster/maf"
	"muster/mef"
	"muster/tef"
)

var (
	_ mef.Register    = (*Memory)(nil)
	_ mef.KpmRegister = (*Memory)(nil)
	_ maf.Register    = (*Memory)(nil)
	_ tef.KeyRegister = (*Memory)(nil)
)

// A place is that of a record in a list.
type place struct {
	id     string
	number int64
	part   string
}

func (p place) compare(q place) int {
	return cmp.Or(strings.Compare(p.id, q.id), cmp.Compare(p.number, q.number), strings.Compare(p.part, q.part))
}

// isText reports whether all may be a part of an identifier.
func isText(parts ...string) bool {
	for _, part := range parts {
		if !utf8.ValidString(part) || strings.ContainsRune(part, 0) {
			return false
		}
	}
	return true
}

// pageOf returns those of the records that begin with the prefix and lie after a
// place, in their order.
func pageOf[T any](records []T, at func(T) place, prefix string, after place, limit int) []T {
	if !isText(prefix, after.id, after.part) {
		return nil
	}
	records = slices.DeleteFunc(records, func(r T) bool { return !strings.HasPrefix(at(r).id, prefix) || at(r).compare(after) <= 0 })
	slices.SortFunc(records, func(r, s T) int { return at(r).compare(at(s)) })
	return records[:min(len(records), limit)]
}

// Enrolments is mef.Register's.
func (m *Memory) Enrolments(ctx context.Context, q mef.EnrolmentQuery) ([]mef.EnrolmentRecord, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var records []mef.EnrolmentRecord
	for _, e := range m.enrolments {
		for target, d := range e.targets {
			if !q.KeID.IsZero() && q.KeID != e.KeID {
				continue
			}
			state := cmp.Or(d.gone, mef.EnrolmentIssued)
			if d.gone == "" && d.fetches > 0 {
				state = mef.EnrolmentDelivered
			}
			records = append(records, mef.EnrolmentRecord{
				KeID: e.KeID, EnroleeID: e.EnroleeID, MAF: target, Generation: e.Generation, Certificate: e.Certificate,
				State: state, Created: e.Created, Expires: e.Expires, FetchedAt: d.first, Fetches: d.fetches,
			})
		}
	}
	at := func(r mef.EnrolmentRecord) place { return place{r.EnroleeID.String(), r.Generation, r.MAF.String()} }
	return pageOf(records, at, q.EnroleePrefix, place{q.After.EnroleeID, q.After.Generation, q.After.MAF}, q.Limit), nil
}

// Credentials is maf.Register's.
func (m *Memory) Credentials(ctx context.Context, q maf.CredentialQuery) ([]maf.CredentialRecord, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var records []maf.CredentialRecord
	for _, r := range m.credentials {
		if !q.KeID.IsZero() && q.KeID != r.KeID || !q.KmID.IsZero() && q.KmID != r.KmID {
			continue
		}
		state := cmp.Or(r.gone, maf.CredentialIssued)
		if r.gone == "" && r.activated {
			state = maf.CredentialUsed
		}
		records = append(records, maf.CredentialRecord{
			KmID: r.KmID, KeID: r.KeID, EnroleeID: r.EnroleeID, Generation: r.generation,
			State: state, Created: r.Created, Expires: r.Expires, KeIDUntil: r.KeIDUntil,
		})
	}
	at := func(r maf.CredentialRecord) place { return place{r.EnroleeID.String(), r.Generation, ""} }
	return pageOf(records, at, q.EnroleePrefix, place{q.After.EnroleeID, q.After.Generation, ""}, q.Limit), nil
}

// RegisteredKeys is tef.KeyRegister's.
func (m *Memory) RegisteredKeys(ctx context.Context, q tef.KeyQuery) ([]tef.KeyRecord, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var records []tef.KeyRecord
	for _, k := range m.keys {
		if expired(k.Expires, q.Now) {
			continue
		}
		r := tef.KeyRecord{KeyRegistration: k.snapshot(), Sealed: !k.Key.IsZero(), Deleted: k.deleted, Fetches: k.fetches}
		r.Key = muster.Kc{}
		records = append(records, r)
	}
	at := func(r tef.KeyRecord) place { return place{r.Source.String(), 0, r.ID.String()} }
	return pageOf(records, at, q.SourcePrefix, place{q.After.Source, 0, q.After.ID.String()}, q.Limit), nil
}

// Kpms is mef.KpmRegister's.
func (m *Memory) Kpms(ctx context.Context, q mef.KpmQuery) ([]mef.KpmRecord, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var records []mef.KpmRecord
	for _, r := range m.kpms {
		state := cmp.Or(r.gone, mef.KpmImported)
		if r.gone == "" && r.used {
			state = mef.KpmUsed
		}
		records = append(records, mef.KpmRecord{
			KpmID: r.KpmID, EnroleeID: r.EnroleeID, Generation: r.generation, State: state, Created: r.Created, Until: r.Until,
		})
	}
	at := func(r mef.KpmRecord) place { return place{r.EnroleeID.String(), r.Generation, ""} }
	return pageOf(records, at, q.EnroleePrefix, place{q.After.EnroleeID, q.After.Generation, ""}, q.Limit), nil
}

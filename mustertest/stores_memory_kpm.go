package mustertest

import (
	"context"
	"slices"
	"time"

	"muster"
	"muster/mef"
)

type kpmRecord struct {
	mef.ProvisionedKpm
	generation int64
	used       bool
	gone       mef.KpmState // why the key is erased; "" while it is kept
}

func (r *kpmRecord) usable(now time.Time) bool {
	return r.gone == "" && (r.Until.IsZero() || !expired(r.Until, now))
}

// ImportKpms is mef.KpmStore's. It works on a copy of the records.
func (m *Memory) ImportKpms(ctx context.Context, list mef.Import) (mef.Imported, error) {
	if err := ctx.Err(); err != nil {
		return mef.Imported{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var records []*kpmRecord
	for _, r := range m.kpms {
		clone := *r
		records = append(records, &clone)
	}
	var done mef.Imported
	for i, kpm := range list.Kpms {
		kpm.Created = wholeSecond(kpm.Created)
		at := slices.IndexFunc(records, func(r *kpmRecord) bool { return r.KpmID == kpm.KpmID })
		if at < 0 {
			endOlder(records, kpm, list.Overlap)
			records = append(records, &kpmRecord{ProvisionedKpm: kpm, generation: newestKpm(records, kpm.EnroleeID) + 1})
			done.Added++
			continue
		}
		switch r := records[at]; {
		case r.gone != "" || r.EnroleeID != kpm.EnroleeID:
			done.Conflicts = append(done.Conflicts, i)
		case r.Kpm.Equal(kpm.Kpm):
			done.Unchanged++
		case list.Replace:
			r.Kpm, r.used = kpm.Kpm, false
			done.Replaced++
		default:
			done.Conflicts = append(done.Conflicts, i)
		}
	}
	if done.Conflicts != nil {
		return mef.Imported{Conflicts: done.Conflicts}, mef.ErrConflict
	}
	if !list.DryRun {
		m.kpms = records
	}
	return done, nil
}

func newestKpm(records []*kpmRecord, enrolee muster.EnroleeID) (newest int64) {
	for _, r := range records {
		if r.EnroleeID == enrolee {
			newest = max(newest, r.generation)
		}
	}
	return newest
}

func endOlder(records []*kpmRecord, kpm mef.ProvisionedKpm, overlap time.Duration) {
	end := wholeSecond(kpm.Created.Add(overlap))
	for _, r := range records {
		if r.EnroleeID == kpm.EnroleeID && (r.Until.IsZero() || end.Before(r.Until)) {
			r.Until = end
		}
	}
}

func (m *Memory) usableKpm(id muster.KpmID, now time.Time) int {
	return slices.IndexFunc(m.kpms, func(r *kpmRecord) bool { return r.KpmID == id && r.usable(now) })
}

// Kpm is mef.KpmStore's.
func (m *Memory) Kpm(ctx context.Context, id muster.KpmID, now time.Time) (mef.ProvisionedKpm, error) {
	if err := ctx.Err(); err != nil {
		return mef.ProvisionedKpm{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	at := m.usableKpm(id, now)
	if at < 0 {
		return mef.ProvisionedKpm{}, mef.ErrUnknown
	}
	return m.kpms[at].ProvisionedKpm, nil
}

// ActivateKpm is mef.KpmStore's.
func (m *Memory) ActivateKpm(ctx context.Context, id muster.KpmID, now time.Time) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	at := m.usableKpm(id, now)
	if at < 0 {
		return mef.ErrUnknown
	}
	m.kpms[at].used = true
	for _, older := range m.kpms[:at] {
		if older.EnroleeID == m.kpms[at].EnroleeID && older.gone == "" {
			older.gone, older.Kpm = mef.KpmSuperseded, muster.Kpm{}
		}
	}
	return nil
}

// SweepKpms is mef.KpmStore's.
func (m *Memory) SweepKpms(ctx context.Context, now time.Time, limit int) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	swept := 0
	for _, r := range m.kpms {
		if swept < limit && r.gone == "" && !r.usable(now) {
			r.gone, r.Kpm = mef.KpmExpired, muster.Kpm{}
			swept++
		}
	}
	return swept, nil
}

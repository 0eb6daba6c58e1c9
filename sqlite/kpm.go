package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"muster"
	"muster/archive"
	"muster/mef"
)

var _ mef.KpmStore = (*Store)(nil)

// A sealedKpm is a key to be imported, and its record.
type sealedKpm struct {
	mef.ProvisionedKpm
	dataKey uint32
	sealed  []byte
}

// ImportKpms is mef.KpmStore's.
func (s *Store) ImportKpms(ctx context.Context, list mef.Import) (mef.Imported, error) {
	kpms := make([]sealedKpm, len(list.Kpms))
	for i, kpm := range list.Kpms {
		if kpm.KpmID.IsZero() || kpm.EnroleeID.IsZero() || kpm.Kpm.IsZero() {
			return mef.Imported{}, errors.New("the key lacks its KpmID, Enrolee-ID or Kpm")
		}
		kpm.Created = wholeSecond(kpm.Created)
		id, sealed, err := s.seal(kpm.Kpm.Reveal(), bindKpm(kpm)...)
		if err != nil {
			return mef.Imported{}, err
		}
		kpms[i] = sealedKpm{kpm, id, sealed}
	}
	// Conflicts are a result here, since the writer returns none with an error.
	type outcome struct {
		done    mef.Imported
		refused error
	}
	o, err := do(ctx, &s.write, mef.ErrBusy, func() (o outcome, err error) {
		var plan []mef.ImportStep
		plan, o.done, err = list.Plan(s.keptKpm)
		if errors.Is(err, mef.ErrConflict) {
			return outcome{o.done, err}, nil
		}
		if err != nil || list.DryRun {
			return o, err
		}
		return o, s.writeImport(plan, kpms, list.Overlap)
	})
	return o.done, errors.Join(o.refused, err)
}

func bindKpm(kpm mef.ProvisionedKpm) []string { return archive.BindKpm(kpm.KpmID, kpm.EnroleeID) }

// keptKpm returns a key with its Kpm, which is absent if it was erased.
func (s *Store) keptKpm(id muster.KpmID) (kpm mef.ProvisionedKpm, found bool, err error) {
	var r scannedKpm
	switch err := s.write.kpmRow.QueryRow(id.String()).Scan(r.columns()...); {
	case errors.Is(err, sql.ErrNoRows):
		return mef.ProvisionedKpm{}, false, nil
	case err != nil:
		return mef.ProvisionedKpm{}, false, err
	}
	kpm, err = s.assembleKpm(id, r)
	return kpm, true, err
}

// writeImport carries a plan out.
func (s *Store) writeImport(plan []mef.ImportStep, kpms []sealedKpm, overlap time.Duration) error {
	for i, kpm := range kpms {
		var n int
		var err error
		if s.replaced(kpm.dataKey) {
			if kpm.dataKey, kpm.sealed, err = s.seal(kpm.Kpm.Reveal(), bindKpm(kpm.ProvisionedKpm)...); err != nil {
				return err
			}
		}
		switch plan[i] {
		case mef.ReplaceKpm:
			n, err = changed(s.write.replaceKpm.Exec(kpm.KpmID.String(), kpm.dataKey, kpm.sealed))
		case mef.AddKpm:
			if _, err = s.write.endOlderKpms.Exec(kpm.EnroleeID.String(), kpm.Created.Unix()+seconds(overlap)); err == nil {
				n, err = changed(s.write.insertKpm.Exec(kpm.KpmID.String(), kpm.EnroleeID.String(), kpm.dataKey, kpm.sealed, kpm.Created.Unix()))
			}
		default:
			continue
		}
		if err != nil || n != 1 {
			return errors.Join(fmt.Errorf("import %s: %d rows", kpm.KpmID, n), err)
		}
	}
	return nil
}

type scannedKpm struct {
	enrolee string
	dataKey *uint32
	sealed  []byte
	created int64
	until   *int64
}

func (r *scannedKpm) columns() []any {
	return []any{&r.enrolee, &r.dataKey, &r.sealed, &r.created, &r.until}
}

func (s *Store) assembleKpm(id muster.KpmID, r scannedKpm) (mef.ProvisionedKpm, error) {
	enrolee, err := muster.ParseEnroleeID(r.enrolee)
	if err != nil {
		return mef.ProvisionedKpm{}, err
	}
	kpm := mef.ProvisionedKpm{KpmID: id, EnroleeID: enrolee, Created: time.Unix(r.created, 0).UTC()}
	if r.until != nil {
		kpm.Until = time.Unix(*r.until, 0).UTC()
	}
	key, err := s.unseal(r.dataKey, r.sealed, bindKpm(kpm)...)
	if err != nil || key == nil {
		return kpm, err
	}
	defer clear(key)
	kpm.Kpm, err = muster.NewKpm(key)
	return kpm, err
}

// Kpm is mef.KpmStore's.
func (s *Store) Kpm(ctx context.Context, id muster.KpmID, now time.Time) (mef.ProvisionedKpm, error) {
	var r scannedKpm
	err := s.read.kpm.QueryRowContext(ctx, id.String(), now.Unix()).Scan(r.columns()...)
	if errors.Is(err, sql.ErrNoRows) {
		return mef.ProvisionedKpm{}, fmt.Errorf("%w: %s", mef.ErrUnknown, id)
	} else if err != nil {
		return mef.ProvisionedKpm{}, s.readError(err)
	}
	return s.assembleKpm(id, r)
}

// ActivateKpm is mef.KpmStore's. Only the first activation is a write: later ones,
// at each session of the Enrolee, read.
func (s *Store) ActivateKpm(ctx context.Context, id muster.KpmID, now time.Time) error {
	var one int
	err := s.read.kpmActivated.QueryRowContext(ctx, id.String(), now.Unix()).Scan(&one)
	if err == nil {
		return nil
	} else if !errors.Is(err, sql.ErrNoRows) {
		return s.readError(err)
	}
	_, err = do(ctx, &s.write, mef.ErrBusy, func() (struct{}, error) {
		var enrolee string
		var generation int64
		err := s.write.activateKpm.QueryRow(id.String(), now.Unix()).Scan(&enrolee, &generation)
		if errors.Is(err, sql.ErrNoRows) {
			return struct{}{}, fmt.Errorf("%w: %s", mef.ErrUnknown, id)
		} else if err != nil {
			return struct{}{}, err
		}
		_, err = s.write.eraseOlderKpms.Exec(enrolee, generation)
		return struct{}{}, err
	})
	return err
}

// SweepKpms is mef.KpmStore's.
func (s *Store) SweepKpms(ctx context.Context, now time.Time, limit int) (int, error) {
	return s.sweep(ctx, mef.ErrBusy, limit, sweepStep{s.write.sweepKpms, now.Unix()})
}

package postgres

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"muster"
	"muster/archive"
	"muster/mef"
)

var _ mef.KpmStore = (*Store)(nil)

const (
	kpmColumns = "kpm_id, enrolee_id, data_key, sealed, created, until"

	selectKpms = "SELECT " + kpmColumns + " FROM kpm WHERE kpm_id = ANY($1)"

	selectKpm = "SELECT " + kpmColumns + " FROM kpm WHERE kpm_id = $1 AND state + 0 IN (1, 2) AND (until IS NULL OR until > $2)"

	insertKpms = `INSERT INTO kpm (kpm_id, enrolee_id, generation, data_key, sealed, state, created, until)
		SELECT n.kpm_id, n.enrolee_id, n.position + coalesce((SELECT max(generation) FROM kpm WHERE enrolee_id = n.enrolee_id), 0),
			n.data_key, n.sealed, 1, n.created, n.until
		FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bytea[], $6::bigint[], $7::bigint[])
			AS n (kpm_id, enrolee_id, position, data_key, sealed, created, until)`

	replaceKpms = `UPDATE kpm SET state = 1, data_key = n.data_key, sealed = n.sealed
		FROM unnest($1::text[], $2::bigint[], $3::bytea[]) AS n (kpm_id, data_key, sealed)
		WHERE kpm.kpm_id = ANY($1) AND kpm.kpm_id = n.kpm_id AND kpm.state + 0 IN (1, 2)`

	endOlderKpms = `UPDATE kpm SET until = least(coalesce(kpm.until, n.until), n.until)
		FROM unnest($1::text[], $2::bigint[]) AS n (enrolee_id, until)
		WHERE kpm.enrolee_id = ANY($1) AND kpm.enrolee_id = n.enrolee_id AND kpm.state + 0 IN (1, 2)`

	selectKpmActivated = "SELECT true FROM kpm WHERE kpm_id = $1 AND state + 0 = 2 AND (until IS NULL OR until > $2)"

	activateKpm = `UPDATE kpm SET state = 2 WHERE kpm_id = $1 AND state + 0 IN (1, 2) AND (until IS NULL OR until > $2)
		RETURNING enrolee_id, generation`

	eraseOlderKpms = "UPDATE kpm SET state = 4, sealed = NULL, data_key = NULL WHERE enrolee_id = $1 AND generation < $2 AND state + 0 IN (1, 2)"
)

// importRoute is that of all imports: one writer runs them, one after the other.
const importRoute = "Kpm"

// An imported is what an import came to. A conflict is a result here, since an
// error would run the import again, or lose the list of conflicts.
type imported struct {
	done    mef.Imported
	refused error
}

// ImportKpms is mef.KpmStore's. It is one serializable transaction, so that two
// imports at once come to what they would one after the other.
func (s *Store) ImportKpms(ctx context.Context, list mef.Import) (mef.Imported, error) {
	kpms := make([]mef.ProvisionedKpm, len(list.Kpms))
	for i, kpm := range list.Kpms {
		if kpm.KpmID.IsZero() || kpm.EnroleeID.IsZero() || kpm.Kpm.IsZero() {
			return mef.Imported{}, errors.New("the key lacks its KpmID, Enrolee-ID or Kpm")
		}
		kpm.Created = wholeSecond(kpm.Created)
		kpms[i] = kpm
	}
	list.Kpms = kpms
	o, err := aloneOn(ctx, s, mef.ErrBusy, importRoute, func(ctx context.Context, conn *pgxpool.Conn) (imported, error) {
		sealed, err := s.sealKpms(ctx, conn, list)
		if err != nil {
			return imported{}, err
		}
		return within(ctx, conn, pgx.Serializable, func(ctx context.Context, tx pgx.Tx) (imported, error) {
			return s.importKpms(ctx, tx, list, sealed)
		})
	})
	return o.done, errors.Join(o.refused, err)
}

// sealKpms runs outside of the transaction, which would undo the booking of the
// data key.
func (s *Store) sealKpms(ctx context.Context, conn *pgxpool.Conn, list mef.Import) ([]record, error) {
	sealed := make([]record, len(list.Kpms))
	if list.DryRun {
		return sealed, nil
	}
	for i, kpm := range list.Kpms {
		dataKey, err := s.dataKey(ctx, conn.Conn(), 1)
		if err != nil {
			return nil, err
		}
		if sealed[i], err = s.sealKey(dataKey, kpm.Kpm.Reveal(), bindKpm(kpm)...); err != nil {
			return nil, err
		}
	}
	return sealed, nil
}

func bindKpm(kpm mef.ProvisionedKpm) []string { return archive.BindKpm(kpm.KpmID, kpm.EnroleeID) }

func (s *Store) importKpms(ctx context.Context, tx pgx.Tx, list mef.Import, sealed []record) (o imported, err error) {
	kept, err := s.keptKpms(ctx, tx, list.Kpms)
	if err != nil {
		return imported{}, err
	}
	plan, done, err := list.Plan(func(id muster.KpmID) (mef.ProvisionedKpm, bool, error) {
		kpm, found := kept[id]
		return kpm, found, nil
	})
	switch {
	case errors.Is(err, mef.ErrConflict):
		return imported{done, err}, nil
	case err != nil || list.DryRun:
		return imported{done: done}, err
	}
	for _, dataKey := range dataKeysOf(sealed) {
		if err := s.holdAtOnce(ctx, tx, dataKey); err != nil {
			return imported{}, err
		}
	}
	return imported{done: done}, writeImport(ctx, tx, plan, list, sealed)
}

// dataKeysOf returns each data key of some records once.
func dataKeysOf(records []record) []uint32 {
	all := map[uint32]bool{}
	for _, r := range records {
		all[*r.dataKey] = true
	}
	return slices.Sorted(maps.Keys(all))
}

// writeImport carries a plan out, in three statements however long the list is.
func writeImport(ctx context.Context, tx pgx.Tx, plan []mef.ImportStep, list mef.Import, sealed []record) error {
	var added, replaced kpmRows
	ends := map[string]int64{} // of the older keys of each Enrolee
	for i, kpm := range slices.Backward(list.Kpms) {
		enrolee := kpm.EnroleeID.String()
		switch plan[i] {
		case mef.ReplaceKpm:
			replaced.add(kpm, sealed[i], nil)
		case mef.AddKpm:
			var until *int64
			end, ended := ends[enrolee]
			if ended {
				until = new(end)
			}
			added.add(kpm, sealed[i], until)
			if own := kpm.Created.Add(list.Overlap).Unix(); !ended || own < end {
				ends[enrolee] = own
			}
		}
	}
	enrolees := slices.Collect(maps.Keys(ends))
	untils := make([]int64, len(enrolees))
	for i, enrolee := range enrolees {
		untils[i] = ends[enrolee]
	}
	if _, err := tx.Exec(ctx, endOlderKpms, enrolees, untils); err != nil {
		return err
	}
	n, err := tx.Exec(ctx, replaceKpms, replaced.ids, replaced.dataKeys, replaced.sealed)
	if err != nil {
		return err
	}
	m, err := tx.Exec(ctx, insertKpms, added.ids, added.enrolees, added.positions(), added.dataKeys, added.sealed, added.created, added.untils)
	if err == nil && n.RowsAffected()+m.RowsAffected() != int64(len(replaced.ids)+len(added.ids)) {
		err = fmt.Errorf("import keys: %d and %d rows", n.RowsAffected(), m.RowsAffected())
	}
	return err
}

// kpmRows are rows in columns, the last of an import first.
type kpmRows struct {
	ids, enrolees []string
	dataKeys      []*uint32
	sealed        [][]byte
	created       []int64
	untils        []*int64
}

func (r *kpmRows) add(kpm mef.ProvisionedKpm, sealed record, until *int64) {
	r.ids, r.enrolees = append(r.ids, kpm.KpmID.String()), append(r.enrolees, kpm.EnroleeID.String())
	r.dataKeys, r.sealed = append(r.dataKeys, sealed.dataKey), append(r.sealed, sealed.sealed)
	r.created, r.untils = append(r.created, kpm.Created.Unix()), append(r.untils, until)
}

// positions numbers the keys of each Enrolee from 1, in the order of the import.
func (r *kpmRows) positions() []int64 {
	positions := make([]int64, len(r.enrolees))
	of := map[string]int64{}
	for i, enrolee := range slices.Backward(r.enrolees) {
		of[enrolee]++
		positions[i] = of[enrolee]
	}
	return positions
}

// keptKpms returns what is kept under the identifiers of some keys.
func (s *Store) keptKpms(ctx context.Context, tx pgx.Tx, kpms []mef.ProvisionedKpm) (map[muster.KpmID]mef.ProvisionedKpm, error) {
	ids := make([]string, len(kpms))
	for i, kpm := range kpms {
		ids[i] = kpm.KpmID.String()
	}
	rows, err := tx.Query(ctx, selectKpms, ids)
	if err != nil {
		return nil, err
	}
	found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (r scannedKpm, err error) {
		return r, row.Scan(r.columns()...)
	})
	if err != nil {
		return nil, err
	}
	kept := make(map[muster.KpmID]mef.ProvisionedKpm, len(found))
	for _, r := range found {
		kpm, err := s.assembleKpm(ctx, tx.Conn(), r)
		if err != nil {
			return nil, err
		}
		kept[kpm.KpmID] = kpm
	}
	return kept, nil
}

type scannedKpm struct {
	id, enrolee string
	record
	created int64
	until   *int64
}

func (r *scannedKpm) columns() []any {
	return []any{&r.id, &r.enrolee, &r.dataKey, &r.sealed, &r.created, &r.until}
}

// assembleKpm opens a row, whose Kpm is absent if it was erased.
func (s *Store) assembleKpm(ctx context.Context, conn *pgx.Conn, r scannedKpm) (kpm mef.ProvisionedKpm, err error) {
	var err1, err2 error
	kpm.KpmID, err1 = muster.ParseKpmID(r.id)
	kpm.EnroleeID, err2 = muster.ParseEnroleeID(r.enrolee)
	kpm.Created = time.Unix(r.created, 0).UTC()
	if r.until != nil {
		kpm.Until = time.Unix(*r.until, 0).UTC()
	}
	if err := errors.Join(err1, err2, s.learnKeys(ctx, conn, r.record)); err != nil {
		return mef.ProvisionedKpm{}, err
	}
	key, err := s.unseal(r.record, bindKpm(kpm)...)
	if err != nil || key == nil {
		return kpm, err
	}
	defer clear(key)
	kpm.Kpm, err = muster.NewKpm(key)
	return kpm, err
}

// Kpm is mef.KpmStore's.
func (s *Store) Kpm(ctx context.Context, id muster.KpmID, now time.Time) (kpm mef.ProvisionedKpm, err error) {
	err = s.read(ctx, func(ctx context.Context, conn *pgxpool.Conn) error {
		var r scannedKpm
		err := conn.QueryRow(ctx, selectKpm, id.String(), now.Unix()).Scan(r.columns()...)
		if errors.Is(err, pgx.ErrNoRows) {
			return fmt.Errorf("%w: %s", mef.ErrUnknown, id)
		} else if err != nil {
			return err
		}
		kpm, err = s.assembleKpm(ctx, conn.Conn(), r)
		return err
	})
	return kpm, err
}

// ActivateKpm is mef.KpmStore's. Only the first activation is a write: later ones,
// at each session of the Enrolee, read.
func (s *Store) ActivateKpm(ctx context.Context, id muster.KpmID, now time.Time) error {
	if found, err := exists[bool](ctx, s, selectKpmActivated, id.String(), now.Unix()); found != nil || err != nil {
		return err
	}
	_, err := alone(ctx, s, mef.ErrBusy, id.String(), pgx.Serializable, func(ctx context.Context, tx pgx.Tx) (struct{}, error) {
		var enrolee string
		var generation int64
		err := tx.QueryRow(ctx, activateKpm, id.String(), now.Unix()).Scan(&enrolee, &generation)
		if errors.Is(err, pgx.ErrNoRows) {
			return struct{}{}, fmt.Errorf("%w: %s", mef.ErrUnknown, id)
		} else if err != nil {
			return struct{}{}, err
		}
		_, err = tx.Exec(ctx, eraseOlderKpms, enrolee, generation)
		return struct{}{}, err
	})
	return err
}

// SweepKpms is mef.KpmStore's.
func (s *Store) SweepKpms(ctx context.Context, now time.Time, limit int) (int, error) {
	return s.sweep(ctx, mef.ErrBusy, limit, sweepStep{sweepKpms, now.Unix()})
}

package sqlite

import (
	"context"
	"fmt"

	"muster/archive"
	"muster/tef"
)

// RotateDataKey puts a new data key in the place of the newest, whatever that has
// sealed. What is stored stays under its data keys until Reseal.
func (s *Store) RotateDataKey(ctx context.Context) error {
	s.keys.current.Load().seals.Add(maxSeals) // its share is done
	_, err := do(ctx, &s.write, tef.ErrBusy, func() (struct{}, error) { return struct{}{}, nil })
	return err
}

// Reseal seals at most limit keys anew that are sealed under other data keys than
// the newest, in slices that let other writes pass, and returns their number.
// After the last of them it forgets the other data keys, whose records in older
// backups have them there. A key that does not open stays as it is, and so does
// its data key; the others are resealed, and the error tells of it.
//
// A crash between slices leaves keys under both; the next call goes on.
func (s *Store) Reseal(ctx context.Context, limit int) (int, error) {
	resealed := 0
	var unopened []error
	for i := range sealedTableCount {
		for skip := 0; resealed < limit && len(unopened) < archive.MaxProblems; {
			rows, errs, err := s.older(ctx, i, min(sweepSlice, limit-resealed), skip)
			if err != nil {
				return resealed, err
			}
			unopened, skip = append(unopened, errs...), skip+len(errs)
			if len(rows) == 0 && len(errs) == 0 {
				break
			}
			n, err := s.swap(ctx, i, rows)
			if resealed += n; err != nil {
				return resealed, err
			}
		}
	}
	if len(unopened) > 0 {
		return resealed, fmt.Errorf("reseal: %d keys do not open: %w", len(unopened), unopened[0])
	}
	if resealed < limit {
		return resealed, s.forgetDataKeys(ctx)
	}
	return resealed, nil
}

// older opens keys of table i that are not under the newest data key, behind those
// to be skipped since they do not open. It reports why others do not.
func (s *Store) older(ctx context.Context, i, limit, skip int) (opened []openedRow, unopened []error, err error) {
	rows, err := s.read.older[i].QueryContext(ctx, s.keys.current.Load().id, limit, skip)
	if err != nil {
		return nil, nil, s.readError(err)
	}
	defer rows.Close()
	for rows.Next() {
		row, err := sealedTables()[i].open(s, rows.Scan)
		if err != nil {
			unopened = append(unopened, err)
			continue
		}
		opened = append(opened, row)
	}
	return opened, unopened, s.readError(rows.Err())
}

// swap seals keys of table i anew and stores those that nobody has changed since
// they were read. It returns the number of keys that were.
func (s *Store) swap(ctx context.Context, i int, rows []openedRow) (int, error) {
	anew := make([][]byte, len(rows))
	var dataKey uint32 // of the first; those of the others are as new
	for j, row := range rows {
		id, sealed, err := s.seal(row.key, row.binding...)
		if err != nil {
			return 0, err
		}
		if anew[j] = sealed; j == 0 {
			dataKey = id
		}
	}
	return do(ctx, &s.write, tef.ErrBusy, func() (int, error) {
		if s.replaced(dataKey) {
			return 0, nil
		}
		total := 0
		for j, row := range rows {
			n, err := changed(s.write.swap[i].Exec(dataKey, anew[j], row.rowid, row.sealed))
			if err != nil {
				return 0, err
			}
			total += n
		}
		return total, nil
	})
}

// forgetDataKeys forgets those under which nothing is sealed, but for the newest.
// None of them gets a record any more: see replaced. The sealer keeps them until
// the process ends, for a read that is under way.
func (s *Store) forgetDataKeys(ctx context.Context) error {
	_, err := do(ctx, &s.write, tef.ErrBusy, func() (struct{}, error) {
		_, err := s.write.forgetDataKeys.Exec(s.keys.current.Load().id)
		return struct{}{}, err
	})
	return err
}

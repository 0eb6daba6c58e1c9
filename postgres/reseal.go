package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"muster/archive"
	"muster/tef"
)

// maxUnopened bounds how many records that do not open one Reseal looks at.
const maxUnopened = 100

// A sealedTable is a table whose rows hold sealed keys. Its statements are found
// by index, and their plans do not depend on its size.
type sealedTable struct {
	// older reads rows that are not under the newest data key, but for those given.
	older string
	// swap replaces records that nobody has changed, as long as their new data key is there.
	swap string
	scan func(pgx.CollectableRow) (sealedRow, error)
	// text is set if the rows are named by text, and not by octets.
	text bool
}

// A sealedRow is a row that was read. It can be opened when all rows are read.
type sealedRow interface {
	open(ctx context.Context, s *Store, conn *pgxpool.Conn) (openedRow, error)
	stored() record
}

// An openedRow is a row's name, its key in the clear and the record that it is
// bound to.
type openedRow struct {
	id      []byte
	sealed  []byte
	key     []byte
	binding []string
}

func sealedTables() []sealedTable {
	table := func(name, id, kind, columns string, scan func(pgx.CollectableRow) (sealedRow, error)) sealedTable {
		return sealedTable{
			// The limit is a constant: of a parameter the planner would expect a
			// tenth of the table.
			older: fmt.Sprintf("SELECT %s FROM %s WHERE data_key < $1 AND sealed <> ALL($2::bytea[]) LIMIT %d", columns, name, sweepSlice),
			swap: fmt.Sprintf(`UPDATE %[1]s AS t SET data_key = $1, sealed = w.anew FROM unnest($2::%[3]s[], $3::bytea[], $4::bytea[]) AS w (id, sealed, anew)
				WHERE t.%[2]s = ANY($2::%[3]s[]) AND t.%[2]s = w.id AND t.sealed = w.sealed AND EXISTS (SELECT 1 FROM data_key WHERE id = $1)`, name, id, kind),
			scan: scan, text: kind == "text",
		}
	}
	return []sealedTable{
		table("enrolment", "ke_id", "bytea", enrolmentColumns, func(row pgx.CollectableRow) (sealedRow, error) {
			r, err := scanEnrolment(row)
			return r, err
		}),
		table("credential", "ke_id", "bytea", credentialColumns, func(row pgx.CollectableRow) (sealedRow, error) {
			var r scannedCredential
			return r, row.Scan(r.columns()...)
		}),
		table("key_registration", "key_id", "bytea", "key_id, "+keyColumns, func(row pgx.CollectableRow) (sealedRow, error) {
			var r namedKey
			return r, row.Scan(append(append([]any{&r.keyID}, r.columns()...), &r.live)...)
		}),
		table("kpm", "kpm_id", "text", kpmColumns, func(row pgx.CollectableRow) (sealedRow, error) {
			var r scannedKpm
			return r, row.Scan(r.columns()...)
		}),
	}
}

func (r record) stored() record { return r }

func (r scannedEnrolment) open(ctx context.Context, s *Store, conn *pgxpool.Conn) (openedRow, error) {
	e, err := s.assembleEnrolment(ctx, conn, r)
	if err != nil {
		return openedRow{}, err
	}
	return openedRow{r.keID, r.sealed, e.Ke.Reveal(), bindEnrolment(e, e.Targets[0])}, nil
}

func (r scannedCredential) open(ctx context.Context, s *Store, conn *pgxpool.Conn) (openedRow, error) {
	c, err := s.assembleCredential(ctx, conn, r)
	return openedRow{r.keID, r.sealed, c.Km.Reveal(), bindCredential(c)}, err
}

func (r scannedKpm) open(ctx context.Context, s *Store, conn *pgxpool.Conn) (openedRow, error) {
	kpm, err := s.assembleKpm(ctx, conn.Conn(), r)
	return openedRow{[]byte(r.id), r.sealed, kpm.Kpm.Reveal(), bindKpm(kpm)}, err
}

// A namedKey is a row of a registered key with its identifier.
type namedKey struct {
	keyID []byte
	live  bool
	scannedKey
}

func (r namedKey) stored() record { return r.record }

func (r namedKey) open(ctx context.Context, s *Store, conn *pgxpool.Conn) (openedRow, error) {
	id, err := archive.KeIDFrom(r.keyID)
	if err != nil {
		return openedRow{}, err
	}
	k, err := s.openKey(ctx, conn.Conn(), tef.NewKeyID(id.Relative(), id.MEF()), r.scannedKey)
	return openedRow{r.keyID, r.record.sealed, k.Key.Reveal(), bindKey(k)}, err
}

// RotateDataKey puts a new data key in the place of the newest, whatever that has
// sealed; the other Stores of the database follow at their next write but one.
// What is stored stays under its data keys until Reseal.
func (s *Store) RotateDataKey(ctx context.Context) error {
	_, err := aloneOn(ctx, s, tef.ErrBusy, "", func(ctx context.Context, conn *pgxpool.Conn) (struct{}, error) {
		_, err := conn.Exec(ctx, "UPDATE data_key SET seals = $1 WHERE id = (SELECT max(id) FROM data_key)", maxSeals) // its share is done
		if err == nil {
			s.keys.drop(func(uint32) bool { return true })
			_, err = s.dataKey(ctx, conn.Conn(), 0)
		}
		return struct{}{}, err
	})
	return err
}

// Reseal seals at most limit keys anew that are sealed under other data keys than
// the newest, in slices that let other writes pass, and returns their number.
// After the last of them it forgets the other data keys, whose records in older
// backups have them there. A key that does not open stays as it is, and so does
// its data key; the others are resealed, and the error tells of it.
//
// A crash between slices leaves keys under both; the next call goes on, and so
// does that of any Store of the database. Two that reseal at once do so for each
// other.
func (s *Store) Reseal(ctx context.Context, limit int) (int, error) {
	var newest uint32
	resealed := 0
	var unopened [][]byte
	var why error
	for _, table := range sealedTables() {
		for resealed < limit && len(unopened) < maxUnopened {
			done, err := aloneOn(ctx, s, tef.ErrBusy, "", func(ctx context.Context, conn *pgxpool.Conn) (slice, error) {
				return s.resealSlice(ctx, conn, table, limit-resealed, unopened)
			})
			if err != nil {
				return resealed, err
			}
			newest, resealed, unopened = done.newest, resealed+done.resealed, append(unopened, done.unopened...)
			if why == nil {
				why = done.why
			}
			if done.found == 0 {
				break
			}
		}
	}
	if why != nil {
		return resealed, fmt.Errorf("reseal: %d keys do not open: %w", len(unopened), why)
	}
	if resealed < limit {
		return resealed, s.forgetDataKeys(ctx, newest)
	}
	return resealed, nil
}

// A slice is what became of some rows.
type slice struct {
	newest          uint32 // data key
	found, resealed int
	unopened        [][]byte // records that do not open
	why             error    // the first of them does not
}

func (s *Store) resealSlice(ctx context.Context, conn *pgxpool.Conn, table sealedTable, limit int, skip [][]byte) (done slice, err error) {
	if done.newest, err = s.newestDataKey(ctx, conn.Conn()); err != nil {
		return done, err
	}
	found, err := conn.Query(ctx, table.older, done.newest, append([][]byte{}, skip...))
	if err != nil {
		return done, err
	}
	rows, err := pgx.CollectRows(found, table.scan)
	if err != nil {
		return done, err
	}
	rows = rows[:min(len(rows), limit)]
	done.found = len(rows)
	var opened []openedRow
	for _, row := range rows {
		r, err := row.open(ctx, s, conn)
		switch {
		case ctx.Err() != nil:
			return done, err
		case err != nil && done.why == nil:
			done.why = err
			fallthrough
		case err != nil:
			done.unopened = append(done.unopened, row.stored().sealed)
		default:
			opened = append(opened, r)
		}
	}
	done.resealed, err = s.swap(ctx, conn, table, opened)
	return done, err
}

// swap seals keys anew and stores those that nobody has changed since they were
// read. It returns the number of keys that were.
func (s *Store) swap(ctx context.Context, conn *pgxpool.Conn, table sealedTable, rows []openedRow) (n int, err error) {
	if len(rows) == 0 {
		return 0, nil
	}
	dataKey, err := s.dataKey(ctx, conn.Conn(), len(rows))
	if err != nil {
		return 0, err
	}
	var ids, before, anew [][]byte
	var names []string
	for _, row := range rows {
		r, err := s.sealKey(dataKey, row.key, row.binding...)
		if err != nil {
			return 0, err
		}
		ids, names, before, anew = append(ids, row.id), append(names, string(row.id)), append(before, row.sealed), append(anew, r.sealed)
	}
	var named any = ids
	if table.text {
		named = names
	}
	var t transaction
	s.hold(&t, dataKey)
	t.queue(table.swap, dataKey, named, before, anew).Exec(func(tag pgconn.CommandTag) error {
		n = int(tag.RowsAffected())
		return nil
	})
	return n, t.send(ctx, conn)
}

// Of a data key, holdUnused waits for the writes that hold it; deleteUnused then
// sees what they wrote, for each statement has a snapshot of its own.
const (
	unusedDataKeys = `id < $1 AND (SELECT 1 FROM enrolment WHERE data_key = k.id LIMIT 1) IS NULL
		AND (SELECT 1 FROM credential WHERE data_key = k.id LIMIT 1) IS NULL
		AND (SELECT 1 FROM key_registration WHERE data_key = k.id LIMIT 1) IS NULL
		AND (SELECT 1 FROM kpm WHERE data_key = k.id LIMIT 1) IS NULL`
	holdUnused   = "SELECT id FROM data_key AS k WHERE " + unusedDataKeys + " ORDER BY id FOR UPDATE"
	deleteUnused = "DELETE FROM data_key AS k WHERE " + unusedDataKeys
)

// forgetDataKeys forgets the data keys before the newest under which nothing is
// sealed. The sealers keep them until their processes end, for reads that are
// under way.
func (s *Store) forgetDataKeys(ctx context.Context, newest uint32) error {
	_, err := alone(ctx, s, tef.ErrBusy, "", pgx.ReadCommitted, func(ctx context.Context, tx pgx.Tx) (struct{}, error) {
		held, err := tx.Exec(ctx, holdUnused, newest)
		if err == nil && held.RowsAffected() > 0 {
			_, err = tx.Exec(ctx, deleteUnused, newest)
		}
		return struct{}{}, err
	})
	return err
}

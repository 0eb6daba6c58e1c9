package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	lib "modernc.org/sqlite/lib"
)

// A Report is what Check found.
type Report struct {
	Schema   int // version of the schema
	DataKeys int
	Sealed   int            // keys that were opened
	Rows     map[string]int // of each table
	Problems []string       // what is wrong, at most maxProblems; none of them tells a key
}

const maxProblems = 100

func (r *Report) wrong(format string, args ...any) {
	if len(r.Problems) < maxProblems {
		r.Problems = append(r.Problems, fmt.Sprintf(format, args...))
	}
}

// Check reads all of a database, which another process may have open and change
// meanwhile: SQLite's own checks, the references, and that each sealed key opens
// under the sealer for the record that it stands in. The sealer must be one that
// no Store uses. An error means that the check could not be made; what is wrong
// with the contents is in the Report.
func Check(ctx context.Context, path string, sealer Sealer) (*Report, error) {
	path, err := realPath(path)
	if err != nil {
		return nil, err
	}
	db, err := connect(path, readerPragmas())
	if err != nil {
		return nil, err
	}
	defer db.Close()
	conn, err := db.Conn(ctx)
	if err != nil {
		return nil, fmt.Errorf("check %s: %w", path, identify(err))
	}
	defer conn.Close()
	// One transaction sees one state, whoever writes.
	if _, err := conn.ExecContext(ctx, "BEGIN"); err != nil {
		return nil, fmt.Errorf("check %s: %w", path, identify(err))
	}
	r := &Report{Rows: map[string]int{}}
	for _, step := range []func(context.Context, *sql.Conn, *Store, *Report) error{
		checkSchema, checkFile, checkDataKeys, checkRecords,
	} {
		if err := step(ctx, conn, &Store{sealer: sealer}, r); err != nil {
			if code(err) == lib.SQLITE_CORRUPT {
				r.wrong("%v", err)
				continue
			}
			return nil, fmt.Errorf("check %s: %w", path, err)
		}
	}
	return r, nil
}

func checkSchema(ctx context.Context, conn *sql.Conn, _ *Store, r *Report) error {
	var id int
	if err := conn.QueryRowContext(ctx, "PRAGMA application_id").Scan(&id); err != nil {
		return identify(err)
	}
	if id != applicationID {
		return fmt.Errorf("%w: its application id is %#x", ErrForeign, id)
	}
	if err := conn.QueryRowContext(ctx, "PRAGMA user_version").Scan(&r.Schema); err != nil {
		return err
	}
	switch known := len(migrations()); {
	case r.Schema > known:
		return fmt.Errorf("%w: schema %d, and this Muster knows %d", ErrNewer, r.Schema, known)
	case r.Schema < known:
		return fmt.Errorf("%w: schema %d, which the next start of its function brings to %d", ErrOlder, r.Schema, known)
	}
	return nil
}

// checkFile runs what SQLite checks itself, and counts.
func checkFile(ctx context.Context, conn *sql.Conn, _ *Store, r *Report) error {
	err := each(ctx, conn, fmt.Sprintf("PRAGMA integrity_check(%d)", maxProblems), func(rows *sql.Rows) error {
		var text string
		err := rows.Scan(&text)
		if err == nil && text != "ok" {
			r.wrong("integrity: %s", text)
		}
		return err
	})
	if err != nil {
		return err
	}
	err = each(ctx, conn, "PRAGMA foreign_key_check", func(rows *sql.Rows) error {
		var table, parent string
		var row, key sql.NullInt64
		err := rows.Scan(&table, &row, &parent, &key)
		r.wrong("row %d of %s refers to nothing in %s", row.Int64, table, parent)
		return err
	})
	if err != nil {
		return err
	}
	for _, table := range tables() {
		var n int
		if err := conn.QueryRowContext(ctx, "SELECT count(*) FROM "+table).Scan(&n); err != nil {
			return err
		}
		r.Rows[table] = n
	}
	return nil
}

func tables() []string {
	return []string{"enrolment", "credential", "registration", "key_registration", "command", "kpm"}
}

func checkDataKeys(ctx context.Context, conn *sql.Conn, s *Store, r *Report) error {
	err := each(ctx, conn, "SELECT id, wrapped FROM data_key ORDER BY id", func(rows *sql.Rows) error {
		var id uint32
		var wrapped []byte
		if err := rows.Scan(&id, &wrapped); err != nil {
			return err
		}
		r.DataKeys++
		return s.sealer.UseDataKey(id, wrapped)
	})
	if err == nil && r.DataKeys == 0 {
		r.wrong("there is no data key")
	}
	return err
}

func checkRecords(ctx context.Context, conn *sql.Conn, s *Store, r *Report) error {
	for _, table := range sealedTables() {
		err := each(ctx, conn, "SELECT "+table.columns+" FROM "+table.name+" ORDER BY rowid", func(rows *sql.Rows) error {
			row, err := table.open(s, rows.Scan)
			clear(row.key)
			if err != nil {
				r.wrong("%v", err)
			} else if row.sealed != nil {
				r.Sealed++
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// each calls visit for every row of a query.
func each(ctx context.Context, conn *sql.Conn, query string, visit func(*sql.Rows) error) (err error) {
	rows, err := conn.QueryContext(ctx, query)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		if err := visit(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// Sound reports whether nothing is wrong.
func (r *Report) Sound() bool { return len(r.Problems) == 0 }

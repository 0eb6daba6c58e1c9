package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	lib "modernc.org/sqlite/lib"

	"muster/archive"
)

// Check reads all of a database, which another process may have open and change
// meanwhile: SQLite's own checks, the references, and that each sealed key opens
// under the opener for the record that it stands in. An error means that the check
// could not be made; what is wrong with the contents is in the report.
func Check(ctx context.Context, path string, opener archive.Opener) (r *archive.Report, err error) {
	r = archive.NewReport()
	err = snapshot(ctx, path, func(conn *sql.Conn) error {
		if r.Schema, err = schemaOf(ctx, conn); err != nil {
			return err
		}
		if err := tolerate(r, checkFile(ctx, conn, r)); err != nil {
			return err
		}
		for _, table := range archive.Tables() {
			err := read(ctx, conn, table, func(record archive.Record) error { return r.Look(record, opener) })
			if err := tolerate(r, err); err != nil {
				return err
			}
		}
		r.End()
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("check %s: %w", path, err)
	}
	return r, nil
}

// tolerate notes the error of a file that is damaged, and returns any other.
func tolerate(r *archive.Report, err error) error {
	if code(err) != lib.SQLITE_CORRUPT {
		return err
	}
	r.Wrong("%v", err)
	return nil
}

// snapshot lets use read a database, which another process may have open and
// change, as it is at one moment.
func snapshot(ctx context.Context, path string, use func(*sql.Conn) error) (err error) {
	if path, err = realPath(path); err != nil {
		return err
	}
	return withConn(ctx, path, readerPragmas(), func(conn *sql.Conn) error {
		// One transaction sees one state, whoever writes.
		if _, err := conn.ExecContext(ctx, "BEGIN"); err != nil {
			return identify(err)
		}
		return use(conn)
	})
}

// schemaOf returns the version of a database's schema, which must be this one's.
func schemaOf(ctx context.Context, conn *sql.Conn) (int, error) {
	known := len(migrations())
	version, err := versionOf(ctx, conn, known)
	if err == nil && version < known {
		err = fmt.Errorf("%w: schema %d, which the next start of its function brings to %d", ErrOlder, version, known)
	}
	return version, err
}

// checkFile runs what SQLite checks itself.
func checkFile(ctx context.Context, conn *sql.Conn, r *archive.Report) error {
	err := each(ctx, conn, fmt.Sprintf("PRAGMA integrity_check(%d)", archive.MaxProblems), func(rows *sql.Rows) error {
		var text string
		err := rows.Scan(&text)
		if err == nil && text != "ok" {
			r.Wrong("integrity: %s", text)
		}
		return err
	})
	if err != nil {
		return err
	}
	return each(ctx, conn, "PRAGMA foreign_key_check", func(rows *sql.Rows) error {
		var table, parent string
		var row, key sql.NullInt64
		err := rows.Scan(&table, &row, &parent, &key)
		r.Wrong("row %d of %s refers to nothing in %s", row.Int64, table, parent)
		return err
	})
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

package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"

	lib "modernc.org/sqlite/lib"

	"muster/archive"
)

// Engine names this engine in an archive.
const Engine = "sqlite"

// Export reads the records of a database, which another process may have open and
// change meanwhile, as they are at one moment and in the order of an archive. What
// is read is not checked.
func Export(ctx context.Context, path string) iter.Seq2[archive.Record, error] {
	return archive.Sequence(func(visit func(archive.Record) error) error {
		err := snapshot(ctx, path, func(conn *sql.Conn) error {
			if _, err := schemaOf(ctx, conn); err != nil {
				return err
			}
			for _, table := range archive.Tables() {
				if err := read(ctx, conn, table, visit); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			err = fmt.Errorf("export %s: %w", path, err)
		}
		return err
	})
}

// Lock keeps Stores off a database until it is closed. The error wraps ErrInUse if
// one has it open.
func Lock(ctx context.Context, path string) (io.Closer, error) {
	path, err := realPath(path)
	if err != nil {
		return nil, err
	}
	lock, err := lockFile(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return lock, nil
}

// read visits the records of a table in the order of an archive.
func read(ctx context.Context, conn *sql.Conn, table archive.Table, visit func(archive.Record) error) error {
	return readBy(ctx, conn, table, table.Order, visit)
}

// readBy visits the records of a table in an order of its own.
func readBy(ctx context.Context, conn *sql.Conn, table archive.Table, order string, visit func(archive.Record) error) error {
	columns := strings.Join(table.Columns, ", ")
	columns = strings.Replace(columns, "targets",
		"(SELECT json_group_array(target_id ORDER BY target_id) FROM key_target AS t WHERE t.key_id = key_registration.key_id)", 1)
	query := fmt.Sprintf("SELECT %s FROM %s ORDER BY %s", columns, table.Name, order)
	return each(ctx, conn, query, func(rows *sql.Rows) error {
		record := table.New()
		if err := rows.Scan(fields(record)...); err != nil {
			return fmt.Errorf("read %s: %w", table.Name, err)
		}
		return visit(record)
	})
}

// fields returns the fields of a record as this engine reads them.
func fields(record archive.Record) []any {
	fields := record.Fields()
	for i, field := range fields {
		if targets, ok := field.(*[]string); ok {
			fields[i] = (*archive.List)(targets)
		}
	}
	return fields
}

// Import makes a database at path, where there must be none, of records in the
// order of an archive. All of them are there, and opened under the opener as Check
// does, or nothing is. What may have ended since they were read is withdrawn as
// Restore does, unless keep is set. An error of the records is wrapped.
func Import(ctx context.Context, path string, records iter.Seq2[archive.Record, error], opener archive.Opener, keep bool) (w archive.Withdrawn, report *archive.Report, err error) {
	err = place(path, func(draft string) error {
		written, err := fill(ctx, draft, records)
		if err != nil {
			return err
		}
		if report, err = Check(ctx, draft, opener); err != nil {
			return err
		}
		if err := report.Confirm(written); err != nil {
			return err
		}
		w, err = withdraw(ctx, draft, archive.Carried{}.Withdraws(keep))
		return err
	})
	if err != nil {
		return archive.Withdrawn{}, nil, fmt.Errorf("import to %s: %w", path, err)
	}
	return w, report, nil
}

// fill makes a database of an empty file, which is of no use if that fails: so it
// neither keeps a journal nor syncs. Its cache takes twice the octets that the pragma
// says: see writerPragmas.
func fill(ctx context.Context, path string, records iter.Seq2[archive.Record, error]) (written map[string]int, err error) {
	db, err := connect(path, []string{"journal_mode(OFF)", "synchronous(OFF)", "foreign_keys(ON)", "cache_size(-65536)", "trusted_schema(OFF)"})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	conn, err := db.Conn(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if err := makeSchema(ctx, conn); err != nil {
		return nil, err
	}
	if _, err := conn.ExecContext(ctx, "BEGIN"); err != nil {
		return nil, err
	}
	insert := inserter{conn: conn}
	defer func() { err = errors.Join(err, insert.close()) }()
	written = map[string]int{}
	for record, err := range records {
		if err != nil {
			return nil, err
		}
		if err := insert.record(ctx, record); err != nil {
			if code(err) == lib.SQLITE_CONSTRAINT {
				err = fmt.Errorf("%w: %w", archive.ErrDamaged, err)
			}
			return nil, fmt.Errorf("write to %s: %w", record.Table(), err)
		}
		written[record.Table()]++
	}
	_, err = conn.ExecContext(ctx, "COMMIT")
	return written, err
}

// An inserter writes records, those of a table by one prepared statement.
type inserter struct {
	conn    *sql.Conn
	table   string
	columns []int // of the record's fields
	insert  *sql.Stmt
}

func (i *inserter) record(ctx context.Context, record archive.Record) error {
	if record.Table() != i.table {
		if err := i.turnTo(ctx, record.Table()); err != nil {
			return err
		}
	}
	all := record.Fields()
	values := make([]any, len(i.columns))
	for n, column := range i.columns {
		values[n] = all[column]
	}
	if n, err := changed(i.insert.ExecContext(ctx, values...)); err != nil || n != 1 {
		return errors.Join(fmt.Errorf("%d rows", n), err)
	}
	key, ok := record.(*archive.KeyRegistration)
	if !ok {
		return nil
	}
	for _, target := range key.Targets {
		if _, err := i.conn.ExecContext(ctx, "INSERT INTO key_target (key_id, target_id) VALUES (?, ?)", []byte(key.KeyID), target); err != nil {
			return err
		}
	}
	return nil
}

// turnTo prepares the statement for a table.
func (i *inserter) turnTo(ctx context.Context, name string) error {
	if err := i.close(); err != nil {
		return err
	}
	var names []string
	i.table, i.columns = name, nil
	for _, table := range archive.Tables() {
		if table.Name != name {
			continue
		}
		for n, column := range table.Columns {
			if column != "targets" { // which have a table of their own
				i.columns, names = append(i.columns, n), append(names, column)
			}
		}
	}
	query := fmt.Sprintf("INSERT INTO %s (%s) VALUES (?%s)", name, strings.Join(names, ", "), strings.Repeat(", ?", len(names)-1))
	var err error
	i.insert, err = i.conn.PrepareContext(ctx, query)
	return err
}

func (i *inserter) close() error {
	if i.insert == nil {
		return nil
	}
	return i.insert.Close()
}

package postgres

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"muster/archive"
)

// Engine names this engine in an archive.
const Engine = "postgres"

// Export reads the records of a database, which processes may use and change
// meanwhile, as they are at one moment and in the order of an archive. What is read
// is not checked.
func Export(ctx context.Context, connection string) iter.Seq2[archive.Record, error] {
	return archive.Sequence(func(visit func(archive.Record) error) error {
		err := snapshot(ctx, connection, func(tx pgx.Tx) error {
			for _, table := range archive.Tables() {
				if err := readTable(ctx, tx, table, visit); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			err = fmt.Errorf("export the database: %w", err)
		}
		return err
	})
}

// snapshot lets use read a database of this version as it is at one moment.
func snapshot(ctx context.Context, connection string, use func(pgx.Tx) error) error {
	conn, err := connectOnce(ctx, connection)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		if err := checkVersion(ctx, tx); err != nil {
			return err
		}
		return use(tx)
	})
}

// readTable visits the records of a table in the order of an archive.
func readTable(ctx context.Context, tx pgx.Tx, table archive.Table, visit func(archive.Record) error) error {
	rows, err := tx.Query(ctx, fmt.Sprintf("SELECT %s FROM %s ORDER BY %s", strings.Join(table.Columns, ", "), table.Name, table.Order))
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		record := table.New()
		if err := rows.Scan(record.Fields()...); err != nil {
			return fmt.Errorf("read %s: %w", table.Name, err)
		}
		if err := visit(record); err != nil {
			return err
		}
	}
	return rows.Err()
}

// Check reads all of a database, which processes may use and change meanwhile:
// that no part of an enrolment is left without its first, and that each sealed key
// opens under the opener for the record that it stands in. An error means that the
// check could not be made; what is wrong with the contents is in the report.
func Check(ctx context.Context, connection string, opener archive.Opener) (report *archive.Report, err error) {
	err = snapshot(ctx, connection, func(tx pgx.Tx) error {
		report, err = check(ctx, tx, opener)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("check the database: %w", err)
	}
	return report, nil
}

func check(ctx context.Context, tx pgx.Tx, opener archive.Opener) (*archive.Report, error) {
	r := archive.NewReport()
	r.Schema = len(migrations())
	for _, table := range archive.Tables() {
		if err := readTable(ctx, tx, table, func(record archive.Record) error { return r.Look(record, opener) }); err != nil {
			return nil, err
		}
	}
	var orphans int
	err := tx.QueryRow(ctx, `SELECT count(*) FROM enrolment AS e WHERE e.part > 0
		AND NOT EXISTS (SELECT 1 FROM enrolment AS f WHERE f.ke_id = e.ke_id AND f.part = 0)`).Scan(&orphans)
	if orphans > 0 {
		r.Wrong("%d parts of enrolments are without their first", orphans)
	}
	r.End()
	return r, err
}

// Import makes the tables in the current schema, which must have none, of records
// in the order of an archive. All of them are there, and opened under the opener as
// Check does, or nothing is: it is one transaction. What may have ended since they
// were read is withdrawn as Withdraw does, unless keep is set. An error of the
// records is wrapped.
func Import(ctx context.Context, connection string, records iter.Seq2[archive.Record, error], opener archive.Opener, keep bool) (w archive.Withdrawn, report *archive.Report, err error) {
	conn, err := connectOnce(ctx, connection)
	if err == nil {
		defer conn.Close(context.WithoutCancel(ctx))
		err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
			w, report, err = importTo(ctx, tx, records, opener, keep)
			return err
		})
	}
	if err != nil {
		return archive.Withdrawn{}, nil, fmt.Errorf("import to the database: %w", err)
	}
	return w, report, nil
}

func importTo(ctx context.Context, tx pgx.Tx, records iter.Seq2[archive.Record, error], opener archive.Opener, keep bool) (w archive.Withdrawn, report *archive.Report, err error) {
	if err := makeTables(ctx, tx, migrations()); err != nil {
		return w, nil, err
	}
	written, err := fill(ctx, tx, records)
	if err != nil {
		return w, nil, err
	}
	if report, err = check(ctx, tx, opener); err != nil {
		return w, nil, err
	}
	if err := report.Confirm(written); err != nil {
		return w, report, err
	}
	w, err = withdraw(ctx, tx, archive.Carried{}.Withdraws(keep))
	return w, report, err
}

// fill copies records to empty tables.
func fill(ctx context.Context, tx pgx.Tx, records iter.Seq2[archive.Record, error]) (written map[string]int, err error) {
	next, stop := iter.Pull2(records)
	defer stop()
	record, failed, more := next()
	written = map[string]int{}
	for _, table := range archive.Tables() {
		number := numbering(table.Name)
		columns := append(slices.Clone(table.Columns), number.column...)
		_, err := tx.CopyFrom(ctx, pgx.Identifier{table.Name}, columns, pgx.CopyFromFunc(func() ([]any, error) {
			if failed != nil || !more || record.Table() != table.Name {
				return nil, failed
			}
			if key, ok := record.(*archive.KeyRegistration); ok {
				key.Targets = texts(key.Targets)
			}
			row := append(record.Fields(), number.next(record)...)
			written[table.Name]++
			record, failed, more = next()
			return row, nil
		}))
		if failed != nil {
			return nil, failed
		}
		if err != nil {
			if refused, ok := errors.AsType[*pgconn.PgError](err); ok && strings.HasPrefix(refused.Code, "23") {
				err = fmt.Errorf("%w: %w", archive.ErrDamaged, err)
			}
			return nil, fmt.Errorf("write to %s: %w", table.Name, err)
		}
	}
	if more {
		return nil, fmt.Errorf("%w: a record of %s is out of order", archive.ErrDamaged, record.Table())
	}
	return written, nil
}

// numbers are what this engine alone has in a table: the part of an enrolment that
// is for one MAF, and a command's place among those of its registration.
type numbers struct {
	column []string
	first  int64
	of     func(archive.Record) string // within which the numbers grow

	last  string
	value int64
}

func numbering(table string) *numbers {
	switch table {
	case "enrolment":
		return &numbers{column: []string{"part"}, of: func(r archive.Record) string { return string(r.(*archive.Enrolment).KeID) }}
	case "command":
		return &numbers{column: []string{"position"}, first: 1, of: func(r archive.Record) string {
			c := r.(*archive.Command)
			return c.Function + "\x00" + c.Registration
		}}
	}
	return &numbers{}
}

func (n *numbers) next(r archive.Record) []any {
	if n.column == nil {
		return nil
	}
	if of := n.of(r); of == n.last {
		n.value++
	} else {
		n.last, n.value = of, n.first
	}
	return []any{n.value}
}

package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Schema returns the version of the schema that Open demands of a database.
func Schema() int { return len(migrations()) }

// Migrate brings a database of an older version to this one, each step in a
// transaction of its own, and returns the versions that it had and has. A database of
// this version is left as it is.
func Migrate(ctx context.Context, connection string) (from, to int, err error) {
	steps := migrations()
	from, err = migrate(ctx, connection, steps)
	if err != nil {
		return 0, 0, fmt.Errorf("migrate the database: %w", err)
	}
	return from, len(steps), nil
}

// MigrateBack brings a database from this version to the one before, in one
// transaction, and returns both. It loses no record: one that the version before cannot
// hold is an error that wraps ErrIrreversible, as is a database that is of an older
// version already. It waits for transactions that use what goes.
func MigrateBack(ctx context.Context, connection string) (from, to int, err error) {
	steps := migrations()
	if err := migrateBack(ctx, connection, steps); err != nil {
		return 0, 0, fmt.Errorf("migrate the database back: %w", err)
	}
	return len(steps), len(steps) - 1, nil
}

// migrate takes the steps that a database has not, and returns the version that it had.
func migrate(ctx context.Context, connection string, steps []migration) (from int, err error) {
	conn, err := connectOnce(ctx, connection)
	if err != nil {
		return 0, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	for first, version := true, 0; version < len(steps); first = false {
		err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) (err error) {
			if version, err = holdVersion(ctx, tx, len(steps)); err != nil {
				return err
			}
			if first {
				from = version
			}
			if version < len(steps) {
				err = step(ctx, tx, steps[version].forward, version+1)
			}
			return err
		})
		if err != nil {
			return 0, err
		}
	}
	return from, nil
}

// migrateBack undoes the last of the steps.
func migrateBack(ctx context.Context, connection string, steps []migration) error {
	conn, err := connectOnce(ctx, connection)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	// What others commit while this waits for a lock is seen then.
	return pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error {
		newest := len(steps)
		version, err := holdVersion(ctx, tx, newest)
		if err != nil {
			return err
		}
		if version < newest {
			return fmt.Errorf("%w: it is of schema %d, and this Muster goes back from %d alone", ErrIrreversible, version, newest)
		}
		last := steps[newest-1]
		if last.kept != "" {
			if _, err := tx.Exec(ctx, "LOCK TABLE "+last.kept+" IN ACCESS EXCLUSIVE MODE"); err != nil {
				return err
			}
			var some bool
			if err := tx.QueryRow(ctx, "SELECT EXISTS (SELECT 1 FROM "+last.kept+")").Scan(&some); err != nil {
				return err
			}
			if some {
				return fmt.Errorf("%w: %s is not empty: %s", ErrIrreversible, last.kept, last.why)
			}
		}
		return step(ctx, tx, last.back, newest-1)
	})
}

// holdVersion returns the version of the schema, at most the one that is known. Other
// migrations wait until the transaction ends.
func holdVersion(ctx context.Context, tx pgx.Tx, known int) (version int, err error) {
	err = tx.QueryRow(ctx, "SELECT version FROM muster_schema WHERE one = 1 FOR UPDATE").Scan(&version)
	if err != nil {
		return 0, identify(err)
	}
	if version > known {
		return 0, fmt.Errorf("%w: schema %d, and this Muster knows %d", ErrNewer, version, known)
	}
	return version, nil
}

// step changes the tables to those of a version.
func step(ctx context.Context, tx pgx.Tx, change string, to int) error {
	_, err := tx.Exec(ctx, change)
	if err == nil {
		var tag pgconn.CommandTag
		tag, err = tx.Exec(ctx, "UPDATE muster_schema SET version = $1 WHERE one = 1", to)
		if err == nil && tag.RowsAffected() != 1 {
			err = ErrForeign
		}
	}
	if err != nil {
		return fmt.Errorf("bring the schema to version %d: %w", to, err)
	}
	return nil
}

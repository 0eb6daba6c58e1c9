package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
)

// ErrIrreversible: the version of the schema before cannot hold what is there, or is
// the one that is there.
var ErrIrreversible = errors.New("the migration cannot be undone")

// Schema returns the version of the schema that Open and Migrate bring a file to.
func Schema() int { return len(migrations()) }

// Migrate brings a database to the version of the schema that is this Muster's, as
// Open does, and returns the versions that it had and has. No Store may have it open.
func Migrate(ctx context.Context, path string) (from, to int, err error) {
	err = alone(ctx, path, func(conn *sql.Conn) (err error) {
		from, err = bringForward(ctx, conn)
		return err
	})
	if err != nil {
		return 0, 0, fmt.Errorf("migrate %s: %w", path, err)
	}
	return from, Schema(), nil
}

// bringForward takes the steps that a database has not, and returns the version that
// it had.
func bringForward(ctx context.Context, conn *sql.Conn) (from int, err error) {
	steps := migrations()
	if from, err = versionOf(ctx, conn, len(steps)); err != nil {
		return 0, err
	}
	return from, migrate(ctx, conn, steps, from)
}

// MigrateBack brings a database from this Muster's version of the schema to the one
// before, in one transaction, and returns both. It loses no record: one that the
// version before cannot hold is an error that wraps ErrIrreversible, as is a database
// that is of an older version already. No Store may have it open.
func MigrateBack(ctx context.Context, path string) (from, to int, err error) {
	steps := migrations()
	err = alone(ctx, path, func(conn *sql.Conn) error { return migrateBack(ctx, conn, steps) })
	if err != nil {
		return 0, 0, fmt.Errorf("migrate %s back: %w", path, err)
	}
	return len(steps), len(steps) - 1, nil
}

// alone lets use change a database that no Store has open, nor opens meanwhile.
func alone(ctx context.Context, path string, use func(*sql.Conn) error) (err error) {
	if path, err = realPath(path); err != nil {
		return err
	}
	lock, err := lockFile(ctx, path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	return withConn(ctx, path, writerPragmas(), use)
}

// withConn opens a database for as long as use takes, with one connection.
func withConn(ctx context.Context, path string, pragmas []string, use func(*sql.Conn) error) (err error) {
	db, err := connect(path, pragmas)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	conn, err := db.Conn(ctx)
	if err != nil {
		return identify(err)
	}
	return errors.Join(use(conn), conn.Close())
}

// versionOf returns the version of a database's schema, at most the one that is known.
func versionOf(ctx context.Context, conn *sql.Conn, known int) (version int, err error) {
	var id int
	if err := conn.QueryRowContext(ctx, "PRAGMA application_id").Scan(&id); err != nil {
		return 0, identify(err)
	}
	if id != applicationID {
		return 0, fmt.Errorf("%w: its application id is %#x", ErrForeign, id)
	}
	if err := conn.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version); err != nil {
		return 0, err
	}
	switch {
	case version > known:
		return 0, fmt.Errorf("%w: schema %d, and this Muster knows %d", ErrNewer, version, known)
	case version < 1:
		return 0, fmt.Errorf("%w: its creation was interrupted", ErrForeign)
	}
	return version, nil
}

// migrate takes the steps from a version on, each in a transaction of its own.
func migrate(ctx context.Context, conn *sql.Conn, steps []migration, version int) error {
	for ; version < len(steps); version++ {
		err := step(ctx, conn, version, version+1, func(tx *sql.Tx) error {
			_, err := tx.ExecContext(ctx, steps[version].forward)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// migrateBack undoes the last of the steps.
func migrateBack(ctx context.Context, conn *sql.Conn, steps []migration) error {
	newest := len(steps)
	version, err := versionOf(ctx, conn, newest)
	if err != nil {
		return err
	}
	if version < newest {
		return fmt.Errorf("%w: it is of schema %d, and this Muster goes back from %d alone", ErrIrreversible, version, newest)
	}
	last := steps[newest-1]
	return step(ctx, conn, newest, newest-1, func(tx *sql.Tx) error {
		if last.kept != "" {
			var some bool
			if err := tx.QueryRowContext(ctx, "SELECT EXISTS (SELECT 1 FROM "+last.kept+")").Scan(&some); err != nil {
				return err
			}
			if some {
				return fmt.Errorf("%w: %s is not empty: %s", ErrIrreversible, last.kept, last.why)
			}
		}
		_, err := tx.ExecContext(ctx, last.back)
		return err
	})
}

// step changes the schema from one version to another, in one transaction.
func step(ctx context.Context, conn *sql.Conn, from, to int, change func(*sql.Tx) error) error {
	tx, err := conn.BeginTx(ctx, nil)
	if err == nil {
		defer func() { _ = tx.Rollback() }() // which does nothing after the commit
		err = change(tx)
	}
	if err == nil {
		_, err = tx.ExecContext(ctx, fmt.Sprintf("PRAGMA user_version = %d", to))
	}
	if err == nil {
		err = tx.Commit()
	}
	if err != nil {
		return fmt.Errorf("bring the schema from version %d to %d: %w", from, to, err)
	}
	return nil
}

package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"

	"muster/archive"
)

// Errors of Backup, Check and Restore.
var (
	// ErrOlder: the file was written by an older version of Muster and not opened since.
	ErrOlder = errors.New("the database is of an older version")
	// ErrDamaged: a backup does not hold what it should.
	ErrDamaged = errors.New("the backup is damaged")
)

// Backup writes a copy of a database, which another process may have open, to a
// new file of mode 0600, as it was at one moment. The copy is checked as Check
// does, with an opener of its own, and is whole and durable when it gets its name.
// An existing file is never touched: the error then wraps fs.ErrExist.
func Backup(ctx context.Context, path, to string, opener archive.Opener) (*archive.Report, error) {
	path, err := realPath(path)
	if err != nil {
		return nil, err
	}
	var report *archive.Report
	err = place(to, func(draft string) error {
		if err := vacuum(ctx, path, draft); err != nil {
			return err
		}
		report, err = Check(ctx, draft, opener)
		if err == nil && !report.Sound() {
			err = fmt.Errorf("%w: %s", ErrDamaged, report.Problems[0])
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("back up %s: %w", path, err)
	}
	return report, nil
}

// Restore makes a database of a backup at path, where there must be none. What may
// have ended since the backup is withdrawn, unless keep is set: keys of enrolments
// that wait for their MAF (the devices enrol again), all credentials of an Enrolee
// but the newest, KeIDs (clients come with their KmID), registered keys (their
// sources register again), and pre-provisioned keys (to be imported again, from the
// list as it is now). Tombstones stay, so that no identifier which had ended by the
// time of the backup returns.
//
// What remains is the newest credential of each Enrolee. If a newer one has replaced
// it since the backup, its KmID opens sessions again: until the Enrolee, whose own
// KmID is unknown now, has enrolled anew and used what it got, or until it expires.
//
// What a later store, unless it is nil, shows as ended ends first. That includes what
// is withdrawn by no rule: commands that were reported and registrations that were
// deleted. With keep set, all is withdrawn of a table of which the later store does
// not show the whole.
func Restore(ctx context.Context, backup, path string, opener archive.Opener, keep bool, later archive.Later) (w archive.Withdrawn, c archive.Carried, err error) {
	if backup, err = realPath(backup); err != nil {
		return w, c, err
	}
	report, err := Check(ctx, backup, opener)
	if err != nil {
		return w, c, err
	}
	if !report.Sound() {
		return w, c, fmt.Errorf("restore %s: %w: %s", backup, ErrDamaged, report.Problems[0])
	}
	err = place(path, func(draft string) (err error) {
		if err := vacuum(ctx, backup, draft); err != nil {
			return err
		}
		if later != nil {
			if c, err = carry(ctx, draft, opener, later); err != nil {
				return err
			}
		}
		w, err = withdraw(ctx, draft, c.Withdraws(keep))
		return err
	})
	if err != nil {
		return archive.Withdrawn{}, archive.Carried{}, fmt.Errorf("restore %s: %w", backup, err)
	}
	return w, c, nil
}

// Withdraw ends in a database, which has returned to an earlier state in another way
// than by Restore, what Restore would have. No Store may have it open.
func Withdraw(ctx context.Context, path string, opener archive.Opener, keep bool, later archive.Later) (w archive.Withdrawn, c archive.Carried, err error) {
	lock, err := Lock(ctx, path)
	if err != nil {
		return w, c, err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	err = snapshot(ctx, path, func(conn *sql.Conn) error {
		_, err := schemaOf(ctx, conn)
		return err
	})
	if err == nil && later != nil {
		c, err = carry(ctx, path, opener, later)
	}
	if err == nil {
		w, err = withdraw(ctx, path, c.Withdraws(keep))
	}
	if err != nil {
		return archive.Withdrawn{}, archive.Carried{}, fmt.Errorf("withdraw in %s: %w", path, err)
	}
	return w, c, nil
}

// withdraw ends what a backup cannot know to be still good, in some tables.
func withdraw(ctx context.Context, path string, in func(table string) bool) (w archive.Withdrawn, err error) {
	err = change(ctx, path, func(tx *sql.Tx) (err error) {
		for _, step := range w.Statements() {
			if !in(step.Table) {
				continue
			}
			if *step.Count, err = changed(tx.ExecContext(ctx, step.Statement)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return archive.Withdrawn{}, err
	}
	return w, nil
}

// change changes a database that no Store has open, in one transaction.
func change(ctx context.Context, path string, with func(tx *sql.Tx) error) (err error) {
	db, err := connect(path, []string{"foreign_keys(ON)", "secure_delete(ON)", "synchronous(FULL)"})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // which does nothing after the commit
	if err := with(tx); err != nil {
		return err
	}
	return tx.Commit()
}

// vacuum copies a database as it is at one moment. Erased octets are not in the copy.
func vacuum(ctx context.Context, path, to string) error {
	// query_only would forbid the copy as well.
	pragmas := []string{"busy_timeout(5000)", "temp_store(MEMORY)", "trusted_schema(OFF)"}
	return withConn(ctx, path, pragmas, func(conn *sql.Conn) error {
		if _, err := schemaOf(ctx, conn); err != nil {
			return err
		}
		_, err := conn.ExecContext(ctx, "VACUUM INTO ?", to)
		return err
	})
}

// place is archive.Place for a database, of whose write-ahead log nothing may be
// left: it would be taken for the new file's.
func place(path string, write func(draft string) error) error {
	for _, suffix := range []string{"-wal", "-shm"} {
		if _, err := os.Lstat(path + suffix); err == nil {
			return &os.PathError{Op: "create", Path: path + suffix, Err: os.ErrExist}
		}
	}
	return archive.Place(path, write)
}

// RewrapDataKeys wraps every data key of a database anew by the first root key of
// the sealer, in one transaction, and returns their number. No Store may have the
// database open.
func RewrapDataKeys(ctx context.Context, path string, sealer interface {
	Rewrap(id uint32, wrapped []byte) ([]byte, error)
}) (n int, err error) {
	err = alone(ctx, path, func(conn *sql.Conn) error {
		if _, err := schemaOf(ctx, conn); err != nil {
			return err
		}
		tx, err := conn.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		defer func() { _ = tx.Rollback() }() // which does nothing after the commit
		keys, err := dataKeysIn(ctx, tx)
		if err != nil {
			return err
		}
		for _, key := range keys {
			anew, err := sealer.Rewrap(key.ID, key.Wrapped)
			if err != nil {
				return err
			}
			if _, err := tx.ExecContext(ctx, "UPDATE data_key SET wrapped = ? WHERE id = ?", anew, key.ID); err != nil {
				return err
			}
		}
		n = len(keys)
		return tx.Commit()
	})
	if err != nil {
		return 0, fmt.Errorf("wrap the data keys of %s: %w", path, err)
	}
	return n, nil
}

func dataKeysIn(ctx context.Context, tx *sql.Tx) (keys []archive.DataKey, err error) {
	rows, err := tx.QueryContext(ctx, "SELECT id, wrapped, created, seals FROM data_key")
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var key archive.DataKey
		if err := rows.Scan(key.Fields()...); err != nil {
			return nil, err
		}
		keys = append(keys, key)
	}
	return keys, rows.Err()
}

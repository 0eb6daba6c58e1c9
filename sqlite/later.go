package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"

	"muster/archive"
)

// Leftover reads what is left of a database, whose file may be damaged. A table is
// whole if all of its pages can be read and SQLite finds nothing wrong with it.
func Leftover(path string) archive.Later {
	return func(ctx context.Context, table archive.Table, visit func(archive.Record) error) error {
		return snapshot(ctx, path, func(conn *sql.Conn) error {
			if _, err := schemaOf(ctx, conn); err != nil {
				return err
			}
			// Indexes may be damaged where the table is not.
			if err := readBy(ctx, conn, table, "rowid", visit); err != nil {
				return err
			}
			parts := []string{table.Name}
			if table.Name == keyTable {
				parts = append(parts, "key_target")
			}
			for _, part := range parts {
				err := each(ctx, conn, "PRAGMA integrity_check("+part+")", func(rows *sql.Rows) error {
					var text string
					err := rows.Scan(&text)
					if err == nil && text != "ok" {
						err = errors.New(text)
					}
					return err
				})
				if err != nil {
					return err
				}
			}
			return nil
		})
	}
}

const keyTable = "key_registration"

// carry ends in a database that was made of a backup what a later one shows as
// ended: with its states, times and counts, and by what it has no more. Nothing is
// added. A Kpm that has another record there was replaced, or sealed anew, and goes.
func carry(ctx context.Context, path string, opener archive.Opener, later archive.Later) (c archive.Carried, err error) {
	err = change(ctx, path, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, "CREATE TEMP TABLE seen (id INTEGER PRIMARY KEY)"); err != nil {
			return err
		}
		for _, table := range archive.Tables() {
			var err error
			if table.Name == "data_key" {
				err = sameStore(ctx, tx, opener, later)
			} else if table.Ends() {
				err = carryTable(ctx, tx, table, later, &c)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return archive.Carried{}, err
	}
	return c, nil
}

func sameStore(ctx context.Context, tx *sql.Tx, opener archive.Opener, later archive.Later) error {
	wrapped, err := dataKeysIn(ctx, tx)
	if err != nil {
		return err
	}
	return later.Follow(ctx, wrapped, opener)
}

// carryTable carries one table over. Only a failure of the database at hand is an error.
func carryTable(ctx context.Context, tx *sql.Tx, table archive.Table, later archive.Later, c *archive.Carried) error {
	var failed error
	unread := later(ctx, table, func(r archive.Record) error {
		failed = carryRecord(ctx, tx, r, c)
		return failed
	})
	switch {
	case failed != nil:
		return failed
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case unread != nil:
		c.Unread = append(c.Unread, table.Name)
	default:
		n, err := changed(tx.ExecContext(ctx, "DELETE FROM "+table.Name+" WHERE rowid NOT IN (SELECT id FROM seen)"))
		if err != nil {
			return err
		}
		c.Gone += n
	}
	_, err := tx.ExecContext(ctx, "DELETE FROM seen")
	return err
}

// carryRecord takes over how far a record has come, and notes that it was seen. The
// higher of two states is the later.
func carryRecord(ctx context.Context, tx *sql.Tx, record archive.Record, c *archive.Carried) error {
	const erased = "sealed = CASE WHEN ?1 >= 3 THEN NULL ELSE sealed END, data_key = CASE WHEN ?1 >= 3 THEN NULL ELSE data_key END"
	var where, set, change string
	var key, values []any
	switch r := record.(type) {
	case *archive.Enrolment:
		where, key = "ke_id = ?8 AND maf_id = ?9", []any{[]byte(r.KeID), r.MAF}
		set, change = "state = max(state, ?1), fetches = max(fetches, ?2), fetched_at = coalesce(?3, fetched_at), "+erased, "state < 3 AND (state < ?1 OR fetches < ?2)"
		values = []any{r.State, r.Fetches, r.FetchedAt}
	case *archive.Credential:
		where, key = "ke_id = ?8 AND km_id = ?9", []any{[]byte(r.KeID), r.KmID}
		set, change = "state = max(state, ?1), ke_id_until = min(ke_id_until, ?2), "+erased, "state < 3 AND (state < ?1 OR ke_id_until > ?2)"
		values = []any{r.State, r.KeIDUntil}
	case *archive.Registration:
		where, key = "function = ?8 AND id = ?9 AND client_id = ?10", []any{r.Function, r.ID, r.Client}
	case *archive.KeyRegistration:
		if err := keepTargets(ctx, tx, r); err != nil {
			return err
		}
		where, key = "key_id = ?8", []any{[]byte(r.KeyID)}
		set = "state = max(state, ?1), fetches = max(fetches, ?2), fetched_at = coalesce(?3, fetched_at), expires = min(expires, ?4), " + erased
		change = "state < 3 AND (state < ?1 OR fetches < ?2 OR expires > ?4)"
		values = []any{r.State, r.Fetches, r.FetchedAt, r.Expires}
	case *archive.Command:
		where, key = "function = ?8 AND registration = ?9 AND cmd_id = ?10", []any{r.Function, r.Registration, r.ID}
		set, change, values = "status = ?1, changed = ?2", "status < ?1", []any{r.Status, r.Changed}
	case *archive.Kpm:
		where, key = "kpm_id = ?8 AND (?1 >= 3 OR sealed = ?3)", []any{r.KpmID}
		set = "state = max(state, ?1), until = min(coalesce(until, ?2), coalesce(?2, until)), " + erased
		change = "state < 3 AND (state < ?1 OR until IS NOT ?2)"
		values = []any{r.State, r.Until, r.Octets}
	}
	arguments := append(append(values, make([]any, 7-len(values))...), key...) // ?8 is the first of the key
	if set != "" {
		n, err := changed(tx.ExecContext(ctx, "UPDATE "+record.Table()+" SET "+set+" WHERE "+where+" AND "+change, arguments...))
		if err != nil {
			return err
		}
		c.Ended += n
	}
	_, err := tx.ExecContext(ctx, "INSERT OR IGNORE INTO seen SELECT rowid FROM "+record.Table()+" WHERE "+where, arguments...)
	return err
}

// keepTargets takes the targets from a registered key that it has no more.
func keepTargets(ctx context.Context, tx *sql.Tx, r *archive.KeyRegistration) error {
	left, err := json.Marshal(append([]string{}, r.Targets...))
	if err == nil {
		_, err = tx.ExecContext(ctx, "DELETE FROM key_target WHERE key_id = ? AND target_id NOT IN (SELECT value FROM json_each(?))",
			[]byte(r.KeyID), string(left))
	}
	return err
}

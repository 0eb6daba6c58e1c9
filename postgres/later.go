package postgres

import (
	"context"
	"fmt"
	"iter"
	"strings"

	"github.com/jackc/pgx/v5"

	"muster/archive"
)

// Withdraw ends what has ended, or may have, after the moment to which a database has
// returned, as by a recovery to a point in time. What a later store, unless it is
// nil, shows as ended ends first. Then goes, unless keep is set, whatever may have
// ended: keys of enrolments that wait for their MAF (the devices enrol again), all
// credentials of an Enrolee but the newest, KeIDs (clients come with their KmID),
// registered keys (their sources register again), and pre-provisioned keys (to be
// imported again, from the list as it is now). With keep set, all of that goes of a
// table of which the later store does not show the whole. It is one transaction. No
// process may use the database before.
func Withdraw(ctx context.Context, connection string, opener archive.Opener, keep bool, later archive.Later) (w archive.Withdrawn, c archive.Carried, err error) {
	conn, err := connectOnce(ctx, connection)
	if err == nil {
		defer conn.Close(context.WithoutCancel(ctx))
		err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) (err error) {
			if err := checkVersion(ctx, tx); err != nil {
				return err
			}
			if later != nil {
				if c, err = carry(ctx, tx, opener, later); err != nil {
					return err
				}
			}
			w, err = withdraw(ctx, tx, c.Withdraws(keep))
			return err
		})
	}
	if err != nil {
		return archive.Withdrawn{}, archive.Carried{}, fmt.Errorf("withdraw: %w", err)
	}
	return w, c, nil
}

func withdraw(ctx context.Context, tx pgx.Tx, in func(table string) bool) (w archive.Withdrawn, err error) {
	for _, step := range w.Statements() {
		if !in(step.Table) {
			continue
		}
		tag, err := tx.Exec(ctx, step.Statement)
		if err != nil {
			return archive.Withdrawn{}, err
		}
		*step.Count = int(tag.RowsAffected())
	}
	return w, nil
}

// carry ends what a later store shows as ended: with its states, times and counts,
// and by what it has no more. Nothing is added. A Kpm that has another record there
// was replaced, or sealed anew, and goes.
func carry(ctx context.Context, tx pgx.Tx, opener archive.Opener, later archive.Later) (c archive.Carried, err error) {
	for _, table := range archive.Tables() {
		if table.Name == "data_key" {
			err = sameStore(ctx, tx, table, opener, later)
		} else if table.Ends() {
			err = carryTable(ctx, tx, table, later, &c)
		}
		if err != nil {
			return archive.Carried{}, err
		}
	}
	return c, nil
}

func sameStore(ctx context.Context, tx pgx.Tx, table archive.Table, opener archive.Opener, later archive.Later) error {
	var own []archive.DataKey
	err := readTable(ctx, tx, table, func(r archive.Record) error {
		own = append(own, *r.(*archive.DataKey))
		return nil
	})
	if err != nil {
		return err
	}
	return later.Follow(ctx, own, opener)
}

// A carriage says which record of a table, t, is the one of a later store, and what
// it takes over from that. The higher of two states is the later.
type carriage struct {
	same, set, when string
	before          string // a statement of its own
}

func carriageOf(table string) carriage {
	const erased = `state = greatest(t.state, later.state),
		sealed = CASE WHEN later.state >= 3 THEN NULL ELSE t.sealed END, data_key = CASE WHEN later.state >= 3 THEN NULL ELSE t.data_key END`
	const counted = ", fetches = greatest(t.fetches, later.fetches), fetched_at = coalesce(later.fetched_at, t.fetched_at)"
	return map[string]carriage{
		"enrolment": {
			same: "later.ke_id = t.ke_id AND later.maf_id = t.maf_id",
			set:  erased + counted,
			when: "t.state < 3 AND (t.state < later.state OR t.fetches < later.fetches)",
		},
		"credential": {
			same: "later.ke_id = t.ke_id AND later.km_id = t.km_id",
			set:  erased + ", ke_id_until = least(t.ke_id_until, later.ke_id_until)",
			when: "t.state < 3 AND (t.state < later.state OR t.ke_id_until > later.ke_id_until)",
		},
		"registration": {same: "later.function = t.function AND later.id = t.id AND later.client_id = t.client_id"},
		"key_registration": {
			same: "later.key_id = t.key_id",
			set:  erased + counted + ", expires = least(t.expires, later.expires)",
			when: "t.state < 3 AND (t.state < later.state OR t.fetches < later.fetches OR t.expires > later.expires)",
			before: `UPDATE key_registration AS t SET targets = ARRAY(SELECT target FROM unnest(t.targets) AS target WHERE target = ANY(later.targets))
				FROM later WHERE later.key_id = t.key_id AND NOT t.targets <@ later.targets`,
		},
		"command": {
			same: "later.function = t.function AND later.registration = t.registration AND later.cmd_id = t.cmd_id",
			set:  "status = later.status, changed = later.changed",
			when: "t.status < later.status",
		},
		"kpm": {
			same: "later.kpm_id = t.kpm_id AND (later.state >= 3 OR later.sealed = t.sealed)",
			set:  erased + ", until = least(t.until, later.until)",
			when: "t.state < 3 AND (t.state < later.state OR t.until IS DISTINCT FROM later.until)",
		},
	}[table]
}

// carryTable carries one table over. Only a failure of the database is an error.
func carryTable(ctx context.Context, tx pgx.Tx, table archive.Table, later archive.Later, c *archive.Carried) error {
	columns := strings.Join(table.Columns, ", ")
	if _, err := tx.Exec(ctx, fmt.Sprintf("CREATE TEMP TABLE later ON COMMIT DROP AS SELECT %s FROM %s LIMIT 0", columns, table.Name)); err != nil {
		return err
	}
	unread, err := copyLater(ctx, tx, table, later)
	if err != nil {
		return err
	}
	how := carriageOf(table.Name)
	var none int // what nobody counts
	type step struct {
		count     *int
		statement string
	}
	steps := []step{{&none, "ANALYZE later"}}
	if how.before != "" {
		steps = append(steps, step{&none, how.before})
	}
	if how.set != "" {
		steps = append(steps, step{&c.Ended, fmt.Sprintf("UPDATE %s AS t SET %s FROM later WHERE %s AND %s", table.Name, how.set, how.same, how.when)})
	}
	if unread == nil {
		steps = append(steps, step{&c.Gone, fmt.Sprintf("DELETE FROM %s AS t WHERE NOT EXISTS (SELECT 1 FROM later WHERE %s)", table.Name, how.same)})
	} else {
		c.Unread = append(c.Unread, table.Name)
	}
	for _, step := range append(steps, step{&none, "DROP TABLE later"}) {
		tag, err := tx.Exec(ctx, step.statement)
		if err != nil {
			return err
		}
		*step.count += int(tag.RowsAffected())
	}
	return nil
}

// copyLater copies what can be read of a table. The error unread says that there may
// be more.
func copyLater(ctx context.Context, tx pgx.Tx, table archive.Table, later archive.Later) (unread, err error) {
	next, stop := iter.Pull2(archive.Sequence(func(visit func(archive.Record) error) error { return later(ctx, table, visit) }))
	defer stop()
	_, err = tx.CopyFrom(ctx, pgx.Identifier{"later"}, table.Columns, pgx.CopyFromFunc(func() ([]any, error) {
		record, failed, more := next()
		if failed != nil || !more {
			unread = failed
			return nil, context.Cause(ctx)
		}
		if key, ok := record.(*archive.KeyRegistration); ok {
			key.Targets = texts(key.Targets)
		}
		return record.Fields(), nil
	}))
	return unread, err
}

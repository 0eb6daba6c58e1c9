package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"muster/tef"
)

const (
	selectAuditEnd   = "SELECT coalesce(max(seq), 0) FROM audit_entry WHERE log = $1"
	selectAuditKnown = "SELECT line FROM audit_entry WHERE log = $1 AND seq >= $2 AND seq < $3 ORDER BY seq"
	insertAudit      = "INSERT INTO audit_entry (log, seq, line) SELECT $1, $2 + n - 1, line FROM unnest($3::text[]) WITH ORDINALITY AS new (line, n)"
	selectAudit      = "SELECT line FROM audit_entry WHERE log = $1 AND seq > $2 ORDER BY seq LIMIT $3"
)

// AppendAudit adds lines to the audit log of a name, the first of which has the
// number first. One that is there already has to be the same, and none may be left
// out behind those that are there: else the error wraps tef.ErrConflict.
func (s *Store) AppendAudit(ctx context.Context, log string, first uint64, lines []string) error {
	_, err := alone(ctx, s, tef.ErrBusy, log, pgx.Serializable, func(ctx context.Context, tx pgx.Tx) (struct{}, error) {
		var end uint64
		if err := tx.QueryRow(ctx, selectAuditEnd, log).Scan(&end); err != nil {
			return struct{}{}, err
		}
		if end > 0 && first > end+1 {
			return struct{}{}, fmt.Errorf("%w: audit entry %d comes after %d", tef.ErrConflict, first, end)
		}
		rows, err := tx.Query(ctx, selectAuditKnown, log, first, first+uint64(len(lines)))
		if err != nil {
			return struct{}{}, err
		}
		known, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return struct{}{}, err
		}
		for i, line := range known {
			if line != lines[i] {
				return struct{}{}, fmt.Errorf("%w: audit entry %d of %s is another", tef.ErrConflict, first+uint64(i), log)
			}
		}
		if len(known) == len(lines) {
			return struct{}{}, nil
		}
		_, err = tx.Exec(ctx, insertAudit, log, first+uint64(len(known)), lines[len(known):])
		return struct{}{}, err
	})
	return err
}

// AuditEnd returns the number of the last line of an audit log, 0 without one.
func (s *Store) AuditEnd(ctx context.Context, log string) (end uint64, err error) {
	err = s.read(ctx, func(ctx context.Context, conn *pgxpool.Conn) error {
		return conn.QueryRow(ctx, selectAuditEnd, log).Scan(&end)
	})
	return end, err
}

// AuditLines returns at most limit lines of an audit log after a number, in order.
func (s *Store) AuditLines(ctx context.Context, log string, after uint64, limit int) (lines []string, err error) {
	err = s.read(ctx, func(ctx context.Context, conn *pgxpool.Conn) error {
		rows, err := conn.Query(ctx, selectAudit, log, after, limit)
		if err != nil {
			return err
		}
		lines, err = pgx.CollectRows(rows, pgx.RowTo[string])
		return err
	})
	return lines, err
}

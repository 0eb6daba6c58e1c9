package postgres

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"muster"
	"muster/tef"
)

const (
	selectAuditEnd = `SELECT greatest((SELECT max(seq) FROM audit_entry WHERE log = $1),
		(SELECT max(seq) FROM audit_anchor WHERE log = $1), 0)`
	selectAuditAnchor = "SELECT seq, hash FROM audit_anchor WHERE log = $1 ORDER BY seq DESC LIMIT 1"
	insertAnchor      = `INSERT INTO audit_anchor (log, seq, hash, pruned) SELECT log, seq, $3, $4 FROM audit_entry WHERE log = $1 AND seq = $2`
	pruneAudit        = `DELETE FROM audit_entry WHERE log = $1 AND seq = ANY(ARRAY(
		SELECT seq FROM audit_entry WHERE log = $1 AND seq <= $2 ORDER BY seq LIMIT $3))`
	selectAuditKnown = "SELECT line FROM audit_entry WHERE log = $1 AND seq >= $2 AND seq < $3 ORDER BY seq"
	insertAudit      = "INSERT INTO audit_entry (log, seq, line) SELECT $1, $2 + n - 1, line FROM unnest($3::text[]) WITH ORDINALITY AS new (line, n)"
	selectAudit      = "SELECT line FROM audit_entry WHERE log = $1 AND seq > $2 ORDER BY seq LIMIT $3"
)

// AppendAudit adds lines to the audit log of a name, the first of which has the
// number first. One that is there already has to be the same, and none may be left
// out behind those that are there, or were: else the error wraps tef.ErrConflict.
func (s *Store) AppendAudit(ctx context.Context, log string, first uint64, lines []string) error {
	_, err := alone(ctx, s, tef.ErrBusy, log, pgx.Serializable, func(ctx context.Context, tx pgx.Tx) (struct{}, error) {
		var end uint64
		if err := tx.QueryRow(ctx, selectAuditEnd, log).Scan(&end); err != nil {
			return struct{}{}, err
		}
		if end > 0 && first > end+1 {
			return struct{}{}, fmt.Errorf("%w: audit entry %d comes after %d", tef.ErrConflict, first, end)
		}
		anchor, _, err := anchorOf(tx.QueryRow(ctx, selectAuditAnchor, log))
		if err != nil {
			return struct{}{}, err
		}
		first, lines := first, lines
		for ; len(lines) > 0 && first <= anchor; first++ {
			lines = lines[1:]
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

// AuditAnchor returns the number and the hash of the last line that was pruned from an
// audit log, zero without one.
func (s *Store) AuditAnchor(ctx context.Context, log string) (seq uint64, hash muster.Digest, err error) {
	err = s.read(ctx, func(ctx context.Context, conn *pgxpool.Conn) (err error) {
		seq, hash, err = anchorOf(conn.QueryRow(ctx, selectAuditAnchor, log))
		return err
	})
	return seq, hash, err
}

func anchorOf(row pgx.Row) (seq uint64, hash muster.Digest, err error) {
	var text string
	if err = row.Scan(&seq, &text); errors.Is(err, pgx.ErrNoRows) {
		return 0, hash, nil
	}
	if err == nil {
		_, err = hex.Decode(hash[:], []byte(text))
	}
	return seq, hash, err
}

// PruneAudit removes the lines of an audit log up to a number, whose hash becomes its
// anchor: first that is durable, then the lines go, in slices that let other writes
// pass. A call that was interrupted is completed by the next. A number that is not
// there is an error that wraps tef.ErrUnknown; for the anchor itself another hash is
// one that wraps tef.ErrConflict.
func (s *Store) PruneAudit(ctx context.Context, log string, seq uint64, hash muster.Digest) error {
	_, err := alone(ctx, s, tef.ErrBusy, log, pgx.Serializable, func(ctx context.Context, tx pgx.Tx) (struct{}, error) {
		last, known, err := anchorOf(tx.QueryRow(ctx, selectAuditAnchor, log))
		switch {
		case err != nil:
			return struct{}{}, err
		case last == seq && known == hash && seq > 0:
			return struct{}{}, nil
		case last == seq && seq > 0:
			return struct{}{}, fmt.Errorf("%w: audit entry %d of %s has another hash", tef.ErrConflict, seq, log)
		case seq < last:
			return struct{}{}, fmt.Errorf("%w: audit entry %d of %s", tef.ErrUnknown, seq, log)
		}
		tag, err := tx.Exec(ctx, insertAnchor, log, seq, hash.String(), s.now().Unix())
		if err == nil && tag.RowsAffected() == 0 {
			err = fmt.Errorf("%w: audit entry %d of %s", tef.ErrUnknown, seq, log)
		}
		return struct{}{}, err
	})
	for n := sweepSlice; n == sweepSlice && err == nil; {
		n, err = alone(ctx, s, tef.ErrBusy, log, pgx.ReadCommitted, func(ctx context.Context, tx pgx.Tx) (int, error) {
			tag, err := tx.Exec(ctx, pruneAudit, log, seq, sweepSlice)
			return int(tag.RowsAffected()), err
		})
	}
	return err
}

// AuditEnd returns the number of the last line of an audit log, pruned or not, 0 without one.
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

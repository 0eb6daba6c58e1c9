package sqlite

import (
	"context"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"

	"muster"
	"muster/tef"
)

// AppendAudit adds lines to the audit log of a name, the first of which has the
// number first. One that is there already has to be the same, and none may be left
// out behind those that are there, or were: else the error wraps tef.ErrConflict.
func (s *Store) AppendAudit(ctx context.Context, log string, first uint64, lines []string) error {
	_, err := do(ctx, &s.write, tef.ErrBusy, func() (struct{}, error) {
		var end uint64
		if err := s.write.auditEnd.QueryRow(log).Scan(&end); err != nil {
			return struct{}{}, err
		}
		if end > 0 && first > end+1 {
			return struct{}{}, fmt.Errorf("%w: audit entry %d comes after %d", tef.ErrConflict, first, end)
		}
		anchor, _, err := anchorOf(s.write.auditAnchor.QueryRow(log))
		if err != nil {
			return struct{}{}, err
		}
		for i, line := range lines {
			seq := first + uint64(i)
			if seq > end || seq <= anchor {
				continue
			}
			var stored string
			if err := s.write.auditLine.QueryRow(log, seq).Scan(&stored); err != nil {
				return struct{}{}, err
			}
			if stored != line {
				return struct{}{}, fmt.Errorf("%w: audit entry %d of %s is another", tef.ErrConflict, seq, log)
			}
		}
		for i, line := range lines {
			if seq := first + uint64(i); seq > end {
				if _, err := s.write.insertAudit.Exec(log, seq, line); err != nil {
					return struct{}{}, err
				}
			}
		}
		return struct{}{}, nil
	})
	return err
}

// AuditAnchor returns the number and the hash of the last line that was pruned from an
// audit log, zero without one.
func (s *Store) AuditAnchor(ctx context.Context, log string) (seq uint64, hash muster.Digest, err error) {
	seq, hash, err = anchorOf(s.read.auditAnchor.QueryRowContext(ctx, log))
	return seq, hash, s.readError(err)
}

func anchorOf(row *sql.Row) (seq uint64, hash muster.Digest, err error) {
	var text string
	if err = row.Scan(&seq, &text); errors.Is(err, sql.ErrNoRows) {
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
	_, err := do(ctx, &s.write, tef.ErrBusy, func() (struct{}, error) {
		last, known, err := anchorOf(s.write.auditAnchor.QueryRow(log))
		switch {
		case err != nil:
			return struct{}{}, err
		case last == seq && known == hash && seq > 0:
			return struct{}{}, nil
		case last == seq && seq > 0:
			return struct{}{}, fmt.Errorf("%w: audit entry %d of %s has another hash", tef.ErrConflict, seq, log)
		}
		var line string
		err = s.write.auditLine.QueryRow(log, seq).Scan(&line)
		if errors.Is(err, sql.ErrNoRows) || seq < last {
			return struct{}{}, fmt.Errorf("%w: audit entry %d of %s", tef.ErrUnknown, seq, log)
		}
		if err == nil {
			_, err = s.write.insertAnchor.Exec(log, seq, hash.String(), s.now().Unix())
		}
		return struct{}{}, err
	})
	for n := sweepSlice; n == sweepSlice && err == nil; {
		n, err = do(ctx, &s.write, tef.ErrBusy, func() (int, error) { return changed(s.write.pruneAudit.Exec(log, seq, sweepSlice)) })
	}
	return err
}

// AuditEnd returns the number of the last line of an audit log, pruned or not, 0 without one.
func (s *Store) AuditEnd(ctx context.Context, log string) (end uint64, err error) {
	err = s.read.auditEnd.QueryRowContext(ctx, log).Scan(&end)
	return end, s.readError(err)
}

// AuditLines returns at most limit lines of an audit log after a number, in order.
func (s *Store) AuditLines(ctx context.Context, log string, after uint64, limit int) (lines []string, err error) {
	rows, err := s.read.auditLines.QueryContext(ctx, log, after, limit)
	if err != nil {
		return nil, s.readError(err)
	}
	defer rows.Close()
	for rows.Next() {
		var line string
		if err := rows.Scan(&line); err != nil {
			return nil, s.readError(err)
		}
		lines = append(lines, line)
	}
	return lines, s.readError(rows.Err())
}

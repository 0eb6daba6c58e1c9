package sqlite

import (
	"context"
	"fmt"

	"muster/tef"
)

// AppendAudit adds lines to the audit log of a name, the first of which has the
// number first. One that is there already has to be the same, and none may be left
// out behind those that are there: else the error wraps tef.ErrConflict.
func (s *Store) AppendAudit(ctx context.Context, log string, first uint64, lines []string) error {
	_, err := do(ctx, &s.write, tef.ErrBusy, func() (struct{}, error) {
		var end uint64
		if err := s.write.auditEnd.QueryRow(log).Scan(&end); err != nil {
			return struct{}{}, err
		}
		if end > 0 && first > end+1 {
			return struct{}{}, fmt.Errorf("%w: audit entry %d comes after %d", tef.ErrConflict, first, end)
		}
		for i, line := range lines {
			seq := first + uint64(i)
			if seq > end {
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

// AuditEnd returns the number of the last line of an audit log, 0 without one.
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

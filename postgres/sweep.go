package postgres

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// sweepSlice is how many rows a sweep handles in one transaction, so that the
// writes which wait behind it wait some milliseconds at most.
const sweepSlice = 200

// A sweep first picks the rows, once, and leaves to other Stores what they sweep
// at the same time.
const (
	dueEnrolments  = "WITH due AS (SELECT ke_id, part FROM enrolment WHERE "
	dueCredentials = "WITH due AS (SELECT ke_id FROM credential WHERE "
	picked         = " LIMIT $2 FOR UPDATE SKIP LOCKED) "

	ofEnrolments  = " WHERE e.ke_id = ANY(ARRAY(SELECT ke_id FROM due)) AND e.ke_id = due.ke_id AND e.part = due.part"
	ofCredentials = " WHERE ke_id = ANY(ARRAY(SELECT ke_id FROM due))"

	forgetEnrolments = dueEnrolments + "state IN (1, 2, 3, 4, 5) AND expires <= $1" + picked +
		"DELETE FROM enrolment AS e USING due" + ofEnrolments
	expireEnrolments = dueEnrolments + "state IN (1, 2) AND expires <= $1" + picked +
		"UPDATE enrolment AS e SET state = 5, sealed = NULL, data_key = NULL FROM due" + ofEnrolments
	closeWindows = dueEnrolments + "state = 2 AND fetched_at < $1" + picked +
		"UPDATE enrolment AS e SET state = 3, sealed = NULL, data_key = NULL FROM due" + ofEnrolments

	forgetCredentials = dueCredentials + "state IN (1, 2, 3, 4, 5) AND expires <= $1" + picked + "DELETE FROM credential" + ofCredentials
	expireCredentials = dueCredentials + "state IN (1, 2) AND expires <= $1" + picked +
		"UPDATE credential SET state = 5, sealed = NULL, data_key = NULL" + ofCredentials

	sweepRegistrations = "WITH due AS (SELECT function, id FROM registration WHERE expires <= $1" + picked +
		"DELETE FROM registration AS r USING due WHERE r.function = ANY(ARRAY(SELECT function FROM due))" +
		" AND r.id = ANY(ARRAY(SELECT id FROM due)) AND r.function = due.function AND r.id = due.id"
	sweepKeys = "WITH due AS (SELECT key_id FROM key_registration WHERE expires <= $1" + picked +
		"DELETE FROM key_registration WHERE key_id = ANY(ARRAY(SELECT key_id FROM due))"
	sweepKpms = "WITH due AS (SELECT kpm_id FROM kpm WHERE state < 3 AND until <= $1" + picked +
		"UPDATE kpm SET state = 5, sealed = NULL, data_key = NULL WHERE kpm_id = ANY(ARRAY(SELECT kpm_id FROM due))"
	sweepCommands = "WITH due AS (SELECT function, registration, position FROM command WHERE status >= 20 AND changed <= $1" + picked +
		"DELETE FROM command AS c USING due WHERE c.function = ANY(ARRAY(SELECT function FROM due))" +
		" AND c.registration = ANY(ARRAY(SELECT registration FROM due))" +
		" AND c.function = due.function AND c.registration = due.registration AND c.position = due.position"
)

// A sweepStep is a statement that handles rows which fell due by a time.
type sweepStep struct {
	statement string
	until     int64
}

// sweep runs the steps in slices until nothing is due or limit rows are handled.
func (s *Store) sweep(ctx context.Context, busy error, limit int, steps ...sweepStep) (int, error) {
	swept := 0
	for swept < limit {
		slice := min(sweepSlice, limit-swept)
		n, err := alone(ctx, s, busy, "", pgx.ReadCommitted, func(ctx context.Context, tx pgx.Tx) (int, error) {
			total := 0
			for _, step := range steps {
				tag, err := tx.Exec(ctx, step.statement, step.until, slice-total)
				if err != nil {
					return 0, err
				}
				total += int(tag.RowsAffected())
			}
			return total, nil
		})
		swept += n
		if err != nil || n < slice {
			return swept, err
		}
	}
	return swept, nil
}

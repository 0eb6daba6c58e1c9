package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
)

// A preparer is a connection, or a pool of them.
type preparer interface {
	PrepareContext(ctx context.Context, query string) (*sql.Stmt, error)
}

// A statement is an SQL text and where its prepared form goes.
type statement struct {
	prepared **sql.Stmt
	text     string
}

func prepare(ctx context.Context, on preparer, statements []statement) (err error) {
	for _, s := range statements {
		if *s.prepared, err = on.PrepareContext(ctx, s.text); err != nil {
			return fmt.Errorf("prepare %q: %w", s.text, err)
		}
	}
	return nil
}

// closeStatements closes those that were prepared.
func closeStatements(statements []statement) error {
	var errs []error
	for _, s := range statements {
		if *s.prepared != nil {
			errs = append(errs, (*s.prepared).Close())
		}
	}
	return errors.Join(errs...)
}

// writeStatements run on the writer's connection.
type writeStatements struct {
	begin, end, rollback *sql.Stmt

	enrolmentRows, enrolmentOf, enrolleeState, insertEnrolment, supersedeEnrolment, forgetUnfetched *sql.Stmt
	fetchEnrolment, eraseOlderEnrolments, eraseEnrolment                                            *sql.Stmt
	forgetEnrolments, expireEnrolments, closeWindows                                                *sql.Stmt

	credentialRows, insertCredential, activateKmID, retireOlder *sql.Stmt
	limitKeID, forgetCredentials, expireCredentials             *sql.Stmt

	putRegistration, deleteRegistration, sweepRegistrations *sql.Stmt

	keyRow, liveKeys, insertKey, insertTarget, deleteTargets, updateKey, fetchKey, deleteKey, sweepKeys *sql.Stmt

	kpmRow, insertKpm, replaceKpm, endOlderKpms, activateKpm, eraseOlderKpms, sweepKpms *sql.Stmt

	commandRow, insertCommand, issueCommand, reportCommand, sweepCommands *sql.Stmt

	auditEnd, auditAnchor, auditLine, insertAudit, insertAnchor, pruneAudit *sql.Stmt

	swap           [sealedTableCount]*sql.Stmt
	forgetDataKeys *sql.Stmt
}

func (w *writeStatements) prepare(ctx context.Context, on preparer) error {
	return prepare(ctx, on, w.all())
}

// all lists the statements. A unary plus keeps a column out of the choice of an
// index: the index on (state, expires) is for sweeping alone.
func (w *writeStatements) all() []statement {
	var swaps []statement
	forget := "DELETE FROM data_key AS k WHERE id < ?"
	for i, table := range sealedTables() {
		swaps = append(swaps, statement{&w.swap[i], "UPDATE " + table.name + " SET data_key = ?, sealed = ? WHERE rowid = ? AND sealed = ?"})
		forget += " AND NOT EXISTS (SELECT 1 FROM " + table.name + " WHERE data_key = k.id)"
	}
	return append(swaps, []statement{
		{&w.forgetDataKeys, forget},

		{&w.begin, "BEGIN IMMEDIATE"},
		{&w.end, "COMMIT"},
		{&w.rollback, "ROLLBACK"},

		{&w.enrolmentRows, `SELECT maf_id, enrolee_id, generation, session, certificate, data_key, sealed, created, expires
			FROM enrolment WHERE ke_id = ? ORDER BY maf_id`},
		{&w.enrolmentOf, "SELECT ke_id FROM enrolment WHERE enrolee_id = ? AND session = ? AND +expires > ? LIMIT 1"},
		{&w.enrolleeState, `SELECT coalesce(max(generation), 0), EXISTS (SELECT 1 FROM enrolment WHERE ke_id = ?3),
			(SELECT count(DISTINCT generation) FROM enrolment WHERE enrolee_id = ?1 AND +expires > ?2 AND fetches > 0)
			FROM enrolment WHERE enrolee_id = ?1`},
		{&w.insertEnrolment, `INSERT INTO enrolment
			(ke_id, maf_id, enrolee_id, generation, session, certificate, data_key, sealed, state, created, expires)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, 1, ?, ?)`},
		{&w.supersedeEnrolment, `UPDATE enrolment SET state = 4, sealed = NULL, data_key = NULL
			WHERE enrolee_id = ? AND maf_id = ? AND +state = 1`},
		{&w.forgetUnfetched, `DELETE FROM enrolment WHERE enrolee_id = ? AND generation <= ?
			AND NOT EXISTS (SELECT 1 FROM enrolment AS part WHERE part.ke_id = enrolment.ke_id AND part.fetches > 0)`},
		{&w.fetchEnrolment, `UPDATE enrolment SET state = 2, fetches = fetches + 1, fetched_at = coalesce(fetched_at, ?3)
			WHERE ke_id = ?1 AND maf_id = ?2 AND +state IN (1, 2) AND expires > ?3
			AND (fetched_at IS NULL OR ?3 <= fetched_at + ?4) AND fetches < ?5
			RETURNING enrolee_id, generation, session, certificate, data_key, sealed, created, expires`},
		{&w.eraseOlderEnrolments, `UPDATE enrolment SET state = 4, sealed = NULL, data_key = NULL
			WHERE enrolee_id = ? AND generation < ? AND maf_id = ? AND +state IN (1, 2)`},
		{&w.eraseEnrolment, `UPDATE enrolment
			SET state = CASE WHEN state IN (1, 2) THEN 3 ELSE state END, sealed = NULL, data_key = NULL
			WHERE ke_id = ? AND maf_id = ?`},
		{&w.forgetEnrolments, `DELETE FROM enrolment WHERE rowid IN (
			SELECT rowid FROM enrolment WHERE state IN (1, 2, 3, 4, 5) AND expires <= ? LIMIT ?)`},
		{&w.expireEnrolments, `UPDATE enrolment SET state = 5, sealed = NULL, data_key = NULL WHERE rowid IN (
			SELECT rowid FROM enrolment WHERE state IN (1, 2) AND expires <= ? LIMIT ?)`},
		{&w.closeWindows, `UPDATE enrolment SET state = 3, sealed = NULL, data_key = NULL WHERE rowid IN (
			SELECT rowid FROM enrolment WHERE state = 2 AND fetched_at < ? LIMIT ?)`},

		{&w.credentialRows, `SELECT ke_id, km_id, enrolee_id, maf_id, data_key, sealed, expires
			FROM credential WHERE ke_id = ?1 OR km_id = ?2`},
		{&w.insertCredential, `INSERT INTO credential
			(ke_id, km_id, enrolee_id, generation, maf_id, data_key, sealed, state, created, expires, ke_id_until)
			SELECT ?1, ?2, ?3, coalesce(max(generation), 0) + 1, ?4, ?5, ?6, 1, ?7, ?8, ?9 FROM credential WHERE enrolee_id = ?3`},
		{&w.activateKmID, `UPDATE credential SET state = 2, ke_id_until = min(ke_id_until, ?2)
			WHERE km_id = ?1 AND +state IN (1, 2) AND expires > ?2 RETURNING enrolee_id, generation`},
		{&w.retireOlder, `UPDATE credential SET state = 4, sealed = NULL, data_key = NULL, ke_id_until = min(ke_id_until, ?3)
			WHERE enrolee_id = ?1 AND generation < ?2 AND +state IN (1, 2)`},
		{&w.limitKeID, "UPDATE credential SET ke_id_until = min(ke_id_until, ?2) WHERE ke_id = ?1"},
		{&w.forgetCredentials, `DELETE FROM credential WHERE rowid IN (
			SELECT rowid FROM credential WHERE state IN (1, 2, 3, 4, 5) AND expires <= ? LIMIT ?)`},
		{&w.expireCredentials, `UPDATE credential SET state = 5, sealed = NULL, data_key = NULL WHERE rowid IN (
			SELECT rowid FROM credential WHERE state IN (1, 2) AND expires <= ? LIMIT ?)`},

		{&w.putRegistration, `INSERT INTO registration
			(function, id, client_id, admin_fqdn, labels, km_id, created, modified, expires)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
			ON CONFLICT (function, id) DO UPDATE SET labels = excluded.labels, km_id = excluded.km_id,
				modified = excluded.modified, expires = excluded.expires
			WHERE client_id = excluded.client_id AND admin_fqdn = excluded.admin_fqdn
			RETURNING created`},
		{&w.deleteRegistration, "DELETE FROM registration WHERE function = ? AND id = ? AND client_id = ?"},
		{&w.sweepRegistrations, `DELETE FROM registration WHERE rowid IN (
			SELECT rowid FROM registration WHERE expires <= ? LIMIT ?)`},

		{&w.keyRow, keyColumns + ", state = 1 FROM key_registration WHERE key_id = ?1"},
		{&w.liveKeys, "SELECT count(*) FROM key_registration WHERE source_id = ? AND expires > ? AND state = 1"},
		{&w.insertKey, `INSERT INTO key_registration
			(key_id, source_id, admin_fqdn, usage, labels, data_key, sealed, state, created, modified, expires, latest)
			VALUES (?, ?, ?, ?, ?, ?, ?, 1, ?, ?, ?, ?)`},
		{&w.insertTarget, "INSERT INTO key_target (key_id, target_id) VALUES (?, ?)"},
		{&w.deleteTargets, "DELETE FROM key_target WHERE key_id = ?"},
		{&w.updateKey, `UPDATE key_registration SET labels = ?3, modified = ?4, expires = ?5
			WHERE key_id = ?1 AND source_id = ?2 AND state = 1 AND expires > ?4`},
		{&w.fetchKey, `UPDATE key_registration SET fetches = fetches + 1, fetched_at = coalesce(fetched_at, ?3)
			WHERE key_id = ?1 AND state = 1 AND expires > ?3 AND EXISTS (SELECT 1 FROM key_target WHERE key_id = ?1 AND target_id = ?2)
			AND (fetched_at IS NULL OR ?3 <= fetched_at + ?4) AND fetches < ?5`},
		{&w.deleteKey, `UPDATE key_registration SET state = 3, sealed = NULL, data_key = NULL
			WHERE key_id = ? AND source_id = ? AND state = 1`},
		{&w.sweepKeys, `DELETE FROM key_registration WHERE rowid IN (
			SELECT rowid FROM key_registration WHERE expires <= ? LIMIT ?)`},

		{&w.kpmRow, "SELECT enrolee_id, data_key, sealed, created, until FROM kpm WHERE kpm_id = ?"},
		{&w.insertKpm, `INSERT INTO kpm (kpm_id, enrolee_id, generation, data_key, sealed, state, created)
			SELECT ?1, ?2, coalesce(max(generation), 0) + 1, ?3, ?4, 1, ?5 FROM kpm WHERE enrolee_id = ?2`},
		{&w.replaceKpm, "UPDATE kpm SET state = 1, data_key = ?2, sealed = ?3 WHERE kpm_id = ?1 AND state IN (1, 2)"},
		{&w.endOlderKpms, `UPDATE kpm SET until = min(coalesce(until, ?2), ?2)
			WHERE enrolee_id = ?1 AND state IN (1, 2)`},
		{&w.activateKpm, `UPDATE kpm SET state = 2
			WHERE kpm_id = ?1 AND state IN (1, 2) AND (until IS NULL OR until > ?2) RETURNING enrolee_id, generation`},
		{&w.eraseOlderKpms, `UPDATE kpm SET state = 4, sealed = NULL, data_key = NULL
			WHERE enrolee_id = ?1 AND generation < ?2 AND state IN (1, 2)`},
		{&w.sweepKpms, `UPDATE kpm SET state = 5, sealed = NULL, data_key = NULL WHERE rowid IN (
			SELECT rowid FROM kpm WHERE state < 3 AND until <= ? LIMIT ?)`},

		{&w.commandRow, "SELECT description FROM command WHERE function = ? AND registration = ? AND cmd_id = ?"},
		{&w.auditEnd, selectAuditEnd},
		{&w.auditLine, "SELECT line FROM audit_entry WHERE log = ?1 AND seq = ?2"},
		{&w.auditAnchor, selectAuditAnchor},
		{&w.insertAnchor, "INSERT INTO audit_anchor (log, seq, hash, pruned) VALUES (?1, ?2, ?3, ?4)"},
		{&w.pruneAudit, "DELETE FROM audit_entry WHERE log = ?1 AND seq IN (SELECT seq FROM audit_entry WHERE log = ?1 AND seq <= ?2 ORDER BY seq LIMIT ?3)"},
		{&w.insertAudit, "INSERT INTO audit_entry (log, seq, line) VALUES (?1, ?2, ?3)"},
		{&w.insertCommand, `INSERT INTO command (function, registration, cmd_id, description, status, created, changed)
			VALUES (?1, ?2, ?3, ?4, 0, ?5, ?5)`},
		{&w.issueCommand, `UPDATE command SET status = CASE status WHEN 0 THEN 10 ELSE 11 END, changed = ?3
			WHERE position = (SELECT min(position) FROM command WHERE function = ?1 AND registration = ?2 AND status < 20)
			RETURNING cmd_id, description, status, created, changed`},
		{&w.reportCommand, `UPDATE command SET status = ?4, changed = ?5
			WHERE position = (SELECT min(position) FROM command WHERE function = ?1 AND registration = ?2 AND status < 20)
			AND cmd_id = ?3 AND status > 0`},
		{&w.sweepCommands, `DELETE FROM command WHERE position IN (
			SELECT position FROM command WHERE status >= 20 AND changed <= ? LIMIT ?)`},
	}...)
}

// keyColumns reads a key by the identifier in parameter 1, with its targets.
const keyColumns = "SELECT source_id, admin_fqdn, usage, labels, data_key, sealed, created, modified, expires, latest, " +
	"(SELECT json_group_array(target_id ORDER BY target_id) FROM key_target WHERE key_id = ?1)"

// readStatements run on any of the reading connections.
type readStatements struct {
	enrolmentFor *sql.Stmt

	credentialByKeID, credentialByKmID, activated, keIDUntil *sql.Stmt

	registration, registrations *sql.Stmt

	kpm, kpmActivated *sql.Stmt

	key, commandPending, commands *sql.Stmt

	auditEnd, auditAnchor, auditLines *sql.Stmt

	enrolments, enrolmentsByKeID                      *sql.Stmt
	credentials, credentialsByKeID, credentialsByKmID *sql.Stmt
	keys, kpms                                        *sql.Stmt

	older [sealedTableCount]*sql.Stmt
}

const registrationColumns = "SELECT id, client_id, admin_fqdn, labels, km_id, created, modified, expires FROM registration"

func (r *readStatements) prepare(ctx context.Context, on preparer) error {
	return prepare(ctx, on, r.all())
}

func (r *readStatements) all() []statement {
	const columns = "SELECT ke_id, km_id, enrolee_id, maf_id, data_key, sealed, created, expires, ke_id_until, "
	var older []statement
	for i, table := range sealedTables() {
		older = append(older, statement{&r.older[i], "SELECT " + table.columns + " FROM " + table.name +
			" WHERE data_key < ? ORDER BY data_key, rowid LIMIT ? OFFSET ?"})
	}
	return append(older, []statement{
		{&r.enrolmentFor, `SELECT enrolee_id, generation, session, certificate, NULL, NULL, created, expires
			FROM enrolment WHERE ke_id = ? AND maf_id = ?`},

		{&r.credentialByKeID, columns + "state = 1 AND expires > ?2 AND ke_id_until > ?2 FROM credential WHERE ke_id = ?1"},
		{&r.credentialByKmID, columns + "state IN (1, 2) AND expires > ?2 FROM credential WHERE km_id = ?1"},
		{&r.activated, "SELECT 1 FROM credential WHERE km_id = ?1 AND +state = 2 AND expires > ?2"},
		{&r.keIDUntil, "SELECT ke_id_until FROM credential WHERE ke_id = ?"},

		{&r.registration, registrationColumns + " WHERE function = ? AND id = ? AND client_id = ? AND expires > ?"},
		{&r.registrations, registrationColumns + ` WHERE function = ?1 AND id > ?2 AND expires > ?3 AND ?4 IN ('', admin_fqdn)
			AND substr(client_id, 1, length(?5)) = ?5 ORDER BY id LIMIT ?6`},

		{&r.kpm, `SELECT enrolee_id, data_key, sealed, created, until
			FROM kpm WHERE kpm_id = ?1 AND state IN (1, 2) AND (until IS NULL OR until > ?2)`},
		{&r.kpmActivated, "SELECT 1 FROM kpm WHERE kpm_id = ?1 AND state = 2 AND (until IS NULL OR until > ?2)"},

		{&r.key, keyColumns + `
			FROM key_registration WHERE key_id = ?1 AND state = 1 AND expires > ?3 AND (source_id = ?2
			OR EXISTS (SELECT 1 FROM key_target WHERE key_id = ?1 AND target_id = ?2))`},
		{&r.commandPending, "SELECT count(*) > 0 FROM command WHERE function = ? AND registration = ? AND status < 20"},
		{&r.auditEnd, selectAuditEnd},
		{&r.auditAnchor, selectAuditAnchor},
		{&r.auditLines, "SELECT line FROM audit_entry WHERE log = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3"},
		{&r.commands, `SELECT cmd_id, description, status, created, changed FROM command
			WHERE function = ? AND registration = ? ORDER BY position`},

		{&r.enrolments, enrolmentRecord + ` WHERE (enrolee_id, generation, maf_id) > (?1, ?2, ?3) AND enrolee_id < ?4
			ORDER BY enrolee_id, generation, maf_id LIMIT ?5`},
		{&r.enrolmentsByKeID, enrolmentRecord + ` WHERE ke_id = ?6 AND (+enrolee_id, generation, maf_id) > (?1, ?2, ?3)
			AND +enrolee_id < ?4 ORDER BY maf_id LIMIT ?5`},
		{&r.credentials, credentialRecord + ` WHERE (enrolee_id, generation) > (?1, ?2) AND enrolee_id < ?3
			ORDER BY enrolee_id, generation LIMIT ?4`},
		{&r.credentialsByKeID, credentialRecord + ` WHERE ke_id = ?5 AND ?6 IN ('', km_id)
			AND (+enrolee_id, generation) > (?1, ?2) AND +enrolee_id < ?3 LIMIT ?4`},
		{&r.credentialsByKmID, credentialRecord + ` WHERE km_id = ?5
			AND (+enrolee_id, generation) > (?1, ?2) AND +enrolee_id < ?3 LIMIT ?4`},
		{&r.keys, `SELECT key_id, source_id, admin_fqdn, usage, labels, NULL, NULL, created, modified, expires, latest,
			(SELECT json_group_array(target_id ORDER BY target_id) FROM key_target WHERE key_target.key_id = key_registration.key_id),
			sealed IS NOT NULL, state = 3, fetches FROM key_registration
			WHERE (source_id, key_id) > (?1, ?2) AND source_id < ?3 AND +expires > ?5 ORDER BY source_id, key_id LIMIT ?4`},
		{&r.kpms, `SELECT kpm_id, enrolee_id, generation, state, created, until FROM kpm
			WHERE (enrolee_id, generation) > (?1, ?2) AND enrolee_id < ?3 ORDER BY enrolee_id, generation LIMIT ?4`},
	}...)
}

// What a list shows of a row: nothing of its key.
const (
	enrolmentRecord  = "SELECT ke_id, enrolee_id, maf_id, generation, certificate, state, created, expires, fetched_at, fetches FROM enrolment"
	credentialRecord = "SELECT km_id, ke_id, enrolee_id, generation, state, created, expires, ke_id_until FROM credential"
)

const (
	selectAuditEnd = `SELECT max(coalesce((SELECT max(seq) FROM audit_entry WHERE log = ?1), 0),
		coalesce((SELECT max(seq) FROM audit_anchor WHERE log = ?1), 0))`
	selectAuditAnchor = "SELECT seq, hash FROM audit_anchor WHERE log = ?1 ORDER BY seq DESC LIMIT 1"
)

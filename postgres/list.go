package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"muster"
	"muster/archive"
	"muster/maf"
	"muster/mef"
	"muster/tef"
)

var (
	_ mef.Register    = (*Store)(nil)
	_ mef.KpmRegister = (*Store)(nil)
	_ maf.Register    = (*Store)(nil)
	_ tef.KeyRegister = (*Store)(nil)
)

// A list reads a range of an index that has its order, from a position to the end
// of a prefix. The parts of an enrolment are in the order of their MAFs. An
// expression in place of a column keeps its index out of the choice.
const (
	listEnrolmentColumns = "SELECT ke_id, enrolee_id, maf_id, generation, certificate, state, created, expires, fetched_at, fetches FROM enrolment"

	listEnrolments = listEnrolmentColumns + ` WHERE (enrolee_id, generation, maf_id) > ($1, $2, $3) AND enrolee_id < $4
		ORDER BY enrolee_id, generation, part LIMIT $5`

	listEnrolmentsByKeID = listEnrolmentColumns + ` WHERE ke_id = $6 AND (enrolee_id || '', generation, maf_id) > ($1, $2, $3)
		AND enrolee_id || '' < $4 ORDER BY part LIMIT $5`

	listCredentialColumns = "SELECT km_id, ke_id, enrolee_id, generation, state, created, expires, ke_id_until FROM credential"

	listCredentials = listCredentialColumns + ` WHERE (enrolee_id, generation) > ($1, $2) AND enrolee_id < $3
		ORDER BY enrolee_id, generation LIMIT $4`

	listCredentialsByKeID = listCredentialColumns + ` WHERE ke_id = $5 AND ($6 = '' OR km_id || '' = $6)
		AND (enrolee_id || '', generation) > ($1, $2) AND enrolee_id || '' < $3 LIMIT $4`

	listCredentialsByKmID = listCredentialColumns + ` WHERE km_id = $5
		AND (enrolee_id || '', generation) > ($1, $2) AND enrolee_id || '' < $3 LIMIT $4`

	listKeys = `SELECT key_id, source_id, admin_fqdn, usage, labels, targets, NULL::bigint, NULL::bytea, created, modified, expires, latest,
		sealed IS NOT NULL, state = 3, fetches FROM key_registration
		WHERE (source_id, key_id) > ($1, $2) AND source_id < $3 AND expires + 0 > $5 ORDER BY source_id, key_id LIMIT $4`

	listKpms = `SELECT kpm_id, enrolee_id, generation, state, created, until FROM kpm
		WHERE (enrolee_id, generation) > ($1, $2) AND enrolee_id < $3 ORDER BY enrolee_id, generation LIMIT $4`
)

// The states by their numbers.
var (
	enrolmentStates  = []mef.EnrolmentState{1: mef.EnrolmentIssued, mef.EnrolmentDelivered, mef.EnrolmentErased, mef.EnrolmentSuperseded, mef.EnrolmentExpired}
	credentialStates = []maf.CredentialState{1: maf.CredentialIssued, maf.CredentialUsed, maf.CredentialErased, maf.CredentialSuperseded, maf.CredentialExpired}
	kpmStates        = []mef.KpmState{1: mef.KpmImported, mef.KpmUsed, 4: mef.KpmSuperseded, mef.KpmExpired}
)

func stateOf[S ~string](states []S, number int) (S, error) {
	if number < 0 || number >= len(states) || states[number] == "" {
		return "", fmt.Errorf("a state in the database is %d", number)
	}
	return states[number], nil
}

// beyond follows every character of an identifier, as its last code point, which
// is none of a character.
const beyond = "\U0010FFFF"

// isText reports whether all may be a part of an identifier in the database.
func isText(parts ...string) bool {
	for _, part := range parts {
		if !utf8.ValidString(part) || strings.ContainsRune(part, 0) {
			return false
		}
	}
	return true
}

// list runs a statement and returns its rows.
func list[T any](ctx context.Context, s *Store, statement string, scan func(pgx.CollectableRow) (T, error), arguments ...any) (page []T, err error) {
	err = s.read(ctx, func(ctx context.Context, conn *pgxpool.Conn) error {
		rows, err := conn.Query(ctx, statement, arguments...)
		if err != nil {
			return err
		}
		page, err = pgx.CollectRows(rows, scan)
		return err
	})
	return page, err
}

// Enrolments is mef.Register's.
func (s *Store) Enrolments(ctx context.Context, q mef.EnrolmentQuery) ([]mef.EnrolmentRecord, error) {
	after := q.After
	if !isText(q.EnroleePrefix, after.EnroleeID, after.MAF) {
		return nil, nil
	}
	if after.EnroleeID < q.EnroleePrefix {
		after = mef.EnrolmentPosition{EnroleeID: q.EnroleePrefix}
	}
	statement, arguments := listEnrolments, []any{after.EnroleeID, after.Generation, after.MAF, q.EnroleePrefix + beyond, q.Limit}
	if !q.KeID.IsZero() {
		statement, arguments = listEnrolmentsByKeID, append(arguments, archive.KeIDOctets(q.KeID))
	}
	return list(ctx, s, statement, scanEnrolmentRecord, arguments...)
}

func scanEnrolmentRecord(row pgx.CollectableRow) (r mef.EnrolmentRecord, err error) {
	var keID, certificate []byte
	var enrolee, target string
	var state int
	var created, expires int64
	var fetched *int64
	if err := row.Scan(&keID, &enrolee, &target, &r.Generation, &certificate, &state, &created, &expires, &fetched, &r.Fetches); err != nil {
		return mef.EnrolmentRecord{}, err
	}
	if len(certificate) != len(r.Certificate) {
		return mef.EnrolmentRecord{}, errors.New("an enrolment has a digest of another size")
	}
	var errs [4]error
	r.KeID, errs[0] = archive.KeIDFrom(keID)
	r.EnroleeID, errs[1] = muster.ParseEnroleeID(enrolee)
	r.MAF, errs[2] = muster.ParseFQDN(target)
	r.State, errs[3] = stateOf(enrolmentStates, state)
	r.Certificate, r.Created, r.Expires = muster.Digest(certificate), time.Unix(created, 0).UTC(), time.Unix(expires, 0).UTC()
	if fetched != nil {
		r.FetchedAt = time.Unix(*fetched, 0).UTC()
	}
	return r, errors.Join(errs[:]...)
}

// Credentials is maf.Register's.
func (s *Store) Credentials(ctx context.Context, q maf.CredentialQuery) ([]maf.CredentialRecord, error) {
	after := q.After
	if !isText(q.EnroleePrefix, after.EnroleeID) {
		return nil, nil
	}
	if after.EnroleeID < q.EnroleePrefix {
		after = maf.CredentialPosition{EnroleeID: q.EnroleePrefix}
	}
	statement, arguments := listCredentials, []any{after.EnroleeID, after.Generation, q.EnroleePrefix + beyond, q.Limit}
	switch {
	case !q.KeID.IsZero():
		statement, arguments = listCredentialsByKeID, append(arguments, archive.KeIDOctets(q.KeID), q.KmID.String())
	case !q.KmID.IsZero():
		statement, arguments = listCredentialsByKmID, append(arguments, q.KmID.String())
	}
	return list(ctx, s, statement, scanCredentialRecord, arguments...)
}

func scanCredentialRecord(row pgx.CollectableRow) (r maf.CredentialRecord, err error) {
	var keID []byte
	var kmID, enrolee string
	var state int
	var created, expires, until int64
	if err := row.Scan(&kmID, &keID, &enrolee, &r.Generation, &state, &created, &expires, &until); err != nil {
		return maf.CredentialRecord{}, err
	}
	var errs [4]error
	r.KmID, errs[0] = muster.ParseKmID(kmID)
	r.KeID, errs[1] = archive.KeIDFrom(keID)
	r.EnroleeID, errs[2] = muster.ParseEnroleeID(enrolee)
	r.State, errs[3] = stateOf(credentialStates, state)
	r.Created, r.Expires, r.KeIDUntil = time.Unix(created, 0).UTC(), time.Unix(expires, 0).UTC(), time.Unix(until, 0).UTC()
	return r, errors.Join(errs[:]...)
}

// RegisteredKeys is tef.KeyRegister's.
func (s *Store) RegisteredKeys(ctx context.Context, q tef.KeyQuery) ([]tef.KeyRecord, error) {
	after := q.After
	if !isText(q.SourcePrefix, after.Source) {
		return nil, nil
	}
	if after.Source < q.SourcePrefix {
		after = tef.KeyPosition{Source: q.SourcePrefix}
	}
	return list(ctx, s, listKeys, scanKeyRecord, after.Source, keyOctets(after.ID), q.SourcePrefix+beyond, q.Limit, q.Now.Unix())
}

func scanKeyRecord(row pgx.CollectableRow) (r tef.KeyRecord, err error) {
	var keID []byte
	var k scannedKey
	if err := row.Scan(append(append([]any{&keID}, k.columns()...), &r.Sealed, &r.Deleted, &r.Fetches)...); err != nil {
		return tef.KeyRecord{}, err
	}
	id, err := archive.KeIDFrom(keID)
	if err != nil {
		return tef.KeyRecord{}, err
	}
	r.KeyRegistration, err = k.registration(tef.NewKeyID(id.Relative(), id.MEF()))
	return r, err
}

// Kpms is mef.KpmRegister's.
func (s *Store) Kpms(ctx context.Context, q mef.KpmQuery) ([]mef.KpmRecord, error) {
	after := q.After
	if !isText(q.EnroleePrefix, after.EnroleeID) {
		return nil, nil
	}
	if after.EnroleeID < q.EnroleePrefix {
		after = mef.KpmPosition{EnroleeID: q.EnroleePrefix}
	}
	return list(ctx, s, listKpms, scanKpmRecord, after.EnroleeID, after.Generation, q.EnroleePrefix+beyond, q.Limit)
}

func scanKpmRecord(row pgx.CollectableRow) (r mef.KpmRecord, err error) {
	var id, enrolee string
	var state int
	var created int64
	var until *int64
	if err := row.Scan(&id, &enrolee, &r.Generation, &state, &created, &until); err != nil {
		return mef.KpmRecord{}, err
	}
	var errs [3]error
	r.KpmID, errs[0] = muster.ParseKpmID(id)
	r.EnroleeID, errs[1] = muster.ParseEnroleeID(enrolee)
	r.State, errs[2] = stateOf(kpmStates, state)
	r.Created = time.Unix(created, 0).UTC()
	if until != nil {
		r.Until = time.Unix(*until, 0).UTC()
	}
	return r, errors.Join(errs[:]...)
}

package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

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
func list[T any](ctx context.Context, s *Store, statement *sql.Stmt, scan func(*sql.Rows) (T, error), arguments ...any) (page []T, err error) {
	rows, err := statement.QueryContext(ctx, arguments...)
	if err != nil {
		return nil, s.readError(err)
	}
	defer rows.Close()
	for rows.Next() {
		record, err := scan(rows)
		if err != nil {
			return nil, err
		}
		page = append(page, record)
	}
	return page, s.readError(rows.Err())
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
	statement, arguments := s.read.enrolments, []any{after.EnroleeID, after.Generation, after.MAF, q.EnroleePrefix + beyond, q.Limit}
	if !q.KeID.IsZero() {
		statement, arguments = s.read.enrolmentsByKeID, append(arguments, archive.KeIDOctets(q.KeID))
	}
	return list(ctx, s, statement, scanEnrolmentRecord, arguments...)
}

func scanEnrolmentRecord(rows *sql.Rows) (r mef.EnrolmentRecord, err error) {
	var keID, certificate []byte
	var enrolee, target string
	var state int
	var created, expires int64
	var fetched *int64
	if err := rows.Scan(&keID, &enrolee, &target, &r.Generation, &certificate, &state, &created, &expires, &fetched, &r.Fetches); err != nil {
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
	statement, arguments := s.read.credentials, []any{after.EnroleeID, after.Generation, q.EnroleePrefix + beyond, q.Limit}
	switch {
	case !q.KeID.IsZero():
		statement, arguments = s.read.credentialsByKeID, append(arguments, archive.KeIDOctets(q.KeID), q.KmID.String())
	case !q.KmID.IsZero():
		statement, arguments = s.read.credentialsByKmID, append(arguments, q.KmID.String())
	}
	return list(ctx, s, statement, scanCredentialRecord, arguments...)
}

func scanCredentialRecord(rows *sql.Rows) (r maf.CredentialRecord, err error) {
	var keID []byte
	var kmID, enrolee string
	var state int
	var created, expires, until int64
	if err := rows.Scan(&kmID, &keID, &enrolee, &r.Generation, &state, &created, &expires, &until); err != nil {
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
	return list(ctx, s, s.read.keys, s.scanKeyRecord, after.Source, keyOctets(after.ID), q.SourcePrefix+beyond, q.Limit, q.Now.Unix())
}

func (s *Store) scanKeyRecord(rows *sql.Rows) (r tef.KeyRecord, err error) {
	var keID []byte
	var k scannedKey
	var targets string
	if err := rows.Scan(append(append([]any{&keID}, k.columns()...), &targets, &r.Sealed, &r.Deleted, &r.Fetches)...); err != nil {
		return tef.KeyRecord{}, err
	}
	id, err := archive.KeIDFrom(keID)
	if err != nil {
		return tef.KeyRecord{}, err
	}
	if r.KeyRegistration, err = s.assembleKey(tef.NewKeyID(id.Relative(), id.MEF()), k); err != nil {
		return tef.KeyRecord{}, err
	}
	return r, json.Unmarshal([]byte(targets), &r.Targets)
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
	return list(ctx, s, s.read.kpms, scanKpmRecord, after.EnroleeID, after.Generation, q.EnroleePrefix+beyond, q.Limit)
}

func scanKpmRecord(rows *sql.Rows) (r mef.KpmRecord, err error) {
	var id, enrolee string
	var state int
	var created int64
	var until *int64
	if err := rows.Scan(&id, &enrolee, &r.Generation, &state, &created, &until); err != nil {
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

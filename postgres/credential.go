package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"muster"
	"muster/archive"
	"muster/maf"
)

var _ maf.Store = (*Store)(nil)

const (
	credentialColumns = "ke_id, km_id, enrolee_id, maf_id, data_key, sealed, created, expires, ke_id_until"

	selectCredentials = "SELECT " + credentialColumns + ` FROM credential
		WHERE ke_id = ANY($1::bytea[]) OR km_id = ANY($2::text[])`

	insertCredentials = `INSERT INTO credential
		(ke_id, km_id, enrolee_id, maf_id, data_key, sealed, created, expires, ke_id_until, state, generation)
		SELECT w.*, 1, (SELECT coalesce(max(c.generation), 0) + 1 FROM credential AS c WHERE c.enrolee_id = w.enrolee_id)
		FROM unnest($1::bytea[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::bytea[], $7::bigint[], $8::bigint[], $9::bigint[])
			AS w (ke_id, km_id, enrolee_id, maf_id, data_key, sealed, created, expires, ke_id_until)
		WHERE EXISTS (SELECT 1 FROM data_key WHERE id = $10) ON CONFLICT DO NOTHING RETURNING ke_id`

	touchCredentials = "UPDATE credential SET generation = generation WHERE ke_id = ANY($1::bytea[])"

	activateKmIDs = `UPDATE credential AS c SET state = 2, ke_id_until = least(c.ke_id_until, w.now)
		FROM unnest($1::text[], $2::bigint[]) AS w (km_id, now)
		WHERE c.km_id = ANY($1::text[]) AND c.km_id = w.km_id AND c.state + 0 IN (1, 2) AND c.expires > w.now RETURNING c.km_id`

	// What is older than an activated credential is retired; doing it again
	// changes nothing.
	retireOlder = `WITH new AS (SELECT c.enrolee_id, c.generation, w.now
			FROM unnest($1::text[], $2::bigint[]) AS w (km_id, now) JOIN credential AS c ON c.km_id = w.km_id
			WHERE c.km_id = ANY($1::text[]) AND c.state + 0 = 2)
		UPDATE credential AS o SET state = 4, sealed = NULL, data_key = NULL, ke_id_until = least(o.ke_id_until, new.now) FROM new
		WHERE o.enrolee_id = ANY(ARRAY(SELECT enrolee_id FROM new)) AND o.enrolee_id = new.enrolee_id
			AND o.generation < new.generation AND o.state + 0 IN (1, 2)`

	limitKeIDs = `UPDATE credential AS c SET ke_id_until = least(c.ke_id_until, w.until)
		FROM unnest($1::bytea[], $2::bigint[]) AS w (ke_id, until)
		WHERE c.ke_id = ANY($1::bytea[]) AND c.ke_id = w.ke_id RETURNING c.ke_id`

	credentialByKeID = "SELECT " + credentialColumns + ", state = 1 AND expires > $2 AND ke_id_until > $2 FROM credential WHERE ke_id = $1"
	credentialByKmID = "SELECT " + credentialColumns + ", state IN (1, 2) AND expires > $2 FROM credential WHERE km_id = $1"
	selectActivated  = "SELECT true FROM credential WHERE km_id = $1 AND state + 0 = 2 AND expires > $2"
	selectKeIDUntil  = "SELECT ke_id_until FROM credential WHERE ke_id = $1"
)

// PutCredential is maf.Store's.
func (s *Store) PutCredential(ctx context.Context, c maf.Credential) error {
	if c.KmID.IsZero() || c.KeID.IsZero() || c.EnroleeID.IsZero() || c.Km.IsZero() {
		return errors.New("the credential lacks its KmID, KeID, Enrolee-ID or Km")
	}
	c.Created, c.Expires, c.KeIDUntil = wholeSecond(c.Created), wholeSecond(c.Expires), wholeSecond(c.KeIDUntil)
	_, err := submit(ctx, s, s.kinds.putCredential, c.EnroleeID.String(), c)
	return err
}

func claimCredential(c maf.Credential) []string {
	return []string{"Enrolee " + c.EnroleeID.String(), "KeID " + c.KeID.String(), "KmID " + c.KmID.String()}
}

func bindCredential(c maf.Credential) []string {
	return archive.BindKm(c.MAF, c.KmID, c.KeID, c.EnroleeID, c.Expires)
}

// putCredentials decides and writes as createEnrolments does.
func (s *Store) putCredentials(ctx context.Context, conn *pgxpool.Conn, items []maf.Credential, outcomes []outcome[struct{}]) error {
	stored, err := s.credentialsBefore(ctx, conn, items)
	if err != nil {
		return err
	}
	var fresh []int
	var replayed [][]byte
	for i, c := range items {
		found := false
		for _, before := range stored {
			if before.KeID != c.KeID && before.KmID != c.KmID {
				continue
			}
			found = true
			same := before.KeID == c.KeID && before.KmID == c.KmID && before.EnroleeID == c.EnroleeID
			if !same || !before.Km.IsZero() && !before.Km.Equal(c.Km) {
				outcomes[i].err = fmt.Errorf("%w: %s or %s", maf.ErrConflict, c.KeID, c.KmID)
			}
		}
		switch {
		case !found:
			outcomes[i].err = errLostRace // until its row is written
			fresh = append(fresh, i)
		case outcomes[i].err == nil:
			replayed = append(replayed, archive.KeIDOctets(c.KeID))
		}
	}
	return s.writeCredentials(ctx, conn, items, fresh, replayed, outcomes)
}

func (s *Store) credentialsBefore(ctx context.Context, conn *pgxpool.Conn, items []maf.Credential) ([]maf.Credential, error) {
	keIDs, kmIDs := make([][]byte, len(items)), make([]string, len(items))
	for i, c := range items {
		keIDs[i], kmIDs[i] = archive.KeIDOctets(c.KeID), c.KmID.String()
	}
	found, err := conn.Query(ctx, selectCredentials, keIDs, kmIDs)
	if err != nil {
		return nil, err
	}
	rows, err := pgx.CollectRows(found, func(row pgx.CollectableRow) (r scannedCredential, err error) {
		return r, row.Scan(r.columns()...)
	})
	if err != nil {
		return nil, err
	}
	stored := make([]maf.Credential, len(rows))
	for i, r := range rows {
		if stored[i], err = s.assembleCredential(ctx, conn, r); err != nil {
			return nil, err
		}
	}
	return stored, nil
}

func (s *Store) writeCredentials(ctx context.Context, conn *pgxpool.Conn, items []maf.Credential, fresh []int, replayed [][]byte, outcomes []outcome[struct{}]) error {
	slices.SortFunc(fresh, func(i, j int) int { return compareKeID(items[i].KeID, items[j].KeID) })
	var keIDs, sealed [][]byte
	var kmIDs, enrolees, mafs []string
	var dataKeys, created, expires, untils []int64
	var dataKey uint32
	if len(fresh) > 0 {
		var err error
		if dataKey, err = s.dataKey(ctx, conn.Conn(), len(fresh)); err != nil {
			return err
		}
		for _, i := range fresh {
			c := items[i]
			r, err := s.sealKey(dataKey, c.Km.Reveal(), bindCredential(c)...)
			if err != nil {
				return err
			}
			keIDs, kmIDs, enrolees = append(keIDs, archive.KeIDOctets(c.KeID)), append(kmIDs, c.KmID.String()), append(enrolees, c.EnroleeID.String())
			mafs, dataKeys, sealed = append(mafs, c.MAF.String()), append(dataKeys, int64(dataKey)), append(sealed, r.sealed)
			created, expires, untils = append(created, c.Created.Unix()), append(expires, c.Expires.Unix()), append(untils, c.KeIDUntil.Unix())
		}
	}
	written := make(map[string]bool, len(fresh))
	var t transaction
	if len(fresh) > 0 {
		s.hold(&t, dataKey)
		t.queue(insertCredentials, keIDs, kmIDs, enrolees, mafs, dataKeys, sealed, created, expires, untils, dataKey).Query(func(found pgx.Rows) error {
			var id []byte
			_, err := pgx.ForEachRow(found, []any{&id}, func() error { written[string(id)] = true; return nil })
			return err
		})
	}
	if len(replayed) > 0 {
		t.queue(touchCredentials, replayed)
	}
	if err := t.send(ctx, conn); err != nil {
		return err
	}
	for at, i := range fresh {
		if written[string(keIDs[at])] {
			outcomes[i].err = nil
		}
	}
	return nil
}

type scannedCredential struct {
	keID                 []byte
	kmID, enrolee, owner string
	record
	created, expires, keIDUntil int64
}

func (r *scannedCredential) columns() []any {
	return []any{&r.keID, &r.kmID, &r.enrolee, &r.owner, &r.dataKey, &r.sealed, &r.created, &r.expires, &r.keIDUntil}
}

func (s *Store) assembleCredential(ctx context.Context, conn *pgxpool.Conn, r scannedCredential) (maf.Credential, error) {
	keID, err1 := archive.KeIDFrom(r.keID)
	kmID, err2 := muster.ParseKmID(r.kmID)
	enrolee, err3 := muster.ParseEnroleeID(r.enrolee)
	owner, err4 := muster.ParseFQDN(r.owner)
	if err := errors.Join(err1, err2, err3, err4, s.learnKeys(ctx, conn.Conn(), r.record)); err != nil {
		return maf.Credential{}, err
	}
	c := maf.Credential{
		KmID: kmID, KeID: keID, EnroleeID: enrolee, MAF: owner, Created: time.Unix(r.created, 0).UTC(),
		Expires: time.Unix(r.expires, 0).UTC(), KeIDUntil: time.Unix(r.keIDUntil, 0).UTC(),
	}
	key, err := s.unseal(r.record, bindCredential(c)...)
	if err != nil || key == nil {
		return c, err
	}
	defer clear(key)
	c.Km, err = muster.NewKm(key)
	return c, err
}

// CredentialByKeID is maf.Store's. One statement finds the credential and judges
// it, so that one which is stored meanwhile is not taken for a retired one.
func (s *Store) CredentialByKeID(ctx context.Context, id muster.KeID, now time.Time) (maf.Credential, error) {
	c, usable, err := s.credential(ctx, id, credentialByKeID, archive.KeIDOctets(id), now.Unix())
	if err == nil && !usable {
		return maf.Credential{}, fmt.Errorf("%w: %s", maf.ErrRetired, id)
	}
	return c, err
}

// CredentialByKmID is maf.Store's.
func (s *Store) CredentialByKmID(ctx context.Context, id muster.KmID, now time.Time) (maf.Credential, error) {
	c, usable, err := s.credential(ctx, id, credentialByKmID, id.String(), now.Unix())
	if err == nil && !usable {
		return maf.Credential{}, fmt.Errorf("%w: %s", maf.ErrUnknown, id)
	}
	return c, err
}

// credential reads a credential and whether it may be used.
func (s *Store) credential(ctx context.Context, id fmt.Stringer, query string, args ...any) (c maf.Credential, usable bool, err error) {
	err = s.read(ctx, func(ctx context.Context, conn *pgxpool.Conn) error {
		var r scannedCredential
		err := conn.QueryRow(ctx, query, args...).Scan(append(r.columns(), &usable)...)
		if errors.Is(err, pgx.ErrNoRows) {
			return fmt.Errorf("%w: %s", maf.ErrUnknown, id)
		}
		if err == nil && usable {
			c, err = s.assembleCredential(ctx, conn, r)
		}
		return err
	})
	if err != nil {
		return maf.Credential{}, false, err
	}
	return c, usable, nil
}

// An activation is the first success of a session with a KmID.
type activation struct {
	id  muster.KmID
	now int64
}

func claimActivation(a activation) []string { return []string{a.id.String()} }

// ActivateKmID is maf.Store's. Only the first activation is a write: later ones,
// at each session of the client, read.
func (s *Store) ActivateKmID(ctx context.Context, id muster.KmID, now time.Time) error {
	if found, err := exists[bool](ctx, s, selectActivated, id.String(), now.Unix()); found != nil || err != nil {
		return err
	}
	_, err := submit(ctx, s, s.kinds.activate, id.String(), activation{id, now.Unix()})
	return err
}

// exists reads one value, or nil if there is no row.
func exists[T any](ctx context.Context, s *Store, query string, args ...any) (found *T, err error) {
	err = s.read(ctx, func(ctx context.Context, conn *pgxpool.Conn) error {
		var value T
		err := conn.QueryRow(ctx, query, args...).Scan(&value)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		found = &value
		return err
	})
	return found, err
}

func (s *Store) activateKmIDs(ctx context.Context, conn *pgxpool.Conn, items []activation, outcomes []outcome[struct{}]) error {
	ids, now := make([]string, len(items)), make([]int64, len(items))
	for i, a := range items {
		ids[i], now[i] = a.id.String(), a.now
	}
	activated := make(map[string]bool)
	var t transaction
	t.queue(activateKmIDs, ids, now).Query(func(found pgx.Rows) error {
		var id string
		_, err := pgx.ForEachRow(found, []any{&id}, func() error { activated[id] = true; return nil })
		return err
	})
	t.queue(retireOlder, ids, now)
	if err := t.send(ctx, conn); err != nil {
		return err
	}
	for i, id := range ids {
		if !activated[id] {
			outcomes[i].err = fmt.Errorf("%w: %s", maf.ErrUnknown, id)
		}
	}
	return nil
}

// A keIDLimit is an end that a KeID is given.
type keIDLimit struct {
	id    muster.KeID
	until int64
}

func claimLimit(l keIDLimit) []string { return []string{l.id.String()} }

// LimitKeID is maf.Store's. A KeID that ends no later already is not written.
func (s *Store) LimitKeID(ctx context.Context, id muster.KeID, until time.Time) error {
	switch end, err := exists[int64](ctx, s, selectKeIDUntil, archive.KeIDOctets(id)); {
	case err != nil:
		return err
	case end == nil:
		return fmt.Errorf("%w: %s", maf.ErrUnknown, id)
	case *end <= until.Unix():
		return nil
	}
	_, err := submit(ctx, s, s.kinds.limitKeID, id.String(), keIDLimit{id, until.Unix()})
	return err
}

func (s *Store) limitKeIDs(ctx context.Context, conn *pgxpool.Conn, items []keIDLimit, outcomes []outcome[struct{}]) error {
	ids, untils := make([][]byte, len(items)), make([]int64, len(items))
	for i, l := range items {
		ids[i], untils[i] = archive.KeIDOctets(l.id), l.until
	}
	limited := make(map[string]bool)
	var t transaction
	t.queue(limitKeIDs, ids, untils).Query(func(found pgx.Rows) error {
		var id []byte
		_, err := pgx.ForEachRow(found, []any{&id}, func() error { limited[string(id)] = true; return nil })
		return err
	})
	if err := t.send(ctx, conn); err != nil {
		return err
	}
	for i, l := range items {
		if !limited[string(ids[i])] {
			outcomes[i].err = fmt.Errorf("%w: %s", maf.ErrUnknown, l.id)
		}
	}
	return nil
}

// SweepCredentials is maf.Store's.
func (s *Store) SweepCredentials(ctx context.Context, now time.Time, grace time.Duration, limit int) (int, error) {
	return s.sweep(ctx, maf.ErrBusy, limit,
		sweepStep{forgetCredentials, now.Add(-grace).Unix()},
		sweepStep{expireCredentials, now.Unix()},
	)
}

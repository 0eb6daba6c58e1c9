package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"muster"
	"muster/tef"
)

var _ tef.Store = (*Store)(nil)

const (
	putRegistrations = `INSERT INTO registration AS r (function, id, client_id, admin_fqdn, labels, km_id, created, modified, expires)
		SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bigint[], $8::bigint[], $9::bigint[])
		ON CONFLICT (function, id) DO UPDATE SET labels = excluded.labels, km_id = excluded.km_id,
			modified = excluded.modified, expires = excluded.expires
		WHERE r.client_id = excluded.client_id AND r.admin_fqdn = excluded.admin_fqdn
		RETURNING r.function, r.id, r.created`

	registrationColumns = "SELECT id, client_id, admin_fqdn, labels, km_id, created, modified, expires FROM registration"

	selectRegistration = registrationColumns + " WHERE function = $1 AND id = $2 AND client_id = $3 AND expires > $4"

	selectRegistrations = registrationColumns + ` WHERE function = $1 AND id > $2 AND expires > $3 AND ($4 = '' OR admin_fqdn = $4)
		AND starts_with(client_id, $5) ORDER BY id LIMIT $6`

	deleteRegistrations = `DELETE FROM registration AS r
		USING unnest($1::text[], $2::text[], $3::text[]) AS w (function, id, client_id)
		WHERE r.function = ANY($1::text[]) AND r.id = ANY($2::text[])
			AND r.function = w.function AND r.id = w.id AND r.client_id = w.client_id RETURNING r.function, r.id`
)

// A registrationName names a registration of a client.
type registrationName struct {
	function muster.FQDN
	client   muster.EnroleeID
	id       string
}

func claimName(n registrationName) []string { return []string{n.function.String() + " " + n.id} }

func claimRegistration(r tef.ClientRegistration) []string {
	return []string{r.Function.String() + " " + r.ID}
}

// PutRegistration is tef.Store's.
func (s *Store) PutRegistration(ctx context.Context, r tef.ClientRegistration) (tef.ClientRegistration, error) {
	r.Created, r.Modified, r.Expires = wholeSecond(r.Created), wholeSecond(r.Modified), wholeSecond(r.Expires)
	r.Labels = append([]string(nil), r.Labels...)
	return submit(ctx, s, s.kinds.putRegistration, r.ID, r)
}

func (s *Store) putRegistrations(ctx context.Context, conn *pgxpool.Conn, items []tef.ClientRegistration, outcomes []outcome[tef.ClientRegistration]) error {
	n := len(items)
	functions, ids, clients, admins, labels, kmIDs := make([]string, n), make([]string, n), make([]string, n), make([]string, n), make([]string, n), make([]string, n)
	created, modified, expires := make([]int64, n), make([]int64, n), make([]int64, n)
	for i, r := range items {
		text, err := json.Marshal(r.Labels)
		if err != nil {
			return err
		}
		functions[i], ids[i], clients[i], admins[i] = r.Function.String(), r.ID, r.ClientID.String(), r.AdminFQDN.String()
		labels[i], kmIDs[i] = string(text), r.AssignedSymmKeyID.String()
		created[i], modified[i], expires[i] = r.Created.Unix(), r.Modified.Unix(), r.Expires.Unix()
	}
	stored := make(map[string]int64, n)
	var t transaction
	t.queue(putRegistrations, functions, ids, clients, admins, labels, kmIDs, created, modified, expires).Query(func(found pgx.Rows) error {
		var function, id string
		var since int64
		_, err := pgx.ForEachRow(found, []any{&function, &id, &since}, func() error { stored[function+" "+id] = since; return nil })
		return err
	})
	if err := t.send(ctx, conn); err != nil {
		return err
	}
	for i, r := range items {
		since, ok := stored[functions[i]+" "+ids[i]]
		if !ok {
			outcomes[i].err = fmt.Errorf("%w: %s", tef.ErrConflict, r.ID)
			continue
		}
		r.Created = time.Unix(since, 0).UTC()
		outcomes[i].value = r
	}
	return nil
}

// Registration is tef.Store's.
func (s *Store) Registration(ctx context.Context, function muster.FQDN, client muster.EnroleeID, id string, now time.Time) (tef.ClientRegistration, error) {
	var r tef.ClientRegistration
	err := s.read(ctx, func(ctx context.Context, conn *pgxpool.Conn) (err error) {
		r, err = scanRegistration(conn.QueryRow(ctx, selectRegistration, function.String(), id, client.String(), now.Unix()), function)
		if errors.Is(err, pgx.ErrNoRows) {
			err = fmt.Errorf("%w: %s", tef.ErrUnknown, id)
		}
		return err
	})
	return r, err
}

// scanRegistration reads registrationColumns.
func scanRegistration(row pgx.Row, function muster.FQDN) (tef.ClientRegistration, error) {
	r := tef.ClientRegistration{Function: function}
	var client, admin, labels, kmID string
	var created, modified, expires int64
	if err := row.Scan(&r.ID, &client, &admin, &labels, &kmID, &created, &modified, &expires); err != nil {
		return tef.ClientRegistration{}, err
	}
	r.Created, r.Modified, r.Expires = time.Unix(created, 0).UTC(), time.Unix(modified, 0).UTC(), time.Unix(expires, 0).UTC()
	var err, err1, err2 error
	r.ClientID, err = muster.ParseEnroleeID(client)
	if admin != "" {
		r.AdminFQDN, err1 = muster.ParseFQDN(admin)
	}
	if kmID != "" {
		r.AssignedSymmKeyID, err2 = muster.ParseKmID(kmID)
	}
	return r, errors.Join(err, err1, err2, json.Unmarshal([]byte(labels), &r.Labels))
}

// Registrations is tef.Store's.
func (s *Store) Registrations(ctx context.Context, q tef.RegistrationQuery) ([]tef.ClientRegistration, error) {
	scan := func(row pgx.CollectableRow) (tef.ClientRegistration, error) { return scanRegistration(row, q.Function) }
	return list(ctx, s, selectRegistrations, scan, q.Function.String(), q.After, q.Now.Unix(), q.AdminFQDN.String(), q.ClientPrefix, q.Limit)
}

// DeleteRegistration is tef.Store's.
func (s *Store) DeleteRegistration(ctx context.Context, function muster.FQDN, client muster.EnroleeID, id string) error {
	_, err := submit(ctx, s, s.kinds.deleteRegistration, id, registrationName{function, client, id})
	return err
}

func (s *Store) deleteRegistrations(ctx context.Context, conn *pgxpool.Conn, items []registrationName, outcomes []outcome[struct{}]) error {
	functions, ids, clients := make([]string, len(items)), make([]string, len(items)), make([]string, len(items))
	for i, n := range items {
		functions[i], ids[i], clients[i] = n.function.String(), n.id, n.client.String()
	}
	deleted := make(map[string]bool)
	var t transaction
	t.queue(deleteRegistrations, functions, ids, clients).Query(func(found pgx.Rows) error {
		var function, id string
		_, err := pgx.ForEachRow(found, []any{&function, &id}, func() error { deleted[function+" "+id] = true; return nil })
		return err
	})
	if err := t.send(ctx, conn); err != nil {
		return err
	}
	for i, n := range items {
		if !deleted[functions[i]+" "+ids[i]] {
			outcomes[i].err = fmt.Errorf("%w: %s", tef.ErrUnknown, n.id)
		}
	}
	return nil
}

// SweepRegistrations is tef.Store's.
func (s *Store) SweepRegistrations(ctx context.Context, now time.Time, limit int) (int, error) {
	return s.sweep(ctx, tef.ErrBusy, limit, sweepStep{sweepRegistrations, now.Unix()})
}

package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"muster"
	"muster/tef"
)

var _ tef.Store = (*Store)(nil)

// PutRegistration is tef.Store's.
func (s *Store) PutRegistration(ctx context.Context, r tef.ClientRegistration) (tef.ClientRegistration, error) {
	r.Created, r.Modified, r.Expires = wholeSecond(r.Created), wholeSecond(r.Modified), wholeSecond(r.Expires)
	if len(r.Labels) == 0 {
		r.Labels = nil
	}
	labels, err := json.Marshal(r.Labels)
	if err != nil {
		return tef.ClientRegistration{}, err
	}
	return do(ctx, &s.write, tef.ErrBusy, func() (tef.ClientRegistration, error) {
		stored := r
		var created int64
		err := s.write.putRegistration.QueryRow(r.Function.String(), r.ID, r.ClientID.String(), r.AdminFQDN.String(), string(labels),
			r.AssignedSymmKeyID.String(), r.Created.Unix(), r.Modified.Unix(), r.Expires.Unix()).Scan(&created)
		if errors.Is(err, sql.ErrNoRows) {
			return tef.ClientRegistration{}, fmt.Errorf("%w: %s", tef.ErrConflict, r.ID)
		} else if err != nil {
			return tef.ClientRegistration{}, err
		}
		stored.Created = time.Unix(created, 0).UTC()
		return stored, nil
	})
}

// Registration is tef.Store's.
func (s *Store) Registration(ctx context.Context, function muster.FQDN, client muster.EnroleeID, id string, now time.Time) (tef.ClientRegistration, error) {
	r, err := scanRegistration(s.read.registration.QueryRowContext(ctx, function.String(), id, client.String(), now.Unix()), function)
	if errors.Is(err, sql.ErrNoRows) {
		return tef.ClientRegistration{}, fmt.Errorf("%w: %s", tef.ErrUnknown, id)
	}
	return r, s.readError(err)
}

// scanRegistration reads registrationColumns.
func scanRegistration(row interface{ Scan(...any) error }, function muster.FQDN) (tef.ClientRegistration, error) {
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
	scan := func(rows *sql.Rows) (tef.ClientRegistration, error) { return scanRegistration(rows, q.Function) }
	return list(ctx, s, s.read.registrations, scan, q.Function.String(), q.After, q.Now.Unix(), q.AdminFQDN.String(), q.ClientPrefix, q.Limit)
}

// DeleteRegistration is tef.Store's.
func (s *Store) DeleteRegistration(ctx context.Context, function muster.FQDN, client muster.EnroleeID, id string) error {
	_, err := do(ctx, &s.write, tef.ErrBusy, func() (struct{}, error) {
		n, err := changed(s.write.deleteRegistration.Exec(function.String(), id, client.String()))
		if err == nil && n == 0 {
			err = fmt.Errorf("%w: %s", tef.ErrUnknown, id)
		}
		return struct{}{}, err
	})
	return err
}

// SweepRegistrations is tef.Store's.
func (s *Store) SweepRegistrations(ctx context.Context, now time.Time, limit int) (int, error) {
	return s.sweep(ctx, tef.ErrBusy, limit, sweepStep{s.write.sweepRegistrations, now.Unix()})
}

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
	var admin, labels, kmID string
	var created, modified, expires int64
	err := s.read.registration.QueryRowContext(ctx, function.String(), id, client.String(), now.Unix()).
		Scan(&admin, &labels, &kmID, &created, &modified, &expires)
	if errors.Is(err, sql.ErrNoRows) {
		return tef.ClientRegistration{}, fmt.Errorf("%w: %s", tef.ErrUnknown, id)
	} else if err != nil {
		return tef.ClientRegistration{}, s.readError(err)
	}
	r := tef.ClientRegistration{
		ID: id, Function: function, ClientID: client, Created: time.Unix(created, 0).UTC(),
		Modified: time.Unix(modified, 0).UTC(), Expires: time.Unix(expires, 0).UTC(),
	}
	var err1, err2 error
	if admin != "" {
		r.AdminFQDN, err1 = muster.ParseFQDN(admin)
	}
	if kmID != "" {
		r.AssignedSymmKeyID, err2 = muster.ParseKmID(kmID)
	}
	return r, errors.Join(err1, err2, json.Unmarshal([]byte(labels), &r.Labels))
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

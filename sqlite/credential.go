package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"muster"
	"muster/archive"
	"muster/maf"
)

var _ maf.Store = (*Store)(nil)

// PutCredential is maf.Store's.
func (s *Store) PutCredential(ctx context.Context, c maf.Credential) error {
	if c.KmID.IsZero() || c.KeID.IsZero() || c.EnroleeID.IsZero() || c.Km.IsZero() {
		return errors.New("the credential lacks its KmID, KeID, Enrolee-ID or Km")
	}
	c.Created, c.Expires, c.KeIDUntil = wholeSecond(c.Created), wholeSecond(c.Expires), wholeSecond(c.KeIDUntil)
	dataKey, sealed, err := s.seal(c.Km.Reveal(), bindCredential(c)...)
	if err != nil {
		return err
	}
	_, err = do(ctx, &s.write, maf.ErrBusy, func() (_ struct{}, err error) {
		if found, err := s.findCredential(c); found || err != nil {
			return struct{}{}, err
		}
		if s.replaced(dataKey) {
			if dataKey, sealed, err = s.seal(c.Km.Reveal(), bindCredential(c)...); err != nil {
				return struct{}{}, err
			}
		}
		n, err := changed(s.write.insertCredential.Exec(archive.KeIDOctets(c.KeID), c.KmID.String(), c.EnroleeID.String(),
			c.MAF.String(), dataKey, sealed, c.Created.Unix(), c.Expires.Unix(), c.KeIDUntil.Unix()))
		if err != nil || n != 1 {
			err = errors.Join(fmt.Errorf("insert a credential: %d rows", n), err)
		}
		return struct{}{}, err
	})
	return err
}

func bindCredential(c maf.Credential) []string {
	return archive.BindKm(c.MAF, c.KmID, c.KeID, c.EnroleeID, c.Expires)
}

// findCredential reports whether the credential is stored already, and returns
// maf.ErrConflict if another one has its KeID or its KmID.
func (s *Store) findCredential(c maf.Credential) (bool, error) {
	rows, err := s.write.credentialRows.Query(archive.KeIDOctets(c.KeID), c.KmID.String())
	if err != nil {
		return false, err
	}
	defer rows.Close()
	found := false
	for rows.Next() {
		var r scannedCredential
		if err := rows.Scan(&r.keID, &r.kmID, &r.enrolee, &r.maf, &r.dataKey, &r.sealed, &r.expires); err != nil {
			return false, err
		}
		stored, err := s.assembleCredential(r)
		if err != nil {
			return false, err
		}
		same := stored.KeID == c.KeID && stored.KmID == c.KmID && stored.EnroleeID == c.EnroleeID
		if !same || !stored.Km.IsZero() && !stored.Km.Equal(c.Km) {
			return false, fmt.Errorf("%w: %s or %s", maf.ErrConflict, c.KeID, c.KmID)
		}
		found = true
	}
	return found, rows.Err()
}

type scannedCredential struct {
	keID                        []byte
	kmID, enrolee, maf          string
	dataKey                     *uint32
	sealed                      []byte
	created, expires, keIDUntil int64
}

func (s *Store) assembleCredential(r scannedCredential) (maf.Credential, error) {
	keID, err1 := archive.KeIDFrom(r.keID)
	kmID, err2 := muster.ParseKmID(r.kmID)
	enrolee, err3 := muster.ParseEnroleeID(r.enrolee)
	owner, err4 := muster.ParseFQDN(r.maf)
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return maf.Credential{}, err
	}
	c := maf.Credential{
		KmID: kmID, KeID: keID, EnroleeID: enrolee, MAF: owner, Created: time.Unix(r.created, 0).UTC(),
		Expires: time.Unix(r.expires, 0).UTC(), KeIDUntil: time.Unix(r.keIDUntil, 0).UTC(),
	}
	key, err := s.unseal(r.dataKey, r.sealed, bindCredential(c)...)
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
	c, usable, err := s.credential(s.read.credentialByKeID.QueryRowContext(ctx, archive.KeIDOctets(id), now.Unix()), id)
	if err == nil && !usable {
		return maf.Credential{}, fmt.Errorf("%w: %s", maf.ErrRetired, id)
	}
	return c, err
}

// CredentialByKmID is maf.Store's.
func (s *Store) CredentialByKmID(ctx context.Context, id muster.KmID, now time.Time) (maf.Credential, error) {
	c, usable, err := s.credential(s.read.credentialByKmID.QueryRowContext(ctx, id.String(), now.Unix()), id)
	if err == nil && !usable {
		return maf.Credential{}, fmt.Errorf("%w: %s", maf.ErrUnknown, id)
	}
	return c, err
}

// credential reads a row of a credential that ends in whether it may be used.
func (s *Store) credential(row *sql.Row, id fmt.Stringer) (c maf.Credential, usable bool, err error) {
	var r scannedCredential
	err = row.Scan(&r.keID, &r.kmID, &r.enrolee, &r.maf, &r.dataKey, &r.sealed, &r.created, &r.expires, &r.keIDUntil, &usable)
	if errors.Is(err, sql.ErrNoRows) {
		return maf.Credential{}, false, fmt.Errorf("%w: %s", maf.ErrUnknown, id)
	} else if err != nil {
		return maf.Credential{}, false, s.readError(err)
	}
	if !usable {
		return maf.Credential{}, false, nil
	}
	c, err = s.assembleCredential(r)
	return c, true, err
}

// readError names the error of a Store that was closed meanwhile.
func (s *Store) readError(err error) error {
	if err == nil {
		return nil
	}
	if s.write.isClosed() {
		return ErrClosed
	}
	return fmt.Errorf("read: %w", err)
}

// ActivateKmID is maf.Store's. Only the first activation is a write: later ones,
// at each session of the client, read.
func (s *Store) ActivateKmID(ctx context.Context, id muster.KmID, now time.Time) error {
	var one int
	err := s.read.activated.QueryRowContext(ctx, id.String(), now.Unix()).Scan(&one)
	if err == nil {
		return nil
	} else if !errors.Is(err, sql.ErrNoRows) {
		return s.readError(err)
	}
	_, err = do(ctx, &s.write, maf.ErrBusy, func() (struct{}, error) {
		var enrolee string
		var generation int64
		err := s.write.activateKmID.QueryRow(id.String(), now.Unix()).Scan(&enrolee, &generation)
		if errors.Is(err, sql.ErrNoRows) {
			return struct{}{}, fmt.Errorf("%w: %s", maf.ErrUnknown, id)
		} else if err != nil {
			return struct{}{}, err
		}
		_, err = s.write.retireOlder.Exec(enrolee, generation, now.Unix())
		return struct{}{}, err
	})
	return err
}

// LimitKeID is maf.Store's. A KeID that ends no later already is not written.
func (s *Store) LimitKeID(ctx context.Context, id muster.KeID, until time.Time) error {
	var end int64
	err := s.read.keIDUntil.QueryRowContext(ctx, archive.KeIDOctets(id)).Scan(&end)
	if errors.Is(err, sql.ErrNoRows) {
		return fmt.Errorf("%w: %s", maf.ErrUnknown, id)
	} else if err != nil {
		return s.readError(err)
	} else if end <= until.Unix() {
		return nil
	}
	_, err = do(ctx, &s.write, maf.ErrBusy, func() (struct{}, error) {
		n, err := changed(s.write.limitKeID.Exec(archive.KeIDOctets(id), until.Unix()))
		if err == nil && n != 1 {
			err = fmt.Errorf("%w: %s", maf.ErrUnknown, id)
		}
		return struct{}{}, err
	})
	return err
}

// SweepCredentials is maf.Store's.
func (s *Store) SweepCredentials(ctx context.Context, now time.Time, grace time.Duration, limit int) (int, error) {
	return s.sweep(ctx, maf.ErrBusy, limit,
		sweepStep{s.write.forgetCredentials, now.Add(-grace).Unix()},
		sweepStep{s.write.expireCredentials, now.Unix()},
	)
}

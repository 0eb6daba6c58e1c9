package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"muster"
	"muster/archive"
	"muster/tef"
)

var _ tef.KeyStore = (*Store)(nil)

// CreateKey is tef.KeyStore's.
func (s *Store) CreateKey(ctx context.Context, r tef.KeyRegistration, maxLive int) (tef.KeyRegistration, error) {
	if r.ID.IsZero() || r.Source.IsZero() || r.Usage == 0 {
		return tef.KeyRegistration{}, errors.New("the key registration lacks its identifier, source or usage")
	}
	r, err := prepareKey(r)
	if err != nil {
		return tef.KeyRegistration{}, err
	}
	dataKey, sealed, err := s.sealRegisteredKey(r)
	if err != nil {
		return tef.KeyRegistration{}, err
	}
	return do(ctx, &s.write, tef.ErrBusy, func() (_ tef.KeyRegistration, err error) {
		if stored, found, err := s.replayKey(r); found || err != nil {
			return stored, err
		}
		var live int
		if err := s.write.liveKeys.QueryRow(r.Source.String(), r.Created.Unix()).Scan(&live); err != nil {
			return tef.KeyRegistration{}, err
		}
		if live >= maxLive {
			return tef.KeyRegistration{}, fmt.Errorf("%w: %s has %d", tef.ErrTooMany, r.Source, live)
		}
		if dataKey != nil && s.replaced(*dataKey) {
			if dataKey, sealed, err = s.sealRegisteredKey(r); err != nil {
				return tef.KeyRegistration{}, err
			}
		}
		return r, s.insertKey(r, dataKey, sealed)
	})
}

// sealRegisteredKey returns nothing for a key that is derived from Ke.
func (s *Store) sealRegisteredKey(r tef.KeyRegistration) (*uint32, []byte, error) {
	if r.Key.IsZero() {
		return nil, nil, nil
	}
	id, sealed, err := s.seal(r.Key.Reveal(), bindKey(r)...)
	return &id, sealed, err
}

// prepareKey returns the registration as the store keeps it.
func prepareKey(r tef.KeyRegistration) (tef.KeyRegistration, error) {
	r.Created, r.Modified, r.Expires = wholeSecond(r.Created), wholeSecond(r.Modified), wholeSecond(r.Expires)
	if !r.Latest.IsZero() {
		r.Latest = wholeSecond(r.Latest)
	}
	r.Targets = slices.Sorted(slices.Values(r.Targets))
	if len(slices.Compact(slices.Clone(r.Targets))) != len(r.Targets) {
		return r, errors.New("the key registration names a target twice")
	}
	r.Labels = append([]string(nil), r.Labels...)
	return r, nil
}

func bindKey(r tef.KeyRegistration) []string {
	return archive.BindKey(r.ID.KeID(), r.Source, r.AdminFQDN, r.Usage, r.Latest)
}

func (s *Store) insertKey(r tef.KeyRegistration, dataKey *uint32, sealed []byte) error {
	labels, err := json.Marshal(r.Labels)
	if err != nil {
		return err
	}
	var latest *int64
	if !r.Latest.IsZero() {
		seconds := r.Latest.Unix()
		latest = &seconds
	}
	n, err := changed(s.write.insertKey.Exec(keyOctets(r.ID), r.Source.String(), r.AdminFQDN.String(), int(r.Usage), string(labels),
		dataKey, sealed, r.Created.Unix(), r.Modified.Unix(), r.Expires.Unix(), latest))
	if err != nil || n != 1 {
		return errors.Join(fmt.Errorf("insert a key registration: %d rows", n), err)
	}
	return s.insertTargets(r)
}

func (s *Store) insertTargets(r tef.KeyRegistration) error {
	for _, target := range r.Targets {
		n, err := changed(s.write.insertTarget.Exec(keyOctets(r.ID), target))
		if err != nil || n != 1 {
			return errors.Join(fmt.Errorf("insert a target: %d rows", n), err)
		}
	}
	return nil
}

// replayKey finds the stored registration that r repeats, and returns
// tef.ErrConflict if another one has its identifier.
func (s *Store) replayKey(r tef.KeyRegistration) (stored tef.KeyRegistration, found bool, err error) {
	stored, live, err := s.storedKey(r.ID)
	if errors.Is(err, sql.ErrNoRows) {
		return tef.KeyRegistration{}, false, nil
	} else if err != nil {
		return tef.KeyRegistration{}, false, err
	}
	sameKey := stored.Key.Equal(r.Key) || stored.Key.IsZero() && r.Key.IsZero()
	if !live || stored.Source != r.Source || stored.AdminFQDN != r.AdminFQDN || stored.Usage != r.Usage || !sameKey {
		return tef.KeyRegistration{}, false, fmt.Errorf("%w: %s", tef.ErrConflict, r.ID)
	}
	return stored, true, nil
}

// storedKey reads a registration within the writer's transaction, and whether it
// is live, not deleted. Without one the error is sql.ErrNoRows.
func (s *Store) storedKey(id tef.KeyID) (r tef.KeyRegistration, live bool, err error) {
	var k scannedKey
	var targets string
	if err := s.write.keyRow.QueryRow(keyOctets(id)).Scan(append(k.columns(), &targets, &live)...); err != nil {
		return tef.KeyRegistration{}, false, err
	}
	if r, err = s.assembleKey(id, k); err == nil {
		err = json.Unmarshal([]byte(targets), &r.Targets)
	}
	return r, live, err
}

type scannedKey struct {
	source, admin, labels      string
	usage                      int
	dataKey                    *uint32
	sealed                     []byte
	created, modified, expires int64
	latest                     *int64
}

func (k *scannedKey) columns() []any {
	return []any{&k.source, &k.admin, &k.usage, &k.labels, &k.dataKey, &k.sealed, &k.created, &k.modified, &k.expires, &k.latest}
}

func (s *Store) assembleKey(id tef.KeyID, k scannedKey) (tef.KeyRegistration, error) {
	source, err1 := muster.ParseEnroleeID(k.source)
	admin, err2 := muster.ParseFQDN(k.admin)
	r := tef.KeyRegistration{
		ID: id, Source: source, AdminFQDN: admin, Usage: muster.SUID(k.usage), Created: time.Unix(k.created, 0).UTC(),
		Modified: time.Unix(k.modified, 0).UTC(), Expires: time.Unix(k.expires, 0).UTC(),
	}
	if k.latest != nil {
		r.Latest = time.Unix(*k.latest, 0).UTC()
	}
	if err := errors.Join(err1, err2, json.Unmarshal([]byte(k.labels), &r.Labels)); err != nil {
		return tef.KeyRegistration{}, err
	}
	key, err := s.unseal(k.dataKey, k.sealed, bindKey(r)...)
	if err != nil || key == nil {
		return r, err
	}
	defer clear(key)
	r.Key, err = muster.NewKc(key)
	return r, err
}

// Key is tef.KeyStore's.
func (s *Store) Key(ctx context.Context, id tef.KeyID, identity string, now time.Time) (tef.KeyRegistration, error) {
	var k scannedKey
	var targets string
	err := s.read.key.QueryRowContext(ctx, keyOctets(id), identity, now.Unix()).Scan(append(k.columns(), &targets)...)
	if errors.Is(err, sql.ErrNoRows) {
		return tef.KeyRegistration{}, fmt.Errorf("%w: %s", tef.ErrUnknown, id)
	} else if err != nil {
		return tef.KeyRegistration{}, s.readError(err)
	}
	r, err := s.assembleKey(id, k)
	if err == nil {
		err = json.Unmarshal([]byte(targets), &r.Targets)
	}
	return r, err
}

// FetchKey is tef.KeyStore's.
func (s *Store) FetchKey(ctx context.Context, f tef.KeyFetch) (tef.KeyRegistration, error) {
	return do(ctx, &s.write, tef.ErrBusy, func() (tef.KeyRegistration, error) {
		n, err := changed(s.write.fetchKey.Exec(keyOctets(f.ID), f.Target, f.Now.Unix(), seconds(f.Window), f.Max))
		if err == nil && n == 0 {
			err = fmt.Errorf("%w: %s", tef.ErrUnknown, f.ID)
		}
		if err != nil {
			return tef.KeyRegistration{}, err
		}
		stored, _, err := s.storedKey(f.ID)
		return stored, err
	})
}

// UpdateKey is tef.KeyStore's.
func (s *Store) UpdateKey(ctx context.Context, r tef.KeyRegistration) (tef.KeyRegistration, error) {
	r, err := prepareKey(r)
	if err != nil {
		return tef.KeyRegistration{}, err
	}
	labels, err := json.Marshal(r.Labels)
	if err != nil {
		return tef.KeyRegistration{}, err
	}
	return do(ctx, &s.write, tef.ErrBusy, func() (tef.KeyRegistration, error) {
		n, err := changed(s.write.updateKey.Exec(keyOctets(r.ID), r.Source.String(), string(labels), r.Modified.Unix(), r.Expires.Unix()))
		if err == nil && n == 0 {
			err = fmt.Errorf("%w: %s", tef.ErrUnknown, r.ID)
		}
		if err != nil {
			return tef.KeyRegistration{}, err
		}
		if _, err := s.write.deleteTargets.Exec(keyOctets(r.ID)); err != nil {
			return tef.KeyRegistration{}, err
		}
		if err := s.insertTargets(r); err != nil {
			return tef.KeyRegistration{}, err
		}
		stored, _, err := s.storedKey(r.ID)
		return stored, err
	})
}

// DeleteKey is tef.KeyStore's.
func (s *Store) DeleteKey(ctx context.Context, id tef.KeyID, source muster.EnroleeID) error {
	_, err := do(ctx, &s.write, tef.ErrBusy, func() (struct{}, error) {
		n, err := changed(s.write.deleteKey.Exec(keyOctets(id), source.String()))
		if err == nil && n == 0 {
			err = fmt.Errorf("%w: %s", tef.ErrUnknown, id)
		}
		return struct{}{}, err
	})
	return err
}

// SweepKeys is tef.KeyStore's.
func (s *Store) SweepKeys(ctx context.Context, now time.Time, limit int) (int, error) {
	return s.sweep(ctx, tef.ErrBusy, limit, sweepStep{s.write.sweepKeys, now.Unix()})
}

func keyOctets(id tef.KeyID) []byte { return archive.KeIDOctets(id.KeID()) }

package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"muster"
	"muster/archive"
	"muster/tef"
)

var _ tef.KeyStore = (*Store)(nil)

const (
	keyColumns = "source_id, admin_fqdn, usage, labels, targets, data_key, sealed, created, modified, expires, latest, state = 1"

	selectKey = "SELECT " + keyColumns + " FROM key_registration WHERE key_id = $1"

	selectKeyFor = selectKey + " AND state = 1 AND expires > $3 AND (source_id = $2 OR $2 = ANY(targets))"

	countKeys = "SELECT count(*) FROM key_registration WHERE source_id = $1 AND expires > $2 AND state = 1"

	insertKey = `INSERT INTO key_registration
		(key_id, source_id, admin_fqdn, usage, labels, targets, data_key, sealed, state, created, modified, expires, latest)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 1, $9, $10, $11, $12)`

	updateKey = `UPDATE key_registration SET labels = $3, targets = $4, modified = $5, expires = $6
		WHERE key_id = $1 AND source_id = $2 AND state = 1 AND expires > $5 RETURNING ` + keyColumns

	fetchKey = `UPDATE key_registration SET fetches = fetches + 1, fetched_at = coalesce(fetched_at, $3)
		WHERE key_id = $1 AND state = 1 AND expires > $3 AND $2 = ANY(targets)
			AND (fetched_at IS NULL OR $3 <= fetched_at + $4) AND fetches < $5 RETURNING ` + keyColumns

	deleteKey = "UPDATE key_registration SET state = 3, sealed = NULL, data_key = NULL WHERE key_id = $1 AND source_id = $2 AND state = 1"
)

// CreateKey is tef.KeyStore's. It counts and inserts in one serializable
// transaction, for no unique key bounds how many keys a source has.
func (s *Store) CreateKey(ctx context.Context, r tef.KeyRegistration, maxLive int) (tef.KeyRegistration, error) {
	if r.ID.IsZero() || r.Source.IsZero() || r.Usage == 0 {
		return tef.KeyRegistration{}, errors.New("the key registration lacks its identifier, source or usage")
	}
	r, err := prepareKey(r)
	if err != nil {
		return tef.KeyRegistration{}, err
	}
	return aloneOn(ctx, s, tef.ErrBusy, r.ID.String(), func(ctx context.Context, conn *pgxpool.Conn) (tef.KeyRegistration, error) {
		sealed, err := s.sealRegisteredKey(ctx, conn, r)
		if err != nil {
			return tef.KeyRegistration{}, err
		}
		return within(ctx, conn, pgx.Serializable, func(ctx context.Context, tx pgx.Tx) (tef.KeyRegistration, error) {
			return s.createKey(ctx, tx, r, sealed, maxLive)
		})
	})
}

// sealRegisteredKey runs outside of the transaction, which would undo the booking
// of the data key.
func (s *Store) sealRegisteredKey(ctx context.Context, conn *pgxpool.Conn, r tef.KeyRegistration) (record, error) {
	if r.Key.IsZero() {
		return record{}, nil
	}
	dataKey, err := s.dataKey(ctx, conn.Conn(), 1)
	if err != nil {
		return record{}, err
	}
	return s.sealKey(dataKey, r.Key.Reveal(), bindKey(r)...)
}

func (s *Store) createKey(ctx context.Context, tx pgx.Tx, r tef.KeyRegistration, sealed record, maxLive int) (tef.KeyRegistration, error) {
	if stored, found, err := s.replayKey(ctx, tx, r); found || err != nil {
		return stored, err
	}
	var live int
	if err := tx.QueryRow(ctx, countKeys, r.Source.String(), r.Created.Unix()).Scan(&live); err != nil {
		return tef.KeyRegistration{}, err
	}
	if live >= maxLive {
		return tef.KeyRegistration{}, fmt.Errorf("%w: %s has %d", tef.ErrTooMany, r.Source, live)
	}
	if sealed.dataKey != nil {
		if err := s.holdAtOnce(ctx, tx, *sealed.dataKey); err != nil {
			return tef.KeyRegistration{}, err
		}
	}
	labels, err := json.Marshal(r.Labels)
	if err != nil {
		return tef.KeyRegistration{}, err
	}
	var latest *int64
	if !r.Latest.IsZero() {
		seconds := r.Latest.Unix()
		latest = &seconds
	}
	_, err = tx.Exec(ctx, insertKey, keyOctets(r.ID), r.Source.String(), r.AdminFQDN.String(), int(r.Usage), string(labels), texts(r.Targets),
		sealed.dataKey, sealed.sealed, r.Created.Unix(), r.Modified.Unix(), r.Expires.Unix(), latest)
	return r, err
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

// texts returns a list that is not NULL in the database.
func texts(list []string) []string { return append([]string{}, list...) }

// replayKey finds the stored registration that r repeats, and returns
// tef.ErrConflict if another one has its identifier.
func (s *Store) replayKey(ctx context.Context, tx pgx.Tx, r tef.KeyRegistration) (stored tef.KeyRegistration, found bool, err error) {
	stored, live, err := s.scanKey(ctx, tx.Conn(), r.ID, tx.QueryRow(ctx, selectKey, keyOctets(r.ID)))
	if errors.Is(err, pgx.ErrNoRows) {
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

type scannedKey struct {
	source, admin, labels      string
	usage                      int
	targets                    []string
	record                     record
	created, modified, expires int64
	latest                     *int64
}

func (k *scannedKey) columns() []any {
	return []any{&k.source, &k.admin, &k.usage, &k.labels, &k.targets, &k.record.dataKey, &k.record.sealed, &k.created, &k.modified, &k.expires, &k.latest}
}

// registration returns the scanned registration without its key.
func (k *scannedKey) registration(id tef.KeyID) (tef.KeyRegistration, error) {
	source, err1 := muster.ParseEnroleeID(k.source)
	admin, err2 := muster.ParseFQDN(k.admin)
	r := tef.KeyRegistration{
		ID: id, Source: source, AdminFQDN: admin, Usage: muster.SUID(k.usage), Targets: k.targets, Created: time.Unix(k.created, 0).UTC(),
		Modified: time.Unix(k.modified, 0).UTC(), Expires: time.Unix(k.expires, 0).UTC(),
	}
	if k.latest != nil {
		r.Latest = time.Unix(*k.latest, 0).UTC()
	}
	return r, errors.Join(err1, err2, json.Unmarshal([]byte(k.labels), &r.Labels))
}

// scanKey reads a registration, and whether it is live, not deleted. Without one
// the error is pgx.ErrNoRows.
func (s *Store) scanKey(ctx context.Context, conn *pgx.Conn, id tef.KeyID, row pgx.Row) (r tef.KeyRegistration, live bool, err error) {
	var k scannedKey
	if err := row.Scan(append(k.columns(), &live)...); err != nil {
		return tef.KeyRegistration{}, false, err
	}
	r, err = s.openKey(ctx, conn, id, k)
	return r, live, err
}

func (s *Store) openKey(ctx context.Context, conn *pgx.Conn, id tef.KeyID, k scannedKey) (tef.KeyRegistration, error) {
	r, err := k.registration(id)
	if err := errors.Join(err, s.learnKeys(ctx, conn, k.record)); err != nil {
		return tef.KeyRegistration{}, err
	}
	key, err := s.unseal(k.record, bindKey(r)...)
	if err != nil || key == nil {
		return r, err
	}
	defer clear(key)
	r.Key, err = muster.NewKc(key)
	return r, err
}

// Key is tef.KeyStore's.
func (s *Store) Key(ctx context.Context, id tef.KeyID, identity string, now time.Time) (r tef.KeyRegistration, err error) {
	err = s.read(ctx, func(ctx context.Context, conn *pgxpool.Conn) error {
		r, _, err = s.scanKey(ctx, conn.Conn(), id, conn.QueryRow(ctx, selectKeyFor, keyOctets(id), identity, now.Unix()))
		return keyUnknown(err, id)
	})
	return r, err
}

func keyUnknown(err error, id tef.KeyID) error {
	if errors.Is(err, pgx.ErrNoRows) {
		return fmt.Errorf("%w: %s", tef.ErrUnknown, id)
	}
	return err
}

// FetchKey is tef.KeyStore's.
func (s *Store) FetchKey(ctx context.Context, f tef.KeyFetch) (tef.KeyRegistration, error) {
	return alone(ctx, s, tef.ErrBusy, f.ID.String(), pgx.Serializable, func(ctx context.Context, tx pgx.Tx) (tef.KeyRegistration, error) {
		stored, _, err := s.scanKey(ctx, tx.Conn(), f.ID, tx.QueryRow(ctx, fetchKey, keyOctets(f.ID), f.Target, f.Now.Unix(), seconds(f.Window), f.Max))
		return stored, keyUnknown(err, f.ID)
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
	return alone(ctx, s, tef.ErrBusy, r.ID.String(), pgx.Serializable, func(ctx context.Context, tx pgx.Tx) (tef.KeyRegistration, error) {
		stored, _, err := s.scanKey(ctx, tx.Conn(), r.ID, tx.QueryRow(ctx, updateKey, keyOctets(r.ID), r.Source.String(),
			string(labels), texts(r.Targets), r.Modified.Unix(), r.Expires.Unix()))
		return stored, keyUnknown(err, r.ID)
	})
}

// DeleteKey is tef.KeyStore's.
func (s *Store) DeleteKey(ctx context.Context, id tef.KeyID, source muster.EnroleeID) error {
	_, err := alone(ctx, s, tef.ErrBusy, id.String(), pgx.Serializable, func(ctx context.Context, tx pgx.Tx) (struct{}, error) {
		tag, err := tx.Exec(ctx, deleteKey, keyOctets(id), source.String())
		if err == nil && tag.RowsAffected() == 0 {
			err = fmt.Errorf("%w: %s", tef.ErrUnknown, id)
		}
		return struct{}{}, err
	})
	return err
}

// SweepKeys is tef.KeyStore's.
func (s *Store) SweepKeys(ctx context.Context, now time.Time, limit int) (int, error) {
	return s.sweep(ctx, tef.ErrBusy, limit, sweepStep{sweepKeys, now.Unix()})
}

func keyOctets(id tef.KeyID) []byte { return archive.KeIDOctets(id.KeID()) }

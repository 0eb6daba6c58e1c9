package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"muster"
	"muster/archive"
	"muster/mef"
)

var _ mef.Store = (*Store)(nil)

// sweepSlice is how many rows a sweep handles in one task, so that the writes
// which wait behind it wait some milliseconds at most.
const sweepSlice = 200

// An enrolmentRow is the part of an enrolment that is for one MAF.
type enrolmentRow struct {
	maf     string
	dataKey uint32
	sealed  []byte
}

// CreateEnrolment is mef.Store's.
func (s *Store) CreateEnrolment(ctx context.Context, e mef.Enrolment, maxLive int) (mef.Enrolment, error) {
	e, rows, err := s.sealEnrolment(e)
	if err != nil {
		return mef.Enrolment{}, err
	}
	return do(ctx, &s.write, mef.ErrBusy, func() (mef.Enrolment, error) {
		return s.createEnrolment(e, rows, maxLive)
	})
}

// sealEnrolment returns the enrolment as the store keeps it, and a row for each
// target. It runs in the caller, to leave the writer only what must be serial.
func (s *Store) sealEnrolment(e mef.Enrolment) (mef.Enrolment, []enrolmentRow, error) {
	if e.KeID.IsZero() || e.EnroleeID.IsZero() || e.Ke.IsZero() || len(e.Targets) == 0 {
		return mef.Enrolment{}, nil, errors.New("the enrolment lacks its KeID, Enrolee-ID, Ke or targets")
	}
	e.Created, e.Expires = wholeSecond(e.Created), wholeSecond(e.Expires)
	e.Targets = slices.SortedFunc(slices.Values(e.Targets), compareFQDN)
	if len(slices.Compact(slices.Clone(e.Targets))) != len(e.Targets) {
		return mef.Enrolment{}, nil, errors.New("the enrolment names a target twice")
	}
	rows := make([]enrolmentRow, len(e.Targets))
	for i, target := range e.Targets {
		id, sealed, err := s.seal(e.Ke.Reveal(), bindEnrolment(e, target)...)
		if err != nil {
			return mef.Enrolment{}, nil, err
		}
		rows[i] = enrolmentRow{target.String(), id, sealed}
	}
	return e, rows, nil
}

func bindEnrolment(e mef.Enrolment, target muster.FQDN) []string {
	return archive.BindKe(e.KeID, target, e.EnroleeID, e.Expires)
}

func (s *Store) createEnrolment(e mef.Enrolment, rows []enrolmentRow, maxLive int) (mef.Enrolment, error) {
	enrolee, keID := e.EnroleeID.String(), archive.KeIDOctets(e.KeID)
	var newest int64
	var known bool
	var live int
	if err := s.write.enrolleeState.QueryRow(enrolee, e.Created.Unix(), keID).Scan(&newest, &known, &live); err != nil {
		return mef.Enrolment{}, err
	}
	switch {
	case known:
		return s.replayed(e)
	case live >= maxLive:
		return mef.Enrolment{}, fmt.Errorf("%w: %s has %d", mef.ErrTooMany, e.EnroleeID, live)
	}
	e.Generation = newest + 1
	if s.replaced(rows[0].dataKey) { // the others are as new
		var err error
		if _, rows, err = s.sealEnrolment(e); err != nil {
			return mef.Enrolment{}, err
		}
	}
	for _, row := range rows {
		if newest > 0 {
			if _, err := s.write.supersedeEnrolment.Exec(enrolee, row.maf); err != nil {
				return mef.Enrolment{}, err
			}
		}
		n, err := changed(s.write.insertEnrolment.Exec(keID, row.maf, enrolee, e.Generation,
			e.Session[:], e.Certificate[:], row.dataKey, row.sealed, e.Created.Unix(), e.Expires.Unix()))
		if err != nil || n != 1 {
			return mef.Enrolment{}, errors.Join(fmt.Errorf("insert an enrolment: %d rows", n), err)
		}
	}
	var err error
	if oldest := e.Generation - int64(maxLive); oldest > 0 {
		_, err = s.write.forgetUnfetched.Exec(enrolee, oldest)
	}
	return e, err
}

// replayed returns what is stored under the KeID of an enrolment, if that is the same one.
func (s *Store) replayed(e mef.Enrolment) (mef.Enrolment, error) {
	stored, err := s.storedEnrolment(e.KeID)
	if err == nil && !sameEnrolment(stored, e) {
		err = fmt.Errorf("%w: %s", mef.ErrConflict, e.KeID)
	}
	if err != nil {
		return mef.Enrolment{}, err
	}
	return stored, nil
}

// storedEnrolment puts an enrolment together from the rows of its targets. Its
// Ke is absent if it is erased for all of them.
func (s *Store) storedEnrolment(id muster.KeID) (e mef.Enrolment, err error) {
	rows, err := s.write.enrolmentRows.Query(archive.KeIDOctets(id))
	if err != nil {
		return mef.Enrolment{}, err
	}
	defer rows.Close()
	var targets []muster.FQDN
	var ke muster.Ke
	for rows.Next() {
		var target string
		var r scannedEnrolment
		if err := rows.Scan(append([]any{&target}, r.columns()...)...); err != nil {
			return mef.Enrolment{}, err
		}
		maf, err := muster.ParseFQDN(target)
		if err != nil {
			return mef.Enrolment{}, err
		}
		if e, err = s.assembleEnrolment(id, maf, r); err != nil {
			return mef.Enrolment{}, err
		}
		if targets = append(targets, maf); !e.Ke.IsZero() {
			ke = e.Ke
		}
	}
	e.Targets, e.Ke = targets, ke
	return e, rows.Err()
}

// A scannedEnrolment holds the columns of a row that depend on no type of Muster.
type scannedEnrolment struct {
	enrolee              string
	generation           int64
	session, certificate []byte
	dataKey              *uint32
	sealed               []byte
	created, expires     int64
}

func (r *scannedEnrolment) columns() []any {
	return []any{&r.enrolee, &r.generation, &r.session, &r.certificate, &r.dataKey, &r.sealed, &r.created, &r.expires}
}

func (s *Store) assembleEnrolment(id muster.KeID, target muster.FQDN, r scannedEnrolment) (mef.Enrolment, error) {
	enrolee, err := muster.ParseEnroleeID(r.enrolee)
	if err != nil {
		return mef.Enrolment{}, err
	}
	e := mef.Enrolment{
		KeID: id, EnroleeID: enrolee, Targets: []muster.FQDN{target}, Generation: r.generation,
		Created: time.Unix(r.created, 0).UTC(), Expires: time.Unix(r.expires, 0).UTC(),
	}
	if len(r.session) != len(e.Session) || len(r.certificate) != len(e.Certificate) {
		return mef.Enrolment{}, fmt.Errorf("%s has a digest of another size", id)
	}
	e.Session, e.Certificate = muster.Digest(r.session), muster.Digest(r.certificate)
	key, err := s.unseal(r.dataKey, r.sealed, bindEnrolment(e, target)...)
	if err != nil || key == nil {
		return e, err
	}
	defer clear(key)
	e.Ke, err = muster.NewKe(key)
	return e, err
}

func sameEnrolment(a, b mef.Enrolment) bool {
	return a.Session == b.Session && a.Certificate == b.Certificate && a.EnroleeID == b.EnroleeID && slices.Equal(a.Targets, b.Targets)
}

// FetchEnrolment is mef.Store's.
func (s *Store) FetchEnrolment(ctx context.Context, f mef.Fetch) (mef.Enrolment, error) {
	return do(ctx, &s.write, mef.ErrBusy, func() (mef.Enrolment, error) {
		var r scannedEnrolment
		target := f.MAF.String()
		err := s.write.fetchEnrolment.QueryRow(archive.KeIDOctets(f.KeID), target, f.Now.Unix(), seconds(f.Window), f.Max).Scan(r.columns()...)
		if errors.Is(err, sql.ErrNoRows) {
			return mef.Enrolment{}, fmt.Errorf("%w: %s for %s", mef.ErrUnknown, f.KeID, f.MAF)
		} else if err != nil {
			return mef.Enrolment{}, err
		}
		if r.generation > 1 {
			if _, err := s.write.eraseOlderEnrolments.Exec(r.enrolee, r.generation, target); err != nil {
				return mef.Enrolment{}, err
			}
		}
		// A record that does not open undoes the fetch.
		return s.assembleEnrolment(f.KeID, f.MAF, r)
	})
}

// EnrolmentFor is mef.Store's.
func (s *Store) EnrolmentFor(ctx context.Context, id muster.KeID, maf muster.FQDN) (mef.Enrolment, error) {
	var r scannedEnrolment
	err := s.read.enrolmentFor.QueryRowContext(ctx, archive.KeIDOctets(id), maf.String()).Scan(r.columns()...)
	if errors.Is(err, sql.ErrNoRows) {
		return mef.Enrolment{}, fmt.Errorf("%w: %s for %s", mef.ErrUnknown, id, maf)
	} else if err != nil {
		return mef.Enrolment{}, s.readError(err)
	}
	return s.assembleEnrolment(id, maf, r)
}

// EnrolmentOf is mef.Store's.
func (s *Store) EnrolmentOf(ctx context.Context, enrolee muster.EnroleeID, session muster.Digest, now time.Time) (mef.Enrolment, error) {
	return do(ctx, &s.write, mef.ErrBusy, func() (mef.Enrolment, error) {
		var octets []byte
		err := s.write.enrolmentOf.QueryRow(enrolee.String(), session[:], now.Unix()).Scan(&octets)
		if errors.Is(err, sql.ErrNoRows) {
			return mef.Enrolment{}, fmt.Errorf("%w: of a session of %s", mef.ErrUnknown, enrolee)
		} else if err != nil {
			return mef.Enrolment{}, err
		}
		id, err := archive.KeIDFrom(octets)
		if err != nil {
			return mef.Enrolment{}, err
		}
		return s.storedEnrolment(id)
	})
}

// EraseEnrolment is mef.Store's.
func (s *Store) EraseEnrolment(ctx context.Context, id muster.KeID, maf muster.FQDN) error {
	_, err := do(ctx, &s.write, mef.ErrBusy, func() (struct{}, error) {
		n, err := changed(s.write.eraseEnrolment.Exec(archive.KeIDOctets(id), maf.String()))
		if err == nil && n == 0 {
			err = fmt.Errorf("%w: %s for %s", mef.ErrUnknown, id, maf)
		}
		return struct{}{}, err
	})
	return err
}

// Sweep is mef.Store's.
func (s *Store) Sweep(ctx context.Context, now time.Time, window, grace time.Duration, limit int) (int, error) {
	return s.sweep(ctx, mef.ErrBusy, limit,
		sweepStep{s.write.forgetEnrolments, now.Add(-grace).Unix()},
		sweepStep{s.write.expireEnrolments, now.Unix()},
		sweepStep{s.write.closeWindows, now.Unix() - seconds(window)},
	)
}

// A sweepStep is a statement that handles rows which fell due by a time.
type sweepStep struct {
	statement *sql.Stmt
	until     int64
}

// sweep runs the steps in slices until nothing is due or limit rows are handled.
func (s *Store) sweep(ctx context.Context, busy error, limit int, steps ...sweepStep) (int, error) {
	swept := 0
	for swept < limit {
		slice := min(sweepSlice, limit-swept)
		n, err := do(ctx, &s.write, busy, func() (int, error) {
			total := 0
			for _, step := range steps {
				n, err := changed(step.statement.Exec(step.until, slice-total))
				if err != nil {
					return 0, err
				}
				total += n
			}
			return total, nil
		})
		swept += n
		if err != nil || n < slice {
			return swept, err
		}
	}
	return swept, nil
}

func compareFQDN(a, b muster.FQDN) int { return strings.Compare(a.String(), b.String()) }

func seconds(d time.Duration) int64 { return int64(d / time.Second) }

func wholeSecond(t time.Time) time.Time { return time.Unix(t.Unix(), 0).UTC() }

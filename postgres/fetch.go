package postgres

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"muster"
	"muster/archive"
	"muster/mef"
)

const (
	// A fetch that is run again because its outcome was unknown finds its own
	// mark in last_fetch: it is given the key again and not counted again.
	fetchEnrolments = `UPDATE enrolment AS e SET state = 2, fetched_at = coalesce(e.fetched_at, w.now), last_fetch = w.mark,
			fetches = e.fetches + CASE WHEN e.last_fetch = w.mark THEN 0 ELSE 1 END
		FROM unnest($1::bytea[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[])
			AS w (ke_id, maf_id, now, fetch_window, most, mark)
		WHERE e.ke_id = ANY($1::bytea[]) AND e.ke_id = w.ke_id AND e.maf_id = w.maf_id AND e.state + 0 IN (1, 2) AND e.expires > w.now
			AND (e.fetched_at IS NULL OR w.now <= e.fetched_at + w.fetch_window) AND (e.fetches < w.most OR e.last_fetch = w.mark)
		RETURNING e.ke_id, e.maf_id, e.enrolee_id, e.generation, e.session, e.certificate, e.data_key, e.sealed, e.created, e.expires`

	// What a MAF has fetched replaces what it had. Of an enrolment that it fetched
	// earlier this was done then, and doing it again changes nothing.
	eraseReplaced = `WITH new AS (SELECT e.enrolee_id, e.generation, e.maf_id
			FROM unnest($1::bytea[], $2::text[]) AS w (ke_id, maf_id) JOIN enrolment AS e ON e.ke_id = w.ke_id AND e.maf_id = w.maf_id
			WHERE e.ke_id = ANY($1::bytea[]) AND e.state + 0 = 2 AND e.generation > 1)
		UPDATE enrolment AS o SET state = 4, sealed = NULL, data_key = NULL FROM new
		WHERE o.enrolee_id = ANY(ARRAY(SELECT enrolee_id FROM new)) AND o.enrolee_id = new.enrolee_id
			AND o.generation < new.generation AND o.maf_id = new.maf_id AND o.state + 0 IN (1, 2)`

	eraseEnrolments = `UPDATE enrolment AS e
		SET state = CASE WHEN e.state IN (1, 2) THEN 3 ELSE e.state END, sealed = NULL, data_key = NULL
		FROM unnest($1::bytea[], $2::text[]) AS w (ke_id, maf_id)
		WHERE e.ke_id = ANY($1::bytea[]) AND e.ke_id = w.ke_id AND e.maf_id = w.maf_id RETURNING e.ke_id, e.maf_id`

	selectEnrolmentFor = `SELECT ke_id, maf_id, enrolee_id, generation, session, certificate, NULL::bigint, NULL::bytea, created, expires
		FROM enrolment WHERE ke_id = $1 AND maf_id = $2`

	selectEnrolmentOf = "SELECT " + enrolmentColumns + ` FROM enrolment WHERE ke_id = (SELECT ke_id FROM enrolment
		WHERE enrolee_id = $1 AND session = $2 AND expires > $3 ORDER BY generation DESC LIMIT 1) ORDER BY part`
)

// A markedFetch is a fetch with a mark that no other has.
type markedFetch struct {
	mef.Fetch
	mark int64
}

// FetchEnrolment is mef.Store's.
func (s *Store) FetchEnrolment(ctx context.Context, f mef.Fetch) (mef.Enrolment, error) {
	return submit(ctx, s, s.kinds.fetchEnrolment, f.KeID.String(), markedFetch{f, rand.Int64()})
}

func claimFetch(f markedFetch) []string { return []string{f.KeID.String() + " " + f.MAF.String()} }

func (s *Store) fetchEnrolments(ctx context.Context, conn *pgxpool.Conn, items []markedFetch, outcomes []outcome[mef.Enrolment]) error {
	keIDs, mafs := make([][]byte, len(items)), make([]string, len(items))
	now, windows, most, marks := make([]int64, len(items)), make([]int64, len(items)), make([]int64, len(items)), make([]int64, len(items))
	for i, f := range items {
		keIDs[i], mafs[i], marks[i] = archive.KeIDOctets(f.KeID), f.MAF.String(), f.mark
		now[i], windows[i], most[i] = f.Now.Unix(), seconds(f.Window), int64(f.Max)
	}
	var rows []scannedEnrolment
	var t transaction
	t.queue(fetchEnrolments, keIDs, mafs, now, windows, most, marks).Query(func(found pgx.Rows) (err error) {
		rows, err = pgx.CollectRows(found, scanEnrolment)
		return err
	})
	t.queue(eraseReplaced, keIDs, mafs)
	if err := t.send(ctx, conn); err != nil {
		return err
	}
	fetched := make(map[string]scannedEnrolment, len(rows))
	for _, r := range rows {
		fetched[string(r.keID)+r.maf] = r
	}
	for i, f := range items {
		r, ok := fetched[string(keIDs[i])+mafs[i]]
		if !ok {
			outcomes[i].err = fmt.Errorf("%w: %s for %s", mef.ErrUnknown, f.KeID, f.MAF)
			continue
		}
		// The fetch stands, even if this record does not open.
		outcomes[i].value, outcomes[i].err = s.assembleEnrolment(ctx, conn, r)
	}
	return nil
}

// EnrolmentFor is mef.Store's.
func (s *Store) EnrolmentFor(ctx context.Context, id muster.KeID, maf muster.FQDN) (e mef.Enrolment, err error) {
	err = s.read(ctx, func(ctx context.Context, conn *pgxpool.Conn) error {
		answer, err := conn.Query(ctx, selectEnrolmentFor, archive.KeIDOctets(id), maf.String())
		if err != nil {
			return err
		}
		row, err := pgx.CollectExactlyOneRow(answer, scanEnrolment)
		if errors.Is(err, pgx.ErrNoRows) {
			return fmt.Errorf("%w: %s for %s", mef.ErrUnknown, id, maf)
		} else if err != nil {
			return err
		}
		e, err = s.assembleEnrolment(ctx, conn, row)
		return err
	})
	return e, err
}

// EnrolmentOf is mef.Store's.
func (s *Store) EnrolmentOf(ctx context.Context, enrolee muster.EnroleeID, session muster.Digest, now time.Time) (found mef.Enrolment, err error) {
	err = s.read(ctx, func(ctx context.Context, conn *pgxpool.Conn) error {
		answer, err := conn.Query(ctx, selectEnrolmentOf, enrolee.String(), session[:], now.Unix())
		if err != nil {
			return err
		}
		rows, err := pgx.CollectRows(answer, scanEnrolment)
		if err != nil {
			return err
		}
		all, err := s.assembleEnrolments(ctx, conn, rows)
		for _, found = range all {
			return err
		}
		if err == nil {
			err = fmt.Errorf("%w: of a session of %s", mef.ErrUnknown, enrolee)
		}
		return err
	})
	if err != nil {
		return mef.Enrolment{}, err
	}
	return found, nil
}

// A share is the part of an enrolment that is for one MAF.
type share struct {
	id  muster.KeID
	maf muster.FQDN
}

func claimShare(r share) []string { return []string{r.id.String() + " " + r.maf.String()} }

// EraseEnrolment is mef.Store's.
func (s *Store) EraseEnrolment(ctx context.Context, id muster.KeID, maf muster.FQDN) error {
	_, err := submit(ctx, s, s.kinds.eraseEnrolment, id.String(), share{id, maf})
	return err
}

func (s *Store) eraseEnrolments(ctx context.Context, conn *pgxpool.Conn, items []share, outcomes []outcome[struct{}]) error {
	keIDs, mafs := make([][]byte, len(items)), make([]string, len(items))
	for i, r := range items {
		keIDs[i], mafs[i] = archive.KeIDOctets(r.id), r.maf.String()
	}
	erased := make(map[string]bool)
	var t transaction
	t.queue(eraseEnrolments, keIDs, mafs).Query(func(found pgx.Rows) error {
		var id []byte
		var maf string
		_, err := pgx.ForEachRow(found, []any{&id, &maf}, func() error { erased[string(id)+maf] = true; return nil })
		return err
	})
	if err := t.send(ctx, conn); err != nil {
		return err
	}
	for i, r := range items {
		if !erased[string(keIDs[i])+mafs[i]] {
			outcomes[i].err = fmt.Errorf("%w: %s for %s", mef.ErrUnknown, r.id, r.maf)
		}
	}
	return nil
}

// Sweep is mef.Store's.
func (s *Store) Sweep(ctx context.Context, now time.Time, window, grace time.Duration, limit int) (int, error) {
	return s.sweep(ctx, mef.ErrBusy, limit,
		sweepStep{forgetEnrolments, now.Add(-grace).Unix()},
		sweepStep{expireEnrolments, now.Unix()},
		sweepStep{closeWindows, now.Unix() - seconds(window)},
	)
}

package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"muster"
	"muster/archive"
	"muster/mef"
)

var _ mef.Store = (*Store)(nil)

// A newEnrolment is an enrolment to be created, as the store keeps it.
type newEnrolment struct {
	mef.Enrolment
	maxLive int
}

// CreateEnrolment is mef.Store's.
func (s *Store) CreateEnrolment(ctx context.Context, e mef.Enrolment, maxLive int) (mef.Enrolment, error) {
	if e.KeID.IsZero() || e.EnroleeID.IsZero() || e.Ke.IsZero() || len(e.Targets) == 0 {
		return mef.Enrolment{}, errors.New("the enrolment lacks its KeID, Enrolee-ID, Ke or targets")
	}
	e.Created, e.Expires = wholeSecond(e.Created), wholeSecond(e.Expires)
	e.Targets = slices.SortedFunc(slices.Values(e.Targets), compareFQDN)
	if len(slices.Compact(slices.Clone(e.Targets))) != len(e.Targets) {
		return mef.Enrolment{}, errors.New("the enrolment names a target twice")
	}
	return submit(ctx, s, s.kinds.createEnrolment, e.EnroleeID.String(), newEnrolment{e, maxLive})
}

func claimEnrolment(e newEnrolment) []string {
	return []string{"Enrolee " + e.EnroleeID.String(), "KeID " + e.KeID.String()}
}

// createEnrolments reads what is stored, decides about each enrolment, and writes
// what follows from that. Between the two another Store may have written: then the
// primary key or the key enrolment_order refuses the row of part 0, nothing else
// of that enrolment is written, and it is decided again. Nothing depends on the
// isolation of the transaction.
func (s *Store) createEnrolments(ctx context.Context, conn *pgxpool.Conn, items []newEnrolment, outcomes []outcome[mef.Enrolment]) error {
	stored, states, err := s.enrolmentsBefore(ctx, conn, items)
	if err != nil {
		return err
	}
	var fresh []int
	var replayed [][]byte
	for i, e := range items {
		before, found := stored[e.KeID]
		state := states[e.EnroleeID.String()]
		switch o := &outcomes[i]; {
		case found && !sameEnrolment(before, e.Enrolment):
			o.err = fmt.Errorf("%w: %s", mef.ErrConflict, e.KeID)
		case found:
			o.value = before
			replayed = append(replayed, archive.KeIDOctets(e.KeID))
		case state.live >= int64(e.maxLive):
			o.err = fmt.Errorf("%w: %s has %d", mef.ErrTooMany, e.EnroleeID, state.live)
		default:
			o.value = e.Enrolment
			o.value.Generation = state.newest + 1
			o.err = errLostRace // until its row is written
			fresh = append(fresh, i)
		}
	}
	return s.writeEnrolments(ctx, conn, items, fresh, replayed, outcomes)
}

// An enrolleeState is what limits the next enrolment of an Enrolee.
type enroleeState struct{ newest, live int64 }

const (
	enrolmentColumns = "ke_id, maf_id, enrolee_id, generation, session, certificate, data_key, sealed, created, expires"

	selectEnrolments = "SELECT " + enrolmentColumns + " FROM enrolment WHERE ke_id = ANY($1::bytea[]) ORDER BY ke_id, part"

	selectEnrolees = `SELECT e.enrolee_id, max(e.generation), count(DISTINCT CASE WHEN e.expires > w.created AND e.fetches > 0 THEN e.generation END)
		FROM unnest($1::text[], $2::bigint[]) AS w (enrolee_id, created) JOIN enrolment AS e ON e.enrolee_id = w.enrolee_id
		WHERE e.enrolee_id = ANY($1::text[]) GROUP BY e.enrolee_id`

	insertEnrolments = `INSERT INTO enrolment
		(ke_id, part, maf_id, enrolee_id, generation, session, certificate, data_key, sealed, created, expires, state)
		SELECT w.*, 1 FROM unnest($1::bytea[], $2::integer[], $3::text[], $4::text[], $5::bigint[], $6::bytea[], $7::bytea[],
			$8::bigint[], $9::bytea[], $10::bigint[], $11::bigint[])
		AS w (ke_id, part, maf_id, enrolee_id, generation, session, certificate, data_key, sealed, created, expires)`

	// The row of part 0 takes the KeID and the generation, or is not written. None
	// is if their data key was forgotten meanwhile.
	insertFirstParts = insertEnrolments + " WHERE EXISTS (SELECT 1 FROM data_key WHERE id = $12) ON CONFLICT DO NOTHING RETURNING ke_id"

	// The other parts, and what the enrolment does to older ones, follow part 0.
	insertOtherParts = insertEnrolments + ` WHERE EXISTS (SELECT 1 FROM enrolment AS e
		WHERE e.ke_id = w.ke_id AND e.part = 0 AND e.enrolee_id = w.enrolee_id AND e.generation = w.generation AND e.session = w.session)
		ON CONFLICT DO NOTHING`

	// What a MAF could fetch between the count and the commit is held, so that the
	// count which follows is the last word.
	holdUnfetched = `SELECT 1 FROM enrolment WHERE enrolee_id = ANY($1::text[]) AND state + 0 = 1
		ORDER BY enrolee_id, generation, part FOR UPDATE`

	// What was fetched meanwhile may leave no room for a new enrolment.
	withdrawExcess = `DELETE FROM enrolment AS o USING unnest($1::bytea[], $2::text[], $3::bigint[], $4::bytea[], $5::bigint[], $6::bigint[])
			AS w (ke_id, enrolee_id, generation, session, created, most)
		WHERE o.ke_id = ANY($1::bytea[]) AND o.ke_id = w.ke_id AND o.enrolee_id || '' = w.enrolee_id AND o.generation = w.generation
			AND o.session = w.session AND w.most <= (SELECT count(DISTINCT f.generation) FROM enrolment AS f
			WHERE f.enrolee_id = w.enrolee_id AND f.expires > w.created AND f.fetches > 0) RETURNING o.ke_id`

	supersedeEnrolments = `WITH new AS (SELECT w.* FROM unnest($1::bytea[], $2::text[], $3::text[], $4::bigint[])
			AS w (ke_id, maf_id, enrolee_id, generation) JOIN enrolment AS e ON e.ke_id = w.ke_id
			WHERE e.ke_id = ANY($1::bytea[]) AND e.part = 0 AND e.enrolee_id || '' = w.enrolee_id AND e.generation = w.generation)
		UPDATE enrolment AS o SET state = 4, sealed = NULL, data_key = NULL FROM new
		WHERE o.enrolee_id = ANY($3::text[]) AND o.enrolee_id = new.enrolee_id AND o.generation < new.generation
			AND o.maf_id = new.maf_id AND o.state + 0 = 1`

	// Enrolments are forgotten whole, for part 0 must be there as long as another is.
	forgetUnfetched = `WITH new AS (SELECT w.* FROM unnest($1::bytea[], $2::text[], $3::bigint[], $4::bigint[])
			AS w (ke_id, enrolee_id, generation, oldest) JOIN enrolment AS e ON e.ke_id = w.ke_id
			WHERE e.ke_id = ANY($1::bytea[]) AND e.part = 0 AND e.enrolee_id || '' = w.enrolee_id AND e.generation = w.generation)
		DELETE FROM enrolment AS o USING new
		WHERE o.enrolee_id = ANY($2::text[]) AND o.enrolee_id = new.enrolee_id AND o.generation <= new.oldest
			AND (SELECT max(f.fetches) FROM enrolment AS f WHERE f.ke_id = o.ke_id) = 0`

	touchEnrolments = "UPDATE enrolment SET fetches = fetches WHERE ke_id = ANY($1::bytea[]) AND part = 0"
)

// enrolmentsBefore returns the stored enrolments of the items' KeIDs, and what
// their Enrolees have.
func (s *Store) enrolmentsBefore(ctx context.Context, conn *pgxpool.Conn, items []newEnrolment) (map[muster.KeID]mef.Enrolment, map[string]enroleeState, error) {
	keIDs, enrolees, created := make([][]byte, len(items)), make([]string, len(items)), make([]int64, len(items))
	for i, e := range items {
		keIDs[i], enrolees[i], created[i] = archive.KeIDOctets(e.KeID), e.EnroleeID.String(), e.Created.Unix()
	}
	var rows []scannedEnrolment
	states := make(map[string]enroleeState)
	var batch pgx.Batch
	batch.Queue(selectEnrolments, keIDs).Query(func(found pgx.Rows) (err error) {
		rows, err = pgx.CollectRows(found, scanEnrolment)
		return err
	})
	batch.Queue(selectEnrolees, enrolees, created).Query(func(found pgx.Rows) error {
		var enrolee string
		var state enroleeState
		_, err := pgx.ForEachRow(found, []any{&enrolee, &state.newest, &state.live}, func() error {
			states[enrolee] = state
			return nil
		})
		return err
	})
	if err := conn.SendBatch(ctx, &batch).Close(); err != nil {
		return nil, nil, err
	}
	stored, err := s.assembleEnrolments(ctx, conn, rows)
	return stored, states, err
}

// writeEnrolments writes the enrolments whose numbers are fresh, and clears the
// error of those that were written. A replay is answered by a commit too: it
// waits for the standby, which a commit that was interrupted may not have reached.
func (s *Store) writeEnrolments(ctx context.Context, conn *pgxpool.Conn, items []newEnrolment, fresh []int, replayed [][]byte, outcomes []outcome[mef.Enrolment]) error {
	slices.SortFunc(fresh, func(i, j int) int { return compareKeID(outcomes[i].value.KeID, outcomes[j].value.KeID) })
	rows, err := s.sealEnrolments(ctx, conn, fresh, outcomes)
	if err != nil {
		return err
	}
	written := make(map[string]bool, len(fresh))
	var t transaction
	if enrolees := rows.renewed.enrolee; len(enrolees) > 0 {
		t.queue(holdUnfetched, enrolees)
	}
	if len(fresh) > 0 {
		s.hold(&t, rows.dataKey)
		t.queue(insertFirstParts, append(rows.first.arguments(), rows.dataKey)...).Query(func(found pgx.Rows) error {
			var id []byte
			_, err := pgx.ForEachRow(found, []any{&id}, func() error { written[string(id)] = true; return nil })
			return err
		})
	}
	if len(rows.others.keID) > 0 {
		t.queue(insertOtherParts, rows.others.arguments()...)
	}
	if renewed := rows.renewed; len(renewed.keID) > 0 {
		t.queue(withdrawExcess, renewed.keID, renewed.enrolee, renewed.generation, renewed.session, renewed.created, maxima(items, fresh, outcomes)).
			Query(func(found pgx.Rows) error {
				var id []byte
				_, err := pgx.ForEachRow(found, []any{&id}, func() error { delete(written, string(id)); return nil })
				return err
			})
		t.queue(supersedeEnrolments, renewed.keID, renewed.maf, renewed.enrolee, renewed.generation)
	}
	if keIDs, enrolees, generations, oldest := unfetched(items, fresh, outcomes); len(keIDs) > 0 {
		t.queue(forgetUnfetched, keIDs, enrolees, generations, oldest)
	}
	if len(replayed) > 0 {
		slices.SortFunc(replayed, bytes.Compare)
		t.queue(touchEnrolments, replayed)
	}
	if err := t.send(ctx, conn); err != nil {
		return err
	}
	for _, i := range fresh {
		if written[string(archive.KeIDOctets(outcomes[i].value.KeID))] {
			outcomes[i].err = nil
		}
	}
	return nil
}

// maxima returns the maximum of fetched enrolments for each row of those whose
// Enrolees had enrolled before, in the order of sealEnrolments.
func maxima(items []newEnrolment, fresh []int, outcomes []outcome[mef.Enrolment]) (most []int64) {
	for _, i := range fresh {
		if e := outcomes[i].value; e.Generation > 1 {
			most = append(most, slices.Repeat([]int64{int64(items[i].maxLive)}, len(e.Targets))...)
		}
	}
	return most
}

// unfetched returns, for each new enrolment after which older ones that no MAF has
// fetched are forgotten, up to which generation.
func unfetched(items []newEnrolment, fresh []int, outcomes []outcome[mef.Enrolment]) (keIDs [][]byte, enrolees []string, generations, oldest []int64) {
	for _, i := range fresh {
		e := outcomes[i].value
		if last := e.Generation - int64(items[i].maxLive); last > 0 {
			keIDs, enrolees = append(keIDs, archive.KeIDOctets(e.KeID)), append(enrolees, e.EnroleeID.String())
			generations, oldest = append(generations, e.Generation), append(oldest, last)
		}
	}
	return keIDs, enrolees, generations, oldest
}

// enrolmentArrays are the columns of rows to be inserted.
type enrolmentArrays struct {
	keID, session, certificate, sealed    [][]byte
	part                                  []int32
	maf, enrolee                          []string
	generation, dataKey, created, expires []int64
}

func (a *enrolmentArrays) arguments() []any {
	return []any{a.keID, a.part, a.maf, a.enrolee, a.generation, a.session, a.certificate, a.dataKey, a.sealed, a.created, a.expires}
}

func (a *enrolmentArrays) add(e mef.Enrolment, part int, dataKey uint32, sealed []byte) {
	a.keID, a.part = append(a.keID, archive.KeIDOctets(e.KeID)), append(a.part, int32(part))
	a.maf, a.enrolee = append(a.maf, e.Targets[part].String()), append(a.enrolee, e.EnroleeID.String())
	a.generation, a.dataKey = append(a.generation, e.Generation), append(a.dataKey, int64(dataKey))
	a.session, a.certificate = append(a.session, e.Session[:]), append(a.certificate, e.Certificate[:])
	a.sealed = append(a.sealed, sealed)
	a.created, a.expires = append(a.created, e.Created.Unix()), append(a.expires, e.Expires.Unix())
}

// enrolmentRows are the rows of new enrolments: those of part 0, the others, and
// again all of those whose Enrolees had enrolled before.
type enrolmentRows struct {
	first, others, renewed enrolmentArrays
	dataKey                uint32
}

func (s *Store) sealEnrolments(ctx context.Context, conn *pgxpool.Conn, fresh []int, outcomes []outcome[mef.Enrolment]) (*enrolmentRows, error) {
	rows := new(enrolmentRows)
	seals := 0
	for _, i := range fresh {
		seals += len(outcomes[i].value.Targets)
	}
	if seals == 0 {
		return rows, nil
	}
	dataKey, err := s.dataKey(ctx, conn.Conn(), seals)
	if err != nil {
		return nil, err
	}
	rows.dataKey = dataKey
	for _, i := range fresh {
		e := outcomes[i].value
		for part, target := range e.Targets {
			r, err := s.sealKey(dataKey, e.Ke.Reveal(), bindEnrolment(e, target)...)
			if err != nil {
				return nil, err
			}
			to := &rows.first
			if part > 0 {
				to = &rows.others
			}
			to.add(e, part, dataKey, r.sealed)
			if e.Generation > 1 {
				rows.renewed.add(e, part, dataKey, nil)
			}
		}
	}
	return rows, nil
}

func bindEnrolment(e mef.Enrolment, target muster.FQDN) []string {
	return archive.BindKe(e.KeID, target, e.EnroleeID, e.Expires)
}

// A scannedEnrolment is a row of one enrolment and target.
type scannedEnrolment struct {
	keID                 []byte
	maf, enrolee         string
	generation           int64
	session, certificate []byte
	record
	created, expires int64
}

func scanEnrolment(row pgx.CollectableRow) (r scannedEnrolment, err error) {
	err = row.Scan(&r.keID, &r.maf, &r.enrolee, &r.generation, &r.session, &r.certificate, &r.dataKey, &r.sealed, &r.created, &r.expires)
	return r, err
}

// assembleEnrolments puts enrolments together from the rows of their targets. The
// Ke of one is absent if it is erased for all of them.
func (s *Store) assembleEnrolments(ctx context.Context, conn *pgxpool.Conn, rows []scannedEnrolment) (map[muster.KeID]mef.Enrolment, error) {
	all := make(map[muster.KeID]mef.Enrolment)
	for _, r := range rows {
		e, err := s.assembleEnrolment(ctx, conn, r)
		if err != nil {
			return nil, err
		}
		if other, ok := all[e.KeID]; ok {
			e.Targets = append(other.Targets, e.Targets...)
			if e.Ke.IsZero() {
				e.Ke = other.Ke
			}
		}
		all[e.KeID] = e
	}
	for _, e := range all {
		slices.SortFunc(e.Targets, compareFQDN)
	}
	return all, nil
}

func (s *Store) assembleEnrolment(ctx context.Context, conn *pgxpool.Conn, r scannedEnrolment) (mef.Enrolment, error) {
	id, err1 := archive.KeIDFrom(r.keID)
	target, err2 := muster.ParseFQDN(r.maf)
	enrolee, err3 := muster.ParseEnroleeID(r.enrolee)
	if err := errors.Join(err1, err2, err3); err != nil {
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
	if err := s.learnKeys(ctx, conn.Conn(), r.record); err != nil {
		return mef.Enrolment{}, err
	}
	key, err := s.unseal(r.record, bindEnrolment(e, target)...)
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

func compareKeID(a, b muster.KeID) int {
	return bytes.Compare(archive.KeIDOctets(a), archive.KeIDOctets(b))
}

func compareFQDN(a, b muster.FQDN) int { return strings.Compare(a.String(), b.String()) }

func seconds(d time.Duration) int64 { return int64(d / time.Second) }

func wholeSecond(t time.Time) time.Time { return time.Unix(t.Unix(), 0).UTC() }
